/** The release drain: cancelled and expired orders give back what they held. The rules are in `domain/order/release.ts`. */
import type { DomainError } from "../../domain/error.ts";
import type { OrderRow } from "../../domain/order/place.ts";
import { orderMoved } from "../../domain/order/moved.ts";
import { decideRelease, type ReleaseCommand, type ReleaseWrites } from "../../domain/order/release.ts";
import type { Work } from "../../mixins/drain.ts";
import { appendEvents, type NewEvent } from "../../mixins/events.ts";
import type { Platform } from "../../mixins/platform.ts";
import type { StockFact } from "../../mixins/stock-gate.ts";
import { changeGroups, lockGroups, moveSeats } from "../group/group.store.ts";
import { hurryCharges } from "../payment/charge.store.ts";
import { changeBuckets, mergeBucketChanges } from "../stock/stock.store.ts";
import { findPaying, giveBackQuotas, lockOrders, moveOrders } from "./order.store.ts";

/** Releases a batch. Also what the closing of a group uses for seats nobody paid. */
export async function release(work: Work, platform: Platform, commands: readonly ReleaseCommand[]): Promise<(OrderRow | DomainError)[]> {
  const ids = [...new Set(commands.map((command) => command.orderId))];
  const [orders, paying] = await Promise.all([lockOrders(work, work.shard, ids), findPaying(work, work.shard, ids)]);
  const groupIds = [...new Set([...orders.values()].flatMap(({ groupId }) => (groupId === undefined ? [] : [groupId])))];
  const groups = await lockGroups(work, work.shard, groupIds);
  const now = await work.now();
  const { outcomes, writes } = decideRelease({ orders, ...paying, groups }, commands, now);
  const over = [...writes.cancelled, ...writes.expired].flatMap(({ id }) => (paying.charging.has(id) ? [id] : []));
  const [facts] = await Promise.all([write(work, writes), hurryCharges(work, work.shard, over, now)]);
  work.afterCommit(() => {
    platform.stockChanged(facts);
    platform.metrics.orders.inc({ state: "CANCELLED" }, writes.cancelled.length);
    platform.metrics.orders.inc({ state: "EXPIRED" }, writes.expired.length);
  });
  return outcomes;
}

async function write(work: Work, writes: ReleaseWrites): Promise<readonly StockFact[]> {
  const { shard } = work;
  const now = await work.now();
  const groups = [...writes.groups.values()].map((group) => ({ ...group, taken: 0, filled: 0, deadline: undefined }));
  const failed = groups.filter((group) => group.was === "PENDING");
  const events = [...writes.cancelled, ...writes.expired].map((order) => orderMoved(order, "PENDING_PAYMENT"));
  const dealOf = new Map([...writes.cancelled, ...writes.expired].map((order) => [order.groupId, order]));
  const [facts] = await Promise.all([
    changeBuckets(work, shard, mergeBucketChanges(writes.buckets), "released"),
    moveOrders(
      work,
      shard,
      writes.cancelled.map((order) => order.id),
      { from: "PENDING_PAYMENT", to: "CANCELLED", endedAt: now },
    ),
    moveOrders(
      work,
      shard,
      writes.expired.map((order) => order.id),
      { from: "PENDING_PAYMENT", to: "EXPIRED", endedAt: now },
    ),
    changeGroups(work, shard, groups, now),
    moveSeats(work, shard, writes.seats, { from: "HELD", to: "RELEASED" }),
    giveBackQuotas(work, shard, writes.quotas),
    appendEvents(work, shard, [
      ...events,
      ...failed.flatMap(({ id }): NewEvent[] => {
        const order = dealOf.get(id);
        return order ? [{ type: "group.failed", subject: id, data: { groupId: id, dealId: order.dealId, members: [] } }] : [];
      }),
    ]),
  ]);
  return facts;
}
