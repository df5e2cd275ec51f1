/** Opening, rotating and ending sessions (families of refresh tokens). The rules are in `domain/user/rotation.ts`. */
import { refusal, type DomainError } from "../../domain/error.ts";
import type { UserId } from "../../domain/ids.ts";
import { invariant } from "../../domain/invariant.ts";
import { USER_ERRORS } from "../../domain/user/errors.ts";
import { REFRESH_TOKEN_TTL_DAYS } from "../../domain/user/refresh-token.ts";
import { decideRotations, type FamilyId } from "../../domain/user/rotation.ts";
import type { Work } from "../../mixins/drain.ts";
import { findTokens, forgetExpired, insertTokens, lockOwners, revokeFamilies, useTokens } from "./session.store.ts";

const expiry = (now: Date): Date => new Date(now.getTime() + REFRESH_TOKEN_TTL_DAYS * 86_400_000);

export interface OpenSessionCommand {
  readonly userId: UserId;
  readonly tokenHash: string;
}

export async function drainOpenSession(work: Work, commands: readonly OpenSessionCommand[]): Promise<{ readonly opened: true }[]> {
  const families = (await work.mint(commands.length)) as FamilyId[];
  const tokens = commands.map((command, index) => {
    const family = families[index];
    invariant(family !== undefined, "as many ids as commands");
    return { ...command, family };
  });
  await forgetExpired(work, work.shard, [...new Set(commands.map((command) => command.userId))].sort(), await work.now());
  await insertTokens(work, work.shard, tokens, expiry(await work.now()));
  return commands.map(() => ({ opened: true }));
}

export interface RefreshCommand {
  readonly tokenHash: string;
  readonly nextHash: string;
}

/** Answers whose token it was. */
export async function drainRefresh(
  work: Work,
  commands: readonly RefreshCommand[],
): Promise<({ readonly userId: UserId } | DomainError)[]> {
  const hashes = [...new Set(commands.map((command) => command.tokenHash))];
  await lockOwners(work, work.shard, hashes);
  const { owners, used, born, revokedFamilies } = decideRotations(await findTokens(work, work.shard, hashes, await work.now()), commands);
  if (used.length > 0) {
    const count = await useTokens(work, work.shard, used);
    invariant(count === used.length, "a LIVE token of a locked user can be used");
    await insertTokens(work, work.shard, born, expiry(await work.now()));
    await forgetExpired(work, work.shard, [...new Set(born.map((token) => token.userId))].sort(), await work.now());
  }
  if (revokedFamilies.length > 0) await revokeFamilies(work, work.shard, revokedFamilies);
  return owners.map((userId) => (userId === undefined ? refusal(USER_ERRORS, "REFRESH_TOKEN_INVALID", {}) : { userId }));
}

/** An unknown token is as logged out as one can be. */
export async function drainLogOut(
  work: Work,
  commands: readonly { readonly tokenHash: string }[],
): Promise<{ readonly loggedOut: true }[]> {
  const hashes = commands.map((command) => command.tokenHash);
  await lockOwners(work, work.shard, hashes);
  const tokens = await findTokens(work, work.shard, hashes, await work.now());
  await revokeFamilies(work, work.shard, [...new Set([...tokens.values()].map((token) => token.family))]);
  return commands.map(() => ({ loggedOut: true }));
}
