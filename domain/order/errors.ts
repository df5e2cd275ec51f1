import { define } from "../error.ts";
import type { OrderState } from "./state.ts";

export const ORDER_ERRORS = {
  ORDER_NOT_FOUND: define<{ orderId: string }>(404, "never", (d) => `no order ${d.orderId}`),
  ORDER_STATE: define<{ orderId: string; state: OrderState }>(409, "never", (d) => `order ${d.orderId} is ${d.state}`),
  USER_LIMIT_EXCEEDED: define<{ dealId: string; limit: number; used: number }>(
    409,
    "never",
    (d) => `deal ${d.dealId} allows ${d.limit} units a person; ${d.used} are yours already`,
  ),
  TOO_MANY_UNPAID: define<{ merchantId: string; limit: number }>(
    409,
    "never",
    (d) => `at most ${d.limit} unpaid orders with one merchant; pay or cancel one`,
  ),
  NO_SUCH_TIER: define<{ dealId: string; size: number }>(422, "never", (d) => `deal ${d.dealId} has no price for a group of ${d.size}`),
} as const;
