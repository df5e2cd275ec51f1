/**
 * Releasing unpaid orders: cancelled by their consumer, or expired. Stock, seat and counters go back; a group whose opener never paid fails.
 * Pure, like `place.ts`.
 */
import type { DomainError } from "../error.ts";
import { refusal } from "../error.ts";
import type { GroupState } from "../group/state.ts";
import type { GroupId, UserId } from "../ids.ts";
import { LIMITS } from "../limits.ts";
import { ORDER_ERRORS } from "./errors.ts";
import type { BucketChange, OrderRow } from "./place.ts";

export interface ReleaseCommand {
  readonly orderId: string;
  readonly cause: "cancel" | "expire";
  /** Who asks; undefined for the platform. Somebody else's order is not found. */
  readonly callerId: UserId | undefined;
}

export interface ReleaseState {
  readonly orders: ReadonlyMap<string, OrderRow>;
  /** Orders a payment is being made for: they do not expire until it is decided. */
  readonly paying: ReadonlySet<string>;
  /** Orders whose charge at a channel is being closed: they wait a little longer, then what is paid after all comes too late. */
  readonly charging: ReadonlySet<string>;
  readonly groups: ReadonlyMap<GroupId, { readonly state: GroupState }>;
}

/** Seats given back in one group; `was` and `state` as the group's row changes. */
export interface GroupRelease {
  readonly id: GroupId;
  held: number;
  readonly was: GroupState;
  readonly state: GroupState;
}

export interface ReleaseWrites {
  readonly cancelled: OrderRow[];
  readonly expired: OrderRow[];
  readonly buckets: BucketChange[];
  readonly groups: Map<GroupId, GroupRelease>;
  readonly seats: { readonly groupId: GroupId; readonly orderId: string }[];
  readonly quotas: { readonly scope: string; readonly userId: string; readonly units: number }[];
}

/** The outcome of a command is its order as it is then, released or (for `expire`) left alone because it is not due. */
export function decideRelease(
  state: ReleaseState,
  commands: readonly ReleaseCommand[],
  now: Date,
): { outcomes: (OrderRow | DomainError)[]; writes: ReleaseWrites } {
  const writes: ReleaseWrites = { cancelled: [], expired: [], buckets: [], groups: new Map(), seats: [], quotas: [] };
  const released = new Map<string, OrderRow>();
  const outcomes = commands.map((command): OrderRow | DomainError => {
    const { orderId } = command;
    const order = released.get(orderId) ?? state.orders.get(orderId);
    if (!order || (command.callerId !== undefined && order.consumerId !== command.callerId))
      return refusal(ORDER_ERRORS, "ORDER_NOT_FOUND", { orderId });
    if (command.cause === "expire") {
      const graceMs = state.charging.has(orderId) ? LIMITS.chargeCloseMs : 0;
      const due = order.state === "PENDING_PAYMENT" && order.expiresAt.getTime() + graceMs <= now.getTime() && !state.paying.has(orderId);
      if (!due) return order;
    } else if (order.state !== "PENDING_PAYMENT") return refusal(ORDER_ERRORS, "ORDER_STATE", { orderId, state: order.state });

    const after: OrderRow = { ...order, state: command.cause === "cancel" ? "CANCELLED" : "EXPIRED" };
    released.set(orderId, after);
    (command.cause === "cancel" ? writes.cancelled : writes.expired).push(after);
    giveBack(order, state, writes);
    return after;
  });
  return { outcomes, writes };
}

function giveBack(order: OrderRow, state: ReleaseState, writes: ReleaseWrites): void {
  writes.buckets.push({ dealId: order.dealId, bucket: order.bucket, total: 0, held: -order.quantity, sold: 0 });
  writes.quotas.push(
    { scope: order.merchantId, userId: order.consumerId, units: 1 },
    // Counted only where the deal has a limit; the store leaves counters that are not there alone.
    { scope: order.dealId, userId: order.consumerId, units: order.quantity },
  );
  if (order.groupId === undefined) return;
  writes.seats.push({ groupId: order.groupId, orderId: order.id });
  const change = writes.groups.get(order.groupId);
  if (change) {
    change.held -= 1;
    return;
  }
  const was = state.groups.get(order.groupId)?.state ?? "OPEN";
  writes.groups.set(order.groupId, { id: order.groupId, held: -1, was, state: was === "PENDING" ? "FAILED" : was });
}
