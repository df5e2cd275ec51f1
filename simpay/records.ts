/** What simpay keeps. A record is written whole at each change, so the newest line that names it is all there is to know about it. */
import type { FaultName } from "./faults.ts";

/** Fen. JSON numbers: a channel's largest single amount is far below 2^53. */
export type Amount = number;

export interface Charge {
  readonly type: "charge";
  /** The merchant's number; the key of every retry. */
  readonly number: string;
  readonly channelNumber: string;
  readonly amount: Amount;
  readonly currency: string;
  readonly subject: string;
  readonly notifyUrl: string;
  readonly returnUrl?: string;
  readonly status: "PENDING" | "PAID" | "CLOSED";
  readonly createdAt: number;
  /** After this nobody can pay it; it is CLOSED when next looked at. */
  readonly expiresAt?: number;
  /** What the customer really paid: under a fault not what was asked for. */
  readonly paid?: { readonly amount: Amount; readonly currency: string; readonly at: number };
  readonly refunded: Amount;
  readonly faults: readonly FaultName[];
}

export interface Refund {
  readonly type: "refund";
  readonly number: string;
  readonly channelNumber: string;
  readonly chargeNumber: string;
  readonly amount: Amount;
  readonly currency: string;
  readonly notifyUrl: string;
  readonly status: "PROCESSING" | "SUCCEEDED";
  readonly createdAt: number;
  readonly doneAt?: number;
  readonly faults: readonly FaultName[];
}

export interface Payout {
  readonly type: "payout";
  readonly number: string;
  readonly channelNumber: string;
  readonly amount: Amount;
  readonly currency: string;
  readonly account: string;
  readonly notifyUrl: string;
  readonly status: "PROCESSING" | "SUCCEEDED" | "RETURNED";
  readonly createdAt: number;
  readonly doneAt?: number;
  /** A bank may send the money back after it took it: both are on the statement. */
  readonly returnedAt?: number;
  readonly faults: readonly FaultName[];
}

export type Stored = Charge | Refund | Payout;
export type Kind = Stored["type"];

export type EventName =
  | "charge.created"
  | "charge.paid"
  | "charge.closed"
  | "refund.created"
  | "refund.refused"
  | "refund.succeeded"
  | "payout.created"
  | "payout.succeeded"
  | "payout.returned";

/** One line of the log. `records` change together or not at all: a line is written whole or torn off at the next start. */
export type Line =
  | {
      readonly seq: number;
      readonly at: number;
      readonly event: EventName;
      readonly records: readonly Stored[];
      /** The callback this event owes; it is owed until a line below says it was delivered or given up. */
      readonly callbackId?: string;
      readonly detail?: Readonly<Record<string, string | number>>;
    }
  | {
      readonly seq: number;
      readonly at: number;
      readonly event: "callback.sent";
      readonly callbackId: string;
      readonly attempt: number;
      readonly outcome: "delivered" | "refused" | "given up" | "lost";
    }
  | {
      readonly seq: number;
      readonly at: number;
      readonly event: "statement.falsified";
      readonly day: string;
      readonly lines: readonly Falsified[];
    };

export type Change = Extract<Line, { records: readonly Stored[] }>;

/** What a statement got wrong on purpose, so that a test knows exactly what reconciliation must find. */
export interface Falsified {
  readonly how: "missing" | "extra" | "doubled" | "altered";
  readonly channelNumber: string;
}

/** A line that counts on the statement of a day. */
export type StatementKind = "PAYMENT" | "REFUND" | "PAYOUT" | "PAYOUT_RETURN";
