/** Deals, with their merchant's name and the sum of their stock. */
import type { DealState } from "../../domain/deal/state.ts";
import type { Draft, Tier } from "../../domain/deal/draft.ts";
import type { DealId, MerchantId, Shard } from "../../domain/ids.ts";
import type { Queryable, Statement, Writable } from "../../db/database.ts";
import type { Of } from "../../mixins/contract.ts";
import type { Deal } from "./deal.contract.ts";

/** Big numbers come as text from the driver; prices and sums stay far below 2^53. */
export interface DealRow {
  readonly id: DealId;
  readonly merchant_id: MerchantId;
  readonly merchant_name: string;
  readonly title: string;
  readonly description: string;
  readonly price: string;
  readonly tiers: Tier[];
  readonly per_user_limit: number | null;
  readonly group_ttl_minutes: number;
  readonly auto_fill_bps: number | null;
  readonly sale_starts_at: Date | null;
  readonly sale_ends_at: Date | null;
  readonly voucher_valid_days: number;
  readonly refund_anytime: boolean;
  readonly refund_expired: boolean;
  readonly state: DealState;
  readonly created_at: Date;
  readonly total: number;
  readonly held: number;
  readonly sold: number;
}

/** What a select needs to give a DealRow of the deal `d`; search uses it too. */
export const DEAL_COLUMNS = `
  d.id, d.merchant_id, m.name as merchant_name, d.title, d.description, d.price, d.tiers, d.per_user_limit, d.group_ttl_minutes, d.auto_fill_bps,
  d.sale_starts_at, d.sale_ends_at, d.voucher_valid_days, d.refund_anytime, d.refund_expired, d.state, d.created_at, s.total, s.held, s.sold`;
/** `of`: the slot of the statement's first parameter, or any slot, that of the deal. */
export const dealJoins = (of: "slot $1" | "any slot"): string => {
  const [slot, part] = of === "slot $1" ? ["$1", "_$1"] : ["d.slot", ""];
  return `
  join merchants${part} m on m.slot = ${slot} and m.id = d.merchant_id
 cross join lateral (
   select sum(b.total)::integer as total, sum(b.held)::integer as held, sum(b.sold)::integer as sold
     from stock${part} b where b.slot = ${slot} and b.deal_id = d.id
 ) s`;
};

const FIND: Statement = {
  name: "deal/find",
  text: `
    select ${DEAL_COLUMNS}
      from unnest($2::bigint[]) as k(id)
      join deals_$1 d on d.slot = $1 and d.id = k.id ${dealJoins("slot $1")}`,
};
export async function findDeals(tx: Queryable, shard: Shard, ids: readonly DealId[]): Promise<Map<DealId, DealRow>> {
  const rows = await tx.query<DealRow>(FIND, [shard.slot, ids]);
  return new Map(rows.map((row) => [row.id, row]));
}

const OWNERS: Statement = {
  name: "deal/owners",
  text: `select d.id, d.merchant_id from unnest($2::bigint[]) as k(id) join deals_$1 d on d.slot = $1 and d.id = k.id`,
};
/** Whose deals they are, which never changes, so nothing is locked. */
export async function findDealOwners(tx: Queryable, shard: Shard, ids: readonly DealId[]): Promise<Map<DealId, MerchantId>> {
  const rows = await tx.query<{ id: DealId; merchant_id: MerchantId }>(OWNERS, [shard.slot, ids]);
  return new Map(rows.map((row) => [row.id, row.merchant_id]));
}

const LOCK: Statement = {
  name: "deal/lock",
  text: `
    select d.id, d.merchant_id as "merchantId", d.state
      from deals_$1 d where d.slot = $1 and d.id = any($2)
     order by d.id for no key update`,
};
export interface DealHead {
  readonly id: DealId;
  readonly merchantId: MerchantId;
  readonly state: DealState;
}
export async function lockDeals(tx: Queryable, shard: Shard, ids: readonly DealId[]): Promise<Map<DealId, DealHead>> {
  const rows = await tx.query<DealHead>(LOCK, [shard.slot, ids]);
  return new Map(rows.map((row) => [row.id, row]));
}

const MOVE: Statement = {
  name: "deal/move",
  text: `
    update deals_$1 d set state = c.to_state, published_at = case when c.to_state in ('ON_SALE', 'PAUSED') then coalesce(d.published_at, $5) else d.published_at end
      from unnest($2::bigint[], $3::text[], $4::text[]) as c(id, from_state, to_state)
     where d.slot = $1 and d.id = c.id and d.state = c.from_state`,
};
/** Returns how many were in the state they were said to be in. */
export const moveDeals = (
  tx: Writable,
  shard: Shard,
  moves: readonly { readonly id: DealId; readonly from: DealState; readonly to: DealState }[],
  now: Date,
): Promise<number> =>
  tx.change(MOVE, [shard.slot, moves.map((move) => move.id), moves.map((move) => move.from), moves.map((move) => move.to), now]);

const INSERT: Statement = {
  name: "deal/insert",
  text: `
    insert into deals_$1 (slot, id, merchant_id, title, description, price, tiers, per_user_limit, group_ttl_minutes, auto_fill_bps,
                       sale_starts_at, sale_ends_at, voucher_valid_days, refund_anytime, refund_expired, state, words, created_at)
    select $1, d.id, d."merchantId", d.title, d.description, d.price, d.tiers, d."perUserLimit", d."groupTtlMinutes", d."autoFillBps",
           d."saleStartsAt", d."saleEndsAt", d."voucherValidDays", d."refundAnytime", d."refundExpired", 'DRAFT', d.words::tsvector, $3
      from json_to_recordset($2) as d(
        id bigint, "merchantId" bigint, title text, description text, price bigint, tiers json, "perUserLimit" integer, "groupTtlMinutes" integer,
        "autoFillBps" integer, "saleStartsAt" timestamptz, "saleEndsAt" timestamptz, "voucherValidDays" integer, "refundAnytime" boolean,
        "refundExpired" boolean, words text)`,
};
const INSERT_STOCK: Statement = {
  name: "deal/insert-stock",
  text: `
    with born as (
      insert into stock_$1 (slot, deal_id, bucket, total)
      select $1, deal_id, bucket, total from unnest($2::bigint[], $3::smallint[], $4::integer[]) as b(deal_id, bucket, total)
      returning deal_id, bucket, total)
    insert into stock_flows (slot, deal_id, bucket, total, held, sold, cause)
    select $1, deal_id, bucket, total, 0, 0, 'created' from born`,
};
export interface NewDeal extends Draft {
  readonly id: DealId;
  readonly merchantId: MerchantId;
  /** A tsvector, written out. */
  readonly words: string;
  /** Total of each bucket. */
  readonly buckets: readonly number[];
}
export async function insertDeals(tx: Queryable, shard: Shard, deals: readonly NewDeal[], now: Date): Promise<void> {
  const buckets = deals.flatMap((deal) => deal.buckets.map((total, bucket) => ({ dealId: deal.id, bucket, total })));
  await tx.query(INSERT, [shard.slot, JSON.stringify(deals), now]);
  await tx.query(INSERT_STOCK, [
    shard.slot,
    buckets.map((one) => one.dealId),
    buckets.map((one) => one.bucket),
    buckets.map((one) => one.total),
  ]);
}

/** A deal as clients see it. */
export const viewDeal = (row: DealRow, city: string): Of<typeof Deal> => ({
  id: row.id,
  merchantId: row.merchant_id,
  merchantName: row.merchant_name,
  city,
  title: row.title,
  description: row.description,
  price: Number(row.price),
  tiers: row.tiers.map(({ size, price }) => ({ size, price })),
  ...(row.per_user_limit === null ? {} : { perUserLimit: row.per_user_limit }),
  groupTtlMinutes: row.group_ttl_minutes,
  ...(row.auto_fill_bps === null ? {} : { autoFillBps: row.auto_fill_bps }),
  ...(row.sale_starts_at === null ? {} : { saleStartsAt: row.sale_starts_at.toISOString() }),
  ...(row.sale_ends_at === null ? {} : { saleEndsAt: row.sale_ends_at.toISOString() }),
  voucherValidDays: row.voucher_valid_days,
  refundAnytime: row.refund_anytime,
  refundExpired: row.refund_expired,
  status: row.state,
  stock: { total: row.total, available: row.total - row.held - row.sold, held: row.held, sold: row.sold },
  createdAt: row.created_at.toISOString(),
});
