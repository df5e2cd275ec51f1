/** What can happen, by name, and what each event tells. Consumers rely on these fields; adding one is safe, taking one away is not. */
import type { DealId, GroupId, MerchantId, OrderId, PaymentId, RefundId, UserId } from "./ids.ts";
import type { DealState } from "./deal/state.ts";
import type { OrderState } from "./order/state.ts";

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
  readonly "voucher.redeemed": {
    readonly orderId: OrderId;
    readonly consumerId: UserId;
    readonly dealId: DealId;
    readonly merchantId: MerchantId;
  };
  readonly "wallet.toppedUp": { readonly topupId: string; readonly userId: UserId; readonly amount: number };
}
export type EventType = keyof EventData;
