/** Vouchers: one a unit, worth together what was paid, used once, or given back, or forfeited. */
import { type Check, GRACE_SECONDS, HAS_ALL_EVENTS } from "./check.ts";

export const VOUCHER_CHECKS: readonly Check[] = [
  {
    name: "vouchers.issued",
    scope: "city",
    proves: "a confirmed order has one voucher a unit, worth its amount together; an order that never was has none",
    statement: `
      select slot, id, o.state, o.quantity, v.vouchers, o.amount, v.amount as vouchers_amount
        from orders o
        full join (select slot, order_id as id, count(*) as vouchers, sum(amount) as amount from vouchers group by slot, order_id) v using (slot, id)
       where o.deal_id is null
          or case when o.state in ('CONFIRMED', 'COMPLETED') then v.vouchers is distinct from o.quantity or v.amount <> o.amount
                  when o.state = 'REFUNDED' then v.vouchers <> o.quantity or v.amount <> o.amount
                  else v.vouchers > 0 end`,
  },
  {
    name: "vouchers.owner",
    scope: "city",
    proves: "a voucher is of its order's consumer, deal and merchant",
    statement: `
      select v.slot, v.id, v.order_id from vouchers v
        left join orders o on o.slot = v.slot and o.id = v.order_id and o.consumer_id = v.consumer_id and o.deal_id = v.deal_id and o.merchant_id = v.merchant_id
       where o.id is null`,
  },
  {
    name: "vouchers.redeemed",
    scope: "city",
    proves: "a voucher has a time of redemption exactly when it is redeemed",
    statement: `select slot, id, order_id, state, redeemed_at from vouchers where (state in ('REDEEMED', 'SETTLED')) <> (redeemed_at is not null)`,
  },
  {
    name: "vouchers.redeemed-once",
    scope: "city",
    proves: "as many redemptions of an order's vouchers were told, less the reversals, as vouchers of it are redeemed",
    statement: `
      select slot, order_id, v.redeemed, e.redemptions
        from (select slot, order_id::text as order_id, count(*) as redeemed, min(issued_at) as issued_at from vouchers
               where state in ('REDEEMED', 'SETTLED') group by slot, vouchers.order_id) v
        full join (select slot, data ->> 'orderId' as order_id, sum(case type when 'voucher.redeemed' then 1 else -1 end) as redemptions
                     from events where type in ('voucher.redeemed', 'voucher.reversed') group by slot, data ->> 'orderId') e using (slot, order_id)
       where coalesce(e.redemptions, 0) > coalesce(v.redeemed, 0) or (e.redemptions is distinct from v.redeemed and ${HAS_ALL_EVENTS("v.issued_at")})`,
  },
  {
    name: "vouchers.redemptions",
    scope: "city",
    proves:
      "redemptions and reversals of a voucher alternate, at its own merchant's, and the last is a redemption exactly when it is redeemed",
    statement: `
      select slot, voucher_id, v.state, v.redeemed_at, r.kinds, r.last_at
        from (select slot, id as voucher_id, merchant_id, state, redeemed_at from vouchers) v
        full join (select slot, voucher_id, string_agg(kind, ' ' order by id) as kinds, min(merchant_id) as merchant_id,
                          max(merchant_id) as other_merchant, max(at) as last_at
                     from redemptions group by slot, voucher_id) r using (slot, voucher_id)
       where v.state is null
          or coalesce(r.kinds, '') !~ (case when v.state in ('REDEEMED', 'SETTLED') then '^(REDEEM REVERSE )*REDEEM$' else '^(REDEEM REVERSE ?)*$' end)
          or (r.merchant_id is not null and (r.merchant_id <> v.merchant_id or r.other_merchant <> v.merchant_id))
          or (v.redeemed_at is not null and r.last_at is distinct from v.redeemed_at)`,
  },
  {
    name: "vouchers.refunded",
    scope: "city",
    proves: "a voucher is REFUNDING or REFUNDED exactly when a refund of unused units takes it, and no redeemed one is",
    statement: `
      select v.slot, v.id, v.order_id, v.state, v.refund_id, r.state as refund_state
        from vouchers v
        left join refunds r on r.slot = v.slot and r.id = v.refund_id and r.order_id = v.order_id
       where (v.state in ('REFUNDING', 'REFUNDED')) <> (r.id is not null and not r.used)
          or (v.refund_id is not null and r.id is null)`,
  },
  {
    name: "vouchers.overdue",
    scope: "city",
    proves: `no voucher is ISSUED ${GRACE_SECONDS} s after its validity ended`,
    statement: `select slot, id, order_id, valid_until from vouchers where state = 'ISSUED' and valid_until < now() - make_interval(secs => $1)`,
    values: [GRACE_SECONDS],
  },
  {
    name: "vouchers.completed",
    scope: "city",
    proves: "an order is COMPLETED exactly when no voucher of it is left to use, and one was used or forfeited",
    statement: `
      select o.slot, o.id, o.state, v.issued, v.ended
        from orders o
        join (select slot, order_id, count(*) filter (where state = 'ISSUED') as issued,
                     count(*) filter (where state in ('REDEEMED', 'SETTLED', 'EXPIRED')) as ended
                from vouchers group by slot, order_id) v on v.slot = o.slot and v.order_id = o.id
       where (o.state = 'COMPLETED') <> (v.issued = 0 and v.ended > 0)`,
  },
  {
    name: "vouchers.code",
    scope: "city",
    proves: "a code ends with its slot and exists once in it, so once in its city",
    statement: `
      select slot, min(id) as id, count(*) as vouchers from vouchers
       group by slot, code having count(*) > 1 or right(code, 2)::integer <> slot`,
  },
];
