import { shardOf } from "../../domain/ids.ts";
import { LIMITS } from "../../domain/limits.ts";
import { action, shape } from "../../mixins/contract.ts";
import { list, PAGE } from "../../mixins/page.ts";
import { dueAction } from "../../mixins/sweep.ts";

export const ORDER_STATES = ["PENDING_PAYMENT", "PAID", "CONFIRMED", "COMPLETED", "CANCELLED", "EXPIRED", "REFUNDED"] as const;
export const Order = shape("Order", {
  id: "id",
  status: { type: "enum", values: ORDER_STATES },
  dealId: "id",
  merchantId: "id",
  city: "string",
  quantity: "number",
  unitPrice: "fen",
  discount: "number",
  amount: "fen",
  /** The regional policy it was made under, and the discount a unit that policy gave. */
  region: "string",
  regionVersion: "string",
  discountBps: "number",
  groupId: { type: "id", optional: true },
  expiresAt: "time",
  createdAt: "time",
  paidAt: { type: "time", optional: true },
});

export const placeOrder = action("order.place", {
  summary: "Order: alone at `price`, opening a group of a tier's size with `groupSize`, or joining one with `groupId`",
  params: {
    dealId: "id",
    quantity: { type: "number", integer: true, min: 1, max: LIMITS.quantityMax },
    groupSize: { type: "number", integer: true, min: LIMITS.groupSizeMin, max: LIMITS.groupSizeMax, optional: true },
    groupId: { type: "id", optional: true },
  },
  answer: Order,
  errors: [
    "DEAL_NOT_FOUND",
    "GROUP_NOT_FOUND",
    "DEAL_NOT_ON_SALE",
    "NO_SUCH_TIER",
    "GROUP_CLOSED",
    "ALREADY_IN_GROUP",
    "GROUP_FULL",
    "USER_LIMIT_EXCEEDED",
    "TOO_MANY_UNPAID",
    "SOLD_OUT",
  ],
  rest: {
    method: "POST",
    path: "/orders",
    who: "consumer",
    status: 201,
    key: "required",
    tag: "Buying",
    example: { dealId: "{dealId}", quantity: 1, groupSize: 3 },
  },
  address: (params) => shardOf(params.dealId),
});
export const getOrder = action("order.get", {
  summary: "An order, for its consumer and its merchant",
  params: { id: "id" },
  answer: Order,
  errors: ["ORDER_NOT_FOUND"],
  rest: { method: "GET", path: "/orders/{id}", who: "user", status: 200, tag: "Buying" },
  address: (params) => shardOf(params.id),
});
export const listOrders = action("order.list", {
  summary: "My orders (a merchant: those at its bar), newest first",
  params: { ...PAGE },
  answer: list("OrderList", Order),
  rest: { method: "GET", path: "/orders", who: "user", status: 200, tag: "Buying" },
});
export const cancelOrder = action("order.cancel", {
  summary: "Cancel an unpaid order",
  params: { id: "id" },
  answer: Order,
  errors: ["ORDER_NOT_FOUND", "ORDER_STATE"],
  rest: { method: "POST", path: "/orders/{id}/cancel", who: "consumer", status: 200, key: "optional", tag: "Buying" },
  address: (params) => shardOf(params.id),
});

/** Internal: expires due orders of one shard; those not due, or being paid, are left alone. */
export const expireOrders = dueAction("order.expire", "Expire unpaid orders");

/** How long a gateway may refuse a sold-out deal by itself before it asks again. */
export const LEASE_MS = 500;
/** Orders looked through in one call: a page is 8 ms of an index scan, and 400 kB at most. */
export const BUYERS_PAGE = 20_000;

/** Internal, of gateways: may I refuse this deal's orders by myself for `LEASE_MS`? See `sold-out.ts`. */
export const leaseSoldOut = action("order.soldOut", {
  summary: "Whether a deal has nothing left, and who has ordered it after an order's id",
  params: { dealId: "id", after: "id" },
  answer: shape("SoldOutLease", {
    available: "number",
    /** Consumers, some perhaps twice. */
    buyers: { type: "array", items: "id" },
    /** What to ask after the next time: a little behind the last order looked at, because ids are not committed in their order. */
    after: "id",
    /** There are more orders than a page: no lease yet. */
    hasMore: "boolean",
  }),
  errors: ["DEAL_NOT_FOUND"],
  timeoutMs: 2_000,
  retrySafe: true,
  address: (params) => shardOf(params.dealId),
});
