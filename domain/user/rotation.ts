/**
 * Rotation of refresh tokens: each is used once, and gives the next one of its family. Using one a second time means two people hold it, and
 * nobody knows which is the thief: the whole family is revoked, also the token the first use gave. Of two uses at once one wins, then so.
 */
import type { Id, UserId } from "../ids.ts";

export type FamilyId = Id<"family">;

export interface HeldToken {
  readonly tokenHash: string;
  readonly family: FamilyId;
  readonly userId: UserId;
  readonly state: "LIVE" | "USED" | "REVOKED";
  readonly expired: boolean;
}

export interface NewToken {
  readonly tokenHash: string;
  readonly family: FamilyId;
  readonly userId: UserId;
}

export interface Rotations {
  /** One a command, in order: whose token it was, or undefined where it is refused. */
  readonly owners: readonly (UserId | undefined)[];
  readonly used: readonly string[];
  readonly born: readonly NewToken[];
  /** Revoked after the born ones are written: they belong to it too. */
  readonly revokedFamilies: readonly FamilyId[];
}

export function decideRotations(
  held: ReadonlyMap<string, HeldToken>,
  commands: readonly { readonly tokenHash: string; readonly nextHash: string }[],
): Rotations {
  const used = new Set<string>();
  const revoked = new Set<FamilyId>();
  const born: NewToken[] = [];
  const owners = commands.map(({ tokenHash, nextHash }): UserId | undefined => {
    const token = held.get(tokenHash);
    if (!token || token.state === "REVOKED" || revoked.has(token.family)) return undefined;
    if (token.state === "USED" || used.has(tokenHash)) {
      revoked.add(token.family);
      return undefined;
    }
    if (token.expired) return undefined;
    used.add(tokenHash);
    born.push({ tokenHash: nextHash, family: token.family, userId: token.userId });
    return token.userId;
  });
  return { owners, used: [...used], born, revokedFamilies: [...revoked] };
}
