/** Vouchers as rows. */
import type { Queryable, Statement, Writable } from "../../db/database.ts";
import type { DealId, MerchantId, OrderId, RedemptionId, RefundId, Shard, UserId, VoucherId } from "../../domain/ids.ts";
import { invariant } from "../../domain/invariant.ts";
import { fen } from "../../domain/money.ts";
import type { RefundTerms } from "../../domain/refund/request.ts";
import type { NewVoucher } from "../../domain/voucher/issue.ts";
import type { VoucherRow } from "../../domain/voucher/redeem.ts";
import type { VoucherState } from "../../domain/voucher/state.ts";

const INSERT: Statement = {
  name: "voucher/insert",
  text: `
    copy vouchers_$1 (slot, id, order_id, deal_id, merchant_id, consumer_id, unit, amount, code, state, issued_at, valid_until) from stdin`,
};
const ORDERS_OF: Statement = {
  name: "voucher/orders-of",
  text: `select distinct order_id from vouchers_$1 where slot = $1 and code = any($2::text[])`,
};
const ORDERS_OF_IDS: Statement = {
  name: "voucher/orders-of-ids",
  text: `select distinct order_id from vouchers_$1 where slot = $1 and id = any($2::bigint[])`,
};
const LOCK: Statement = {
  name: "voucher/lock",
  text: `
    select id, order_id, deal_id, merchant_id, consumer_id, unit, amount, code, state, valid_until, redeemed_at, refund_id
      from vouchers_$1 where slot = $1 and order_id = any($2::bigint[]) order by id for update`,
};
/** Of a settlement only the state counts, and its order has nothing to be changed: it is not locked. */
const LOCK_STATES: Statement = {
  name: "voucher/lock-states",
  text: `select id, state from vouchers_$1 where slot = $1 and id = any($2::bigint[]) order by id for update`,
};
/** The guard of rule 11 once more: in date, once. */
const REDEEM: Statement = {
  name: "voucher/redeem",
  text: `
    update vouchers_$1 set state = 'REDEEMED', redeemed_at = $3
     where slot = $1 and id = any($2::bigint[]) and state = 'ISSUED' and valid_until > $3`,
};
const OF_ORDER: Statement = {
  name: "voucher/of-order",
  text: `
    select v.code, v.state, v.valid_until, v.redeemed_at
      from orders_$1 o left join vouchers_$1 v on v.slot = $1 and v.order_id = $2
     where o.slot = $1 and o.id = $2 and o.consumer_id = $3 order by v.unit`,
};
/** Of locked vouchers. A refund is written with the unit it gives back, once. */
const MOVE: Statement = {
  name: "voucher/move",
  text: `
    update vouchers_$1 v set state = $5, refund_id = coalesce(k.refund_id, v.refund_id),
           redeemed_at = case when $5 = 'ISSUED' then null else v.redeemed_at end
      from unnest($2::bigint[], $3::bigint[]) as k(id, refund_id)
     cross join lateral (select ctid as row, state, refund_id from vouchers_$1 where slot = $1 and id = k.id offset 0) r
     where v.slot = $1 and v.ctid = r.row and r.state = $4 and (k.refund_id is null or r.refund_id is null)`,
};
/** Their orders are locked, and nobody else moves what is REFUNDING. */
const REFUNDED: Statement = {
  name: "voucher/refunded",
  text: `
    update vouchers_$1 v set state = 'REFUNDED'
      from unnest($2::bigint[], $3::bigint[]) as k(order_id, refund_id)
     cross join lateral (select ctid as row, refund_id, state from vouchers_$1 where slot = $1 and order_id = k.order_id offset 0) r
     where v.slot = $1 and v.ctid = r.row and r.refund_id = k.refund_id and r.state = 'REFUNDING'`,
};
const LOG: Statement = {
  name: "voucher/log-redemptions",
  text: `
    insert into redemptions_$1 (slot, id, voucher_id, order_id, merchant_id, kind, actor, at)
    select $1, id, voucher_id, order_id, merchant_id, $3, actor, $2
      from unnest($4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[]) as r(id, voucher_id, order_id, merchant_id, actor)`,
};
const LAPSED: Statement = {
  name: "voucher/lapsed",
  text: `
    select slot, id from vouchers
     where slot = any($1) and open and valid_until <= now() and state = 'ISSUED' order by valid_until limit $2`,
};
const TERMS: Statement = {
  name: "voucher/refund-terms",
  text: `select id, refund_anytime, refund_expired from deals_$1 where slot = $1 and id = any($2::bigint[])`,
};

/** A voucher as its consumer sees it. */
export interface ShownVoucher {
  readonly code: string;
  readonly state: VoucherState;
  readonly validUntil: Date;
  readonly redeemedAt: Date | undefined;
}

export async function insertVouchers(tx: Writable, { slot }: Shard, vouchers: readonly NewVoucher[], now: Date): Promise<void> {
  if (vouchers.length === 0) return;
  await tx.copy(
    INSERT,
    slot,
    vouchers.map((v) => [
      ...[slot, v.id, v.orderId, v.dealId, v.merchantId, v.consumerId, v.unit, v.amount, v.code],
      ...["ISSUED", now, v.validUntil],
    ]),
  );
}

/** The orders some codes are of: to be locked before the vouchers are. */
export const findOrdersOfCodes = async (tx: Queryable, shard: Shard, codes: readonly string[]): Promise<OrderId[]> =>
  (await tx.query<{ order_id: OrderId }>(ORDERS_OF, [shard.slot, codes])).map((row) => row.order_id);

/** All vouchers of some orders, locked in the order of their ids. */
export async function lockVouchers(tx: Queryable, shard: Shard, orders: readonly OrderId[]): Promise<VoucherRow[]> {
  if (orders.length === 0) return [];
  const rows = await tx.query<{
    id: VoucherId;
    order_id: OrderId;
    deal_id: DealId;
    merchant_id: MerchantId;
    consumer_id: UserId;
    unit: number;
    amount: string;
    code: string;
    state: VoucherState;
    valid_until: Date;
    redeemed_at: Date | null;
    refund_id: RefundId | null;
  }>(LOCK, [shard.slot, orders]);
  return rows.map((row) => ({
    id: row.id,
    orderId: row.order_id,
    dealId: row.deal_id,
    merchantId: row.merchant_id,
    consumerId: row.consumer_id,
    unit: row.unit,
    amount: fen(row.amount),
    code: row.code,
    state: row.state,
    validUntil: row.valid_until,
    redeemedAt: row.redeemed_at ?? undefined,
    refundId: row.refund_id ?? undefined,
  }));
}

/** The orders some vouchers are of: to be locked before the vouchers are. */
export const findOrdersOfVouchers = async (tx: Queryable, shard: Shard, ids: readonly string[]): Promise<OrderId[]> =>
  (await tx.query<{ order_id: OrderId }>(ORDERS_OF_IDS, [shard.slot, ids])).map((row) => row.order_id);

/** Some vouchers' states, the rows locked in the order of their ids. */
export const lockVoucherStates = async (
  tx: Queryable,
  shard: Shard,
  ids: readonly VoucherId[],
): Promise<Map<VoucherId, { readonly state: VoucherState }>> =>
  new Map((await tx.query<{ id: VoucherId; state: VoucherState }>(LOCK_STATES, [shard.slot, ids])).map((row) => [row.id, row]));

/** Moves locked vouchers along the state table; `refundId` where a refund takes them. */
export async function moveVouchers(
  tx: Writable,
  shard: Shard,
  vouchers: readonly { readonly id: VoucherId; readonly refundId?: RefundId }[],
  arrow: { readonly from: VoucherState; readonly to: VoucherState },
): Promise<void> {
  if (vouchers.length === 0) return;
  const ids = vouchers.map(({ id }) => id);
  const refunds = vouchers.map(({ refundId }) => refundId ?? null);
  const moved = await tx.change(MOVE, [shard.slot, ids, refunds, arrow.from, arrow.to]);
  invariant(moved === vouchers.length, `every voucher that becomes ${arrow.to} was ${arrow.from}, and no other refund's`);
}

/** What happened at the bar: rows for ever. */
export async function logRedemptions(
  tx: Queryable,
  shard: Shard,
  kind: "REDEEM" | "REVERSE",
  rows: readonly { readonly id: RedemptionId; readonly voucher: VoucherRow; readonly actor: string | undefined }[],
  now: Date,
): Promise<void> {
  if (rows.length === 0) return;
  await tx.query(LOG, [
    shard.slot,
    now,
    kind,
    rows.map(({ id }) => id),
    rows.map(({ voucher }) => voucher.id),
    rows.map(({ voucher }) => voucher.orderId),
    rows.map(({ voucher }) => voucher.merchantId),
    rows.map(({ actor }) => actor ?? null),
  ]);
}

/** Vouchers whose validity has ended unused, the longest ago first. */
export const findLapsed = (tx: Queryable, slots: readonly number[], limit: number): Promise<{ slot: number; id: string }[]> =>
  tx.query<{ slot: number; id: string }>(LAPSED, [slots, limit]);

/** What each deal says of refunds. */
export const findRefundTerms = async (tx: Queryable, shard: Shard, deals: readonly DealId[]): Promise<Map<DealId, RefundTerms>> =>
  new Map(
    (await tx.query<{ id: DealId; refund_anytime: boolean; refund_expired: boolean }>(TERMS, [shard.slot, [...new Set(deals)]])).map(
      (row) => [row.id, { refundAnytime: row.refund_anytime, refundExpired: row.refund_expired }],
    ),
  );

export async function redeemVouchers(tx: Writable, shard: Shard, ids: readonly VoucherId[], now: Date): Promise<void> {
  if (ids.length === 0) return;
  const redeemed = await tx.change(REDEEM, [shard.slot, ids, now]);
  invariant(redeemed === ids.length, "every voucher that is redeemed was ISSUED and in date");
}

/** The vouchers of a consumer's own order; undefined where there is no such order. */
export async function vouchersOf(db: Queryable, shard: Shard, orderId: string, consumerId: UserId): Promise<ShownVoucher[] | undefined> {
  const rows = await db.query<{ code: string | null; state: VoucherState; valid_until: Date; redeemed_at: Date | null }>(OF_ORDER, [
    shard.slot,
    orderId,
    consumerId,
  ]);
  if (rows.length === 0) return undefined;
  return rows.flatMap(({ code, state, valid_until, redeemed_at }) =>
    code === null ? [] : [{ code, state, validUntil: valid_until, redeemedAt: redeemed_at ?? undefined }],
  );
}

/** The vouchers of refunds whose money is back. Refunds of a group that failed have none. */
export async function refundVouchers(
  tx: Queryable,
  shard: Shard,
  refunds: readonly { readonly id: RefundId; readonly orderId: OrderId }[],
): Promise<void> {
  if (refunds.length > 0) await tx.query(REFUNDED, [shard.slot, refunds.map(({ orderId }) => orderId), refunds.map(({ id }) => id)]);
}
