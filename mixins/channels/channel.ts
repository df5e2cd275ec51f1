/**
 * What every payment channel is behind. It stands in mixins, because payment, settlement and recon all call channels and a service may not
 * import another's code; the vocabulary is in domain/channel, where the rules that decide on it can see it.
 *
 * How to use it (record → call → confirm): write down that you will call, commit, call, then write down what came of it. On `unknown`, and
 * after a crash between the two, ask with the query of the same number; ABSENT means the call may be made again, with the same number.
 * Every call may be repeated: a channel answers the same number with the same thing.
 */
import type { Readable } from "node:stream";
import type { Headers } from "../../domain/channel/callback.ts";
import type { CallbackVerdict, ChannelCharge, ChannelPayout, ChannelRefund, Outcome, StatementLine } from "../../domain/channel/records.ts";
import type { Fen } from "../../domain/money.ts";

/** What every adapter is told by whoever makes it. */
export interface ChannelOptions {
  /** Where the channel sends its callbacks. */
  readonly notifyUrl: string;
  readonly timeoutMs?: number;
}

export interface ChargeOrder {
  /** Ours, 6 to 32 letters and digits, which every channel takes; never used for anything else. */
  readonly number: string;
  readonly amount: Fen;
  readonly currency: string;
  /** What the customer reads, at most 127 characters. */
  readonly subject: string;
  /** After this the channel takes no payment any more. */
  readonly expiresAtMs?: number;
  /** Where the customer goes back to, on channels that have a page. */
  readonly returnUrl?: string;
}

export interface RefundOrder {
  readonly number: string;
  readonly chargeNumber: string;
  readonly amount: Fen;
  /** What the customer had paid: some channels want to hear it again. */
  readonly chargeAmount: Fen;
  readonly currency: string;
  readonly reason: string;
}

export interface PayoutOrder {
  readonly number: string;
  readonly amount: Fen;
  readonly currency: string;
  /** The merchant's account with the channel. */
  readonly account: string;
  readonly reason: string;
}

export interface Channel {
  /** As in `/callbacks/{channel}` and in ledger accounts. */
  readonly name: string;
  /** What its statement tells of; other movements are reconciled by query. */
  readonly statementKinds: readonly StatementLine["kind"][];
  charge(order: ChargeOrder): Promise<Outcome<ChannelCharge>>;
  query(number: string): Promise<Outcome<ChannelCharge>>;
  /** Refused with the channel's code when it is paid already: then query it. */
  close(number: string): Promise<Outcome<ChannelCharge>>;
  refund(order: RefundOrder): Promise<Outcome<ChannelRefund>>;
  queryRefund(number: string): Promise<Outcome<ChannelRefund>>;
  payout(order: PayoutOrder): Promise<Outcome<ChannelPayout>>;
  queryPayout(number: string): Promise<Outcome<ChannelPayout>>;
  /** No I/O, well under a millisecond: called on the raw body, before anything of it is parsed. */
  verifyCallback(rawBody: Uint8Array, headers: Headers, nowMs: number): CallbackVerdict;
  /** The statement of a Chinese day (YYYY-MM-DD), as the channel sends it; `refused` with repeat later when it is not there yet. */
  statement(day: string): Promise<Outcome<Readable>>;
  /**
   * The lines of a statement, packed or not, one at a time in bounded memory. Throws StatementError when it is damaged or was cut off:
   * what was yielded before counts only if the end is reached.
   */
  readStatement(statement: Readable): AsyncIterable<StatementLine>;
}

/** A statement that cannot be what the channel wrote. */
export class StatementError extends Error {
  override readonly name = "StatementError";
}
