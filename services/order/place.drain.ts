/** The order drain: lock what a batch of orders needs, decide them all, write them all. The rules are in `domain/order/place.ts`. */
import {
  decidePlace,
  type DealFacts,
  type PlaceCommand,
  type Placed,
  type PlaceState,
  type PlaceWrites,
} from "../../domain/order/place.ts";
import type { DomainError } from "../../domain/error.ts";
import type { DealId } from "../../domain/ids.ts";
import { toJson } from "../../domain/money.ts";
import type { Bucket } from "../../domain/order/place.ts";
import type { Work } from "../../mixins/drain.ts";
import { appendEvents, type NewEvent } from "../../mixins/events.ts";
import { isRefusal } from "../../mixins/mailbox.ts";
import type { Platform } from "../../mixins/platform.ts";
import type { StockFact } from "../../mixins/stock-gate.ts";
import { changeGroups, findLiveSeats, insertGroups, insertSeats, lockGroups } from "../group/group.store.ts";
import { changeBuckets, lockBuckets, lockFreeBuckets, type LockedBucket } from "../stock/stock.store.ts";
import { countQuotas, findDealFacts, findOrdersByKeys, findQuotas, insertOrders } from "./order.store.ts";

const distinct = <T>(values: Iterable<T>): T[] => [...new Set(values)];

export const makePlaceDrain =
  (platform: Platform) =>
  async (work: Work, commands: readonly PlaceCommand[]): Promise<(Placed | DomainError)[]> => {
    const state = await lock(work, commands);
    const ids = await work.mint(commands.length + commands.filter((command) => command.groupSize !== undefined).length);
    const { outcomes, writes } = decidePlace(state, commands, {
      now: await work.now(),
      orderTtlMs: platform.trade.orderTtlSeconds * 1_000,
      rules: platform.rulesOf(work.shard.city),
      nextId: () => ids.shift() ?? "",
    });
    await write(work, state, writes);
    work.afterCommit(() => {
      platform.stockChanged(factsOf(state, writes));
      if (writes.orders.length > 0) platform.metrics.orders.inc({ state: "PENDING_PAYMENT" }, writes.orders.length);
      for (const outcome of outcomes) if (isRefusal(outcome)) platform.metrics.refusals.inc({ code: outcome.type });
    });
    return outcomes;
  };

const available = (buckets: readonly Bucket[]): number => buckets.reduce((units, { total, held, sold }) => units + total - held - sold, 0);

interface Locked extends PlaceState {
  readonly deals: ReadonlyMap<DealId, DealFacts & { readonly bucketCount: number }>;
  readonly buckets: ReadonlyMap<DealId, readonly LockedBucket[]>;
}

/** What is left in every bucket that was locked, also where nothing was taken: that is how the gate hears that a deal is still sold out. */
const factsOf = (state: Locked, writes: PlaceWrites): StockFact[] =>
  [...state.buckets].flatMap(([dealId, buckets]) => {
    const of = state.deals.get(dealId)?.bucketCount ?? 0;
    return buckets.map((one) => {
      const raised = writes.buckets.has(one) ? 1 : 0;
      return { dealId, bucket: one.bucket, available: available([one]), version: one.version + raised, of };
    });
  });

async function lock(work: Work, commands: readonly PlaceCommand[]): Promise<Locked> {
  const { shard } = work;
  const dealIds = distinct(commands.map((command) => command.dealId));
  const groupIds = distinct(commands.flatMap(({ groupId }) => (groupId === undefined ? [] : [groupId])));
  const joins = commands.flatMap(({ groupId, consumerId }) => (groupId === undefined ? [] : [{ groupId, userId: consumerId }]));
  const [orders, deals, free, groups, seats, quotas] = await Promise.all([
    findOrdersByKeys(work, shard, commands),
    findDealFacts(work, shard, dealIds),
    lockFreeBuckets(work, shard, dealIds),
    lockGroups(work, shard, groupIds),
    findLiveSeats(work, shard, joins),
    findQuotas(work, shard, commands),
  ]);
  return { orders, deals, buckets: await withLockedBuckets(work, commands, deals, free), groups, seats, quotas };
}

/**
 * A bucket that another node holds was skipped. Where the rest is not enough, wait for it: a locked row is not a sold-out one.
 */
async function withLockedBuckets(
  work: Work,
  commands: readonly PlaceCommand[],
  deals: ReadonlyMap<DealId, { readonly bucketCount: number }>,
  free: Map<DealId, LockedBucket[]>,
): Promise<Map<DealId, LockedBucket[]>> {
  const wanted = new Map<DealId, number>();
  for (const { dealId, quantity } of commands) wanted.set(dealId, (wanted.get(dealId) ?? 0) + quantity);
  const short = [...deals].flatMap(([dealId, { bucketCount }]) => {
    const buckets = free.get(dealId) ?? [];
    return buckets.length < bucketCount && available(buckets) < (wanted.get(dealId) ?? 0) ? [dealId] : [];
  });
  if (short.length > 0) for (const [dealId, buckets] of await lockBuckets(work, work.shard, short.toSorted())) free.set(dealId, buckets);
  return free;
}

/** All writes of a batch leave in one burst: the connection is pipelined, so their answers cost one round trip together. */
async function write(work: Work, state: PlaceState, writes: PlaceWrites): Promise<void> {
  const { shard } = work;
  if (writes.orders.length === 0) return;
  const now = await work.now();
  const held = [...writes.held].map(([id, seats]) => ({
    id,
    held: seats,
    taken: 0,
    filled: 0,
    was: "OPEN" as const,
    state: "OPEN" as const,
    deadline: undefined,
  }));
  await Promise.all([
    changeBuckets(work, shard, [...writes.buckets.values()], "held", { locked: true }),
    insertOrders(work, shard, writes.orders, now),
    insertGroups(work, shard, writes.groups, now),
    insertSeats(work, shard, writes.seats),
    changeGroups(work, shard, held, now),
    countQuotas(work, shard, [...writes.quotas.values()], state.quotas),
    appendEvents(
      work,
      shard,
      writes.orders.map((order) => created(order, writes.requestIds.get(order.id))),
    ),
  ]);
}

const created = (order: PlaceWrites["orders"][number], requestId: string | undefined): NewEvent<"order.created"> => ({
  type: "order.created",
  subject: order.id,
  actor: order.consumerId,
  requestId,
  idemKey: order.idemKey,
  data: {
    orderId: order.id,
    consumerId: order.consumerId,
    merchantId: order.merchantId,
    dealId: order.dealId,
    ...(order.groupId === undefined ? {} : { groupId: order.groupId }),
    quantity: order.quantity,
    amount: toJson(order.amount),
  },
});
