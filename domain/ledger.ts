/**
 * The books, as a pure function: locked accounts, the head of the chain and requests in; outcomes and writes out. A transfer has two sides by
 * construction, so nothing here can unbalance them. A PENDING row promises, and a later row ends it, POSTED or VOIDED; a POSTED row
 * without a promise moves at once. Rows are never changed: what an account holds is the sum of its rows, checked on a second path.
 */
import { hash } from "node:crypto";
import type { OrderId, TransferId } from "./ids.ts";
import { invariant } from "./invariant.ts";
import type { Fen } from "./money.ts";

export type TransferState = "PENDING" | "POSTED" | "VOIDED";
/** What a transfer is for; with the business key (top-up, payment or refund id) it names one business event. */
export type TransferCode =
  | "topup"
  | "pay"
  // A channel took another amount or currency than was asked for.
  | "pay-differs"
  // The same, as a person decided: on its way back to whom it came from; written off.
  | "differs-back"
  | "differs-off"
  | "refund"
  // A channel has given a refund back.
  | "refund-paid"
  // A settled voucher: the merchant's part and ours.
  | "settle"
  | "commission"
  // A refund after settlement, on its way back to escrow: from the payable, and from our part.
  | "clawback"
  | "commission-back"
  // A voucher that lapsed and is not refunded.
  | "breakage"
  // Asked for; paid by the channel; come back from it.
  | "payout"
  | "payout-paid"
  | "payout-returned"
  // What a channel's statement says and we cannot explain; explained; written off.
  | "suspense"
  | "suspense-back"
  | "suspense-off";
/** The one kind of transfer that may take from a payable what is not there. */
const OVERDRAWS: TransferCode = "clawback";

export interface TransferRequest {
  /** `post` moves at once, `pend` promises, `post-pending` keeps a promise, `void-pending` gives it up. */
  readonly kind: "post" | "pend" | "post-pending" | "void-pending";
  readonly code: TransferCode;
  readonly businessKey: string;
  readonly debit: string;
  readonly credit: string;
  readonly amount: Fen;
  readonly orderId?: OrderId | undefined;
  /** Its business key was made in this transaction, or a barrier was entered for the first time: there is nothing to be a repeat of. */
  readonly fresh?: boolean;
}

/** A refusal names what the floored account could have given; `repeated` says that the row stood there already. */
export type TransferOutcome =
  | { readonly ok: true; readonly transferId: TransferId; readonly repeated: boolean }
  | { readonly ok: false; readonly error: "INSUFFICIENT_FUNDS"; readonly available: bigint };

export interface Balance {
  readonly debitsPending: bigint;
  readonly debitsPosted: bigint;
  readonly creditsPending: bigint;
  readonly creditsPosted: bigint;
}
export const EMPTY: Balance = { debitsPending: 0n, debitsPosted: 0n, creditsPending: 0n, creditsPosted: 0n };

/** A row of the books that a request may be a repeat, or the end, of. */
export interface RecordedTransfer {
  readonly id: TransferId;
  readonly code: string;
  readonly businessKey: string;
  readonly state: TransferState;
  readonly debit: string;
  readonly credit: string;
  readonly amount: bigint;
}

export interface TransferRow extends RecordedTransfer {
  readonly seq: bigint;
  readonly pendingId: TransferId | undefined;
  readonly orderId: OrderId | undefined;
  readonly at: Date;
  /** Hex SHA-256. */
  readonly prevHash: string;
  readonly hash: string;
}

/** The last row of a slot's chain. */
export interface ChainHead {
  readonly seq: bigint;
  readonly hash: string;
}
export const CHAIN_START: ChainHead = { seq: 0n, hash: "00".repeat(32) };

export interface Books {
  readonly slot: number;
  readonly at: Date;
  readonly head: ChainHead;
  /** Every account a request names. */
  readonly balances: ReadonlyMap<string, Balance>;
  /** Every row with the code and business key of a request. */
  readonly recorded: readonly RecordedTransfer[];
  /** One unused id a request. */
  readonly ids: readonly TransferId[];
}

export interface Posting {
  readonly outcomes: readonly TransferOutcome[];
  readonly rows: readonly TransferRow[];
  readonly head: ChainHead;
  /** What each touched account changes by. */
  readonly changes: ReadonlyMap<string, Balance>;
  /** What clawbacks took from accounts that was not there. */
  readonly overdrawn: ReadonlyMap<string, bigint>;
}

export const isPayable = (account: string): boolean => account.startsWith("payable:");
/**
 * Wallets and payables: what is spent or promised never exceeds what is there, but for clawbacks, which may take a payable below zero. The CHECK
 * `accounts_floor` says the same.
 */
export const isFloored = (account: string): boolean => account.startsWith("wallet:") || isPayable(account);

/** What may still be promised or spent. Money promised to the account does not count until it is posted. */
export const available = (balance: Balance): bigint => balance.creditsPosted - balance.debitsPosted - balance.debitsPending;

const STATE_OF = { post: "POSTED", pend: "PENDING", "post-pending": "POSTED", "void-pending": "VOIDED" } as const;

/** The row as text, in the order `mixins/ledger.ts` rebuilds it in SQL. No field can hold the separator. */
const canonical = (slot: number, row: Omit<TransferRow, "hash">): string =>
  [
    slot,
    row.id,
    row.seq,
    row.debit,
    row.credit,
    row.amount,
    row.code,
    row.state,
    row.businessKey,
    row.pendingId ?? "",
    row.orderId ?? "",
    row.at.getTime(),
  ].join("|");

/** SHA-256 over the previous hash's 32 bytes and the row's text: a row that is changed, taken out or put in breaks every later one. */
export const hashOf = (slot: number, row: Omit<TransferRow, "hash">): string =>
  hash("sha256", Buffer.concat([Buffer.from(row.prevHash, "hex"), Buffer.from(canonical(slot, row))]), "hex");

const nameOf = (transfer: { readonly code: string; readonly businessKey: string }): string => `${transfer.code} ${transfer.businessKey}`;

/** Decides requests one after the other, each seeing what the ones before it did. */
export function postTransfers(books: Books, requests: readonly TransferRequest[]): Posting {
  const balances = new Map(books.balances);
  const changes = new Map<string, Balance>();
  const overdrawn = new Map<string, bigint>();
  const recorded = new Map<string, Map<TransferState, RecordedTransfer>>();
  for (const row of books.recorded) remember(recorded, row);
  const rows: TransferRow[] = [];
  let head = books.head;

  const decide = (request: TransferRequest, id: TransferId | undefined): TransferOutcome => {
    const { kind, debit, credit, amount } = request;
    invariant(amount > 0n, "a transfer moves something");
    invariant(debit !== credit, "a transfer has two sides");
    const state = STATE_OF[kind];
    const seen = recorded.get(nameOf(request));
    const same = seen?.get(state);
    if (same) {
      invariant(
        same.debit === debit && same.credit === credit && same.amount === amount,
        `the repeat of transfer ${same.id} says what the first said`,
      );
      return { ok: true, transferId: same.id, repeated: true };
    }
    const pending = seen?.get("PENDING");
    if (kind === "post") invariant(seen === undefined, `${nameOf(request)} is posted without having been promised`);
    if (kind === "pend") invariant(seen === undefined, `${nameOf(request)} is promised before it is ended`);
    const ends = kind === "post-pending" || kind === "void-pending";
    if (ends) {
      invariant(pending !== undefined, `${nameOf(request)} is ended only when it was promised`);
      invariant(!seen?.has(state === "POSTED" ? "VOIDED" : "POSTED"), `${nameOf(request)} is ended one way, for good`);
      invariant(
        pending.debit === debit && pending.credit === credit && pending.amount === amount,
        `the end of transfer ${pending.id} says what its promise said`,
      );
    }
    const from = balances.get(debit);
    const to = balances.get(credit);
    invariant(from !== undefined && to !== undefined, `the accounts ${debit} and ${credit} are locked before money moves`);
    const short = !ends && isFloored(debit) ? amount - available(from) : 0n;
    const overdraws = short > 0n && request.code === OVERDRAWS && isPayable(debit);
    if (short > 0n && !overdraws) return { ok: false, error: "INSUFFICIENT_FUNDS", available: available(from) };
    invariant(id !== undefined, "there is an id for every request");
    // From here the transfer happens.
    if (overdraws) overdrawn.set(debit, (overdrawn.get(debit) ?? 0n) + (short < amount ? short : amount));
    const { promised, moved } = effectOf(kind, amount);
    move(debit, { ...EMPTY, debitsPending: promised, debitsPosted: moved });
    move(credit, { ...EMPTY, creditsPending: promised, creditsPosted: moved });
    const unhashed = {
      id,
      seq: head.seq + 1n,
      debit,
      credit,
      amount,
      code: request.code,
      state,
      businessKey: request.businessKey,
      pendingId: pending?.id,
      orderId: request.orderId,
      at: books.at,
      prevHash: head.hash,
    };
    const row: TransferRow = { ...unhashed, hash: hashOf(books.slot, unhashed) };
    head = { seq: row.seq, hash: row.hash };
    rows.push(row);
    remember(recorded, row);
    return { ok: true, transferId: id, repeated: false };
  };

  const move = (account: string, by: Balance): void => {
    const balance = add(balances.get(account) ?? EMPTY, by);
    invariant(balance.debitsPending >= 0n && balance.creditsPending >= 0n, `${account} gives up no more than it promised`);
    const fell = available(balance) < available(balances.get(account) ?? EMPTY);
    invariant(!isFloored(account) || available(balance) >= 0n || !fell || overdrawn.has(account), `${account} stays above its floor`);
    balances.set(account, balance);
    changes.set(account, add(changes.get(account) ?? EMPTY, by));
  };

  const outcomes = requests.map((request, index) => decide(request, books.ids[index]));
  const total = [...changes.values()].reduce(add, EMPTY);
  invariant(total.debitsPosted === total.creditsPosted, "posted debits equal posted credits");
  invariant(total.debitsPending === total.creditsPending, "pending debits equal pending credits");
  return { outcomes, rows, head, changes, overdrawn };
}

/** What a kind of request adds to the pending and the posted side of both accounts. */
function effectOf(kind: TransferRequest["kind"], amount: bigint): { promised: bigint; moved: bigint } {
  switch (kind) {
    case "post":
      return { promised: 0n, moved: amount };
    case "pend":
      return { promised: amount, moved: 0n };
    case "post-pending":
      return { promised: -amount, moved: amount };
    case "void-pending":
      return { promised: -amount, moved: 0n };
  }
}

const add = (a: Balance, b: Balance): Balance => ({
  debitsPending: a.debitsPending + b.debitsPending,
  debitsPosted: a.debitsPosted + b.debitsPosted,
  creditsPending: a.creditsPending + b.creditsPending,
  creditsPosted: a.creditsPosted + b.creditsPosted,
});

function remember(recorded: Map<string, Map<TransferState, RecordedTransfer>>, row: RecordedTransfer): void {
  const states = recorded.get(nameOf(row));
  if (states) states.set(row.state, row);
  else recorded.set(nameOf(row), new Map([[row.state, row]]));
}
