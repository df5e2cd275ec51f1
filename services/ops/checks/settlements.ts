/** Settlements, payouts, clawbacks and breakage: what a used unit brings, where it goes, and that the books say the same. */
import { type Check, GRACE_SECONDS } from "./check.ts";

/** Posted transfers of one code, by business key. */
const posted = (code: string): string => `
  (select slot, business_key, amount, debit_account, credit_account from transfers where code = '${code}' and state = 'POSTED')`;

/** Rows that must each have exactly one transfer of a code, and transfers that must each have their row. `facts` has slot, business_key, amount, debit, credit. */
export const pairs = (facts: string, code: string): string => `
  select slot, business_key, '${code}' as code, f.amount, f.debit, f.credit, t.amount as posted, t.debit_account, t.credit_account
    from (${facts}) f full join ${posted(code)} t using (slot, business_key)
   where (f.amount, f.debit, f.credit) is distinct from (t.amount, t.debit_account, t.credit_account)`;

const SETTLED = `select slot, id::text as business_key, 'escrow:' || merchant_id as debit`;
const CLAWED = `select slot, id::text as business_key, 'escrow:' || merchant_id as credit`;
const PAID_OUT = `select slot, id::text as business_key, amount`;

export const SETTLEMENT_CHECKS: readonly Check[] = [
  {
    name: "settlements.redeemed",
    scope: "city",
    proves:
      "every redeemed voucher has one settlement, of its amount and its merchant's, and is SETTLED exactly when that has succeeded; no other has one",
    statement: `
      select slot, voucher_id, v.state, v.amount, s.settlements, s.state as settlement_state, s.gross
        from (select slot, id as voucher_id, order_id, merchant_id, amount, state, redeemed_at from vouchers) v
        full join (select slot, voucher_id, count(*) as settlements, min(order_id) as order_id, min(merchant_id) as merchant_id, min(gross) as gross,
                          min(state) as state
                     from settlements group by slot, voucher_id) s using (slot, voucher_id)
       where v.state is null
          or case v.state when 'REDEEMED' then s.state is null or s.state = 'SUCCESS'
                          when 'SETTLED' then s.state is distinct from 'SUCCESS'
                          else s.state is not null end
          or (s.state is not null and (s.settlements, s.order_id, s.merchant_id, s.gross) <> (1, v.order_id, v.merchant_id, v.amount))`,
  },
  {
    name: "settlements.split",
    scope: "city",
    proves: "our part of a settlement is the order's rate of the gross, half up, and the rest is the merchant's",
    statement: `
      select s.slot, s.id, s.gross, s.commission, o.commission_bps
        from settlements s left join orders o on o.slot = s.slot and o.id = s.order_id
       where s.commission is distinct from (s.gross * o.commission_bps + 5000) / 10000`,
  },
  {
    name: "settlements.in-time",
    scope: "city",
    proves: "nothing is settled before it is due, nor falls due before it was redeemed",
    statement: `
      select s.slot, s.id, s.state, v.redeemed_at, s.due_at, s.ended_at
        from settlements s join vouchers v on v.slot = s.slot and v.id = s.voucher_id
       where s.due_at < v.redeemed_at or (s.state <> 'INIT' and s.attempt = 0) or (s.state in ('SUCCESS', 'FAILED')) <> (s.ended_at is not null)
          or s.ended_at < s.due_at`,
  },
  {
    name: "settlements.finished",
    scope: "city",
    proves: `no settlement is unfinished ${GRACE_SECONDS} s after it fell due, and none has failed`,
    statement: `
      select slot, id, voucher_id, state, attempt, reason, due_at from settlements
       where state = 'FAILED' or (state in ('INIT', 'PROCESSING') and due_at < now() - make_interval(secs => $1))`,
    values: [GRACE_SECONDS],
  },
  {
    name: "books.settlements",
    scope: "city",
    proves:
      "a settlement has succeeded exactly when both its parts are posted from its merchant's escrow: to the payable, and to our commission",
    statement: `
      ${pairs(`${SETTLED}, gross - commission as amount, 'payable:' || merchant_id as credit from settlements where state = 'SUCCESS' and gross > commission`, "settle")}
      union all
      ${pairs(`${SETTLED}, commission as amount, 'commission' as credit from settlements where state = 'SUCCESS' and commission > 0`, "commission")}`,
  },
  {
    name: "books.clawbacks",
    scope: "city",
    proves:
      "a refund of used units is under way exactly when both parts of what was settled for them are back in escrow, and our part is what it was",
    statement: `
      ${pairs(`${CLAWED}, amount - commission as amount, 'payable:' || merchant_id as debit from refunds where used and state <> 'REQUESTED' and amount > commission`, "clawback")}
      union all
      ${pairs(`${CLAWED}, commission as amount, 'commission' as debit from refunds where used and state <> 'REQUESTED' and commission > 0`, "commission-back")}
      union all
      select r.slot, r.id::text, 'refund', r.amount, null, null, u.commission, null, null
        from refunds r
        left join (select v.slot, v.refund_id, sum(s.commission) as commission
                     from vouchers v join settlements s on s.slot = v.slot and s.voucher_id = v.id and s.state = 'SUCCESS'
                    group by v.slot, v.refund_id) u on u.slot = r.slot and u.refund_id = r.id
       where r.used and u.commission is distinct from r.commission`,
  },
  {
    name: "books.breakage",
    scope: "city",
    proves: "a voucher is EXPIRED exactly when what was paid for it is posted from its merchant's escrow to breakage",
    statement: pairs(
      `select slot, id::text as business_key, amount, 'escrow:' || merchant_id as debit, 'breakage' as credit from vouchers where state = 'EXPIRED'`,
      "breakage",
    ),
  },
  {
    name: "books.payouts",
    scope: "city",
    proves: "every payout left its merchant's payable, and is in transit, with its channel, or back, as its state says",
    statement: `
      ${pairs(`${PAID_OUT}, 'payable:' || merchant_id as debit, 'payout_in_transit' as credit from payouts`, "payout")}
      union all
      ${pairs(`${PAID_OUT}, 'payout_in_transit' as debit, 'payout:' || channel as credit from payouts where state in ('SUCCEEDED', 'RETURNED')`, "payout-paid")}
      union all
      ${pairs(`${PAID_OUT}, case state when 'FAILED' then 'payout_in_transit' else 'payout:' || channel end as debit, 'payable:' || merchant_id as credit from payouts where state in ('FAILED', 'RETURNED')`, "payout-returned")}`,
  },
  {
    name: "payouts.paid-out",
    scope: "city",
    proves: "what a merchant was paid is the sum of its payouts that have succeeded and not come back",
    statement: `
      select m.slot, m.id, m.paid_out, p.amount
        from merchants m
        left join (select slot, merchant_id, sum(amount) as amount from payouts where state = 'SUCCEEDED' group by slot, merchant_id) p
               on p.slot = m.slot and p.merchant_id = m.id
       where m.paid_out <> coalesce(p.amount, 0)`,
  },
];
