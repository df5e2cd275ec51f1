/** What can happen, by name, and what each event tells. Consumers rely on these fields; adding one is safe, taking one away is not. */
import type { DealId, GroupId, MerchantId, OrderId, PaymentId, PayoutId, RefundId, SettlementId, UserId, VoucherId } from "./ids.ts";
import type { DealState } from "./deal/state.ts";
import type { OrderState } from "./order/state.ts";
import type { PayoutState } from "./payout/state.ts";
import type { Outcome } from "./recon/suspense.ts";

interface OrderFacts {
  readonly orderId: OrderId;
  readonly consumerId: UserId;
  readonly merchantId: MerchantId;
  readonly dealId: DealId;
  readonly groupId?: GroupId;
  readonly quantity: number;
  /** Fen. */
  readonly amount: number;
}

interface UnitFacts {
  readonly orderId: OrderId;
  readonly consumerId: UserId;
  readonly dealId: DealId;
  readonly merchantId: MerchantId;
}
interface SettlementFacts {
  readonly settlementId: SettlementId;
  readonly voucherId: VoucherId;
  readonly orderId: OrderId;
  readonly merchantId: MerchantId;
}
interface PayoutFacts {
  readonly payoutId: PayoutId;
  readonly merchantId: MerchantId;
  readonly requestedBy: UserId;
  readonly channel: string;
  readonly amount: number;
}

export interface EventData {
  readonly "merchant.created": { readonly merchantId: MerchantId; readonly ownerId: UserId };
  readonly "deal.created": { readonly dealId: DealId; readonly merchantId: MerchantId };
  readonly "deal.moved": { readonly dealId: DealId; readonly merchantId: MerchantId; readonly from: DealState; readonly to: DealState };
  readonly "deal.restocked": { readonly dealId: DealId; readonly quantity: number };
  readonly "order.created": OrderFacts;
  readonly "order.moved": OrderFacts & { readonly from: OrderState; readonly to: OrderState };
  readonly "group.opened": { readonly groupId: GroupId; readonly dealId: DealId; readonly leaderId: UserId; readonly deadline: string };
  readonly "group.closing": { readonly groupId: GroupId; readonly dealId: DealId };
  readonly "group.formed": {
    readonly groupId: GroupId;
    readonly dealId: DealId;
    readonly members: readonly UserId[];
    readonly filled: number;
  };
  readonly "group.failed": { readonly groupId: GroupId; readonly dealId: DealId; readonly members: readonly UserId[] };
  readonly "payment.confirmed": {
    readonly paymentId: PaymentId;
    readonly orderId: OrderId;
    readonly consumerId: UserId;
    readonly amount: number;
  };
  readonly "payment.cancelled": {
    readonly paymentId: PaymentId;
    readonly orderId: OrderId;
    readonly consumerId: UserId;
    readonly reason: string;
  };
  /** By a channel, too late or a second time: all of it goes back. */
  readonly "payment.surplus": {
    readonly paymentId: PaymentId;
    readonly orderId: OrderId;
    readonly consumerId: UserId;
    readonly channel: string;
    readonly amount: number;
  };
  /** A channel took another amount or currency than was asked for: it lies in suspense, and the order is not paid. */
  readonly "payment.differs": {
    readonly paymentId: PaymentId;
    readonly orderId: OrderId;
    readonly consumerId: UserId;
    readonly channel: string;
    readonly amount: number;
    readonly paid: number;
    readonly currency: string;
    readonly reason: string;
  };
  /** A channel will not give it back; a person decides. */
  readonly "refund.stalled": {
    readonly refundId: RefundId;
    readonly orderId: OrderId;
    readonly consumerId: UserId;
    readonly channel: string;
    readonly amount: number;
    readonly reason: string;
  };
  readonly "refund.requested": {
    readonly refundId: RefundId;
    readonly orderId: OrderId;
    readonly consumerId: UserId;
    readonly amount: number;
    readonly reason: string;
  };
  readonly "refund.succeeded": {
    readonly refundId: RefundId;
    readonly orderId: OrderId;
    readonly consumerId: UserId;
    readonly amount: number;
  };
  readonly "voucher.issued": { readonly orderId: OrderId; readonly consumerId: UserId; readonly dealId: DealId; readonly quantity: number };
  readonly "voucher.redeemed": UnitFacts;
  readonly "voucher.reversed": UnitFacts;
  /** The lapsed units of one order: on their way back to the consumer, or forfeited. */
  readonly "voucher.expired": UnitFacts & { readonly quantity: number; readonly amount: number; readonly refunded: boolean };
  readonly "refund.approvalAsked": {
    readonly refundId: RefundId;
    readonly orderId: OrderId;
    readonly merchantId: MerchantId;
    readonly ownerId: UserId;
    readonly amount: number;
    readonly approveBy: string;
  };
  readonly "refund.approved": {
    readonly refundId: RefundId;
    readonly orderId: OrderId;
    readonly consumerId: UserId;
    readonly merchantId: MerchantId;
    readonly amount: number;
  };
  /** A person has decided what becomes of money in suspense: of a payment's, which names its order when it goes back, or of a difference's. */
  readonly "suspense.resolved": {
    readonly id: string;
    readonly outcome: Outcome;
    readonly amount: number;
    readonly currency: string;
    readonly note: string;
    readonly orderId?: OrderId;
  };
  readonly "settlement.succeeded": SettlementFacts & { readonly gross: number; readonly commission: number; readonly net: number };
  readonly "settlement.failed": SettlementFacts & { readonly reason: string };
  readonly "payout.requested": PayoutFacts;
  readonly "payout.moved": PayoutFacts & { readonly from: PayoutState; readonly to: PayoutState; readonly reason?: string };
  readonly "wallet.toppedUp": { readonly topupId: string; readonly userId: UserId; readonly amount: number };
}
export type EventType = keyof EventData;
