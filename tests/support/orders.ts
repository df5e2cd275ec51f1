/** Rows of orders and payments for tests of rules, which know of no database. */
import { fen } from "../../domain/money.ts";
import type { DealId, MerchantId, OrderId, PaymentId, UserId } from "../../domain/ids.ts";
import type { OrderRow } from "../../domain/order/place.ts";
import { WALLET, type PaymentRow } from "../../domain/payment/try.ts";

export const NOW = new Date("2026-01-31T18:00:00Z");
export const later = (minutes: number): Date => new Date(NOW.getTime() + minutes * 60_000);

/** One that waits for its payment; of one to three units, by its number. */
export const orderOf = (n: number, of: Partial<OrderRow> = {}): OrderRow => ({
  id: `o${n}` as OrderId,
  consumerId: `u${n}` as UserId,
  merchantId: "m" as MerchantId,
  dealId: "d" as DealId,
  groupId: undefined,
  bucket: 0,
  quantity: 1 + (n % 3),
  unitPrice: fen(100),
  discount: fen(0),
  amount: fen(100 * (1 + (n % 3))),
  region: "default",
  regionVersion: "1.0.0",
  discountBps: 0,
  commissionBps: 600,
  voucherValidDays: 90,
  state: "PENDING_PAYMENT",
  idemKey: `k${n}`,
  bodyHash: "",
  createdAt: NOW,
  expiresAt: later(15),
  paidAt: undefined,
  ...of,
});

export const paymentOf = (order: OrderRow, of: Partial<PaymentRow> = {}): PaymentRow => ({
  id: `p${order.id}` as PaymentId,
  orderId: order.id,
  consumerId: order.consumerId,
  merchantId: order.merchantId,
  amount: order.amount,
  channel: WALLET,
  state: "TRYING",
  reason: undefined,
  ...of,
});
