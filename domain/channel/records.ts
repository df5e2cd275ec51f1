/**
 * What a payment channel can say, whatever channel it is: the words that rules, adapters and reconciliation share. Times are milliseconds,
 * `number` is always our number (the key of every retry), `channelNumber` the channel's.
 */
import type { Fen } from "../money.ts";

/**
 * What a call to a channel came to. There is no fourth: whoever has the answer in doubt says `unknown`, and the caller asks again by
 * number. Money never moves on a guess.
 */
export type Outcome<T> =
  | { readonly kind: "answered"; readonly value: T }
  /** The channel said no, and did nothing. `later`: the same call may succeed another time (busy, short of balance). */
  | { readonly kind: "refused"; readonly code: string; readonly detail: string; readonly repeat: "never" | "later" }
  /** It may or may not have been done: no answer in time, a server error, an answer that cannot be read or believed. */
  | { readonly kind: "unknown"; readonly reason: UnknownReason; readonly detail: string };
export type UnknownReason = "timeout" | "connection" | "server error" | "unreadable" | "not authentic";

/** ABSENT: the channel has never heard of the number. Only a query says so. */
export interface ChannelCharge {
  readonly number: string;
  readonly status: "PENDING" | "PAID" | "CLOSED" | "ABSENT";
  readonly channelNumber?: string;
  /** Where the customer pays, when the answer has it. */
  readonly payUrl?: string;
  /** What was really paid. Compare it with what was asked for: it may differ, and then goes to suspense (DOMAIN 9). */
  readonly paid?: { readonly amount: Fen; readonly currency: string; readonly atMs: number };
}

/** ABNORMAL: accepted, but it cannot be paid out (a closed card); a person decides. */
export interface ChannelRefund {
  readonly number: string;
  readonly status: "PROCESSING" | "SUCCEEDED" | "ABNORMAL" | "ABSENT";
  readonly channelNumber?: string;
  readonly chargeNumber?: string;
  readonly amount?: Fen;
  readonly currency?: string;
  readonly doneAtMs?: number;
}

/** FAILED: nothing was paid out. RETURNED: it was, and came back. Either way the money is the merchant's again. */
export interface ChannelPayout {
  readonly number: string;
  readonly status: "PROCESSING" | "SUCCEEDED" | "FAILED" | "RETURNED" | "ABSENT";
  readonly channelNumber?: string;
  readonly amount?: Fen;
  readonly currency?: string;
  readonly doneAtMs?: number;
}

/** What a genuine callback tells. `id` is the channel's, the same on every repeat: the key of the inbox. */
export type ChannelNews = { readonly id: string } & (
  | { readonly about: "charge"; readonly charge: ChannelCharge }
  | { readonly about: "refund"; readonly refund: ChannelRefund }
  | { readonly about: "payout"; readonly payout: ChannelPayout }
);

/**
 * What to make of a callback. forged: 401, the signature is not the channel's. stale: genuine, but outside the replay window: 400.
 * unreadable: genuine and fresh, but it tells nothing we understand: keep it, alarm, answer 200, or it comes again for a day.
 */
export type CallbackVerdict =
  { readonly kind: "genuine"; readonly news: ChannelNews } | { readonly kind: "forged" | "stale" | "unreadable"; readonly detail: string };

/** One line of a channel's statement: money that moved there. */
export interface StatementLine {
  readonly kind: "PAYMENT" | "REFUND" | "PAYOUT" | "PAYOUT_RETURN";
  readonly channelNumber: string;
  readonly number: string;
  /** Of a refund: which charge it gives back. */
  readonly chargeNumber?: string;
  readonly amount: Fen;
  readonly currency: string;
  readonly atMs: number;
  /** A refund that was accepted, but not through when the statement was written; no later statement mentions it, so query it. */
  readonly underWay?: true;
}

export const answered = <T>(value: T): Outcome<T> => ({ kind: "answered", value });
export const refused = (code: string, detail: string, repeat: "never" | "later" = "never"): Outcome<never> => ({
  kind: "refused",
  code,
  detail,
  repeat,
});
export const unknown = (reason: UnknownReason, detail: string): Outcome<never> => ({ kind: "unknown", reason, detail });
