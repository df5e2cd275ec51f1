/** What the decision of payments by channel writes besides what paying always does: their rows, the channel's clearing account, what goes back. */
import type { DecideWrites } from "../../domain/payment/decide.ts";
import type { RefundId } from "../../domain/ids.ts";
import { invariant } from "../../domain/invariant.ts";
import type { TransferRequest } from "../../domain/ledger.ts";
import { toJson } from "../../domain/money.ts";
import type { PaymentRow } from "../../domain/payment/try.ts";
import { suspendPayment } from "../../domain/recon/suspense.ts";
import { escrowOf } from "../../domain/settlement/decide.ts";
import type { Work } from "../../mixins/drain.ts";
import { appendEvents, type NewEvent } from "../../mixins/events.ts";
import type { Metrics } from "../../mixins/metrics.ts";
import { moveCharges } from "./charge.store.ts";
import { requestRefunds, type NewRefund } from "./refund.store.ts";

/** What a channel holds for us. */
export const clearingOf = (channel: string): string => `channel:${channel}`;
/** On its way back by a channel. */
export const refundTransitOf = (channel: string): string => `refund_in_transit:${channel}`;
const captureOf = (payment: PaymentRow): TransferRequest => ({
  kind: "post",
  code: "pay",
  businessKey: payment.id,
  debit: clearingOf(payment.channel),
  credit: escrowOf(payment.merchantId),
  amount: payment.amount,
  orderId: payment.orderId,
});

/** In one booking with everything else of the batch. */
export const chargeTransfers = ({ captured, surplus, differing }: DecideWrites): TransferRequest[] => [
  ...captured.map(captureOf),
  ...surplus.map(({ payment }) => captureOf(payment)),
  ...differing.flatMap(({ payment, paid }) => suspendPayment({ ...payment, paid })),
];

export async function writeCharges(work: Work, { charges, captured, surplus, differing }: DecideWrites): Promise<void> {
  if (charges.size === 0) return;
  const { shard } = work;
  const now = await work.now();
  const ids = surplus.length === 0 ? [] : ((await work.mint(surplus.length)) as RefundId[]);
  await Promise.all([
    moveCharges(work, shard, [...charges.values()], now),
    appendEvents(work, shard, eventsOf({ charges, captured, surplus, differing })),
  ]);
  // Behind the payments' rows, from which they take their channel.
  await requestRefunds(
    work,
    shard,
    surplus.map(({ payment, order }): NewRefund => {
      const id = ids.shift();
      invariant(id !== undefined, "there is an id for every refund");
      const { consumerId, merchantId, quantity } = order;
      const reason = order.paidAt === undefined ? "LATE_PAYMENT" : "SECOND_PAYMENT";
      return {
        id,
        orderId: order.id,
        paymentId: payment.id,
        consumerId,
        merchantId,
        quantity,
        amount: payment.amount,
        reason,
        surplus: true,
      };
    }),
    now,
  );
}

function eventsOf({
  charges,
  captured,
  surplus,
  differing,
}: Pick<DecideWrites, "charges" | "captured" | "surplus" | "differing">): NewEvent[] {
  const differs = new Set(differing.map(({ payment }) => payment.id));
  const factsOf = ({ id, orderId, consumerId }: PaymentRow) => ({ paymentId: id, orderId, consumerId });
  const by = ({ id, consumerId }: PaymentRow) => ({ subject: id, actor: consumerId, requestId: charges.get(id)?.requestId });
  return [
    ...captured.map((payment): NewEvent<"payment.confirmed"> => ({
      type: "payment.confirmed",
      ...by(payment),
      data: { ...factsOf(payment), amount: toJson(payment.amount) },
    })),
    ...surplus.map(({ payment }): NewEvent<"payment.surplus"> => ({
      type: "payment.surplus",
      ...by(payment),
      data: { ...factsOf(payment), channel: payment.channel, amount: toJson(payment.amount) },
    })),
    ...differing.map(({ payment, paid, reason }): NewEvent<"payment.differs"> => ({
      type: "payment.differs",
      ...by(payment),
      data: {
        ...factsOf(payment),
        channel: payment.channel,
        amount: toJson(payment.amount),
        paid: toJson(paid.amount),
        currency: paid.currency,
        reason,
      },
    })),
    ...[...charges.values()].flatMap(({ payment }): NewEvent<"payment.cancelled">[] =>
      payment.state === "FAILED" && !differs.has(payment.id)
        ? [{ type: "payment.cancelled", ...by(payment), data: { ...factsOf(payment), reason: payment.reason ?? "" } }]
        : [],
    ),
  ];
}

export function countCharges(metrics: Metrics, { charges, captured, surplus, differing }: DecideWrites): void {
  for (const { payment, surplus: isSurplus } of charges.values()) {
    if (payment.state === "FAILED") metrics.payments.inc({ outcome: payment.reason ?? "FAILED" });
    else if (payment.state === "CONFIRMED") metrics.payments.inc({ outcome: isSurplus ? "SURPLUS" : "CONFIRMED" });
  }
  for (const { amount } of [...captured, ...surplus.map(({ payment }) => payment)]) metrics.moneyFen.inc({ code: "pay" }, toJson(amount));
  metrics.channelDifferences.inc(differing.length);
}
