/**
 * A refresh token is 32 random bytes behind one hex digit, its user's slot: so it routes itself like an id does. Only its hash is stored; a
 * plain SHA-256 is enough, because nobody guesses 256 random bits.
 */
import { createHash } from "node:crypto";
import { USER_CITY, type Shard } from "../ids.ts";
import { invariant } from "../invariant.ts";

export const REFRESH_TOKEN_BYTES = 32;
export const REFRESH_TOKEN_TTL_DAYS = 30;
const FORM = /^[0-9a-f][A-Za-z0-9_-]{43}$/;

export function composeRefreshToken(slot: number, chance: Buffer): string {
  invariant(chance.length === REFRESH_TOKEN_BYTES, "a refresh token has 256 random bits");
  return slot.toString(16) + chance.toString("base64url");
}

/** The shard of the token's user; undefined for a text that is no token of ours. */
export const shardOfRefreshToken = (token: string): Shard | undefined =>
  FORM.test(token) ? { city: USER_CITY, slot: Number.parseInt(token.charAt(0), 16) } : undefined;

/** Hex SHA-256: what is stored and looked up. */
export const hashRefreshToken = (token: string): string => createHash("sha256").update(token).digest("hex");
