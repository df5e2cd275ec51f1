import { define } from "../error.ts";

export const AUDIT_ERRORS = {
  TRACE_NOT_FOUND: define<{ id: string }>(
    404,
    "never",
    (d) => `nothing is known of ${d.id}: no order, voucher, payment, refund, settlement, payout, top-up, transfer or channel number`,
  ),
  ACCOUNT_NOT_FOUND: define<{ account: string }>(404, "never", (d) => `no account ${d.account} is in that book`),
} as const;
