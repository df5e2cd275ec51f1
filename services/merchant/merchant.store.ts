/** Merchants. OPENING ones wait for their owner and are nobody's to see. */
import type { MerchantId, Shard, UserId } from "../../domain/ids.ts";
import type { Queryable, Statement } from "../../db/database.ts";

export type MerchantState = "OPENING" | "OPEN";

export interface MerchantRow {
  readonly id: MerchantId;
  readonly name: string;
  readonly commissionBps: number;
  readonly ownerId: UserId;
  readonly ownerUsername: string;
  readonly state: MerchantState;
}

const COLUMNS = `m.id, m.name, m.commission_bps as "commissionBps", m.owner_id as "ownerId", m.owner_username as "ownerUsername", m.state`;

const FIND: Statement = {
  name: "merchant/find",
  text: `select ${COLUMNS} from unnest($2::bigint[]) as k(id) join merchants_$1 m on m.slot = $1 and m.id = k.id`,
};
export async function findMerchants(tx: Queryable, shard: Shard, ids: readonly MerchantId[]): Promise<Map<MerchantId, MerchantRow>> {
  const rows = await tx.query<MerchantRow>(FIND, [shard.slot, ids]);
  return new Map(rows.map((row) => [row.id, row]));
}

const LOCK: Statement = {
  name: "merchant/lock",
  text: `select ${COLUMNS} from merchants_$1 m where m.slot = $1 and m.id = any($2) order by m.id for no key update`,
};
export async function lockMerchants(tx: Queryable, shard: Shard, ids: readonly MerchantId[]): Promise<Map<MerchantId, MerchantRow>> {
  const rows = await tx.query<MerchantRow>(LOCK, [shard.slot, ids]);
  return new Map(rows.map((row) => [row.id, row]));
}

const INSERT: Statement = {
  name: "merchant/insert",
  text: `
    insert into merchants_$1 (slot, id, name, commission_bps, owner_id, owner_username, state)
    select $1, m.id, m.name, m."commissionBps", m."ownerId", m."ownerUsername", 'OPENING'
      from json_to_recordset($2) as m(id bigint, name text, "commissionBps" integer, "ownerId" bigint, "ownerUsername" text)
    on conflict (slot, id) do nothing`,
};
/** Writes OPENING merchants; one that is there already stays as it is. */
export const insertMerchants = async (tx: Queryable, shard: Shard, merchants: readonly Omit<MerchantRow, "state">[]): Promise<void> =>
  void (await tx.query(INSERT, [shard.slot, JSON.stringify(merchants)]));

const OPEN: Statement = {
  name: "merchant/open",
  text: `
    update merchants_$1 m set state = 'OPEN'
      from unnest($2::bigint[]) as k(id) cross join lateral (select ctid as row, state from merchants_$1 where slot = $1 and id = k.id offset 0) r
     where m.slot = $1 and m.ctid = r.row and r.state = 'OPENING'`,
};
export const openMerchants = async (tx: Queryable, shard: Shard, ids: readonly MerchantId[]): Promise<void> =>
  void (await tx.query(OPEN, [shard.slot, ids]));

const DROP: Statement = {
  name: "merchant/drop",
  text: `
    delete from merchants_$1 m
     using unnest($2::bigint[]) as k(id) cross join lateral (select ctid as row, state from merchants_$1 where slot = $1 and id = k.id offset 0) r
     where m.slot = $1 and m.ctid = r.row and r.state = 'OPENING'`,
};
export const dropMerchants = async (tx: Queryable, shard: Shard, ids: readonly MerchantId[]): Promise<void> =>
  void (await tx.query(DROP, [shard.slot, ids]));

const STUCK: Statement = {
  name: "merchant/stuck",
  text: `
    select ${COLUMNS} from merchants m
     where m.state = 'OPENING' and m.created_at < now() - $1 * interval '1 millisecond'
     order by m.created_at limit 100`,
};
/** Over all slots of a database: OPENING for longer than a request lives. The index holds nothing else. */
export const findStuckMerchants = (tx: Queryable, olderThanMs: number): Promise<MerchantRow[]> =>
  tx.query<MerchantRow>(STUCK, [olderThanMs]);

const MINT: Statement = { name: "merchant/mint", text: "select mint_ids($1, $2, 1) as ids" };
/** An id before its merchant: the key is tied to it first. One that is not used is lost, and nothing with it. */
export async function mintMerchantId(tx: Queryable, shard: Shard): Promise<MerchantId | undefined> {
  const [row] = await tx.query<{ ids: MerchantId[] }>(MINT, [shard.city, shard.slot]);
  return row?.ids[0];
}
