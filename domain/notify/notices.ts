/** Who is told what when something happens: a notice for each person concerned. Texts are made by clients, in their own language, from `kind` and `data`. */
import type { EventData, EventType } from "../events.ts";
import type { OrderState } from "../order/state.ts";
import type { UserId } from "../ids.ts";
import type { PayoutState } from "../payout/state.ts";

export const NOTICE_KINDS = [
  "order.paid",
  "order.confirmed",
  "order.expired",
  "order.cancelled",
  "order.refunded",
  "group.opened",
  "group.formed",
  "group.failed",
  "payment.cancelled",
  "refund.succeeded",
  "voucher.issued",
  "voucher.redeemed",
  "voucher.reversed",
  "voucher.expired",
  "refund.approvalAsked",
  "payout.succeeded",
  "payout.failed",
  "payout.returned",
] as const;
export type NoticeKind = (typeof NOTICE_KINDS)[number];

export interface Notice {
  readonly userId: UserId;
  readonly kind: NoticeKind;
  readonly data: Readonly<Record<string, string | number>>;
}

/** A consumer knows that it has just placed an order, and a completed one was told of voucher by voucher. */
const ORDER_NEWS: Partial<Record<OrderState, NoticeKind>> = {
  PAID: "order.paid",
  CONFIRMED: "order.confirmed",
  EXPIRED: "order.expired",
  CANCELLED: "order.cancelled",
  REFUNDED: "order.refunded",
};

/** Whoever asked for a payout is told how it ended, and when an end was not one. */
const PAYOUT_NEWS: Partial<Record<PayoutState, NoticeKind>> = {
  SUCCEEDED: "payout.succeeded",
  FAILED: "payout.failed",
  RETURNED: "payout.returned",
};

type Telling = { readonly [T in EventType]?: (data: EventData[T]) => readonly Notice[] };

const TELLING = {
  "order.moved": ({ consumerId, orderId, dealId, groupId, quantity, amount, to }) => {
    const kind = ORDER_NEWS[to];
    return kind
      ? [{ userId: consumerId, kind, data: { orderId, dealId, ...(groupId === undefined ? {} : { groupId }), quantity, amount } }]
      : [];
  },
  "group.opened": ({ leaderId, groupId, dealId, deadline }) => [
    { userId: leaderId, kind: "group.opened", data: { groupId, dealId, deadline } },
  ],
  "group.formed": ({ members, groupId, dealId, filled }) =>
    members.map((userId) => ({ userId, kind: "group.formed", data: { groupId, dealId, filled } })),
  "group.failed": ({ members, groupId, dealId }) => members.map((userId) => ({ userId, kind: "group.failed", data: { groupId, dealId } })),
  "payment.cancelled": ({ consumerId, orderId, paymentId, reason }) => [
    { userId: consumerId, kind: "payment.cancelled", data: { orderId, paymentId, reason } },
  ],
  "refund.succeeded": ({ consumerId, orderId, refundId, amount }) => [
    { userId: consumerId, kind: "refund.succeeded", data: { orderId, refundId, amount } },
  ],
  "voucher.issued": ({ consumerId, orderId, dealId, quantity }) => [
    { userId: consumerId, kind: "voucher.issued", data: { orderId, dealId, quantity } },
  ],
  "voucher.redeemed": ({ consumerId, orderId, dealId }) => [{ userId: consumerId, kind: "voucher.redeemed", data: { orderId, dealId } }],
  "voucher.reversed": ({ consumerId, orderId, dealId }) => [{ userId: consumerId, kind: "voucher.reversed", data: { orderId, dealId } }],
  "voucher.expired": ({ consumerId, orderId, dealId, quantity, amount, refunded }) => [
    { userId: consumerId, kind: "voucher.expired", data: { orderId, dealId, quantity, amount: refunded ? amount : 0 } },
  ],
  "refund.approvalAsked": ({ ownerId, orderId, refundId, amount, approveBy }) => [
    { userId: ownerId, kind: "refund.approvalAsked", data: { orderId, refundId, amount, approveBy } },
  ],
  "payout.moved": ({ requestedBy, payoutId, amount, to }) => {
    const kind = PAYOUT_NEWS[to];
    return kind ? [{ userId: requestedBy, kind, data: { payoutId, amount } }] : [];
  },
} as const satisfies Telling;

export type TellingType = keyof typeof TELLING;
export const TELLING_TYPES = Object.keys(TELLING) as readonly TellingType[];

/** One notice a person at most: a user who is in `members` twice is told once. */
export function noticesOf<T extends TellingType>(type: T, data: EventData[T]): readonly Notice[] {
  const tell = TELLING[type] as (data: EventData[T]) => readonly Notice[];
  const notices = tell(data);
  return notices.length < 2 ? notices : [...new Map(notices.map((notice) => [notice.userId, notice])).values()];
}
