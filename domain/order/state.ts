import type { Transitions } from "../transition.ts";

export type OrderState = "PENDING_PAYMENT" | "PAID" | "CONFIRMED" | "COMPLETED" | "CANCELLED" | "EXPIRED" | "REFUNDED";
export type OrderEvent = "pay" | "confirm" | "complete" | "cancel" | "expire" | "refund" | "reverse";

export const ORDER_INITIAL: OrderState = "PENDING_PAYMENT";
/**
 * PAID waits for its group; CONFIRMED has vouchers. REFUNDED only when everything of it is refunded unused: how much is, refunds say. COMPLETED when
 * no unit is left to use, and some unit was used or has lapsed; a reversal gives one back, and the order with it. It stays COMPLETED when used units
 * are refunded later: the evening was had.
 */
export const ORDER: Transitions<OrderState, OrderEvent> = {
  PENDING_PAYMENT: { pay: "PAID", cancel: "CANCELLED", expire: "EXPIRED" },
  PAID: { confirm: "CONFIRMED", refund: "REFUNDED" },
  CONFIRMED: { complete: "COMPLETED", refund: "REFUNDED" },
  COMPLETED: { reverse: "CONFIRMED" },
  CANCELLED: {},
  EXPIRED: {},
  REFUNDED: {},
};
