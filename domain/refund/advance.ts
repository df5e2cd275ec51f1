/** What refunds may do next, and what it makes of their orders. Pure. */
import type { OrderId } from "../ids.ts";
import { invariant } from "../invariant.ts";
import type { OrderRow } from "../order/place.ts";
import { ORDER } from "../order/state.ts";
import { next } from "../transition.ts";
import type { RefundState } from "./state.ts";

/**
 * Where a refund stands. `request`: nothing is promised yet. `try`: the city has promised, the wallet may have. `confirm`: decided, so only
 * forward. `done`: nothing to do.
 */
export type RefundStep = "request" | "try" | "confirm" | "done";

export function stepOf({ state, decided }: { readonly state: RefundState; readonly decided: boolean }): RefundStep {
  if (state === "REQUESTED") return "request";
  if (state === "PROCESSING") return decided ? "confirm" : "try";
  return "done";
}

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
