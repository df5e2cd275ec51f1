import type { ServiceBroker } from "moleculer";
import { shardOf, type Shard } from "../../domain/ids.ts";
import { action, shape } from "../../mixins/contract.ts";
import { dueAction } from "../../mixins/sweep.ts";

export const Payment = shape("Payment", { orderId: "id", paymentId: "id", status: { type: "enum", values: ["CONFIRMED"] } });
export const payOrder = action("payment.pay", {
  summary: "Pay an order from the wallet; paying twice answers the first payment",
  params: { id: "id", channel: { type: "enum", values: ["wallet"] } },
  answer: Payment,
  errors: ["ORDER_NOT_FOUND", "ORDER_STATE", "INSUFFICIENT_FUNDS", "GROUP_CLOSED"],
  retrySafe: true,
  rest: {
    method: "POST",
    path: "/orders/{id}/pay",
    who: "consumer",
    status: 200,
    key: "optional",
    tag: "Buying",
    example: { channel: "wallet" },
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
