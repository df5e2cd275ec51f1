import { define } from "../error.ts";
import type { DealState } from "./state.ts";

export const DEAL_ERRORS = {
  MERCHANT_NOT_FOUND: define<{ merchantId: string }>(404, "never", (d) => `no merchant ${d.merchantId}`),
  DEAL_NOT_FOUND: define<{ dealId: string }>(404, "never", (d) => `no deal ${d.dealId}`),
  DEAL_STATE: define<{ dealId: string; state: DealState }>(409, "never", (d) => `deal ${d.dealId} is ${d.state}`),
  DEAL_NOT_ON_SALE: define<{ dealId: string }>(409, "never", (d) => `deal ${d.dealId} is not on sale`),
  STOCK_TOO_LOW: define<{ dealId: string; available: number }>(
    409,
    "never",
    (d) => `deal ${d.dealId} has only ${d.available} unsold units`,
  ),
  SOLD_OUT: define<{ dealId: string; available: number }>(409, "never", (d) => `deal ${d.dealId} has ${d.available} units left`),
  ALREADY_A_MERCHANT: define<{ username: string }>(409, "never", (d) => `${d.username} already works for a merchant`),
} as const;
