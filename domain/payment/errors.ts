import { define } from "../error.ts";

export const PAYMENT_ERRORS = {
  PAYMENT_OPEN: define<{ orderId: string; channel: string }>(
    409,
    "later",
    (d) => `order ${d.orderId} can still be paid by ${d.channel}, which does not answer; it is closed there before it is paid another way`,
  ),
  CHANNEL_REFUSED: define<{ channel: string; reason: string }>(409, "never", (d) => `${d.channel} did not take the payment: ${d.reason}`),
  BAD_SIGNATURE: define<{ channel: string }>(401, "never", (d) => `this was not signed by ${d.channel}`),
  STALE_CALLBACK: define<{ channel: string }>(400, "never", (d) => `${d.channel} signed this too long ago, or in the future`),
} as const;
