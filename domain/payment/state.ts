import type { Transitions } from "../transition.ts";

/** By wallet. */
export type TccState = "TRYING" | "CONFIRMING" | "CONFIRMED" | "CANCELLING" | "CANCELLED";
export type PaymentEvent = "confirm" | "confirmed" | "cancel" | "cancelled";
/** By an external channel. */
export type ChargeState = "CREATED" | "PROCESSING" | "UNKNOWN" | "CONFIRMED" | "FAILED";
export type ChargeEvent = "open" | "lose" | "end" | "pay";
export type PaymentState = TccState | ChargeState;

export const PAYMENT_INITIAL: TccState = "TRYING";
/** The wallet channel. After CONFIRMING there is only CONFIRMED: some of the money may have moved, so going back would split it. */
export const PAYMENT: Transitions<TccState, PaymentEvent> = {
  TRYING: { confirm: "CONFIRMING", cancel: "CANCELLING" },
  CONFIRMING: { confirmed: "CONFIRMED" },
  CONFIRMED: {},
  CANCELLING: { cancelled: "CANCELLED" },
  CANCELLED: {},
};

export const CHARGE_INITIAL: ChargeState = "CREATED";
/**
 * A charge at a channel. UNKNOWN: it was called and nobody heard what came of it; it is queried, never guessed. A query that gets no answer does
 * not make an open charge unknown. FAILED may still be paid, by a channel that closed it too late: that money is here, and goes back.
 */
export const CHARGE: Transitions<ChargeState, ChargeEvent> = {
  CREATED: { open: "PROCESSING", lose: "UNKNOWN", end: "FAILED", pay: "CONFIRMED" },
  PROCESSING: { open: "PROCESSING", lose: "PROCESSING", end: "FAILED", pay: "CONFIRMED" },
  UNKNOWN: { open: "PROCESSING", lose: "UNKNOWN", end: "FAILED", pay: "CONFIRMED" },
  CONFIRMED: {},
  FAILED: { pay: "CONFIRMED" },
};
/** Waiting for its channel. */
export const OPEN_CHARGE: readonly PaymentState[] = ["CREATED", "PROCESSING", "UNKNOWN"];
