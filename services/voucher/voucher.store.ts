/** Vouchers as rows. */
import type { Queryable, Statement } from "../../db/database.ts";
import type { DealId, MerchantId, OrderId, Shard, UserId, VoucherId } from "../../domain/ids.ts";
import { invariant } from "../../domain/invariant.ts";
import type { NewVoucher } from "../../domain/voucher/issue.ts";
import type { VoucherRow } from "../../domain/voucher/redeem.ts";
import type { VoucherState } from "../../domain/voucher/state.ts";

const INSERT: Statement = {
  name: "voucher/insert",
  text: `
    insert into vouchers_$1 (slot, id, order_id, deal_id, merchant_id, consumer_id, unit, amount, code, state, issued_at, valid_until)
    select $1, id, order_id, deal_id, merchant_id, consumer_id, unit, amount, code, 'ISSUED', $2, valid_until
      from unnest($3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::smallint[], $9::bigint[], $10::text[], $11::timestamptz[])
        as v(id, order_id, deal_id, merchant_id, consumer_id, unit, amount, code, valid_until)`,
};
const ORDERS_OF: Statement = {
  name: "voucher/orders-of",
  text: `select distinct order_id from vouchers_$1 where slot = $1 and code = any($2::text[])`,
};
const LOCK: Statement = {
  name: "voucher/lock",
  text: `
    select id, order_id, deal_id, merchant_id, consumer_id, code, state, valid_until
      from vouchers_$1 where slot = $1 and order_id = any($2::bigint[]) order by id for update`,
};
/** The guard of rule 11 once more: in date, once. */
const REDEEM: Statement = {
  name: "voucher/redeem",
  text: `
    update vouchers_$1 set state = 'REDEEMED', redeemed_at = $3
     where slot = $1 and id = any($2::bigint[]) and state = 'ISSUED' and valid_until > $3 returning id`,
};
const OF_ORDER: Statement = {
  name: "voucher/of-order",
  text: `
    select v.code, v.state, v.valid_until, v.redeemed_at
      from orders_$1 o left join vouchers_$1 v on v.slot = $1 and v.order_id = $2
     where o.slot = $1 and o.id = $2 and o.consumer_id = $3 order by v.unit`,
};
const REFUND: Statement = {
  name: "voucher/refund",
  text: `update vouchers_$1 set state = 'REFUNDED' where slot = $1 and order_id = any($2::bigint[]) and state = 'REFUNDING'`,
};

/** A voucher as its consumer sees it. */
export interface ShownVoucher {
  readonly code: string;
  readonly state: VoucherState;
  readonly validUntil: Date;
  readonly redeemedAt: Date | undefined;
}

export async function insertVouchers(tx: Queryable, shard: Shard, vouchers: readonly NewVoucher[], now: Date): Promise<void> {
  if (vouchers.length === 0) return;
  await tx.query(INSERT, [
    shard.slot,
    now,
    vouchers.map((voucher) => voucher.id),
    vouchers.map((voucher) => voucher.orderId),
    vouchers.map((voucher) => voucher.dealId),
    vouchers.map((voucher) => voucher.merchantId),
    vouchers.map((voucher) => voucher.consumerId),
    vouchers.map((voucher) => voucher.unit),
    vouchers.map((voucher) => String(voucher.amount)),
    vouchers.map((voucher) => voucher.code),
    vouchers.map((voucher) => voucher.validUntil),
  ]);
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
    code: string;
    state: VoucherState;
    valid_until: Date;
  }>(LOCK, [shard.slot, orders]);
  return rows.map((row) => ({
    id: row.id,
    orderId: row.order_id,
    dealId: row.deal_id,
    merchantId: row.merchant_id,
    consumerId: row.consumer_id,
    code: row.code,
    state: row.state,
    validUntil: row.valid_until,
  }));
}

export async function redeemVouchers(tx: Queryable, shard: Shard, ids: readonly VoucherId[], now: Date): Promise<void> {
  if (ids.length === 0) return;
  const redeemed = await tx.query(REDEEM, [shard.slot, ids, now]);
  invariant(redeemed.length === ids.length, "every voucher that is redeemed was ISSUED and in date");
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

/** The vouchers of orders whose money is back. Orders of a group that failed have none. */
export async function refundVouchers(tx: Queryable, shard: Shard, orders: readonly OrderId[]): Promise<void> {
  if (orders.length > 0) await tx.query(REFUND, [shard.slot, orders]);
}
