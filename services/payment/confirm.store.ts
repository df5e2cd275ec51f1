/** Confirming paid orders: what forming a group, or paying alone, does to them. Shared by `payment` and `group`, in their own transactions. */
import { randomBytes } from "node:crypto";
import type { VoucherId } from "../../domain/ids.ts";
import { orderMoved } from "../../domain/order/moved.ts";
import type { OrderRow } from "../../domain/order/place.ts";
import { CODE_CHANCE_BYTES, issueVouchers } from "../../domain/voucher/issue.ts";
import type { Work } from "../../mixins/drain.ts";
import { appendEvents } from "../../mixins/events.ts";
import { moveOrders } from "../order/order.store.ts";
import { insertVouchers } from "../voucher/voucher.store.ts";

/**
 * PAID → CONFIRMED, vouchers issued, both told. The orders are locked. A code drawn a second time fails the batch, which draws again. Rows of
 * orders in `moved` are CONFIRMED already: they were paid in this transaction, and one update took both arrows.
 */
export async function confirmOrders(work: Work, orders: readonly OrderRow[], moved: ReadonlySet<string> = new Set()): Promise<void> {
  if (orders.length === 0) return;
  const { shard } = work;
  const units = orders.reduce((sum, order) => sum + order.quantity, 0);
  const ids = (await work.mint(units)) as VoucherId[];
  const now = await work.now();
  const vouchers = issueVouchers(orders, { slot: shard.slot, now, ids, chance: randomBytes(units * CODE_CHANCE_BYTES) });
  await Promise.all([
    moveOrders(
      work,
      shard,
      orders.map((order) => order.id).filter((id) => !moved.has(id)),
      { from: "PAID", to: "CONFIRMED" },
    ),
    insertVouchers(work, shard, vouchers, now),
    appendEvents(
      work,
      shard,
      orders.flatMap((order) => [
        orderMoved({ ...order, state: "CONFIRMED" }, "PAID"),
        {
          type: "voucher.issued" as const,
          subject: order.id,
          data: { orderId: order.id, consumerId: order.consumerId, dealId: order.dealId, quantity: order.quantity },
        },
      ]),
    ),
  ]);
}
