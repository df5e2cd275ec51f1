import type { ServiceBroker } from "moleculer";
import { shardOf, type Shard } from "../../domain/ids.ts";
import { LIMITS } from "../../domain/limits.ts";
import { action, shape, type Of } from "../../mixins/contract.ts";
import { dueAction } from "../../mixins/sweep.ts";

/** PROCESSING: the customer pays at `payUrl`; without one the channel has not answered yet, and the same request asks again. */
export const Payment = shape("Payment", {
  orderId: "id",
  paymentId: "id",
  status: { type: "enum", values: ["CONFIRMED", "PROCESSING"] },
  payUrl: { type: "string", optional: true },
});
export const payOrder = action("payment.pay", {
  summary:
    "Pay an order, from the wallet or by a channel outside; paying twice answers the first payment. Paying another way closes an open charge first",
  params: { id: "id", channel: { type: "enum", values: ["wallet", "simpay", "wechatpay"] } },
  answer: Payment,
  errors: ["ORDER_NOT_FOUND", "ORDER_STATE", "INSUFFICIENT_FUNDS", "GROUP_CLOSED", "CHANNEL_UNKNOWN", "CHANNEL_REFUSED", "PAYMENT_OPEN"],
  retrySafe: true,
  rest: {
    method: "POST",
    path: "/orders/{id}/pay",
    who: "consumer",
    status: 200,
    acceptedWhen: (answer) => (answer as Of<typeof Payment>).status === "PROCESSING",
    key: "optional",
    tag: "Buying",
    example: { channel: "wallet" },
  },
  address: (params) => shardOf(params.id),
});

export const REFUND_STATES = ["REQUESTED", "PROCESSING", "SUCCEEDED", "ABNORMAL"] as const;
export const Refund = shape("Refund", { id: "id", amount: "fen", status: { type: "enum", values: REFUND_STATES } });
export const OrderRefund = shape("OrderRefund", {
  id: "id",
  amount: "fen",
  status: { type: "enum", values: REFUND_STATES },
  quantity: "number",
  reason: "string",
  createdAt: "time",
  /** Of used units: when it is paid without the merchant's word, and when the merchant gave it. */
  approveBy: { type: "time", optional: true },
  approvedAt: { type: "time", optional: true },
});
export const requestRefund = action("payment.requestRefund", {
  summary: "Ask for the money of some units back, or of all that can be refunded; of used units the merchant is asked, for a day",
  params: {
    id: "id",
    quantity: { type: "number", integer: true, min: 1, max: LIMITS.quantityMax, optional: true },
    reason: { type: "string", min: 1, max: 500, optional: true },
  },
  answer: Refund,
  errors: ["ORDER_NOT_FOUND", "NOT_REFUNDABLE"],
  rest: {
    method: "POST",
    path: "/orders/{id}/refunds",
    who: "consumer",
    status: 202,
    key: "required",
    tag: "Buying",
    example: { quantity: 1, reason: "plans have changed" },
  },
  address: (params) => shardOf(params.id),
});
export const listRefunds = action("payment.refundsOf", {
  summary: "An order's refunds, for its consumer and its merchant",
  params: { id: "id" },
  answer: { type: "array", items: OrderRefund },
  errors: ["ORDER_NOT_FOUND"],
  rest: { method: "GET", path: "/orders/{id}/refunds", who: "user", status: 200, tag: "Buying" },
  address: (params) => shardOf(params.id),
});
export const approveRefund = action("payment.approveRefund", {
  summary: "Agree to a refund of units that were used and settled; it is taken from what the merchant is owed",
  params: { id: "id", refundId: "id" },
  answer: Refund,
  errors: ["REFUND_NOT_FOUND"],
  retrySafe: true,
  rest: {
    method: "POST",
    path: "/merchants/{id}/refunds/{refundId}/approve",
    who: "merchant",
    status: 200,
    key: "optional",
    tag: "Money",
  },
  address: (params) => shardOf(params.id),
});

/** Heard by the payment service of one node: refunds of a shard are waiting. May be lost; the recovery worker looks every second. */
export const REFUNDS_REQUESTED = "refunds.requested";
export const refundsRequested = (broker: ServiceBroker, shard: Shard): void =>
  // The address in the headers takes it to the shard's own node, as it does calls.
  void broker.emit(REFUNDS_REQUESTED, shard, { headers: { ...shard } });

/** Internal: payments of one shard that nobody has ended are driven to their end: undecided ones are cancelled, decided ones finished. */
export const recoverPayments = dueAction("payment.recover", "Drive unfinished payments to their end");

/** Internal: refunds of one shard go as many steps further as they can. */
export const advanceRefunds = dueAction("payment.refund", "Pay refunds out");

/** Internal: what channels told about one shard takes effect. */
export const hearCallbacks = dueAction("payment.hear", "Work off callbacks of channels");

/** A person has seen to it; the number stays the same. */
export const resumeRefund = action("payment.resumeRefund", {
  summary: "Ask a channel again for a refund that it would not pay out",
  params: { id: "id" },
  answer: Refund,
  errors: ["REFUND_NOT_ABNORMAL"],
  retrySafe: true,
  rest: { method: "POST", path: "/ops/refunds/{id}/resume", who: "admin", status: 202, key: "optional", tag: "Operating" },
  address: (params) => shardOf(params.id),
});
