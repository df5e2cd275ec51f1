import { define } from "../error.ts";
import type { VoucherState } from "./state.ts";

export const VOUCHER_ERRORS = {
  VOUCHER_NOT_FOUND: define<{}>(404, "never", () => "no such voucher here"),
  VOUCHER_STATE: define<{ state: VoucherState }>(409, "never", (d) => `the voucher is ${d.state}`),
  REVERSAL_TOO_LATE: define<{ redeemedAt: string }>(
    409,
    "never",
    (d) => `the voucher was redeemed at ${d.redeemedAt}; it is too late to reverse that`,
  ),
} as const;
