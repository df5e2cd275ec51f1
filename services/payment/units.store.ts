/** Giving units back, in the transaction that decides it. Shared by `payment` (somebody asks) and `voucher` (they lapsed). */
import { invariant } from "../../domain/invariant.ts";
import type { UnitRefund } from "../../domain/refund/request.ts";
import type { Work } from "../../mixins/drain.ts";
import { giveBackQuotas } from "../order/order.store.ts";
import { changeBuckets, mergeBucketChanges } from "../stock/stock.store.ts";
import { moveVouchers } from "../voucher/voucher.store.ts";
import { requestRefunds } from "./refund.store.ts";
import type { StockFact } from "../../mixins/stock-gate.ts";

/**
 * Refunds are recorded and their vouchers marked. Unused units go back on sale, and off their consumer's counter, at once; used ones stay sold
 * and counted, because the evening was had.
 */
export async function giveBackUnits(work: Work, refunds: readonly UnitRefund[], now: Date): Promise<readonly StockFact[]> {
  const { shard } = work;
  const unused = refunds.filter(({ used }) => !used);
  const marked = (some: readonly UnitRefund[]) =>
    some.flatMap(({ id, vouchers }) => vouchers.map((voucher) => ({ id: voucher, refundId: id })));
  invariant(
    refunds.every(({ quantity, vouchers }) => quantity === vouchers.length && quantity > 0),
    "a refund of units has its units",
  );
  const [facts] = await Promise.all([
    changeBuckets(
      work,
      shard,
      mergeBucketChanges(unused.map(({ dealId, bucket, quantity }) => ({ dealId, bucket, total: 0, held: 0, sold: -quantity }))),
      "refunded",
    ),
    giveBackQuotas(
      work,
      shard,
      unused.map(({ dealId, consumerId, quantity }) => ({ scope: dealId, userId: consumerId, units: quantity })),
    ),
    moveVouchers(work, shard, marked(unused), { from: "ISSUED", to: "REFUNDING" }),
    moveVouchers(work, shard, marked(refunds.filter(({ used }) => used)), { from: "SETTLED", to: "SETTLED" }),
    requestRefunds(work, shard, refunds, now),
  ]);
  return facts;
}
