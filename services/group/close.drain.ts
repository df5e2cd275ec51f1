/** The closing drain: groups whose deadline has passed go a step further. The rules are in `domain/group/close.ts`. */
import type { ServiceBroker } from "moleculer";
import { decideClosing } from "../../domain/group/close.ts";
import type { Id, RefundId, UserId } from "../../domain/ids.ts";
import { invariant } from "../../domain/invariant.ts";
import type { OrderRow } from "../../domain/order/place.ts";
import type { Work } from "../../mixins/drain.ts";
import { appendEvents, type NewEvent } from "../../mixins/events.ts";
import type { Platform } from "../../mixins/platform.ts";
import type { StockFact } from "../../mixins/stock-gate.ts";
import { giveBackQuotas, lockOrders } from "../order/order.store.ts";
import { confirmOrders } from "../payment/confirm.store.ts";
import { refundsRequested } from "../payment/payment.contract.ts";
import { findCaptures } from "../payment/payment.store.ts";
import { requestRefunds } from "../payment/refund.store.ts";
import { changeBuckets, lockBuckets, mergeBucketChanges } from "../stock/stock.store.ts";
import { changeGroups, lockGroups, seatsOf, type GroupChange, type GroupRow } from "./group.store.ts";

export const makeCloseDrain =
  (platform: Platform, broker: ServiceBroker) =>
  async (work: Work, ids: readonly Id[]): Promise<null[]> => {
    const { shard } = work;
    // Orders are locked before groups, as everywhere. A CLOSING group gets no new seats, so the seats read first are the ones there are;
    // an OPEN one only changes its state here.
    const seats = await seatsOf(work, shard, ids);
    const orders = await lockOrders(
      work,
      shard,
      seats
        .filter((seat) => seat.state === "TAKEN")
        .map((seat) => seat.orderId)
        .toSorted(),
    );
    const membersOf = (group: GroupRow): OrderRow[] =>
      [...orders.values()].filter((order) => order.groupId === group.id && order.state === "PAID");
    await lockBuckets(work, shard, [...new Set([...orders.values()].map((order) => order.dealId))].toSorted());
    const groups = [...(await lockGroups(work, shard, [...ids].toSorted())).values()];
    const now = await work.now();

    const changes: GroupChange[] = [];
    const events: NewEvent[] = [];
    const formed: OrderRow[] = [];
    const failed: OrderRow[] = [];
    for (const group of groups) {
      const { id, dealId } = group;
      // A seat taken on another node since the seats were read: the next sweep sees it.
      const closing =
        group.state === "CLOSING" && membersOf(group).length !== group.taken ? { step: "wait" as const } : decideClosing(group, now);
      const change = { id, held: 0, taken: 0, filled: 0, was: group.state, deadline: undefined };
      const members = membersOf(group).map((order): UserId => order.consumerId);
      if (closing.step === "close") {
        changes.push({ ...change, state: "CLOSING" });
        events.push({ type: "group.closing", subject: id, data: { groupId: id, dealId } });
      } else if (closing.step === "form") {
        changes.push({ ...change, filled: closing.filled, state: "FORMED" });
        events.push({ type: "group.formed", subject: id, data: { groupId: id, dealId, members, filled: closing.filled } });
        formed.push(...membersOf(group));
      } else if (closing.step === "fail") {
        changes.push({ ...change, state: "FAILED" });
        events.push({ type: "group.failed", subject: id, data: { groupId: id, dealId, members } });
        failed.push(...membersOf(group));
      }
    }
    const [, , facts] = await Promise.all([
      changeGroups(work, shard, changes, now),
      confirmOrders(work, formed),
      giveBack(work, failed),
      appendEvents(work, shard, events),
    ]);
    work.afterCommit(() => {
      platform.stockChanged(facts);
      if (failed.length > 0) refundsRequested(broker, shard);
    });
    return ids.map(() => null);
  };

/** Every paid seat of a failed group: its units go back on sale, its counter goes down, and its money is owed back. */
async function giveBack(work: Work, orders: readonly OrderRow[]): Promise<readonly StockFact[]> {
  if (orders.length === 0) return [];
  const { shard } = work;
  const [captures, ids] = await Promise.all([
    findCaptures(
      work,
      shard,
      orders.map((order) => order.id),
    ),
    work.mint(orders.length),
  ]);
  const refunds = orders.map((order, index) => {
    const capture = captures.get(order.id);
    const id = ids[index] as RefundId | undefined;
    invariant(capture !== undefined && id !== undefined, "a paid order has a payment");
    return { ...order, id, orderId: order.id, paymentId: capture.id, amount: capture.amount, reason: "GROUP_FAILED" };
  });
  const units = orders.map((order) => ({ dealId: order.dealId, bucket: order.bucket, total: 0, held: 0, sold: -order.quantity }));
  const [facts] = await Promise.all([
    changeBuckets(work, shard, mergeBucketChanges(units), "group failed"),
    giveBackQuotas(
      work,
      shard,
      orders.map((order) => ({ scope: order.dealId, userId: order.consumerId, units: order.quantity })),
    ),
    requestRefunds(work, shard, refunds, await work.now()),
  ]);
  return facts;
}
