/**
 * Asking for money back. Units that were not used, where the deal allows it: at once. Units that were used and settled: their merchant is asked,
 * and after a day without a word it is done; the money comes from the merchant's payable and, pro rata, from our commission. Each unit at the
 * price it was allocated. Pure: locked rows and commands in, refunds out.
 */
import { refusal, type DomainError } from "../error.ts";
import type { DealId, MerchantId, OrderId, PaymentId, RefundId, UserId, VoucherId } from "../ids.ts";
import { invariant } from "../invariant.ts";
import { LIMITS } from "../limits.ts";
import { fen, sum, type Fen } from "../money.ts";
import { ORDER_ERRORS } from "../order/errors.ts";
import type { OrderRow } from "../order/place.ts";
import { isOver } from "../voucher/over.ts";
import type { VoucherRow } from "../voucher/redeem.ts";
import { REFUND_ERRORS } from "./errors.ts";

export interface RefundTerms {
  readonly refundAnytime: boolean;
  readonly refundExpired: boolean;
}

export interface RefundRequest {
  readonly orderId: string;
  readonly consumerId: UserId;
  /** Undefined: all that can be refunded. */
  readonly quantity: number | undefined;
  readonly note: string | undefined;
}

export interface RequestState {
  readonly orders: ReadonlyMap<string, OrderRow>;
  readonly vouchers: readonly VoucherRow[];
  readonly terms: ReadonlyMap<DealId, RefundTerms>;
  /** The payment that paid each order. */
  readonly captures: ReadonlyMap<OrderId, { readonly id: PaymentId }>;
  /** What our part was of each settled unit. */
  readonly commissions: ReadonlyMap<VoucherId, Fen>;
}

/** A refund of whole units. */
export interface UnitRefund {
  readonly id: RefundId;
  readonly orderId: OrderId;
  readonly dealId: DealId;
  readonly bucket: number;
  readonly paymentId: PaymentId;
  readonly consumerId: UserId;
  readonly merchantId: MerchantId;
  readonly vouchers: readonly VoucherId[];
  readonly quantity: number;
  readonly amount: Fen;
  readonly reason: "REQUESTED" | "EXPIRED";
  /** What the consumer says of it. */
  readonly note: string | undefined;
  /** Its units were used: `commission` of the amount comes back from ours, and until `approveBy` its merchant may look at it. */
  readonly used: boolean;
  readonly commission: Fen;
  readonly approveBy: Date | undefined;
}

export interface Requested {
  readonly outcomes: (UnitRefund | DomainError)[];
  readonly refunds: UnitRefund[];
  /** Orders of which nothing is left to use, although something of them was. */
  readonly completed: OrderId[];
}

export function decideRequests(
  state: RequestState,
  commands: readonly RefundRequest[],
  { now, nextId }: { readonly now: Date; readonly nextId: () => RefundId },
): Requested {
  const byOrder = Map.groupBy(state.vouchers, ({ orderId }) => orderId);
  const refunds: UnitRefund[] = [];
  const completed = new Set<OrderId>();
  const outcomes = commands.map(({ orderId, consumerId, quantity, note }): UnitRefund | DomainError => {
    const order = state.orders.get(orderId);
    if (order?.consumerId !== consumerId) return refusal(ORDER_ERRORS, "ORDER_NOT_FOUND", { orderId });
    const units = byOrder.get(order.id) ?? [];
    const { used, candidates } = refundable(units, state.terms.get(order.dealId), now);
    const wanted = quantity ?? candidates.length;
    if (wanted === 0 || wanted > candidates.length)
      return refusal(REFUND_ERRORS, "NOT_REFUNDABLE", { orderId, refundable: candidates.length });
    // From here it is refunded: the last units first, because people show the first ones at the bar.
    const chosen = candidates.slice(candidates.length - wanted);
    const refund = unitRefund(order, chosen, state.captures.get(order.id), {
      id: nextId(),
      reason: "REQUESTED",
      note,
      used,
      commission: used ? sum(chosen.map(({ id }) => commissionOf(state, id))) : fen(0),
      approveBy: used ? new Date(now.getTime() + LIMITS.refundApprovalHours * 3_600_000) : undefined,
    });
    refunds.push(refund);
    const after = units.map((unit): VoucherRow => {
      if (!chosen.includes(unit)) return unit;
      return { ...unit, state: used ? unit.state : "REFUNDING", refundId: refund.id };
    });
    byOrder.set(order.id, after);
    if (order.state === "CONFIRMED" && isOver(after.map((unit) => unit.state))) completed.add(order.id);
    return refund;
  });
  return { outcomes, refunds, completed: [...completed] };
}

/** Unused units first; only when there are none left, used ones. A unit is refunded once. */
function refundable(
  units: readonly VoucherRow[],
  terms: RefundTerms | undefined,
  now: Date,
): { readonly used: boolean; readonly candidates: VoucherRow[] } {
  const unused = units.filter(({ state }) => state === "ISSUED");
  if (unused.length > 0) {
    // Lapsed, and no sweep has come by yet.
    const allowed = unused.filter(({ validUntil }) => (validUntil > now ? terms?.refundAnytime : terms?.refundExpired) === true);
    return { used: false, candidates: allowed };
  }
  return { used: true, candidates: units.filter(({ state, refundId }) => state === "SETTLED" && refundId === undefined) };
}

function commissionOf({ commissions }: RequestState, id: VoucherId): Fen {
  const commission = commissions.get(id);
  invariant(commission !== undefined, "a settled voucher has a settlement");
  return commission;
}

/** A refund of some units of one order, at their allocated prices. */
export function unitRefund(
  order: Pick<OrderRow, "id" | "dealId" | "bucket" | "consumerId" | "merchantId">,
  vouchers: readonly VoucherRow[],
  capture: { readonly id: PaymentId } | undefined,
  of: Pick<UnitRefund, "id" | "reason" | "note" | "used" | "commission" | "approveBy">,
): UnitRefund {
  invariant(capture !== undefined, "an order with vouchers has a payment");
  const { id: orderId, dealId, bucket, consumerId, merchantId } = order;
  const amount = sum(vouchers.map((voucher) => voucher.amount));
  invariant(of.commission <= amount, "our part of a unit is not more than the unit");
  return {
    ...of,
    orderId,
    dealId,
    bucket,
    consumerId,
    merchantId,
    paymentId: capture.id,
    vouchers: vouchers.map(({ id }) => id),
    quantity: vouchers.length,
    amount,
  };
}
