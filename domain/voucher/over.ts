import type { VoucherState } from "./state.ts";

/**
 * Is nothing left to do with an order's units, although not all of them were given back? Then it is COMPLETED. A lapsed unit that is refunded is
 * REFUNDING at once, so EXPIRED here means forfeited.
 */
export const isOver = (states: readonly VoucherState[]): boolean =>
  !states.includes("ISSUED") && states.some((state) => state === "REDEEMED" || state === "SETTLED" || state === "EXPIRED");
