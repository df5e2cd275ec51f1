/** Quotas: what one user has used up of a deal's limit, and of the unpaid orders one merchant bears. */
import { LIMITS } from "../../../domain/limits.ts";
import { type Check, UNITS_REFUNDED } from "./check.ts";

export const QUOTA_CHECKS: readonly Check[] = [
  {
    name: "quotas.units",
    scope: "city",
    proves: "a user's counter at a limited deal is the sum of the units that were not cancelled, expired or refunded, and within the limit",
    statement: `
      select slot, deal_id, user_id, q.used, q.per_user_limit, o.units
        from (select q.slot, q.scope as deal_id, q.user_id, q.used, d.per_user_limit
                from quotas q join deals d on d.slot = q.slot and d.id = q.scope) q
        full join (select o.slot, o.deal_id, o.consumer_id as user_id, sum(o.quantity - coalesce(r.units, 0)) as units
                     from orders o
                     join deals d on d.slot = o.slot and d.id = o.deal_id
                     left join ${UNITS_REFUNDED} r on r.slot = o.slot and r.id = o.id
                    where d.per_user_limit is not null and o.state not in ('CANCELLED', 'EXPIRED')
                    group by o.slot, o.deal_id, o.consumer_id) o using (slot, deal_id, user_id)
       where coalesce(q.used, 0) <> coalesce(o.units, 0) or q.used > q.per_user_limit`,
  },
  {
    name: "quotas.unpaid",
    scope: "city",
    proves: `a user's counter of unpaid orders at a merchant is their number, and at most ${LIMITS.unpaidOrdersMax}`,
    statement: `
      select slot, merchant_id, user_id, q.used, o.unpaid
        from (select q.slot, q.scope as merchant_id, q.user_id, q.used
                from quotas q join merchants m on m.slot = q.slot and m.id = q.scope) q
        full join (select slot, merchant_id, consumer_id as user_id, count(*) as unpaid
                     from orders where state = 'PENDING_PAYMENT' group by slot, merchant_id, consumer_id) o using (slot, merchant_id, user_id)
       where coalesce(q.used, 0) <> coalesce(o.unpaid, 0) or q.used > $1`,
    values: [LIMITS.unpaidOrdersMax],
  },
  {
    name: "quotas.scopes",
    scope: "city",
    proves: "every counter belongs to a deal or a merchant of its slot",
    statement: `
      select q.slot, q.scope, q.user_id, q.used
        from quotas q
        left join deals d on d.slot = q.slot and d.id = q.scope
        left join merchants m on m.slot = q.slot and m.id = q.scope
       where d.id is null and m.id is null`,
  },
];
