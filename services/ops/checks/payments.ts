/** Payments and refunds: a paid order was paid once and in full, money for nothing goes back, and whatever was begun ends. */
import { type Check, GRACE_SECONDS } from "./check.ts";

/** Days a channel may take to pay a refund out before somebody should ask it. */
const CHANNEL_DAYS = 3;

export const PAYMENT_CHECKS: readonly Check[] = [
  {
    name: "payments.one-live",
    scope: "city",
    proves: "an order has at most one payment that is not given up",
    statement: `
      select slot, order_id, count(*) as payments from payments
       where state not in ('CANCELLING', 'CANCELLED', 'FAILED') and not surplus group by slot, order_id having count(*) > 1`,
  },
  {
    name: "payments.paid-order",
    scope: "city",
    proves: "every order that was paid has a decided payment, by its consumer, to its merchant, of its amount",
    statement: `
      select o.slot, o.id, o.state, o.amount, p.id as payment_id, p.amount as paid
        from orders o
        left join payments p on p.slot = o.slot and p.order_id = o.id and p.consumer_id = o.consumer_id and p.merchant_id = o.merchant_id
                            and p.state in ('CONFIRMING', 'CONFIRMED') and not p.surplus
       where o.state in ('PAID', 'CONFIRMED', 'COMPLETED', 'REFUNDED') and p.amount is distinct from o.amount`,
  },
  {
    name: "payments.for-nothing",
    scope: "city",
    proves: "a decided payment has made its order paid, or all of it goes back, as does what came late or twice",
    statement: `
      select p.slot, p.id, p.order_id, p.amount, o.state, r.refunded
        from payments p
        left join orders o on o.slot = p.slot and o.id = p.order_id
        left join (select slot, payment_id, sum(amount) as refunded from refunds group by slot, payment_id) r on r.slot = p.slot and r.payment_id = p.id
       where p.state in ('CONFIRMING', 'CONFIRMED')
         and (o.id is null or ((p.surplus or o.state in ('PENDING_PAYMENT', 'CANCELLED', 'EXPIRED')) and r.refunded is distinct from p.amount))`,
  },
  {
    name: "payments.finished",
    scope: "city",
    proves: `no payment is undecided or unfinished ${GRACE_SECONDS} s after it began, by a channel ${GRACE_SECONDS} s after its charge's time was over`,
    statement: `
      select slot, id, order_id, state, attempts, created_at from payments
       where state in ('TRYING', 'CONFIRMING', 'CANCELLING', 'CREATED', 'PROCESSING', 'UNKNOWN') and coalesce(expires_at, created_at) < now() - make_interval(secs => $1)`,
    values: [GRACE_SECONDS],
  },
  {
    name: "payments.one-way",
    scope: "every",
    proves: "no branch of a payment or refund was both confirmed and cancelled, and none confirmed that was not tried",
    statement: `
      select slot, xid, branch, string_agg(phase || ' by ' || by_phase, ', ' order by phase) as phases
        from tcc_barriers group by slot, xid, branch
      having bool_or(phase = 'confirm') and (bool_or(phase = 'cancel') or not bool_or(phase = 'try' and by_phase = 'try'))`,
  },
  {
    name: "refunds.finished",
    scope: "city",
    proves: `no refund is unfinished ${GRACE_SECONDS} s after it could begin, once a channel has it ${CHANNEL_DAYS} days, and none waits for a person`,
    statement: `
      select slot, id, order_id, state, attempts, last_error, created_at from refunds
       where state = 'ABNORMAL'
          or (state in ('REQUESTED', 'PROCESSING') and (channel = 'wallet' or decided_at is null or last_error is not null)
              and coalesce(approved_at, approve_by, created_at) < now() - make_interval(secs => $1))
          or (state = 'PROCESSING' and decided_at < now() - interval '${CHANNEL_DAYS} days')`,
    values: [GRACE_SECONDS],
  },
  {
    name: "refunds.within-payment",
    scope: "city",
    proves:
      "the refunds of a payment are never more than was paid, and go to whom it came from; other money than was asked for goes back when somebody decided it",
    statement: `
      select r.slot, r.payment_id, r.order_id, p.amount, p.paid_amount, r.refunded
        from (select slot, payment_id, order_id, consumer_id, merchant_id, sum(amount) as refunded
                from refunds group by slot, payment_id, order_id, consumer_id, merchant_id) r
        left join payments p on p.slot = r.slot and p.id = r.payment_id and p.order_id = r.order_id
                            and p.consumer_id = r.consumer_id and p.merchant_id = r.merchant_id
        left join suspense_cases c on c.slot = p.slot and c.id = p.id and c.outcome = 'GIVEN_BACK'
       where p.id is null or (p.state not in ('CONFIRMING', 'CONFIRMED') and c.id is null) or r.refunded > coalesce(p.paid_amount, p.amount)`,
  },
  {
    name: "refunds.units",
    scope: "city",
    proves:
      "a refund of an order with vouchers is of whole units, at what was paid for each: unused ones on their way back, or settled ones",
    statement: `
      select slot, id, r.order_id, r.state, r.quantity, v.units, r.amount, v.amount as units_amount
        from (select r.* from refunds r where not r.surplus and exists (select from vouchers v where v.slot = r.slot and v.order_id = r.order_id)) r
        full join (select slot, refund_id as id, order_id, count(*) as units, sum(amount) as amount, array_agg(distinct state) as states
                     from vouchers where refund_id is not null group by slot, refund_id, order_id) v using (slot, id)
       where (r.order_id, r.quantity, r.amount) is distinct from (v.order_id, v.units, v.amount)
          or v.states <> array[case when r.used then 'SETTLED' when r.state = 'SUCCEEDED' then 'REFUNDED' else 'REFUNDING' end]`,
  },
  {
    name: "refunds.refunded-order",
    scope: "city",
    proves: "a paid order is REFUNDED exactly when its whole amount was refunded unused",
    statement: `
      select slot, id, o.state, o.amount, r.refunded
        from orders o
        full join (select slot, order_id as id, sum(amount) as refunded from refunds where state = 'SUCCEEDED' and not used and not surplus group by slot, order_id) r using (slot, id)
       where (o.state = 'REFUNDED' and r.refunded is distinct from o.amount)
          or (r.refunded = o.amount and o.state not in ('REFUNDED', 'CANCELLED', 'EXPIRED'))
          or o.deal_id is null`,
  },
];
