/** The books of one keyspace: what accounts say is what transfers say, and transfers are all there, unchanged, in order. */
import { CHAIN_START } from "../../../domain/ledger.ts";
import { type Check, GRACE_SECONDS } from "./check.ts";

/** A transfer's hash as `hashOf` of `domain/ledger.ts` makes it: SHA-256 over the previous hash and the row's text. A test holds them together. */
const HASH = `sha256(prev_hash || convert_to(concat_ws('|', slot, id, seq, debit_account, credit_account, amount, code, state, business_key,
  coalesce(pending_id::text, ''), coalesce(order_id::text, ''), round(date_part('epoch', at) * 1000)::bigint), 'UTF8'))`;

export const LEDGER_CHECKS: readonly Check[] = [
  {
    name: "ledger.chain",
    scope: "every",
    proves: "every slot's transfers are numbered without a gap and each hash is that of its row and of the one before, up to the head",
    statement: `
      with links as (
        select slot, id, seq, prev_hash, is_own, lag(seq, 1, 0::bigint) over chain as before_seq, lag(hash, 1, decode($1, 'hex')) over chain as before_hash
          from (select slot, id, seq, hash, prev_hash, hash = ${HASH} as is_own from transfers offset 0) narrow
        window chain as (partition by slot order by seq)
      )
      select slot, id, seq,
             case when seq <> before_seq + 1 then 'a gap after ' || before_seq
                  when prev_hash <> before_hash then 'not linked to the row before'
                  else 'hash is not that of the row' end as wrong
        from links where seq <> before_seq + 1 or prev_hash <> before_hash or not is_own
      union all
      select h.slot, null, h.seq, 'the head is not the last transfer'
        from chain_heads h
        left join lateral (select seq, hash from transfers t where t.slot = h.slot order by seq desc limit 1) last on true
       where (h.seq, h.hash) <> (coalesce(last.seq, 0), coalesce(last.hash, decode($1, 'hex')))`,
    values: [CHAIN_START.hash],
  },
  {
    name: "ledger.transfers",
    scope: "every",
    proves: "a transfer moves something from one account to another, and one that ends a promise says what the promise said",
    statement: `
      select t.slot, t.id, t.state, t.amount, t.pending_id, p.state as pending_state, p.amount as pending_amount
        from transfers t
        left join transfers p on p.slot = t.slot and p.id = t.pending_id
       where t.amount <= 0 or t.debit_account = t.credit_account
          or (t.state = 'PENDING' and t.pending_id is not null) or (t.state = 'VOIDED' and t.pending_id is null)
          or (t.pending_id is not null
              and (p.state, p.debit_account, p.credit_account, p.amount, p.code, p.business_key)
                  is distinct from ('PENDING', t.debit_account, t.credit_account, t.amount, t.code, t.business_key))`,
  },
  {
    name: "ledger.accounts",
    scope: "every",
    proves: "posted and pending totals of an account are the sums of its transfers",
    statement: `
      with sides as (
        select slot, debit_account as account, state, pending_id is not null as ends, sum(amount) as debit, 0 as credit
          from transfers group by slot, debit_account, state, pending_id is not null
        union all
        select slot, credit_account, state, pending_id is not null, 0, sum(amount)
          from transfers group by slot, credit_account, state, pending_id is not null
      ), sums as (
        select slot, account,
               coalesce(sum(debit) filter (where state = 'PENDING'), 0) - coalesce(sum(debit) filter (where ends), 0) as debits_pending,
               coalesce(sum(debit) filter (where state = 'POSTED'), 0) as debits_posted,
               coalesce(sum(credit) filter (where state = 'PENDING'), 0) - coalesce(sum(credit) filter (where ends), 0) as credits_pending,
               coalesce(sum(credit) filter (where state = 'POSTED'), 0) as credits_posted
          from sides group by slot, account
      )
      select slot, account, a.debits_pending, s.debits_pending as debits_pending_by_transfers, a.debits_posted, s.debits_posted as debits_posted_by_transfers,
             a.credits_pending, s.credits_pending as credits_pending_by_transfers, a.credits_posted, s.credits_posted as credits_posted_by_transfers
        from accounts a full join sums s using (slot, account)
       where (coalesce(a.debits_pending, 0), coalesce(a.debits_posted, 0), coalesce(a.credits_pending, 0), coalesce(a.credits_posted, 0))
          <> (coalesce(s.debits_pending, 0), coalesce(s.debits_posted, 0), coalesce(s.credits_pending, 0), coalesce(s.credits_posted, 0))`,
  },
  {
    name: "ledger.balanced",
    scope: "every",
    proves: "the accounts of a slot balance: debits are credits, posted and pending",
    statement: `
      select slot, sum(debits_posted) as debits_posted, sum(credits_posted) as credits_posted, sum(debits_pending) as debits_pending,
             sum(credits_pending) as credits_pending
        from accounts group by slot
      having sum(debits_posted) <> sum(credits_posted) or sum(debits_pending) <> sum(credits_pending)`,
  },
  {
    name: "ledger.floors",
    scope: "every",
    proves: "wallets and payables are floored, and no floored account has spent or promised more than it has, clawbacks apart",
    statement: `
      select slot, account, floored, debits_posted, debits_pending, credits_posted from accounts
       where floored <> (account like 'wallet:%' or account like 'payable:%')
          or (floored and account not like 'payable:%' and credits_posted - debits_posted - debits_pending < 0)`,
  },
  {
    name: "ledger.overdrawn",
    scope: "city",
    proves: "a payable is below zero by what clawbacks took that was not there, never by more than they took, and by nothing else",
    statement: `
      select slot, account, a.overdrawn, a.left, c.clawed
        from (select slot, account, overdrawn, credits_posted - debits_posted - debits_pending as left from accounts where account like 'payable:%') a
        left join (select slot, debit_account as account, sum(amount) as clawed
                     from transfers where code = 'clawback' and state = 'POSTED' group by slot, debit_account) c using (slot, account)
       where a.overdrawn <> greatest(0, -a.left) or a.overdrawn > coalesce(c.clawed, 0)`,
  },
  {
    name: "ledger.promises",
    scope: "every",
    proves: `no promise is open ${GRACE_SECONDS} s after it was made`,
    statement: `
      select t.slot, t.id, t.code, t.business_key, t.amount, t.at
        from transfers t
        left join transfers e on e.slot = t.slot and e.pending_id = t.id
       where t.state = 'PENDING' and e.id is null and t.at < now() - make_interval(secs => $1)`,
    values: [GRACE_SECONDS],
  },
];
