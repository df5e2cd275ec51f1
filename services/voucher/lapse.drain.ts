/** The lapsing drain: units whose validity has ended unused are refunded, or booked to breakage. The rule is in `domain/voucher/lapse.ts`. */
import type { RefundId, VoucherId } from "../../domain/ids.ts";
import { invariant } from "../../domain/invariant.ts";
import type { TransferRequest } from "../../domain/ledger.ts";
import { fen, sum, toJson } from "../../domain/money.ts";
import { orderMoved } from "../../domain/order/moved.ts";
import type { OrderRow } from "../../domain/order/place.ts";
import { unitRefund } from "../../domain/refund/request.ts";
import { escrowOf } from "../../domain/settlement/decide.ts";
import { decideLapse, type Lapse } from "../../domain/voucher/lapse.ts";
import type { VoucherRow } from "../../domain/voucher/redeem.ts";
import type { Work } from "../../mixins/drain.ts";
import { appendEvents, type NewEvent } from "../../mixins/events.ts";
import { bookTransfers } from "../../mixins/ledger.ts";
import { lockOrders, moveOrders } from "../order/order.store.ts";
import { findCaptures } from "../payment/payment.store.ts";
import { giveBackUnits } from "../payment/units.store.ts";
import { findOrdersOfVouchers, findRefundTerms, lockVouchers, moveVouchers } from "./voucher.store.ts";
import type { StockFact } from "../../mixins/stock-gate.ts";

/** Money of units nobody used and nobody gets back, once a shard. */
const BREAKAGE = "breakage";

/** `onLapsed` hears, once it is durable, whether refunds wait now. */
export const makeLapseDrain =
  (onLapsed: (work: Work, refunded: readonly Lapse[], facts: readonly StockFact[]) => void) =>
  async (work: Work, lists: readonly (readonly string[])[]): Promise<null[]> => {
    const { shard } = work;
    const orderIds = (await findOrdersOfVouchers(work, shard, lists.flat())).toSorted();
    const [orders, vouchers] = await Promise.all([lockOrders(work, shard, orderIds), lockVouchers(work, shard, orderIds)]);
    const terms = await findRefundTerms(
      work,
      shard,
      vouchers.map(({ dealId }) => dealId),
    );
    const now = await work.now();
    const lapses = decideLapse(vouchers, terms, now);
    const orderOf = ({ orderId }: Lapse): OrderRow => {
      const order = orders.get(orderId);
      invariant(order !== undefined, "the order of a voucher is there");
      return order;
    };
    const refunded = lapses.filter((lapse) => lapse.refunded);
    const forfeited = lapses.filter((lapse) => !lapse.refunded).flatMap((lapse) => lapse.vouchers);
    const completed = lapses.filter((lapse) => lapse.completes).map((lapse): OrderRow => ({ ...orderOf(lapse), state: "COMPLETED" }));
    const [facts] = await Promise.all([
      refund(work, refunded, orderOf),
      moveOrders(
        work,
        shard,
        completed.map(({ id }) => id),
        { from: "CONFIRMED", to: "COMPLETED", endedAt: now },
      ),
      moveVouchers(
        work,
        shard,
        forfeited.map(({ id }): { id: VoucherId } => ({ id })),
        { from: "ISSUED", to: "EXPIRED" },
      ),
      bookTransfers(work, forfeited.map(breakageOf)),
      appendEvents(work, shard, [...lapses.map(lapsed), ...completed.map((order) => orderMoved(order, "CONFIRMED"))]),
    ]);
    work.afterCommit(() => onLapsed(work, refunded, facts));
    return lists.map(() => null);
  };

/** ISSUED → EXPIRED → REFUNDING, in one update: a unit that is refunded is never forfeited in between. */
async function refund(work: Work, lapses: readonly Lapse[], orderOf: (lapse: Lapse) => OrderRow): Promise<readonly StockFact[]> {
  if (lapses.length === 0) return [];
  const [captures, ids] = await Promise.all([
    findCaptures(
      work,
      work.shard,
      lapses.map(({ orderId }) => orderId),
    ),
    work.mint(lapses.length) as Promise<RefundId[]>,
  ]);
  return giveBackUnits(
    work,
    lapses.map((lapse) =>
      unitRefund(orderOf(lapse), lapse.vouchers, captures.get(lapse.orderId), {
        id: ids.pop() as RefundId,
        reason: "EXPIRED",
        note: undefined,
        used: false,
        commission: fen(0),
        approveBy: undefined,
      }),
    ),
    await work.now(),
  );
}

const breakageOf = (voucher: VoucherRow): TransferRequest => ({
  kind: "post",
  code: "breakage",
  businessKey: voucher.id,
  debit: escrowOf(voucher.merchantId),
  credit: BREAKAGE,
  amount: voucher.amount,
  orderId: voucher.orderId,
  fresh: true,
});

function lapsed({ orderId, vouchers, refunded }: Lapse): NewEvent<"voucher.expired"> {
  const [first] = vouchers;
  invariant(first !== undefined, "something has lapsed");
  const { consumerId, dealId, merchantId } = first;
  const amount = toJson(sum(vouchers.map((voucher) => voucher.amount)));
  return {
    type: "voucher.expired",
    subject: orderId,
    data: { orderId, consumerId, dealId, merchantId, quantity: vouchers.length, amount, refunded },
  };
}
