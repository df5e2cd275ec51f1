import type { Transitions } from "../transition.ts";

export type OrderState = "PENDING_PAYMENT" | "PAID" | "CONFIRMED" | "COMPLETED" | "CANCELLED" | "EXPIRED" | "REFUNDED";
export type OrderEvent = "pay" | "confirm" | "complete" | "cancel" | "expire" | "refund";

export const ORDER_INITIAL: OrderState = "PENDING_PAYMENT";
/** PAID waits for its group; CONFIRMED has vouchers. REFUNDED only when everything of it is refunded: how much is, refunds say. */
export const ORDER: Transitions<OrderState, OrderEvent> = {
  PENDING_PAYMENT: { pay: "PAID", cancel: "CANCELLED", expire: "EXPIRED" },
  PAID: { confirm: "CONFIRMED", refund: "REFUNDED" },
  CONFIRMED: { complete: "COMPLETED", refund: "REFUNDED" },
  COMPLETED: {},
  CANCELLED: {},
  EXPIRED: {},
  REFUNDED: {},
};
