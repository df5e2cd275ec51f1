/** Groups: the counters are the seats, a group is formed exactly when it is full, and a failed one keeps nobody's money. */
import { type Check, GRACE_SECONDS } from "./check.ts";

export const GROUP_CHECKS: readonly Check[] = [
  {
    name: "groups.seats",
    scope: "city",
    proves: "held and taken of a group are its seats in these states, and with the filled ones never more than its size",
    statement: `
      select slot, id, g.size, g.held, s.held as held_seats, g.taken, s.taken as taken_seats, g.filled
        from groups g
        full join (select slot, group_id as id, count(*) filter (where state = 'HELD') as held, count(*) filter (where state = 'TAKEN') as taken
                     from seats group by slot, group_id) s using (slot, id)
       where g.size is null or g.held <> coalesce(s.held, 0) or g.taken <> coalesce(s.taken, 0) or g.held + g.taken + g.filled > g.size`,
  },
  {
    name: "groups.seat-of-order",
    scope: "city",
    proves: "every order of a group has one seat there, its consumer's, in the state that goes with the order's",
    statement: `
      select slot, group_id, order_id, o.state, s.state as seat_state, o.consumer_id, s.user_id
        from (select slot, group_id, id as order_id, state, consumer_id from orders where group_id is not null) o
        full join seats s using (slot, group_id, order_id)
       where o.consumer_id is distinct from s.user_id
          or s.state is distinct from case
               when o.state = 'PENDING_PAYMENT' then 'HELD'
               when o.state in ('PAID', 'CONFIRMED', 'COMPLETED') then 'TAKEN'
               when o.state in ('CANCELLED', 'EXPIRED') then 'RELEASED'
               when o.state = 'REFUNDED' then 'REFUNDED' end`,
  },
  {
    name: "groups.one-seat",
    scope: "city",
    proves: "a user has at most one live seat in a group",
    statement: `
      select slot, group_id, user_id, count(*) as seats
        from seats where state in ('HELD', 'TAKEN') group by slot, group_id, user_id having count(*) > 1`,
  },
  {
    name: "groups.formed",
    scope: "city",
    proves: "a group is FORMED exactly when all its seats were taken or filled, and its paid orders are confirmed then and not before",
    statement: `
      select g.slot, g.id, g.state, g.size, g.taken, g.filled, o.paid, o.confirmed, o.refunded
        from groups g
        left join (select slot, group_id, count(*) filter (where state = 'PAID') as paid,
                          count(*) filter (where state in ('CONFIRMED', 'COMPLETED')) as confirmed,
                          count(*) filter (where state = 'REFUNDED') as refunded
                     from orders where group_id is not null group by slot, group_id) o on o.slot = g.slot and o.group_id = g.id
       where case g.state when 'FORMED' then g.taken + g.filled + coalesce(o.refunded, 0) <> g.size or o.paid > 0
                          else g.taken + g.filled >= g.size or o.confirmed > 0 end`,
  },
  {
    name: "groups.failed",
    scope: "city",
    proves: "a FAILED group holds no seat, and every order that was paid in it has a refund of its whole amount",
    statement: `
      select g.slot, g.id, o.id as order_id, o.state, o.amount, r.refunded
        from groups g
        join orders o on o.slot = g.slot and o.group_id = g.id
        left join (select slot, order_id, sum(amount) as refunded from refunds where not surplus group by slot, order_id) r on r.slot = o.slot and r.order_id = o.id
       where g.state = 'FAILED'
         and (o.state not in ('CANCELLED', 'EXPIRED', 'PAID', 'REFUNDED') or (o.state in ('PAID', 'REFUNDED') and r.refunded is distinct from o.amount))`,
  },
  {
    name: "groups.pending",
    scope: "city",
    proves: "a PENDING group waits for the payment of its leader, and of nobody else",
    statement: `
      select g.slot, g.id, g.leader_id, o.orders
        from groups g
        left join (select slot, group_id, count(*) as orders, min(consumer_id) as consumer_id
                     from orders where state = 'PENDING_PAYMENT' group by slot, group_id) o on o.slot = g.slot and o.group_id = g.id
       where g.state = 'PENDING' and (o.orders is distinct from 1 or o.consumer_id <> g.leader_id)`,
  },
  {
    name: "groups.overdue",
    scope: "city",
    proves: `no group is undecided ${GRACE_SECONDS} s after its deadline`,
    statement: `
      select slot, id, state, deadline from groups
       where state in ('OPEN', 'CLOSING') and (deadline is null or deadline < now() - make_interval(secs => $1))`,
    values: [GRACE_SECONDS],
  },
];
