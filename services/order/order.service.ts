/** Order (订单): one consumer's purchase, from the hold on stock to its end. Paying is `payment`, forming is `group`. */
import { LRUCache } from "lru-cache";
import type { Context, Service, ServiceSchema } from "moleculer";
import { COMMON_ERRORS } from "../../domain/common-errors.ts";
import { DEAL_ERRORS } from "../../domain/deal/errors.ts";
import { raise } from "../../domain/error.ts";
import { cityOf, shardOf, type Id, type Shard } from "../../domain/ids.ts";
import { invariant } from "../../domain/invariant.ts";
import { ORDER_ERRORS } from "../../domain/order/errors.ts";
import { orderKey, type OrderRow, type PlaceCommand, type Placed } from "../../domain/order/place.ts";
import type { ReleaseCommand } from "../../domain/order/release.ts";
import { handle, type Answer, type CallMeta, type Caller, type Ctx } from "../../mixins/contract.ts";
import { Gather } from "../../mixins/gather.ts";
import { keyOf, storedAnswers, type Keyed, type Replayable } from "../../mixins/idempotency.ts";
import { isRefusal } from "../../mixins/mailbox.ts";
import { cursorId, page } from "../../mixins/page.ts";
import { platformOf, type Platform } from "../../mixins/platform.ts";
import { findIndexedOrders } from "./order-index.store.ts";
import { BUYERS_PAGE, cancelOrder, expireOrders, getOrder, leaseSoldOut, listOrders, placeOrder } from "./order.contract.ts";
import { dueOrders, findBuyers, findOrders, findOrdersByKeys, ordersOfMerchant } from "./order.store.ts";
import { viewNewOrder, viewOrder } from "./order.view.ts";
import { makePlaceDrain } from "./place.drain.ts";
import { release } from "./release.drain.ts";
import { Leases } from "./sold-out.ts";
import { sweep, type Sweep } from "../../mixins/sweep.ts";

interface Vars {
  platform: Platform;
  /** Earlier orders by key, for callers whose deal is known to be sold out: a repeat of a success is still answered with it. */
  earlier: Gather<PlaceCommand, OrderRow>;
  /** Whose deal it is, of the deals that were ordered last: a merchant's deals have one share of the mailbox together. It never changes. */
  sellers: LRUCache<string, string>;
  leases: Leases;
  /** Orders of this second, by city. */
  windows: Map<number, { readonly second: number; orders: number }>;
  sweeper: Sweep;
}
type This = Service<{}> & Vars;

/** 10,000 deals ordered at one time in one process: 2 MB. */
const SELLERS_MAX = 10_000;

const order: ServiceSchema<{}, {}, Vars> = {
  name: "order",
  actions: {
    place: handle(placeOrder, place),
    get: handle(getOrder, get),
    list: handle(listOrders, list),
    cancel: handle(cancelOrder, cancel),
    expire: handle(expireOrders, expire),
    soldOut: handle(leaseSoldOut, lease),
  },
  created() {
    this.platform = platformOf(this.broker);
    this.platform.offer("order.place", makePlaceDrain(this.platform));
    this.platform.offer<Keyed & ReleaseCommand, Answer<typeof cancelOrder>>(
      "order.cancel",
      storedAnswers(async (work, commands) => {
        const outcomes = await release(work, this.platform, commands);
        return outcomes.map((outcome) => (isRefusal(outcome) ? outcome : viewOrder(outcome, cityCode(this.platform, outcome.id))));
      }),
    );
    this.platform.offer<ReleaseCommand, OrderRow>("order.expire", (work, commands) => release(work, this.platform, commands));
    this.sellers = new LRUCache({ max: SELLERS_MAX });
    this.leases = new Leases();
    this.windows = new Map();
    this.earlier = new Gather(earlierName, (commands) => findEarlier(this.platform, commands));
  },
  started() {
    this.sweeper = sweep(this, "unpaid orders", { find: dueOrders, act: expireOrders });
  },
  stopped() {
    return this.sweeper.stop();
  },
};
export default order;

async function place(this: This, ctx: Ctx<typeof placeOrder>): Promise<Replayable<Answer<typeof placeOrder>>> {
  const { dealId, quantity, groupSize, groupId } = ctx.params;
  const caller = callerOf(ctx);
  const { idempotencyKey, bodyHash, requestId } = ctx.meta;
  if (idempotencyKey === undefined) return raise(COMMON_ERRORS, "IDEMPOTENCY_KEY_REQUIRED", {});
  if (groupSize !== undefined && groupId !== undefined) {
    return raise(COMMON_ERRORS, "VALIDATION_ERROR", { errors: [{ field: "groupSize", message: "open a group or join one, not both" }] });
  }
  if (!this.platform.servesCity(cityOf(dealId))) return raise(DEAL_ERRORS, "DEAL_NOT_FOUND", { dealId });
  const command: PlaceCommand = {
    consumerId: caller.userId,
    username: caller.username,
    dealId: dealId as Id<"deal">,
    quantity,
    groupSize,
    groupId: groupId as Id<"group"> | undefined,
    idemKey: idempotencyKey,
    bodyHash: bodyHash ?? "",
    requestId,
  };
  admit(this, cityOf(dealId));
  const placed = await enter(this, command);
  if (this.sellers.peek(dealId) === undefined) this.sellers.set(dealId, placed.order.merchantId);
  const view = viewNewOrder(placed.order, cityCode(this.platform, dealId));
  return placed.replayed ? { ...view, replayed: true } : view;
}

/** A region's admission rate, of this node: so many orders a second and city, whoever they are from. A window's count is all it takes. */
function admit({ platform, windows }: Vars, city: number): void {
  const { ordersPerSecond } = platform.rulesOf(city);
  if (ordersPerSecond === undefined) return;
  const second = Math.floor(performance.now() / 1_000);
  const window = windows.get(city);
  if (window?.second !== second) windows.set(city, { second, orders: 1 });
  else if (++window.orders > ordersPerSecond) raise(COMMON_ERRORS, "OVERLOADED", { retryAfterSeconds: 1 });
}

/** Past the stock gate into the mailbox. Nothing is awaited where the gate is this process's own: turns of the microtask queue are felt at 10,000 orders a second. */
async function enter(vars: Vars, command: PlaceCommand): Promise<Placed> {
  const { stockGate } = vars.platform;
  const { dealId, quantity } = command;
  const entry = { dealId, requestId: earlierName(command), quantity };
  const asked = vars.leases.isHeld(dealId) ? 0 : stockGate.enter(entry);
  const left = asked instanceof Promise ? await asked : asked;
  if (left !== undefined) return turnAway(vars, command, left);
  try {
    return await post(vars, command);
  } finally {
    stockGate.leave(entry);
  }
}

/** Until a deal's first order has told whose it is, the deal counts by itself. */
const post = ({ platform, sellers }: Vars, command: PlaceCommand): Promise<Placed> =>
  platform.post(shardOf(command.dealId), "order.place", command, { merchantId: sellers.get(command.dealId) ?? command.dealId });

/** Sold out, unless it repeats a success: that is answered with it, whatever the gate says. */
async function turnAway(vars: Vars, command: PlaceCommand, left: number): Promise<Placed> {
  const { platform, earlier } = vars;
  const { dealId } = command;
  if ((await earlier.find(command)) !== undefined) return post(vars, command);
  platform.metrics.refusals.inc({ code: "SOLD_OUT" });
  platform.metrics.gateRefusals.inc({ at: "shard" });
  return raise(DEAL_ERRORS, "SOLD_OUT", { dealId, available: left });
}

/** What the caller's own process keeps is taken back before anything is sold (`Platform.stockChanged`); only other nodes are waited for. */
async function lease(this: This, ctx: Ctx<typeof leaseSoldOut>): Promise<Answer<typeof leaseSoldOut>> {
  const { dealId, after } = ctx.params;
  const shard = shardOf(dealId);
  if (!this.platform.servesCity(shard.city)) return raise(DEAL_ERRORS, "DEAL_NOT_FOUND", { dealId });
  const isRemote = ctx.nodeID !== null && ctx.nodeID !== this.broker.nodeID;
  // Held before it is looked: what is sold from here on is not sold behind the look.
  if (isRemote) this.leases.grant(dealId);
  const look = await findBuyers(this.platform.databaseOf(shard), shard, { dealId, after }, BUYERS_PAGE);
  if (look.available > 0 || look.hasMore) this.leases.withdraw(dealId);
  return look;
}

/** Somebody else's order is not found: its existence is not told. */
async function get(this: This, ctx: Ctx<typeof getOrder>): Promise<Answer<typeof getOrder>> {
  const { id } = ctx.params;
  const { userId, merchantId } = callerOf(ctx);
  const found = this.platform.servesCity(cityOf(id))
    ? await findOrders(this.platform.databaseOf(shardOf(id)), shardOf(id), [id])
    : undefined;
  const order = found?.get(id);
  if (!order || (order.consumerId !== userId && order.merchantId !== merchantId))
    return raise(ORDER_ERRORS, "ORDER_NOT_FOUND", { orderId: id });
  return viewOrder(order, cityCode(this.platform, id));
}

async function list(this: This, ctx: Ctx<typeof listOrders>): Promise<Answer<typeof listOrders>> {
  const { cursor } = ctx.params;
  const limit = ctx.params.limit ?? 20;
  const caller = callerOf(ctx);
  const before = cursorId(cursor);
  const rows =
    caller.merchantId === undefined
      ? await ordersOf(this.platform, caller.userId, before, limit + 1)
      : await soldBy(this.platform, caller.merchantId, before, limit + 1);
  return page(
    rows,
    limit,
    (row) => viewOrder(row, cityCode(this.platform, row.id)),
    (row) => [row.id],
  );
}

async function cancel(this: This, ctx: Ctx<typeof cancelOrder>): Promise<Replayable<Answer<typeof cancelOrder>>> {
  const { id } = ctx.params;
  if (!this.platform.servesCity(cityOf(id))) return raise(ORDER_ERRORS, "ORDER_NOT_FOUND", { orderId: id });
  const command = { ...keyOf(ctx, "order.cancel"), orderId: id, cause: "cancel" as const, callerId: callerOf(ctx).userId };
  return this.platform.post<typeof command, Replayable<Answer<typeof cancelOrder>>>(shardOf(id), "order.cancel", command);
}

async function expire(this: This, ctx: Ctx<typeof expireOrders>): Promise<undefined> {
  const { city, slot, ids } = ctx.params;
  await Promise.all(
    ids.map((orderId) =>
      this.platform.post<ReleaseCommand, OrderRow>({ city, slot }, "order.expire", { orderId, cause: "expire", callerId: undefined }),
    ),
  );
}

const earlierName = ({ consumerId, idemKey }: PlaceCommand): string => orderKey(consumerId, idemKey);

async function findEarlier(platform: Platform, commands: readonly PlaceCommand[]): Promise<Map<string, OrderRow>> {
  const byShard = Map.groupBy(commands, ({ dealId }) => JSON.stringify(shardOf(dealId)));
  const found = await Promise.all(
    [...byShard].map(([shard, some]) =>
      findOrdersByKeys(platform.databaseOf(JSON.parse(shard) as Shard), JSON.parse(shard) as Shard, some),
    ),
  );
  return new Map(found.flatMap((orders) => [...orders]));
}

/** A consumer's orders: their ids from the index in the user keyspace, the rest from the shards they live in. */
async function ordersOf(platform: Platform, userId: Id, before: string, limit: number): Promise<OrderRow[]> {
  const shard = shardOf(userId);
  const ids = await findIndexedOrders(platform.databaseOf(shard), shard, userId, before, limit);
  const byShard = Map.groupBy(ids, (id) => JSON.stringify(shardOf(id)));
  const found = await Promise.all(
    [...byShard].map(([key, some]) => findOrders(platform.databaseOf(JSON.parse(key) as Shard), JSON.parse(key) as Shard, some)),
  );
  const byId = new Map(found.flatMap((orders) => [...orders]));
  return ids.flatMap((id) => byId.get(id) ?? []);
}

const soldBy = (platform: Platform, merchantId: Id, before: string, limit: number): Promise<OrderRow[]> =>
  ordersOfMerchant(platform.databaseOf(shardOf(merchantId)), shardOf(merchantId), merchantId, before, limit);

const cityCode = (platform: Platform, id: string): string => platform.keyspaces.byId(cityOf(id))?.code ?? "";

function callerOf(ctx: Context<unknown, CallMeta>): Caller {
  invariant(ctx.meta.caller !== undefined, "the gateway lets nobody in here without a token");
  return ctx.meta.caller;
}
