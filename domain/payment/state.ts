import type { Transitions } from "../transition.ts";

export type PaymentState = "TRYING" | "CONFIRMING" | "CONFIRMED" | "CANCELLING" | "CANCELLED";
export type PaymentEvent = "confirm" | "confirmed" | "cancel" | "cancelled";

export const PAYMENT_INITIAL: PaymentState = "TRYING";
/** The wallet channel. After CONFIRMING there is only CONFIRMED: some of the money may have moved, so going back would split it. */
export const PAYMENT: Transitions<PaymentState, PaymentEvent> = {
  TRYING: { confirm: "CONFIRMING", cancel: "CANCELLING" },
  CONFIRMING: { confirmed: "CONFIRMED" },
  CONFIRMED: {},
  CANCELLING: { cancelled: "CANCELLED" },
  CANCELLED: {},
};
