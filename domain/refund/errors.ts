import { define } from "../error.ts";

export const REFUND_ERRORS = {
  NOT_REFUNDABLE: define<{ orderId: string; refundable: number }>(
    409,
    "never",
    (d) => `of order ${d.orderId} ${d.refundable} units can be refunded now`,
  ),
  REFUND_NOT_FOUND: define<{ refundId: string }>(404, "never", (d) => `no refund ${d.refundId} waits for this merchant`),
  REFUND_NOT_ABNORMAL: define<{ refundId: string }>(409, "never", (d) => `refund ${d.refundId} does not wait for a person`),
} as const;
