/** Users of the user keyspace. */
import type { MerchantId, Shard, UserId } from "../../domain/ids.ts";
import type { Role } from "../../domain/user/role.ts";
import type { Queryable, Statement } from "../../db/database.ts";

export interface UserRow {
  readonly id: UserId;
  readonly username: string;
  readonly roles: readonly Role[];
  readonly merchantId: MerchantId | undefined;
  readonly passwordHash: string;
}

interface Raw {
  id: UserId;
  username: string;
  roles: Role[];
  merchant_id: MerchantId | null;
  password_hash: string;
}
const userOf = (raw: Raw): UserRow => ({
  id: raw.id,
  username: raw.username,
  roles: raw.roles,
  merchantId: raw.merchant_id ?? undefined,
  passwordHash: raw.password_hash,
});

const FIND_BY_NAME: Statement = {
  name: "user/find-by-name",
  text: `select id, username, roles, merchant_id, password_hash from users_$1 where slot = $1 and username = $2`,
};
export async function findUserByName(tx: Queryable, shard: Shard, username: string): Promise<UserRow | undefined> {
  const [raw] = await tx.query<Raw>(FIND_BY_NAME, [shard.slot, username]);
  return raw && userOf(raw);
}

const FIND_BY_ID: Statement = {
  name: "user/find-by-id",
  text: `select id, username, roles, merchant_id, password_hash from users_$1 where slot = $1 and id = $2`,
};
export async function findUserById(tx: Queryable, shard: Shard, id: UserId): Promise<UserRow | undefined> {
  const [raw] = await tx.query<Raw>(FIND_BY_ID, [shard.slot, id]);
  return raw && userOf(raw);
}

const INSERT: Statement = {
  name: "user/insert",
  text: `
    insert into users_$1 (slot, id, username, password_hash, roles)
    select $1, id, username, password_hash, array[$5]
      from unnest($2::bigint[], $3::text[], $4::text[]) as u(id, username, password_hash)
    on conflict (slot, username) do nothing
    returning id`,
};
/** Writes users with the one role; whose name is taken, also by an earlier one of the same call, is left out. Returns the ids that were written. */
export async function insertUsers(
  tx: Queryable,
  shard: Shard,
  users: readonly { readonly id: UserId; readonly username: string; readonly passwordHash: string }[],
  role: Role,
): Promise<Set<UserId>> {
  const rows = await tx.query<{ id: UserId }>(INSERT, [
    shard.slot,
    users.map((user) => user.id),
    users.map((user) => user.username),
    users.map((user) => user.passwordHash),
    role,
  ]);
  return new Set(rows.map((row) => row.id));
}

const LOCK_BY_NAME: Statement = {
  name: "user/lock-by-name",
  text: `
    select u.id, u.username, u.roles, u.merchant_id, u.password_hash
      from unnest($2::text[]) as k(username)
      join users_$1 u on u.slot = $1 and u.username = k.username
     order by u.id for no key update of u`,
};
export async function lockUsersByName(tx: Queryable, shard: Shard, usernames: readonly string[]): Promise<Map<string, UserRow>> {
  const rows = await tx.query<Raw>(LOCK_BY_NAME, [shard.slot, usernames]);
  return new Map(rows.map((raw) => [raw.username, userOf(raw)]));
}

const EMPLOY: Statement = {
  name: "user/employ",
  text: `
    update users_$1 u
       set merchant_id = e.merchant_id, roles = case when 'merchant' = any(u.roles) then u.roles else u.roles || 'merchant'::text end
      from unnest($2::bigint[], $3::bigint[]) as e(id, merchant_id)
     cross join lateral (select ctid as row from users_$1 where slot = $1 and id = e.id offset 0) r
     where u.slot = $1 and u.ctid = r.row and u.merchant_id is null
    returning u.id`,
};
/** Returns how many were employed: all of them, when their rows were locked and free. */
export const employUsers = async (tx: Queryable, shard: Shard, users: readonly UserRow[]): Promise<number> =>
  (await tx.query(EMPLOY, [shard.slot, users.map((user) => user.id), users.map((user) => user.merchantId)])).length;

const SET_ADMIN: Statement = {
  name: "user/set-admin",
  text: `update users_$1 set password_hash = $3, roles = array['admin'] where slot = $1 and id = $2`,
};
export const setAdmin = async (tx: Queryable, shard: Shard, id: UserId, passwordHash: string): Promise<void> =>
  void (await tx.query(SET_ADMIN, [shard.slot, id, passwordHash]));
