/** What reconciliation left in suspense: each difference that is not explained, nor decided by a person, and nothing else. */
import type { Check } from "./check.ts";
import { pairs } from "./settlements.ts";

/** `moneyOff` of `domain/recon/difference.ts`. A test holds them together. */
const OFF = `
  case when class in ('STATUS', 'TIMING') then 0
       else (case when currency = 'CNY' then coalesce(theirs, 0) else 0 end - case class when 'DUPLICATE' then 0 else coalesce(ours, 0) end)
            * case when kind in ('PAYMENT', 'PAYOUT_RETURN') then 1 else -1 end end`;
const MIRROR = `case when kind in ('PAYOUT', 'PAYOUT_RETURN') then 'payout:' else 'channel:' end || channel`;

/** Payments of other money that somebody has decided about, and the two sides of what follows. */
const DECIDED = `
  select slot, id::text as business_key, paid_amount as amount,
         'suspense:long' || case paid_currency when 'CNY' then '' else ':' || paid_currency end as debit,
         case outcome when 'GIVEN_BACK' then 'escrow:' || merchant_id else 'write_off' || case paid_currency when 'CNY' then '' else ':' || paid_currency end end as credit
    from payments join suspense_cases using (slot, id) where state = 'FAILED' and paid_at is not null`;

export const RECON_CHECKS: readonly Check[] = [
  {
    name: "recon.suspense",
    scope: "every",
    proves:
      "a difference with a channel's statement is in suspense, with what is off by it, exactly until something explains it or somebody writes it off",
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
       where (abs(f.off), f.credit, f.debit) is distinct from (t.amount, t.debit_account, t.credit_account)
      union all
      select slot, business_key, 'suspense-off', f.off, t.amount, t.debit_account, t.credit_account
        from (select slot, business_key, off, case when off > 0 then credit else 'write_off' end as debit, case when off > 0 then 'write_off' else debit end as credit
                from facts where state = 'RESOLVED') f
        full join (select slot, business_key, amount, debit_account, credit_account from transfers where code = 'suspense-off') t using (slot, business_key)
       where (abs(f.off), f.debit, f.credit) is distinct from (t.amount, t.debit_account, t.credit_account)`,
  },
  {
    name: "recon.decided",
    scope: "every",
    proves: "a difference is RESOLVED exactly when somebody's decision to write it off is kept",
    statement: `
      select slot, id, d.state, c.outcome, c.resolved_by
        from recon_differences d left join suspense_cases c using (slot, id)
       where (d.state = 'RESOLVED') <> (c.outcome is not null) or c.outcome <> 'WRITTEN_OFF'`,
  },
  {
    name: "books.suspense",
    scope: "city",
    proves:
      "other money than was asked for left suspense exactly as somebody decided, once: given back by refunds of all of it, or written off; and nothing else was decided",
    statement: `
      ${pairs(`${DECIDED} and outcome = 'GIVEN_BACK'`, "differs-back")}
      union all
      ${pairs(`${DECIDED} and outcome = 'WRITTEN_OFF' and paid_amount > 0`, "differs-off")}
      union all
      select p.slot, p.id::text, c.outcome, p.paid_amount, null, null, r.refunded, null, null
        from payments p
        join suspense_cases c using (slot, id)
        left join (select slot, payment_id as id, sum(amount) as refunded from refunds where surplus group by slot, payment_id) r using (slot, id)
       where c.outcome = 'GIVEN_BACK' and r.refunded is distinct from p.paid_amount
      union all
      select slot, id::text, c.outcome, null, null, null, null, null, null
        from suspense_cases c
        left join (select slot, id, true as is_there from payments where state = 'FAILED' and paid_at is not null union all select slot, id, true from recon_differences) s
             using (slot, id)
       where s.is_there is null`,
  },
];
