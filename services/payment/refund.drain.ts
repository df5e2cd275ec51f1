/**
 * The drains of a refund in its city: try, decide, finish. Each takes lists of ids, goes one step with those that are at it, and answers each list with
 * its refunds as they are then.
 */
import type { GroupId, OrderId, RefundId } from "../../domain/ids.ts";
import { invariant } from "../../domain/invariant.ts";
import type { TransferRequest } from "../../domain/ledger.ts";
import { fen, toJson } from "../../domain/money.ts";
import { orderMoved } from "../../domain/order/moved.ts";
import type { OrderRow } from "../../domain/order/place.ts";
import { heard, mayGo, refundedOrders, stepOf, type RefundStep, type RefundWord } from "../../domain/refund/advance.ts";
import { WALLET } from "../../domain/payment/try.ts";
import { COMMISSION, escrowOf, payableOf } from "../../domain/settlement/decide.ts";
import type { Work } from "../../mixins/drain.ts";
import { appendEvents, type NewEvent } from "../../mixins/events.ts";
import { bookTransfers } from "../../mixins/ledger.ts";
import type { Metrics } from "../../mixins/metrics.ts";
import { enterPhase } from "../../mixins/tcc.ts";
import { changeGroups, lockGroups, moveSeats } from "../group/group.store.ts";
import { lockOrders, moveOrders } from "../order/order.store.ts";
import { refundVouchers } from "../voucher/voucher.store.ts";
import { finishCallbacks } from "../callback/callback.store.ts";
import { clearingOf, refundTransitOf } from "./charge.drain.ts";
import { CITY_BRANCH, TRANSIT } from "./pay.drain.ts";
import { findOwed, lockRefunds, moveRefunds, noteChannelWords, stallRefunds, sumSucceeded, type RefundRow } from "./refund.store.ts";

type Ids = readonly RefundId[];

const transferOf = (refund: RefundRow, kind: TransferRequest["kind"]): TransferRequest => ({
  kind,
  code: "refund",
  businessKey: refund.id,
  debit: escrowOf(refund.merchantId),
  credit: refund.channel === WALLET ? TRANSIT : refundTransitOf(refund.channel),
  amount: refund.amount,
  orderId: refund.orderId,
});

/** A channel has paid it out. */
const paidOut = ({ id, channel, amount, orderId }: RefundRow): TransferRequest => ({
  kind: "post",
  code: "refund-paid",
  businessKey: id,
  debit: refundTransitOf(channel),
  credit: clearingOf(channel),
  amount,
  orderId,
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
async function lockAt(work: Work, lists: readonly Ids[], step: RefundStep): Promise<{ all: readonly RefundRow[]; due: RefundRow[] }> {
  const all = await lockRefunds(work, work.shard, [...new Set(lists.flat())].sort());
  return { all, due: all.filter((refund) => stepOf(refund) === step) };
}

/** The answers to a batch: its refunds, those that moved as they are after it. */
function answersOf(lists: readonly Ids[], all: readonly RefundRow[], moved: readonly RefundRow[]): RefundRow[][] {
  const after = new Map([...all, ...moved].map((refund) => [refund.id, refund]));
  return lists.map((ids) => ids.flatMap((id) => after.get(id) ?? []));
}

const idsOf = (refunds: readonly RefundRow[]): RefundId[] => refunds.map(({ id }) => id);

/**
 * REQUESTED → PROCESSING. By wallet the city promises the money; a channel has no Try, so there the money leaves the escrow, and what is recorded
 * here is that the channel will be called.
 */
export async function tryRefundsDrain(work: Work, lists: readonly Ids[]): Promise<RefundRow[][]> {
  const { shard } = work;
  const { all, due } = await lockAt(work, lists, "request");
  const now = await work.now();
  const refunds = due.filter((refund) => mayGo(refund, now));
  const owed = await findOwed(work, shard, [...new Set(refunds.map(({ paymentId }) => paymentId))]);
  for (const { paymentId } of refunds) {
    const { paid, refunded } = owed.get(paymentId) ?? { paid: 0n, refunded: 1n };
    invariant(refunded <= paid, `the refunds of payment ${paymentId} never exceed it`);
  }
  const [byWallet, byChannel] = [refunds.filter(({ channel }) => channel === WALLET), refunds.filter(({ channel }) => channel !== WALLET)];
  await Promise.all([
    moveRefunds(work, shard, idsOf(byWallet), { from: "REQUESTED", decided: false, to: "PROCESSING" }),
    moveRefunds(work, shard, idsOf(byChannel), { from: "REQUESTED", decided: false, to: "PROCESSING", decidedAt: now }),
    enterPhase(work, shard.slot, CITY_BRANCH, "try", idsOf(byWallet)),
    bookTransfers(
      work,
      // Locked and REQUESTED: nothing of them is booked yet.
      refunds.flatMap((refund) => [
        ...clawback(refund),
        { ...transferOf(refund, refund.channel === WALLET ? "pend" : "post"), fresh: true },
      ]),
    ),
  ]);
  return answersOf(lists, all, [
    ...byWallet.map((refund): RefundRow => ({ ...refund, state: "PROCESSING" })),
    ...byChannel.map((refund): RefundRow => ({ ...refund, state: "PROCESSING", decided: true })),
  ]);
}

/** The decision, made when the wallet has promised too: the city's half is posted, and from here there is only forward. */
export const makeDecideRefundsDrain =
  (metrics: Metrics) =>
  async (work: Work, lists: readonly Ids[]): Promise<RefundRow[][]> => {
    const { shard } = work;
    const { all, due: refunds } = await lockAt(work, lists, "try");
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
    return answersOf(
      lists,
      all,
      refunds.map((refund) => ({ ...refund, decided: true })),
    );
  };

/** PROCESSING → SUCCEEDED: the money is in the wallet. */
export async function finishRefundsDrain(work: Work, lists: readonly Ids[]): Promise<RefundRow[][]> {
  const { all, due } = await lockAt(work, lists, "confirm");
  await finish(work, due);
  return answersOf(
    lists,
    all,
    due.map((refund) => ({ ...refund, state: "SUCCEEDED" })),
  );
}

/** What a channel said of a refund, asked or by callback. */
export interface RefundNews {
  readonly id: RefundId;
  readonly word: RefundWord;
  readonly channelNo: string | undefined;
  readonly callbackId: string | undefined;
}

/** Answers each with the refund as it was, undefined where there is none. `onStalled` hears of those that wait for a person. */
export const makeTellRefundsDrain =
  (metrics: Metrics, onStalled: (refund: RefundRow, reason: string) => void) =>
  async (work: Work, news: readonly RefundNews[]): Promise<{ readonly refund: RefundRow | undefined }[]> => {
    const { shard } = work;
    const refunds = new Map((await lockRefunds(work, shard, [...new Set(news.map(({ id }) => id))].sort())).map((row) => [row.id, row]));
    // What ends it is believed over what does not: of several words about one refund the last such.
    const words = new Map<RefundRow, RefundWord>();
    for (const { id, word } of news) {
      const refund = refunds.get(id);
      if (!refund || refund.channel === WALLET || !refund.decided) continue;
      if (words.get(refund)?.kind !== "succeeded") words.set(refund, heard(word, refund.amount));
    }
    const is = (kind: RefundWord["kind"], state: RefundRow["state"]) =>
      [...words].flatMap(([refund, word]) => (word.kind === kind && refund.state === state ? [refund] : []));
    const [done, late, stalled] = [is("succeeded", "PROCESSING"), is("succeeded", "ABNORMAL"), is("stalled", "PROCESSING")];
    const reasonOf = (refund: RefundRow): string => {
      const word = words.get(refund);
      return word?.kind === "stalled" ? word.reason : "";
    };
    await noteChannelWords(
      work,
      shard,
      news.map(({ id, word, channelNo }) => ({ id, channelNo, error: word.kind === "waits" ? word.why : undefined })),
    );
    // A channel may pay it out after all.
    await moveRefunds(work, shard, idsOf(late), { from: "ABNORMAL", decided: true, to: "PROCESSING" });
    await finish(work, [...done, ...late]);
    await Promise.all([
      stallRefunds(
        work,
        shard,
        stalled.map((refund) => ({ id: refund.id, reason: reasonOf(refund) })),
      ),
      appendEvents(
        work,
        shard,
        stalled.map((refund): NewEvent<"refund.stalled"> => {
          const { id, orderId, consumerId, channel, amount } = refund;
          return {
            type: "refund.stalled",
            subject: id,
            data: { refundId: id, orderId, consumerId, channel, amount: toJson(amount), reason: reasonOf(refund) },
          };
        }),
      ),
      finishCallbacks(
        work,
        shard,
        news.flatMap(({ id, callbackId }) => (refunds.has(id) ? [callbackId] : [])),
      ),
    ]);
    work.afterCommit(() => {
      for (const { amount } of [...done, ...late]) metrics.moneyFen.inc({ code: "refund" }, toJson(amount));
      for (const refund of stalled) onStalled(refund, reasonOf(refund));
    });
    return news.map(({ id }) => ({ refund: refunds.get(id) }));
  };

/** Locked refunds have arrived. Their vouchers become REFUNDED with them, and an order that is refunded as a whole, with its seat. */
async function finish(work: Work, refunds: readonly RefundRow[]): Promise<void> {
  const { shard } = work;
  const now = await work.now();
  const orderIds = [...new Set(refunds.map(({ orderId }) => orderId))].sort();
  if (orderIds.length === 0) return;
  const [orders] = await Promise.all([
    lockOrders(work, shard, orderIds),
    moveRefunds(work, shard, idsOf(refunds), { from: "PROCESSING", decided: true, to: "SUCCEEDED", endedAt: now }),
    bookTransfers(work, refunds.filter(({ channel }) => channel !== WALLET).map(paidOut)),
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
