/** What a bar's tables are asked, and how time passes in them. */
import { isContention, type Statement } from "../../../db/database.ts";
import type { Id } from "../../../domain/ids.ts";

const statements = new Map<string, Statement>();
/** One name a text: that is how PostgreSQL keeps its plan. */
export function named(text: string): Statement {
  const made = statements.get(text) ?? { name: `life/${statements.size}`, text };
  statements.set(text, made);
  return made;
}

const TRIES_MAX = 20;
/** Time passes behind the program's back, with rows a drain may be holding; a drain would try again too. */
export async function untilFree<R>(run: () => Promise<R>): Promise<R> {
  for (let tries = 1; ; tries++) {
    try {
      return await run();
    } catch (error) {
      if (!isContention(error) || tries === TRIES_MAX) throw error;
    }
  }
}

export interface Raw {
  readonly orders: readonly { id: Id; state: string }[] | null;
  readonly groups: readonly { id: Id; state: string }[] | null;
  readonly vouchers: readonly { order_id: Id; state: string }[] | null;
  readonly stock: readonly { held: number; sold: number }[] | null;
  readonly quotas: readonly { scope: Id; user_id: Id; used: number }[] | null;
}
export const TERMS: Statement = {
  name: "life/terms",
  text: "update deals set refund_anytime = $3, refund_expired = $4 where slot = $1 and id = $2 returning merchant_id",
};
export const LOOK = `
  select json_build_object(
    'orders', (select json_agg(json_build_object('id', id::text, 'state', state)) from orders where slot = $1 and merchant_id = $2),
    'groups', (select json_agg(json_build_object('id', id::text, 'state', state)) from groups where slot = $1 and deal_id = $3),
    'vouchers', (select json_agg(json_build_object('order_id', v.order_id::text, 'state', v.state) order by v.order_id, v.unit)
                   from orders o join vouchers v on v.slot = o.slot and v.order_id = o.id where o.slot = $1 and o.merchant_id = $2),
    'stock', (select json_agg(json_build_object('held', held, 'sold', sold)) from stock where slot = $1 and deal_id = $3),
    'quotas', (select json_agg(json_build_object('scope', scope::text, 'user_id', user_id::text, 'used', used))
                 from quotas where slot = $1 and scope in ($2, $3))) as seen`;
/** Posted money of the bar's orders and payouts, by account. */
export const BOOKED = `
  with ours as (
    select t.* from orders o join transfers t on t.slot = o.slot and t.order_id = o.id where o.slot = $1 and o.merchant_id = $2
    union all
    select t.* from payouts p join transfers t on t.slot = p.slot and t.business_key = p.id::text and t.code like 'payout%' where p.slot = $1 and p.merchant_id = $2
  )
  select account, sum(fen) as fen
    from ours, lateral (values (credit_account, amount), (debit_account, -amount)) as side(account, fen)
   where state = 'POSTED' group by account having sum(fen) <> 0 order by account`;
export const TALLY = `
  select count(*) filter (where state = 'CONFIRMED' and not surplus)::integer as paid, count(*) filter (where surplus)::integer as surplus,
         count(*) filter (where differs)::integer as differs, count(*) filter (where unfinished)::integer as open
    from payments where slot = $1 and merchant_id = $2`;
/** What has not ended; a charge that anybody may still pay is done with for now when its buyer can be told where. */
export const LEFT = `
  select 'payment' as what, p.id, p.channel <> 'wallet' and p.state = 'PROCESSING' and p.pay_url is not null and o.state = 'PENDING_PAYMENT'
         and p.last_error is null as done
    from payments p join orders o on o.slot = p.slot and o.id = p.order_id where p.slot = $1 and p.merchant_id = $2 and p.unfinished
  union all
  select 'refund', id, false from refunds where slot = $1 and merchant_id = $2 and (unfinished or abnormal)
  union all
  select 'payout', id, false from payouts where slot = $1 and merchant_id = $2 and unfinished
  union all
  select 'callback', id, false from channel_callbacks where slot = $1 and state = 'KEPT'`;
export const QUIET: Statement = { name: "life/quiet", text: "set local session_replication_role = replica" };
export const AGE: readonly Statement[] = [
  QUIET,
  { name: "life/age-log", text: "update redemptions set at = at - make_interval(mins => $3) where slot = $1 and order_id = $2" },
  {
    name: "life/age-vouchers",
    text: "update vouchers set redeemed_at = redeemed_at - make_interval(mins => $3) where slot = $1 and order_id = $2 and redeemed_at is not null",
  },
  {
    name: "life/age-settlements",
    text: "update settlements set due_at = due_at - make_interval(mins => $3) where slot = $1 and order_id = $2 and unfinished",
  },
];
