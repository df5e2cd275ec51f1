/** The redeeming drain: lock the orders and vouchers that codes are of, decide, write. The rule is in `domain/voucher/redeem.ts`. */
import type { DomainError } from "../../domain/error.ts";
import type { RedemptionId, SettlementId } from "../../domain/ids.ts";
import { invariant } from "../../domain/invariant.ts";
import { orderMoved } from "../../domain/order/moved.ts";
import type { OrderRow } from "../../domain/order/place.ts";
import { settleAt, split } from "../../domain/settlement/split.ts";
import { decideRedeem, type RedeemCommand, type VoucherRow } from "../../domain/voucher/redeem.ts";
import type { Answer } from "../../mixins/contract.ts";
import type { Work } from "../../mixins/drain.ts";
import { appendEvents } from "../../mixins/events.ts";
import type { Keyed } from "../../mixins/idempotency.ts";
import { isRefusal } from "../../mixins/mailbox.ts";
import type { TradeSettings } from "../../mixins/platform.ts";
import { lockOrders, moveOrders } from "../order/order.store.ts";
import { openSettlements, type NewSettlement } from "../settlement/settlement.store.ts";
import type { redeemVoucher } from "./voucher.contract.ts";
import { findOrdersOfCodes, lockVouchers, logRedemptions, redeemVouchers } from "./voucher.store.ts";

export interface KeyedRedeem extends Keyed, RedeemCommand {
  readonly requestId: string | undefined;
}

/** `wait`: when what is redeemed now falls due for settlement. */
export const makeRedeemDrain =
  (wait: TradeSettings) =>
  async (work: Work, commands: readonly KeyedRedeem[]): Promise<(Answer<typeof redeemVoucher> | DomainError)[]> => {
    const { shard } = work;
    const orderIds = await findOrdersOfCodes(
      work,
      shard,
      commands.map(({ code }) => code),
    );
    const [orders, vouchers] = await Promise.all([lockOrders(work, shard, orderIds), lockVouchers(work, shard, orderIds)]);
    const now = await work.now();
    const { outcomes, writes } = decideRedeem({ vouchers }, commands, now);
    const requestOf = new Map(commands.map((command) => [command.code, command]));
    const actorOf = (voucher: VoucherRow): string | undefined => requestOf.get(voucher.code)?.callerId;
    const ids = await work.mint(2 * writes.redeemed.length);
    const completed = writes.completed.map((id): OrderRow => {
      const order = orders.get(id);
      invariant(order !== undefined, "the order of a voucher is there");
      return { ...order, state: "COMPLETED" };
    });
    await Promise.all([
      moveOrders(work, shard, writes.completed, { from: "CONFIRMED", to: "COMPLETED", endedAt: now }),
      redeemVouchers(
        work,
        shard,
        writes.redeemed.map(({ id }) => id),
        now,
      ),
      logRedemptions(
        work,
        shard,
        "REDEEM",
        writes.redeemed.map((voucher) => ({ id: ids.pop() as RedemptionId, voucher, actor: actorOf(voucher) })),
        now,
      ),
      openSettlements(
        work,
        shard,
        writes.redeemed.map((voucher) => openSettlement(voucher, orders.get(voucher.orderId), ids.pop() as SettlementId)),
        { now, dueAt: settleAt(now, wait) },
      ),
      appendEvents(work, shard, [
        ...writes.redeemed.map(({ id, code, orderId, consumerId, dealId, merchantId }) => ({
          type: "voucher.redeemed" as const,
          subject: id,
          actor: requestOf.get(code)?.callerId,
          requestId: requestOf.get(code)?.requestId,
          idemKey: requestOf.get(code)?.idemKey,
          data: { orderId, consumerId, dealId, merchantId },
        })),
        ...completed.map((order) => orderMoved(order, "CONFIRMED")),
      ]),
    ]);
    return outcomes.map((outcome) =>
      isRefusal(outcome) ? outcome : { orderId: outcome.orderId, dealId: outcome.dealId, status: "REDEEMED" },
    );
  };

/** What the merchant will have of it, at the rate fixed on the order. */
function openSettlement(voucher: VoucherRow, order: OrderRow | undefined, id: SettlementId): NewSettlement {
  invariant(order !== undefined, "the order of a voucher is there");
  const { orderId, merchantId, amount } = voucher;
  return { id, voucherId: voucher.id, orderId, merchantId, gross: amount, commission: split(amount, order.commissionBps).commission };
}
