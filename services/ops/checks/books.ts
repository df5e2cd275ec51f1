/** What the books say of the trade, and the trade of the books: no payment, refund or top-up without its transfer, and none the other way. */
import type { Check } from "./check.ts";

/** Posted transfers of one code. The business key is the id of what they are for; keys are compared as texts, because a wrong one may be any. */
const posted = (code: "pay" | "refund" | "topup"): string => `
  (select slot, business_key, amount, debit_account, credit_account, order_id from transfers where code = '${code}' and state = 'POSTED') t`;
const keyed = (table: "payments" | "refunds" | "topups"): string => `(select *, id::text as business_key from ${table})`;

export const BOOK_CHECKS: readonly Check[] = [
  {
    name: "books.payments",
    scope: "city",
    proves: "a payment is decided exactly when its amount is posted to its merchant's escrow, and a finished one leaves no promise open",
    statement: `
      select slot, business_key, p.state, p.amount, t.amount as posted, t.credit_account
        from ${keyed("payments")} p full join ${posted("pay")} using (slot, business_key)
       where case when p.state in ('CONFIRMING', 'CONFIRMED')
                  then (t.amount, t.debit_account, t.credit_account, t.order_id)
                       is distinct from (p.amount, case p.channel when 'wallet' then 'transit:user' else 'channel:' || p.channel end, 'escrow:' || p.merchant_id, p.order_id)
                  else t.amount is not null end
      union all
      select p.slot, p.id::text, p.state, p.amount, null, 'promise ' || t.id || ' is open'
        from payments p
        join transfers t on t.slot = p.slot and t.business_key = p.id::text and t.code = 'pay' and t.state = 'PENDING'
        left join transfers e on e.slot = t.slot and e.pending_id = t.id
       where p.state in ('CONFIRMING', 'CONFIRMED', 'CANCELLED') and e.id is null`,
  },
  {
    name: "books.refunds",
    scope: "city",
    proves: "a refund is decided exactly when its amount is posted back from its merchant's escrow",
    statement: `
      select slot, business_key, r.state, r.amount, t.amount as posted, t.debit_account
        from ${keyed("refunds")} r full join ${posted("refund")} using (slot, business_key)
       where case when r.state = 'SUCCEEDED' or r.decided_at is not null
                  then (t.amount, t.debit_account, t.credit_account, t.order_id)
                       is distinct from (r.amount, 'escrow:' || r.merchant_id, case r.channel when 'wallet' then 'transit:user' else 'refund_in_transit:' || r.channel end, r.order_id)
                  else t.amount is not null end`,
  },
  {
    name: "books.escrow",
    scope: "city",
    proves: "a merchant's escrow holds what was paid to it and neither refunded, nor settled, nor forfeited",
    statement: `
      select slot, account, a.balance, m.paid, m.refunded, m.settled
        from (select slot, account, credits_posted - debits_posted as balance from accounts where account like 'escrow:%') a
        full join (select slot, 'escrow:' || merchant_id as account, sum(paid) as paid, sum(refunded) as refunded, sum(settled) as settled
                     from (select slot, merchant_id, amount as paid, 0 as refunded, 0 as settled from payments where state in ('CONFIRMING', 'CONFIRMED')
                           union all
                           -- Other money than was asked for, on its way back.
                           select slot, merchant_id, paid_amount, 0, 0 from payments join suspense_cases using (slot, id) where outcome = 'GIVEN_BACK'
                           union all
                           select slot, merchant_id, 0, amount, 0 from refunds where state = 'SUCCEEDED' or decided_at is not null
                           union all
                           -- What was settled comes back before it is refunded.
                           select slot, merchant_id, 0, 0, -amount from refunds where used and state <> 'REQUESTED'
                           union all
                           select slot, merchant_id, 0, 0, gross from settlements where state = 'SUCCESS'
                           union all
                           select slot, merchant_id, 0, 0, amount from vouchers where state = 'EXPIRED') money
                    group by slot, merchant_id) m using (slot, account)
       where coalesce(a.balance, 0) <> coalesce(m.paid, 0) - coalesce(m.refunded, 0) - coalesce(m.settled, 0)`,
  },
  {
    name: "books.topups",
    scope: "user",
    proves: "a top-up has succeeded exactly when its amount is posted to its user's wallet",
    statement: `
      select slot, business_key, u.state, u.amount, t.amount as posted, t.credit_account
        from ${keyed("topups")} u full join ${posted("topup")} using (slot, business_key)
       where case when u.state = 'SUCCEEDED'
                  then (t.amount, t.debit_account, t.credit_account) is distinct from (u.amount, 'cash:' || u.channel, 'wallet:' || u.user_id)
                  else t.amount is not null end`,
  },
];
