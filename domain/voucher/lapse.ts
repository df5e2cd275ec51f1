/**
 * Units whose validity has ended unused: refunded where their deal says so, else forfeited, which is breakage and never the merchant's. Pure.
 */
import type { DealId, OrderId } from "../ids.ts";
import { next } from "../transition.ts";
import { isOver } from "./over.ts";
import type { VoucherRow } from "./redeem.ts";
import { VOUCHER } from "./state.ts";

/** The lapsed units of one order. */
export interface Lapse {
  readonly orderId: OrderId;
  readonly vouchers: readonly VoucherRow[];
  readonly refunded: boolean;
  /** Nothing of the order is left to use, and not all of it is given back. */
  readonly completes: boolean;
}

export function decideLapse(
  vouchers: readonly VoucherRow[],
  refundExpired: ReadonlyMap<DealId, { readonly refundExpired: boolean }>,
  now: Date,
): Lapse[] {
  return [...Map.groupBy(vouchers, ({ orderId }) => orderId)].flatMap(([orderId, all]): Lapse[] => {
    const lapsed = all.filter(({ state, validUntil }) => validUntil <= now && next(VOUCHER, state, "expire") !== undefined);
    const [first] = lapsed;
    if (first === undefined) return [];
    const refunded = refundExpired.get(first.dealId)?.refundExpired === true;
    const after = all.map((voucher) => (lapsed.includes(voucher) ? (refunded ? "REFUNDING" : "EXPIRED") : voucher.state));
    return [{ orderId, vouchers: lapsed, refunded, completes: isOver(after) }];
  });
}
