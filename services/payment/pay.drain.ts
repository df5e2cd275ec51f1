/** The drains of a payment in its city: try, decide, finish. The rules are in `domain/payment/`. */
import type { DomainError } from "../../domain/error.ts";
import type { MerchantId, OrderId, PaymentId, Shard } from "../../domain/ids.ts";
import type { TransferRequest } from "../../domain/ledger.ts";
import { toJson, type Fen } from "../../domain/money.ts";
import { orderMoved } from "../../domain/order/moved.ts";
import { decidePayments, type Decided, type DecideCommand, type DecideState, type DecideWrites } from "../../domain/payment/decide.ts";
import { decideTry, WALLET, type PayCommand, type PaymentRow, type Tried } from "../../domain/payment/try.ts";
import { escrowOf } from "../../domain/settlement/decide.ts";
import type { Work } from "../../mixins/drain.ts";
import { appendEvents, type NewEvent } from "../../mixins/events.ts";
import { bookTransfers } from "../../mixins/ledger.ts";
import type { Platform } from "../../mixins/platform.ts";
import type { StockFact } from "../../mixins/stock-gate.ts";
import { enterFresh, enterPhase } from "../../mixins/tcc.ts";
import { changeGroups, lockGroups, moveSeats, type GroupRow } from "../group/group.store.ts";
import { giveBackQuotas, lockOrders, moveOrders } from "../order/order.store.ts";
import { changeBuckets, mergeBucketChanges } from "../stock/stock.store.ts";
import { finishCallbacks } from "../callback/callback.store.ts";
import { chargeTransfers, countCharges, writeCharges } from "./charge.drain.ts";
import { confirmOrders } from "./confirm.store.ts";
import { findFormingOrders } from "./forming.store.ts";
import { findLivePayments, finishPayments, insertPayments, lockPayments, writeDecisions } from "./payment.store.ts";

/** The city's branch in the barriers of its slot. */
export const CITY_BRANCH = "city";
/** Mirrors `transit:<city>` of the user keyspace, to the fen. */
export const TRANSIT = "transit:user";

const distinct = <T extends string>(values: readonly T[]): T[] => [...new Set(values)].sort();
const groupsOf = (orders: ReadonlyMap<string, { readonly groupId: DecideWrites["seats"][number]["groupId"] | undefined }>) =>
  distinct([...orders.values()].flatMap(({ groupId }) => (groupId === undefined ? [] : [groupId])));

const transferOf = (
  payment: { id: PaymentId; orderId: OrderId; merchantId: MerchantId; amount: Fen },
  kind: TransferRequest["kind"],
): TransferRequest => ({
  kind,
  code: "pay",
  businessKey: payment.id,
  debit: TRANSIT,
  credit: escrowOf(payment.merchantId),
  amount: payment.amount,
  orderId: payment.orderId,
});

/** Begins payments: a durable row and, by wallet, the city's half of the money, promised. */
export async function tryDrain(work: Work, commands: readonly PayCommand[]): Promise<(Tried | DomainError)[]> {
  const { shard } = work;
  const orderIds = distinct(commands.map(({ orderId }) => orderId));
  // Payments are read behind their orders' locks: whoever began one held the order.
  const [orders, live, ids] = await Promise.all([
    lockOrders(work, shard, orderIds),
    findLivePayments(work, shard, orderIds),
    work.mint(orderIds.length) as Promise<PaymentId[]>,
  ]);
  const groups = await lockGroups(work, shard, groupsOf(orders));
  const now = await work.now();
  const { outcomes, begun } = decideTry({ orders, live, groups }, commands, { now, nextId: () => ids.shift() ?? ("" as PaymentId) });
  if (begun.length > 0) {
    // A channel has no Try: nothing is promised before it says that it has the money.
    const tries = begun.filter(({ channel }) => channel === WALLET);
    await Promise.all([
      insertPayments(work, shard, begun, now),
      enterFresh(
        work,
        shard.slot,
        CITY_BRANCH,
        tries.map(({ id }) => id),
      ),
      bookTransfers(
        work,
        tries.map((payment) => ({ ...transferOf(payment, "pend"), fresh: true })),
      ),
    ]);
  }
  return outcomes;
}

/**
 * Decides payments. Once it is durable, `onDecided` hears of every one by wallet that is decided now, `onSurplus` that there is money to give back,
 * `onDiffering` of money that is not what was asked for.
 */
export const makeDecideDrain =
  (platform: Platform, { onDecided, onSurplus, onDiffering }: DecideEars) =>
  async (work: Work, commands: readonly DecideCommand[]): Promise<Decided[]> => {
    const { metrics } = platform;
    const state = await lock(work, commands);
    const now = await work.now();
    const { outcomes, writes } = decidePayments(state, commands, now);
    const [facts] = await Promise.all([
      write(work, writes),
      writeCharges(work, writes),
      finishCallbacks(
        work,
        work.shard,
        commands.map((command) => ("news" in command ? command.callbackId : undefined)),
      ),
    ]);
    const decided = [
      ...writes.confirming.map(({ payment }): PaymentRow => ({ ...payment, state: "CONFIRMING" })),
      ...writes.cancelling.map(({ payment, reason }): PaymentRow => ({ ...payment, state: "CANCELLING", reason })),
    ];
    work.afterCommit(() => {
      platform.stockChanged(facts);
      onDecided(decided);
      if (writes.surplus.length > 0) onSurplus(work.shard);
      onDiffering(writes.differing);
      countCharges(metrics, writes);
      for (const { state: made, reason, amount } of decided) {
        metrics.payments.inc({ outcome: made === "CONFIRMING" ? "CONFIRMED" : (reason ?? "CANCELLED") });
        if (made === "CONFIRMING") metrics.moneyFen.inc({ code: "pay" }, toJson(amount));
      }
      metrics.orders.inc({ state: "PAID" }, writes.paid.length);
      metrics.orders.inc({ state: "CONFIRMED" }, writes.confirmed.length);
    });
    return outcomes;
  };

export interface DecideEars {
  readonly onDecided: (payments: readonly PaymentRow[]) => void;
  readonly onSurplus: (shard: Shard) => void;
  readonly onDiffering: (differing: DecideWrites["differing"]) => void;
}

async function lock(work: Work, commands: readonly DecideCommand[]): Promise<DecideState> {
  const { shard } = work;
  const ids = distinct(commands.map(({ paymentId }) => paymentId));
  const own = distinct(commands.map(({ orderId }) => orderId));
  // Groups that may form with these payments bring the orders they will confirm; read first, so that all orders are locked in one order.
  const forming = await findFormingOrders(work, shard, own);
  const [payments, orders] = await Promise.all([lockPayments(work, shard, ids), lockOrders(work, shard, distinct([...own, ...forming]))]);
  const groups = await lockGroups(work, shard, groupsOf(orders));
  if (missing(own, orders, groups)) {
    // A seat was taken on another node since then, and its order belongs to those that are confirmed. Its lock comes late: at worst a retry.
    const late = (await findFormingOrders(work, shard, own)).filter((id) => !orders.has(id));
    for (const [id, order] of await lockOrders(work, shard, distinct(late))) orders.set(id, order);
  }
  return { payments, orders, groups };
}

/** Is there a group these payments may fill, of which not every paid order is locked? */
function missing(own: readonly string[], orders: DecideState["orders"], groups: ReadonlyMap<string, GroupRow>): boolean {
  const paying = Map.groupBy(own, (id) => orders.get(id)?.groupId);
  const paid = Map.groupBy(
    [...orders.values()].filter(({ state }) => state === "PAID"),
    ({ groupId }) => groupId,
  );
  const count = (some: readonly unknown[] | undefined): number => some?.length ?? 0;
  return [...groups.values()].some(
    ({ id, size, taken, filled }) => taken + filled + count(paying.get(id)) >= size && count(paid.get(id)) < taken,
  );
}

/** In lock order, and in one burst: the connection is pipelined, so the answers of all these statements cost two round trips together. */
async function write(work: Work, writes: DecideWrites): Promise<readonly StockFact[]> {
  const { shard } = work;
  const now = await work.now();
  const { confirming, cancelling, paid, confirmed, seats } = writes;
  const confirmingIds = confirming.map(({ payment }) => payment.id);
  const paidIds = paid.map(({ id }) => id);
  const inThisBatch = new Set(paidIds);
  const atOnce = new Set(confirmed.map(({ id }) => id).filter((id) => inThisBatch.has(id)));
  const cancellingIds = cancelling.map(({ payment }) => payment.id);
  const [, , , facts] = await Promise.all([
    writeDecisions(
      work,
      shard,
      [
        ...confirming.map(({ payment }) => ({ id: payment.id, state: "CONFIRMING" as const, reason: undefined })),
        ...cancelling.map(({ payment, reason }) => ({ id: payment.id, state: "CANCELLING" as const, reason })),
      ],
      now,
    ),
    moveOrders(
      work,
      shard,
      paidIds.filter((id) => !atOnce.has(id)),
      { from: "PENDING_PAYMENT", to: "PAID", paidAt: now },
    ),
    moveOrders(work, shard, [...atOnce], { from: "PENDING_PAYMENT", to: "CONFIRMED", paidAt: now }),
    changeBuckets(work, shard, mergeBucketChanges(writes.buckets), "sold"),
    changeGroups(
      work,
      shard,
      [...writes.groups.values()].map((move) => ({ ...move, id: move.group.id, filled: 0, was: move.group.state })),
      now,
    ),
    moveSeats(work, shard, seats, { from: "HELD", to: "TAKEN" }),
    giveBackQuotas(
      work,
      shard,
      paid.map((order) => ({ scope: order.merchantId, userId: order.consumerId, units: 1 })),
    ),
    enterPhase(work, shard.slot, CITY_BRANCH, "confirm", confirmingIds),
    enterPhase(work, shard.slot, CITY_BRANCH, "cancel", cancellingIds),
    bookTransfers(work, [
      ...confirming.map(({ payment }) => transferOf(payment, "post-pending")),
      ...cancelling.map(({ payment }) => transferOf(payment, "void-pending")),
      ...chargeTransfers(writes),
    ]),
    // Before the orders are confirmed: an order's events are the path it went.
    appendEvents(work, shard, eventsOf(writes)),
    confirmOrders(work, confirmed, atOnce),
  ]);
  return facts;
}

function eventsOf({ confirming, cancelling, paid, groups, formed }: DecideWrites): NewEvent[] {
  return [
    ...confirming.map(({ payment: { id, orderId, consumerId, amount }, requestId }): NewEvent<"payment.confirmed"> => ({
      type: "payment.confirmed",
      subject: id,
      actor: consumerId,
      requestId,
      data: { paymentId: id, orderId, consumerId, amount: toJson(amount) },
    })),
    ...cancelling.map(({ payment: { id, orderId, consumerId }, reason, requestId }): NewEvent<"payment.cancelled"> => ({
      type: "payment.cancelled",
      subject: id,
      actor: consumerId,
      requestId,
      data: { paymentId: id, orderId, consumerId, reason },
    })),
    ...paid.map((order) => orderMoved(order, "PENDING_PAYMENT")),
    ...[...groups.values()].flatMap(({ group, deadline }): NewEvent<"group.opened">[] =>
      deadline === undefined
        ? []
        : [
            {
              type: "group.opened",
              subject: group.id,
              data: { groupId: group.id, dealId: group.dealId, leaderId: group.leaderId, deadline: deadline.toISOString() },
            },
          ],
    ),
    ...formed.map(({ group, members }): NewEvent<"group.formed"> => ({
      type: "group.formed",
      subject: group.id,
      data: { groupId: group.id, dealId: group.dealId, members, filled: group.filled },
    })),
  ];
}

/** Ends payments whose both sides have what was decided. */
export async function finishDrain(work: Work, lists: readonly (readonly PaymentId[])[]): Promise<null[]> {
  await finishPayments(work, work.shard, distinct(lists.flat()), await work.now());
  return lists.map(() => null);
}
