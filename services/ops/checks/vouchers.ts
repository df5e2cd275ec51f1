/** Vouchers: one a unit, worth together what was paid, redeemed once. */
import { type Check, HAS_ALL_EVENTS } from "./check.ts";

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
    proves: "as many redemptions of an order's vouchers happened as vouchers of it are redeemed",
    statement: `
      select slot, order_id, v.redeemed, e.redemptions
        from (select slot, order_id::text as order_id, count(*) as redeemed, min(issued_at) as issued_at from vouchers
               where state in ('REDEEMED', 'SETTLED') group by slot, vouchers.order_id) v
        full join (select slot, data ->> 'orderId' as order_id, count(*) as redemptions
                     from events where type = 'voucher.redeemed' group by slot, data ->> 'orderId') e using (slot, order_id)
       where coalesce(e.redemptions, 0) > coalesce(v.redeemed, 0) or (e.redemptions is distinct from v.redeemed and ${HAS_ALL_EVENTS("v.issued_at")})`,
  },
  {
    name: "vouchers.completed",
    scope: "city",
    proves: "an order is COMPLETED exactly when all its vouchers are redeemed",
    statement: `
      select o.slot, o.id, o.state, v.vouchers, v.redeemed
        from orders o
        join (select slot, order_id, count(*) as vouchers, count(*) filter (where state in ('REDEEMED', 'SETTLED')) as redeemed
                from vouchers group by slot, order_id) v on v.slot = o.slot and v.order_id = o.id
       where (o.state = 'COMPLETED') <> (v.vouchers = v.redeemed)`,
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
