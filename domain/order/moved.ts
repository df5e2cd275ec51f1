import type { EventData } from "../events.ts";
import { toJson } from "../money.ts";
import type { OrderRow } from "./place.ts";
import type { OrderState } from "./state.ts";

/** The event of one arrow an order went along; `order` as it is afterwards. */
export const orderMoved = (
  order: OrderRow,
  from: OrderState,
): { type: "order.moved"; subject: string; data: EventData["order.moved"] } => ({
  type: "order.moved",
  subject: order.id,
  data: {
    orderId: order.id,
    consumerId: order.consumerId,
    merchantId: order.merchantId,
    dealId: order.dealId,
    ...(order.groupId === undefined ? {} : { groupId: order.groupId }),
    quantity: order.quantity,
    amount: toJson(order.amount),
    from,
    to: order.state,
  },
});
