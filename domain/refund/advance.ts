/** What refunds may do next, and what it makes of their orders. Pure. */
import type { ChannelRefund, Outcome } from "../channel/records.ts";
import type { OrderId } from "../ids.ts";
import { invariant } from "../invariant.ts";
import type { OrderRow } from "../order/place.ts";
import { CURRENCY } from "../payment/charge.ts";
import { ORDER } from "../order/state.ts";
import { next } from "../transition.ts";
import type { RefundState } from "./state.ts";

/**
 * Where a refund stands. `request`: nothing is promised yet. `try`: the city has promised, the wallet may have. `confirm`: decided, so only
 * forward; by a channel, which has no Try, from the moment it is recorded. `done`: nothing to do.
 */
export type RefundStep = "request" | "try" | "confirm" | "done";

export function stepOf({ state, decided }: { readonly state: RefundState; readonly decided: boolean }): RefundStep {
  if (state === "REQUESTED") return "request";
  if (state === "PROCESSING") return decided ? "confirm" : "try";
  return "done";
}

/** What a channel says of a refund. */
export type RefundWord =
  | { readonly kind: "succeeded"; readonly amount: bigint; readonly currency: string }
  /** Under way, or nobody knows: ask again. */
  | { readonly kind: "waits"; readonly why: string | undefined }
  /** It will not pay it out by itself. */
  | { readonly kind: "stalled"; readonly reason: string };

export const wordOf = ({ status, amount, currency }: ChannelRefund): RefundWord => {
  if (status === "SUCCEEDED" && amount !== undefined && currency !== undefined) return { kind: "succeeded", amount, currency };
  if (status === "ABNORMAL") return { kind: "stalled", reason: "ABNORMAL" };
  return { kind: "waits", why: status === "PROCESSING" ? undefined : `the channel says ${status}` };
};

/** What a call came to. A refusal for good is a person's business; one for now is tried again under the same number. A query refuses nothing. */
export function wordOfCall(call: "refund" | "query", outcome: Outcome<ChannelRefund>): RefundWord {
  if (outcome.kind === "answered") return wordOf(outcome.value);
  if (outcome.kind === "unknown") return { kind: "waits", why: `${outcome.reason}: ${outcome.detail}` };
  const why = `${outcome.code} ${outcome.detail}`.trim();
  return call === "refund" && outcome.repeat === "never" ? { kind: "stalled", reason: why } : { kind: "waits", why };
}

/** The word as it counts for one refund: what was paid out must be what was owed. */
export const heard = (word: RefundWord, owed: bigint): RefundWord =>
  word.kind === "succeeded" && (word.amount !== owed || word.currency !== CURRENCY)
    ? { kind: "stalled", reason: `DIFFERS ${word.amount} ${word.currency}` }
    : word;

/** May it be paid? A refund of used units waits for its merchant's word, or for the end of the day it was given for that. */
export const mayGo = (
  { approvedAt, approveBy }: { readonly approvedAt: Date | undefined; readonly approveBy: Date | undefined },
  now: Date,
): boolean => approveBy === undefined || approvedAt !== undefined || approveBy <= now;

/** Orders whose whole amount is back unused, and that are not over by themselves: an order that expired before its money came stays EXPIRED. */
export function refundedOrders(orders: Iterable<OrderRow>, refunded: ReadonlyMap<OrderId, bigint>): OrderRow[] {
  return [...orders].filter((order) => {
    const amount = refunded.get(order.id) ?? 0n;
    invariant(amount <= order.amount, "an order's refunds never exceed it");
    return amount === order.amount && next(ORDER, order.state, "refund") !== undefined;
  });
}
