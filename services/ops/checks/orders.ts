/** Orders: each was made once, from what there is, and came to its state by steps the state machine allows. */
import { ORDER, ORDER_INITIAL } from "../../../domain/order/state.ts";
import { arrows } from "../../../domain/transition.ts";
import { type Check, GRACE_SECONDS, HAS_ALL_EVENTS } from "./check.ts";

const STEPS = arrows(ORDER);

export const ORDER_CHECKS: readonly Check[] = [
  {
    name: "orders.amount",
    scope: "city",
    proves: "an order's amount is unit price × quantity − discount",
    statement: `select slot, id, unit_price, quantity, discount, amount from orders where amount <> unit_price * quantity - discount`,
  },
  {
    name: "orders.discount",
    scope: "city",
    proves: "an order's discount is its units', each the unit price in the basis points its region gave, half up and never all of it",
    statement: `
      select slot, id, unit_price, quantity, discount_bps, discount from orders
       where discount <> quantity * least(unit_price - 1, (unit_price * discount_bps + 5000) / 10000)`,
  },
  {
    name: "orders.references",
    scope: "city",
    proves: "an order's deal is its merchant's, its group is of that deal and has its price, and its bucket is there",
    statement: `
      select o.slot, o.id, o.merchant_id, o.deal_id, o.group_id, o.bucket
        from orders o
        left join deals d on d.slot = o.slot and d.id = o.deal_id and d.merchant_id = o.merchant_id
        left join stock s on s.slot = o.slot and s.deal_id = o.deal_id and s.bucket = o.bucket
        left join groups g on g.slot = o.slot and g.id = o.group_id and g.deal_id = o.deal_id and g.merchant_id = o.merchant_id
       where d.id is null or s.deal_id is null or (o.group_id is not null and (g.id is null or g.unit_price <> o.unit_price))`,
  },
  {
    name: "orders.key",
    scope: "city",
    proves: "one consumer's idempotency key made one order",
    statement: `select slot, consumer_id, idem_key, count(*) as orders from orders group by slot, consumer_id, idem_key having count(*) > 1`,
  },
  {
    name: "orders.created-event",
    scope: "city",
    proves: "every order has exactly one order.created event, and every such event its order",
    statement: `
      select slot, id, e.events
        from orders o
        full join (select slot, subject as id, count(*) as events from events where type = 'order.created' group by slot, subject) e using (slot, id)
       where o.deal_id is null or e.events > 1 or (e.events is null and ${HAS_ALL_EVENTS("o.created_at")})`,
  },
  {
    name: "orders.history",
    scope: "city",
    proves: "an order's order.moved events are a path of the state machine from its first state to the one it is in",
    statement: `
      with moves as (
        select slot, id, moved_from, moved_to, lag(moved_to) over steps as came_from, lead(1, 1, 0) over steps = 0 as is_last
          from (select slot, subject as id, id as event_id, data ->> 'from' as moved_from, data ->> 'to' as moved_to
                  from events where type = 'order.moved' offset 0) narrow
        window steps as (partition by slot, id order by event_id)
      ), paths as (
        select slot, id, max(moved_to) filter (where is_last) as ends_in, max(moved_from) filter (where came_from is null) as starts_in,
               bool_and((came_from is null or moved_from = came_from) and (moved_from, moved_to) in (select * from unnest($2::text[], $3::text[]))) as is_path
          from moves group by slot, id
      )
      select slot, id, o.state, p.ends_in, p.is_path
        from orders o full join paths p using (slot, id)
       where o.deal_id is null or o.state <> p.ends_in or not p.is_path
          or (${HAS_ALL_EVENTS("o.created_at")} and (p.starts_in <> $1 or (p.ends_in is null and o.state <> $1)))`,
    values: [ORDER_INITIAL, STEPS.map(([from]) => from), STEPS.map(([, to]) => to)],
  },
  {
    name: "orders.overdue",
    scope: "city",
    proves: `no order is unpaid ${GRACE_SECONDS} s after it should have expired`,
    statement: `select slot, id, expires_at from orders where state = 'PENDING_PAYMENT' and expires_at < now() - make_interval(secs => $1)`,
    values: [GRACE_SECONDS],
  },
];
