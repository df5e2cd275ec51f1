/** The reversing drain: a redemption by mistake is taken back, as a row of its own. The rule is in `domain/voucher/reverse.ts`. */
import type { DomainError } from "../../domain/error.ts";
import type { OrderId, RedemptionId } from "../../domain/ids.ts";
import { orderMoved } from "../../domain/order/moved.ts";
import type { OrderRow } from "../../domain/order/place.ts";
import { decideReverse, type ReverseCommand } from "../../domain/voucher/reverse.ts";
import type { Answer } from "../../mixins/contract.ts";
import type { Work } from "../../mixins/drain.ts";
import { appendEvents } from "../../mixins/events.ts";
import type { Keyed } from "../../mixins/idempotency.ts";
import { isRefusal } from "../../mixins/mailbox.ts";
import type { TradeSettings } from "../../mixins/platform.ts";
import { lockOrders, moveOrders } from "../order/order.store.ts";
import { dropSettlements, lockSettlementsOf } from "../settlement/settlement.store.ts";
import type { reverseVoucher } from "./voucher.contract.ts";
import { findOrdersOfCodes, lockVouchers, logRedemptions, moveVouchers } from "./voucher.store.ts";

export interface KeyedReverse extends Keyed, ReverseCommand {
  readonly requestId: string | undefined;
}

export const makeReverseDrain =
  ({ reversalMinutes }: TradeSettings) =>
  async (work: Work, commands: readonly KeyedReverse[]): Promise<(Answer<typeof reverseVoucher> | DomainError)[]> => {
    const { shard } = work;
    const orderIds = await findOrdersOfCodes(
      work,
      shard,
      commands.map(({ code }) => code),
    );
    const [orders, vouchers] = await Promise.all([lockOrders(work, shard, orderIds), lockVouchers(work, shard, orderIds)]);
    // Behind the vouchers' locks, as settling does it: a settlement that is INIT here stays so until the commit.
    const redeemed = vouchers.filter(({ state }) => state === "REDEEMED").map(({ id }) => id);
    const settlements = await lockSettlementsOf(work, shard, redeemed);
    const now = await work.now();
    const { outcomes, writes } = decideReverse({ vouchers, settlements }, commands, { now, reversalMinutes });
    const byCode = new Map(commands.map((command) => [command.code, command]));
    const reopened = writes.reopened.flatMap((id): OrderRow[] => {
      const order = orders.get(id);
      return order?.state === "COMPLETED" ? [{ ...order, state: "CONFIRMED" }] : [];
    });
    const ids = (await work.mint(writes.reversed.length)) as RedemptionId[];
    await Promise.all([
      moveOrders(
        work,
        shard,
        reopened.map(({ id }): OrderId => id),
        { from: "COMPLETED", to: "CONFIRMED" },
      ),
      moveVouchers(
        work,
        shard,
        writes.reversed.map(({ id }) => ({ id })),
        { from: "REDEEMED", to: "ISSUED" },
      ),
      dropSettlements(
        work,
        shard,
        writes.reversed.map(({ id }) => id),
      ),
      logRedemptions(
        work,
        shard,
        "REVERSE",
        writes.reversed.map((voucher) => ({ id: ids.pop() as RedemptionId, voucher, actor: byCode.get(voucher.code)?.callerId })),
        now,
      ),
      appendEvents(work, shard, [
        ...writes.reversed.map(({ id, code, orderId, consumerId, dealId, merchantId }) => ({
          type: "voucher.reversed" as const,
          subject: id,
          actor: byCode.get(code)?.callerId,
          requestId: byCode.get(code)?.requestId,
          idemKey: byCode.get(code)?.idemKey,
          data: { orderId, consumerId, dealId, merchantId },
        })),
        ...reopened.map((order) => orderMoved(order, "COMPLETED")),
      ]),
    ]);
    return outcomes.map((outcome) =>
      isRefusal(outcome) ? outcome : { orderId: outcome.orderId, dealId: outcome.dealId, status: "ISSUED" },
    );
  };
