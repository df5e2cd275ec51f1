import { shardOf } from "../../domain/ids.ts";
import { action, shape } from "../../mixins/contract.ts";

export const Payment = shape("Payment", { orderId: "id", paymentId: "id", status: { type: "enum", values: ["CONFIRMED"] } });
export const payOrder = action("payment.pay", {
  summary: "Pay an order from the wallet; paying twice answers the first payment",
  params: { id: "id", channel: { type: "enum", values: ["wallet"] } },
  answer: Payment,
  errors: ["ORDER_NOT_FOUND", "ORDER_STATE", "INSUFFICIENT_FUNDS", "GROUP_CLOSED"],
  retrySafe: true,
  rest: { method: "POST", path: "/orders/{id}/pay", who: "consumer", status: 200, key: "optional", tag: "Buying", example: { channel: "wallet" } },
  address: (params) => shardOf(params.id),
});
