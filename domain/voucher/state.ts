import type { Transitions } from "../transition.ts";

export type VoucherState = "ISSUED" | "REDEEMED" | "SETTLED" | "REFUNDING" | "REFUNDED" | "EXPIRED";
export type VoucherEvent = "redeem" | "reverse" | "settle" | "refund" | "refunded" | "expire";

export const VOUCHER_INITIAL: VoucherState = "ISSUED";
export const VOUCHER: Transitions<VoucherState, VoucherEvent> = {
  ISSUED: { redeem: "REDEEMED", refund: "REFUNDING", expire: "EXPIRED" },
  REDEEMED: { settle: "SETTLED", reverse: "ISSUED" },
  SETTLED: {},
  EXPIRED: { refund: "REFUNDING" },
  REFUNDING: { refunded: "REFUNDED" },
  REFUNDED: {},
};
