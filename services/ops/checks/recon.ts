/** What reconciliation left in suspense: each difference that is not explained, and nothing else. */
import type { Check } from "./check.ts";

/** `moneyOff` of `domain/recon/difference.ts`. A test holds them together. */
const OFF = `
  case when class in ('STATUS', 'TIMING') then 0
       else (case when currency = 'CNY' then coalesce(theirs, 0) else 0 end - case class when 'DUPLICATE' then 0 else coalesce(ours, 0) end)
            * case when kind in ('PAYMENT', 'PAYOUT_RETURN') then 1 else -1 end end`;
const MIRROR = `case when kind in ('PAYOUT', 'PAYOUT_RETURN') then 'payout:' else 'channel:' end || channel`;

export const RECON_CHECKS: readonly Check[] = [
  {
    name: "recon.suspense",
    scope: "every",
    proves: "a difference with a channel's statement is in suspense exactly while nothing explains it, with what is off by it",
    statement: `
      with facts as (
        select slot, id::text as business_key, off, case when off > 0 then mirror else 'suspense:short' end as debit,
               case when off > 0 then 'suspense:long' else mirror end as credit, state
          from (select slot, id, state, ${OFF} as off, ${MIRROR} as mirror from recon_differences where booked) d
         where off <> 0
      )
      select slot, business_key, 'suspense' as code, f.off, t.amount, t.debit_account, t.credit_account
        from facts f
        full join (select slot, business_key, amount, debit_account, credit_account from transfers where code = 'suspense') t using (slot, business_key)
       where (abs(f.off), f.debit, f.credit) is distinct from (t.amount, t.debit_account, t.credit_account)
      union all
      select slot, business_key, 'suspense-back', f.off, t.amount, t.debit_account, t.credit_account
        from (select * from facts where state = 'CLEARED') f
        full join (select slot, business_key, amount, debit_account, credit_account from transfers where code = 'suspense-back') t using (slot, business_key)
       where (abs(f.off), f.credit, f.debit) is distinct from (t.amount, t.debit_account, t.credit_account)`,
  },
];
