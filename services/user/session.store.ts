/** Refresh tokens, by their hashes. A user's row is the lock of all of that user's tokens. */
import type { Shard, UserId } from "../../domain/ids.ts";
import type { FamilyId, HeldToken, NewToken } from "../../domain/user/rotation.ts";
import type { Queryable, Statement } from "../../db/database.ts";

const LOCK_OWNERS: Statement = {
  name: "session/lock-owners",
  text: `
    select u.id
      from (select distinct t.user_id
              from unnest($2::text[]) as k(token_hash)
             cross join lateral (select user_id from refresh_tokens_$1 where slot = $1 and token_hash = decode(k.token_hash, 'hex') offset 0) t
             order by t.user_id) k
     cross join lateral (select id from users_$1 where slot = $1 and id = k.user_id for no key update) u`,
};
/**
 * Locks the users these tokens belong to, in the order of their ids. The tokens are read by a statement of its own afterwards: rows that another drain wrote while this
 * one waited are seen only then, and a family must be revoked with the token that was born meanwhile.
 */
export const lockOwners = async (tx: Queryable, shard: Shard, tokenHashes: readonly string[]): Promise<void> =>
  void (await tx.query(LOCK_OWNERS, [shard.slot, tokenHashes]));

const FIND: Statement = {
  name: "session/find",
  text: `
    select encode(t.token_hash, 'hex') as token_hash, t.family, t.user_id, t.state, t.expires_at <= $3 as expired
      from unnest($2::text[]) as k(token_hash)
      join refresh_tokens_$1 t on t.slot = $1 and t.token_hash = decode(k.token_hash, 'hex')`,
};
export async function findTokens(tx: Queryable, shard: Shard, tokenHashes: readonly string[], now: Date): Promise<Map<string, HeldToken>> {
  const rows = await tx.query<{ token_hash: string; family: FamilyId; user_id: UserId; state: HeldToken["state"]; expired: boolean }>(
    FIND,
    [shard.slot, tokenHashes, now],
  );
  return new Map(
    rows.map((row) => [
      row.token_hash,
      { tokenHash: row.token_hash, family: row.family, userId: row.user_id, state: row.state, expired: row.expired },
    ]),
  );
}

const INSERT: Statement = {
  name: "session/insert",
  text: `
    insert into refresh_tokens_$1 (slot, token_hash, family, user_id, state, expires_at)
    select $1, decode(token_hash, 'hex'), family, user_id, 'LIVE', $5
      from unnest($2::text[], $3::bigint[], $4::bigint[]) as t(token_hash, family, user_id)`,
};
export const insertTokens = async (tx: Queryable, shard: Shard, tokens: readonly NewToken[], expiresAt: Date): Promise<void> =>
  void (await tx.query(INSERT, [
    shard.slot,
    tokens.map((token) => token.tokenHash),
    tokens.map((token) => token.family),
    tokens.map((token) => token.userId),
    expiresAt,
  ]));

const USE: Statement = {
  name: "session/use",
  text: `
    update refresh_tokens_$1 t set state = 'USED'
      from unnest($2::text[]) as k(token_hash)
     cross join lateral (select ctid as row from refresh_tokens_$1 where slot = $1 and token_hash = decode(k.token_hash, 'hex') offset 0) r
     where t.slot = $1 and t.ctid = r.row and t.state = 'LIVE'
    returning t.token_hash`,
};
/** Tokens of locked owners. Returns how many were LIVE. */
export const useTokens = async (tx: Queryable, shard: Shard, tokenHashes: readonly string[]): Promise<number> =>
  (await tx.query(USE, [shard.slot, tokenHashes])).length;

const REVOKE_FAMILIES: Statement = {
  name: "session/revoke-families",
  text: `update refresh_tokens_$1 set state = 'REVOKED' where slot = $1 and family = any($2) and state = 'LIVE'`,
};
/** USED tokens keep their state: it tells how the family came to its end. */
export const revokeFamilies = async (tx: Queryable, shard: Shard, families: readonly FamilyId[]): Promise<void> =>
  void (await tx.query(REVOKE_FAMILIES, [shard.slot, families]));

const REVOKE_OF_USER: Statement = {
  name: "session/revoke-of-user",
  text: `update refresh_tokens_$1 set state = 'REVOKED' where slot = $1 and user_id = $2 and state = 'LIVE'`,
};
export const revokeTokensOf = async (tx: Queryable, shard: Shard, userId: UserId): Promise<void> =>
  void (await tx.query(REVOKE_OF_USER, [shard.slot, userId]));

const FORGET_EXPIRED: Statement = {
  name: "session/forget-expired",
  text: `delete from refresh_tokens_$1 where slot = $1 and user_id = any($2) and expires_at <= $3`,
};
/** Whoever comes back clears away behind themselves, so the table holds 30 days of tokens and no more. */
export const forgetExpired = async (tx: Queryable, shard: Shard, users: readonly UserId[], now: Date): Promise<void> =>
  void (await tx.query(FORGET_EXPIRED, [shard.slot, users, now]));
