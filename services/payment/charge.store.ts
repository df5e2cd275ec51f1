/** Charges as rows: payments by an external channel, as their channel's word moves them. */
import type { Queryable, Statement, Writable } from "../../db/database.ts";
import type { OrderId, PaymentId, Shard } from "../../domain/ids.ts";
import { invariant } from "../../domain/invariant.ts";
import type { ChargeMove } from "../../domain/payment/charge.ts";

/** Of locked payments; the state it was locked in is asked again. */
const MOVE: Statement = {
  name: "charge/move",
  text: `
    update payments_$1 p
       set state = c.state, reason = c.reason, channel_no = coalesce(c.channel_no, p.channel_no), pay_url = coalesce(c.pay_url, p.pay_url),
           paid_amount = c.paid_amount, paid_currency = c.paid_currency, paid_at = c.paid_at, surplus = c.surplus, last_error = c.error,
           decided_at = c.ended_at, ended_at = c.ended_at
      from (select c.*, case when c.state in ('CONFIRMED', 'FAILED') then $3::timestamptz end as ended_at, r.row
              from json_to_recordset($2::json) as c(id bigint, was text, state text, reason text, channel_no text, pay_url text, paid_amount bigint,
                   paid_currency text, paid_at timestamptz, surplus boolean, error text)
             cross join lateral (select ctid as row, state from payments_$1 where slot = $1 and id = c.id offset 0) r where r.state = c.was) c
     where p.slot = $1 and p.ctid = c.row`,
};
/** Those of orders that wait for nothing else any more: look at their charges now. */
const HURRY: Statement = {
  name: "charge/hurry",
  text: `
    update payments_$1 p set next_attempt_at = $3
      from (select r.row from unnest($2::bigint[]) as k(order_id)
             cross join lateral (select ctid as row, channel, unfinished from payments_$1 where slot = $1 and order_id = k.order_id and live offset 0) r
             where r.channel <> 'wallet' and r.unfinished) c
     where p.slot = $1 and p.ctid = c.row`,
};
/** Whether their orders still want to be paid, by the database's clock. */
const WANTED: Statement = {
  name: "charge/wanted",
  text: `
    select p.id, o.state = 'PENDING_PAYMENT' and p.expires_at > now() as wanted
      from (select id, order_id, expires_at from payments_$1 where slot = $1 and id = $2 offset 0) p
     cross join lateral (select state from orders_$1 where slot = $1 and id = p.order_id offset 0) o`,
};

export async function moveCharges(tx: Writable, shard: Shard, moves: readonly ChargeMove[], now: Date): Promise<void> {
  if (moves.length === 0) return;
  const rows = moves.map(({ was, payment, channelNo, surplus, error }) => ({
    id: payment.id,
    was,
    state: payment.state,
    reason: payment.reason,
    channel_no: channelNo,
    pay_url: payment.payUrl,
    paid_amount: payment.paid && String(payment.paid.amount),
    paid_currency: payment.paid?.currency,
    paid_at: payment.paid?.at,
    surplus,
    error: error?.slice(0, 500),
  }));
  const moved = await tx.change(MOVE, [shard.slot, JSON.stringify(rows), now]);
  invariant(moved === moves.length, "a charge moves from the state it was locked in");
}

/** After their orders were cancelled: the charges are to be closed. */
export const hurryCharges = async (tx: Queryable, shard: Shard, orders: readonly OrderId[], now: Date): Promise<void> => {
  if (orders.length > 0) await tx.query(HURRY, [shard.slot, orders, now]);
};

export const isWanted = async (db: Queryable, shard: Shard, id: PaymentId): Promise<boolean> =>
  (await db.query<{ wanted: boolean }>(WANTED, [shard.slot, id]))[0]?.wanted ?? false;
