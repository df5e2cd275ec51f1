/** The drains of a refund in its city: try, decide, finish. Each takes lists of ids and goes one step with those that are at it. */
import type { GroupId, OrderId, RefundId } from "../../domain/ids.ts";
import { invariant } from "../../domain/invariant.ts";
import type { TransferRequest } from "../../domain/ledger.ts";
import { fen, toJson } from "../../domain/money.ts";
import { orderMoved } from "../../domain/order/moved.ts";
import type { OrderRow } from "../../domain/order/place.ts";
import { mayGo, refundedOrders, stepOf, type RefundStep } from "../../domain/refund/advance.ts";
import { COMMISSION, escrowOf, payableOf } from "../../domain/settlement/decide.ts";
import type { Work } from "../../mixins/drain.ts";
import { appendEvents } from "../../mixins/events.ts";
import { bookTransfers } from "../../mixins/ledger.ts";
import type { Metrics } from "../../mixins/metrics.ts";
import { enterPhase } from "../../mixins/tcc.ts";
import { changeGroups, lockGroups, moveSeats } from "../group/group.store.ts";
import { lockOrders, moveOrders } from "../order/order.store.ts";
import { refundVouchers } from "../voucher/voucher.store.ts";
import { CITY_BRANCH, TRANSIT } from "./pay.drain.ts";
import { findOwed, lockRefunds, moveRefunds, sumSucceeded, type RefundRow } from "./refund.store.ts";

type Ids = readonly RefundId[];

const transferOf = (refund: RefundRow, kind: TransferRequest["kind"]): TransferRequest => ({
  kind,
  code: "refund",
  businessKey: refund.id,
  debit: escrowOf(refund.merchantId),
  credit: TRANSIT,
  amount: refund.amount,
  orderId: refund.orderId,
});

/** What was settled of used units, back into escrow: from where it goes the way of every refund. Only this may take a payable below zero. */
function clawback({ id, orderId, merchantId, amount, commission, used }: RefundRow): TransferRequest[] {
  if (!used) return [];
  const common = { kind: "post", businessKey: id, credit: escrowOf(merchantId), orderId, fresh: true } as const;
  const net = fen(amount - commission);
  return [
    ...(net > 0n ? [{ ...common, code: "clawback" as const, debit: payableOf(merchantId), amount: net }] : []),
    ...(commission > 0n ? [{ ...common, code: "commission-back" as const, debit: COMMISSION, amount: commission }] : []),
  ];
}

/** Locks the refunds of a batch; those that are at `step` take it, the rest are further already. */
async function lockAt(work: Work, lists: readonly Ids[], step: RefundStep): Promise<RefundRow[]> {
  const refunds = await lockRefunds(work, work.shard, [...new Set(lists.flat())].sort());
  return refunds.filter((refund) => stepOf(refund) === step);
}

const idsOf = (refunds: readonly RefundRow[]): RefundId[] => refunds.map(({ id }) => id);

/** REQUESTED → PROCESSING: the city promises the money. */
export async function tryRefundsDrain(work: Work, lists: readonly Ids[]): Promise<null[]> {
  const { shard } = work;
  const requested = await lockAt(work, lists, "request");
  const now = await work.now();
  const refunds = requested.filter((refund) => mayGo(refund, now));
  const owed = await findOwed(work, shard, [...new Set(refunds.map(({ paymentId }) => paymentId))]);
  for (const { paymentId } of refunds) {
    const { paid, refunded } = owed.get(paymentId) ?? { paid: 0n, refunded: 1n };
    invariant(refunded <= paid, `the refunds of payment ${paymentId} never exceed it`);
  }
  await Promise.all([
    moveRefunds(work, shard, idsOf(refunds), { from: "REQUESTED", decided: false, to: "PROCESSING" }),
    enterPhase(work, shard.slot, CITY_BRANCH, "try", idsOf(refunds)),
    bookTransfers(
      work,
      // Locked and REQUESTED: nothing of them is booked yet.
      refunds.flatMap((refund) => [...clawback(refund), { ...transferOf(refund, "pend"), fresh: true }]),
    ),
  ]);
  return lists.map(() => null);
}

/** The decision, made when the wallet has promised too: the city's half is posted, and from here there is only forward. */
export const makeDecideRefundsDrain =
  (metrics: Metrics) =>
  async (work: Work, lists: readonly Ids[]): Promise<null[]> => {
    const { shard } = work;
    const refunds = await lockAt(work, lists, "try");
    const now = await work.now();
    await Promise.all([
      moveRefunds(work, shard, idsOf(refunds), { from: "PROCESSING", decided: false, to: "PROCESSING", decidedAt: now }),
      enterPhase(work, shard.slot, CITY_BRANCH, "confirm", idsOf(refunds)),
      bookTransfers(
        work,
        refunds.map((refund) => transferOf(refund, "post-pending")),
      ),
    ]);
    work.afterCommit(() => {
      for (const { amount } of refunds) metrics.moneyFen.inc({ code: "refund" }, toJson(amount));
    });
    return lists.map(() => null);
  };

/** PROCESSING → SUCCEEDED: the money is in the wallet. Its vouchers become REFUNDED with it, and an order that is refunded as a whole, with its seat. */
export async function finishRefundsDrain(work: Work, lists: readonly Ids[]): Promise<null[]> {
  const { shard } = work;
  const refunds = await lockAt(work, lists, "confirm");
  const now = await work.now();
  const orderIds = [...new Set(refunds.map(({ orderId }) => orderId))].sort();
  if (orderIds.length === 0) return lists.map(() => null);
  const [orders] = await Promise.all([
    lockOrders(work, shard, orderIds),
    moveRefunds(work, shard, idsOf(refunds), { from: "PROCESSING", decided: true, to: "SUCCEEDED", endedAt: now }),
  ]);
  const whole = refundedOrders(orders.values(), await sumSucceeded(work, shard, orderIds));
  await Promise.all([
    leaveSeats(work, whole),
    refundVouchers(
      work,
      shard,
      refunds.filter(({ used }) => !used),
    ),
    ...(["PAID", "CONFIRMED"] as const).map((from) => moveOrders(work, shard, idsIn(whole, from), { from, to: "REFUNDED", endedAt: now })),
    appendEvents(work, shard, [
      ...refunds.map(({ id, orderId, consumerId, amount }) => ({
        type: "refund.succeeded" as const,
        subject: id,
        data: { refundId: id, orderId, consumerId, amount: toJson(amount) },
      })),
      ...whole.map((order) => orderMoved({ ...order, state: "REFUNDED" }, order.state)),
    ]),
  ]);
  return lists.map(() => null);
}

const idsIn = (orders: readonly OrderRow[], state: OrderRow["state"]): OrderId[] =>
  orders.filter((order) => order.state === state).map(({ id }) => id);

/** The seats of refunded orders: no longer taken. */
async function leaveSeats(work: Work, orders: readonly OrderRow[]): Promise<void> {
  const seats = orders.flatMap(({ id, groupId }) => (groupId === undefined ? [] : [{ orderId: id, groupId }]));
  if (seats.length === 0) return;
  const bySeat = Map.groupBy(seats, ({ groupId }) => groupId);
  const groups = await lockGroups(work, work.shard, [...bySeat.keys()].sort());
  const change = (id: GroupId, seatsLeft: number) => {
    const group = groups.get(id);
    invariant(group !== undefined, "the group of an order is there");
    return { id, held: 0, taken: -seatsLeft, filled: 0, was: group.state, state: group.state, deadline: undefined };
  };
  await Promise.all([
    changeGroups(
      work,
      work.shard,
      [...bySeat].map(([id, left]) => change(id, left.length)),
      await work.now(),
    ),
    moveSeats(work, work.shard, seats, { from: "TAKEN", to: "REFUNDED" }),
  ]);
}
