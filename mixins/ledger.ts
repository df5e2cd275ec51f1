/**
 * The books of one shard, inside a drain: lock, let `domain/ledger.ts` decide, write. The head of the slot's hash chain is locked first, so all
 * bookings of a shard come one after the other and what is read behind it stays true until the commit; accounts are locked too, sorted,
 * because a lock costs two microseconds and a lost update costs money. Every batch takes two round trips, however many transfers it has.
 */
import type { Queryable, Statement } from "../db/database.ts";
import type { TransferId } from "../domain/ids.ts";
import { invariant } from "../domain/invariant.ts";
import {
  EMPTY,
  isFloored,
  isPayable,
  postTransfers,
  type Balance,
  type ChainHead,
  type Posting,
  type RecordedTransfer,
  type TransferOutcome,
  type TransferRequest,
} from "../domain/ledger.ts";
import type { Work } from "./drain.ts";

/** The head first, then the accounts: an inner `for update` locks before the outer one sees a row. */
const LOCK: Statement = {
  name: "ledger/lock",
  text: `
    select h.seq, h.hash, a.account, a.debits_pending, a.debits_posted, a.credits_pending, a.credits_posted
      from (select seq, encode(hash, 'hex') as hash from chain_heads where slot = $1 for update) h
      left join lateral (select * from accounts_$1 where slot = $1 and account = any($2::text[]) order by account for update) a on true`,
};
const LOCK_ACCOUNTS: Statement = {
  name: "ledger/lock-accounts",
  text: `
    select account, debits_pending, debits_posted, credits_pending, credits_posted
      from accounts_$1 where slot = $1 and account = any($2::text[]) order by account for update`,
};
const OPEN_ACCOUNTS: Statement = {
  name: "ledger/open-accounts",
  text: `
    insert into accounts_$1 (slot, account, floored)
    select $1, account, floored from unnest($2::text[], $3::boolean[]) as a(account, floored) on conflict do nothing`,
};
const FIND: Statement = {
  name: "ledger/find-transfers",
  text: `
    select t.id, t.code, t.business_key, t.state, t.debit_account, t.credit_account, t.amount
      from unnest($2::text[], $3::text[]) as k(code, business_key)
     cross join lateral (select * from transfers_$1 where slot = $1 and code = k.code and business_key = k.business_key offset 0) t`,
};
const ADD_TRANSFERS: Statement = {
  name: "ledger/add-transfers",
  text: `
    copy transfers_$1 (slot, id, seq, debit_account, credit_account, amount, code, state, business_key, pending_id, order_id, at, prev_hash, hash)
      from stdin`,
};
/** Accounts and head in one statement: they are of two tables, and a batch pays for one. */
const book = (overdrawn: { readonly set: string; readonly columns: string; readonly values: string }): string => `
    with changed as (
      update accounts_$1 a
         set debits_pending = a.debits_pending + c.debits_pending, debits_posted = a.debits_posted + c.debits_posted,
             credits_pending = a.credits_pending + c.credits_pending, credits_posted = a.credits_posted + c.credits_posted${overdrawn.set}
        from (select c.*, r.row
                from unnest($2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[]${overdrawn.values})
                     as c(account, debits_pending, debits_posted, credits_pending, credits_posted${overdrawn.columns})
               cross join lateral (select ctid as row from accounts_$1 where slot = $1 and account = c.account offset 0) r) c
       where a.slot = $1 and a.ctid = c.row returning 1),
    moved as (
      update chain_heads set seq = $7, hash = decode($8, 'hex') where slot = $1 and seq = $9 returning 1)
    select (select count(*)::integer from changed) as accounts, (select count(*)::integer from moved) as heads`;
const BOOK: Statement = { name: "ledger/book", text: book({ set: "", columns: "", values: "" }) };
/**
 * With a payable among the accounts: what a clawback overdraws is added, and what is no longer missing is taken off. Only cities have payables,
 * and only their accounts have this column.
 */
const BOOK_PAYABLES: Statement = {
  name: "ledger/book-payables",
  text: book({
    set: `,
             overdrawn = greatest(0, least(a.overdrawn + c.overdrawn, a.debits_posted + c.debits_posted + a.debits_pending + c.debits_pending
                                                                      - a.credits_posted - c.credits_posted))`,
    columns: ", overdrawn",
    values: ", $10::bigint[]",
  }),
};

interface AccountRow {
  account: string;
  debits_pending: string;
  debits_posted: string;
  credits_pending: string;
  credits_posted: string;
}
interface TransferKeyRow {
  id: TransferId;
  code: string;
  business_key: string;
  state: RecordedTransfer["state"];
  debit_account: string;
  credit_account: string;
  amount: string;
}

/** Books transfers in the order given and answers each. The first statements go out before this returns, so it can stand in a pipeline. */
export async function bookTransfers(work: Work, requests: readonly TransferRequest[]): Promise<readonly TransferOutcome[]> {
  if (requests.length === 0) return [];
  const accounts = [...new Set(requests.flatMap(({ debit, credit }) => [debit, credit]))].sort();
  const [{ head, locked }, recorded, ids] = await Promise.all([
    lock(work, accounts),
    findTransfers(
      work,
      requests.filter(({ fresh }) => fresh !== true),
    ),
    work.mint(requests.length) as Promise<TransferId[]>,
  ]);
  const balances = locked.size === accounts.length ? locked : await openAccounts(work, accounts, locked);
  const posting = postTransfers({ slot: work.shard.slot, at: await work.now(), head, balances, recorded, ids }, requests);
  if (posting.rows.length > 0) await write(work, head, posting);
  return posting.outcomes;
}

async function lock(work: Work, accounts: readonly string[]): Promise<{ head: ChainHead; locked: Map<string, Balance> }> {
  const rows = await work.query<{ seq: string; hash: string } & (AccountRow | { account: null })>(LOCK, [work.shard.slot, accounts]);
  const [first] = rows;
  invariant(first !== undefined, "every slot has a chain");
  const locked = rows.flatMap((row) => (row.account === null ? [] : [[row.account, balanceOf(row)] as const]));
  return { head: { seq: BigInt(first.seq), hash: first.hash }, locked: new Map(locked) };
}

async function lockAccounts(work: Work, accounts: readonly string[]): Promise<Map<string, Balance>> {
  const rows = await work.query<AccountRow>(LOCK_ACCOUNTS, [work.shard.slot, accounts]);
  return new Map(rows.map((row) => [row.account, balanceOf(row)]));
}

/** First use of an account. The rows are new, or another node's made a moment ago: locking them tells. */
async function openAccounts(work: Work, accounts: readonly string[], locked: ReadonlyMap<string, Balance>): Promise<Map<string, Balance>> {
  const missing = accounts.filter((account) => !locked.has(account));
  const [, made] = await Promise.all([
    work.query(OPEN_ACCOUNTS, [work.shard.slot, missing, missing.map(isFloored)]),
    lockAccounts(work, missing),
  ]);
  return new Map([...locked, ...made]);
}

async function findTransfers(work: Work, requests: readonly TransferRequest[]): Promise<RecordedTransfer[]> {
  if (requests.length === 0) return [];
  const keys = [...new Map(requests.map((request) => [`${request.code} ${request.businessKey}`, request])).values()];
  const rows = await work.query<TransferKeyRow>(FIND, [work.shard.slot, keys.map((key) => key.code), keys.map((key) => key.businessKey)]);
  return rows.map((row) => ({
    id: row.id,
    code: row.code,
    businessKey: row.business_key,
    state: row.state,
    debit: row.debit_account,
    credit: row.credit_account,
    amount: BigInt(row.amount),
  }));
}

interface Written {
  accounts: number;
  heads: number;
}

async function write(work: Work, before: ChainHead, { rows, changes, head, overdrawn }: Posting): Promise<void> {
  const slot = work.shard.slot;
  const touched = [...changes].sort(([a], [b]) => (a < b ? -1 : 1));
  const at = await work.now();
  const column = (of: (balance: Balance) => bigint): string[] => touched.map(([, change]) => String(of(change)));
  const values = [
    slot,
    touched.map(([account]) => account),
    column((change) => change.debitsPending),
    column((change) => change.debitsPosted),
    column((change) => change.creditsPending),
    column((change) => change.creditsPosted),
    String(head.seq),
    head.hash,
    String(before.seq),
  ];
  const [, [done]] = await Promise.all([
    work.copy(
      ADD_TRANSFERS,
      slot,
      rows.map((row) => [
        ...[slot, row.id, row.seq, row.debit, row.credit, row.amount, row.code, row.state, row.businessKey, row.pendingId, row.orderId],
        ...[at, { hex: row.prevHash }, { hex: row.hash }],
      ]),
    ),
    touched.some(([account]) => isPayable(account))
      ? work.query<Written>(BOOK_PAYABLES, [...values, touched.map(([account]) => String(overdrawn.get(account) ?? 0n))])
      : work.query<Written>(BOOK, values),
  ]);
  invariant(done?.accounts === touched.length, "every account that was locked is written");
  invariant(done.heads === 1, "the head that was locked is the head that moves");
}

const balanceOf = (row: AccountRow): Balance => ({
  debitsPending: BigInt(row.debits_pending),
  debitsPosted: BigInt(row.debits_posted),
  creditsPending: BigInt(row.credits_pending),
  creditsPosted: BigInt(row.credits_posted),
});

const READ: Statement = {
  name: "ledger/read-account",
  text: `select account, debits_pending, debits_posted, credits_pending, credits_posted from accounts_$1 where slot = $1 and account = $2`,
};

/** What an account holds now; one that nobody has used yet holds nothing. Outside a drain: for showing. */
export async function readAccount(db: Queryable, slot: number, account: string): Promise<Balance> {
  const [row] = await db.query<AccountRow>(READ, [slot, account]);
  return row ? balanceOf(row) : EMPTY;
}
