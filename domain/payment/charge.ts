/** What a channel's word about a charge does to its payment. Pure; what paying does to the order is `decide.ts`'s. */
import type { Outcome, ChannelCharge } from "../channel/records.ts";
import type { OrderId, PaymentId } from "../ids.ts";
import { next } from "../transition.ts";
import { CHARGE, type ChargeEvent, type ChargeState, type PaymentState } from "./state.ts";
import type { Paid, PaymentRow } from "./try.ts";

/** `open`: it can be paid. `lost`: the call was not answered, or may be made again. `ended`: it cannot be paid any more, and was not. */
export type News =
  | { readonly kind: "open"; readonly payUrl: string | undefined }
  | { readonly kind: "lost"; readonly why: string }
  | { readonly kind: "ended"; readonly reason: string }
  | { readonly kind: "paid"; readonly paid: Paid };

export interface ChargeNews {
  readonly paymentId: PaymentId;
  readonly orderId: OrderId;
  readonly news: News;
  readonly channelNo: string | undefined;
  readonly requestId: string | undefined;
  /** The callback that brought it: done when this is. */
  readonly callbackId: string | undefined;
}

/** A payment by channel as its row becomes. */
export interface ChargeMove {
  readonly was: PaymentState;
  readonly payment: PaymentRow;
  readonly channelNo: string | undefined;
  readonly surplus: boolean;
  readonly error: string | undefined;
  readonly requestId: string | undefined;
}

const EVENT_OF: Readonly<Record<News["kind"], ChargeEvent>> = { open: "open", lost: "lose", ended: "end", paid: "pay" };

/** Money that was taken is taken once: from then on no word changes the payment any more, so this may be asked without its lock. */
export const isTaken = ({ paid }: Pick<PaymentRow, "paid">): boolean => paid !== undefined;

/** Undefined: the news changes nothing (a repeat, or late). */
export function chargeAfter(payment: PaymentRow, news: News): PaymentRow | undefined {
  if (isTaken(payment)) return undefined;
  const state = next(CHARGE, payment.state as ChargeState, EVENT_OF[news.kind]);
  if (state === undefined) return undefined;
  switch (news.kind) {
    case "open":
      return { ...payment, state, payUrl: news.payUrl ?? payment.payUrl };
    case "lost":
      return { ...payment, state };
    case "ended":
      return { ...payment, state, reason: news.reason };
    case "paid":
      return { ...payment, state, paid: news.paid };
  }
}

export const CURRENCY = "CNY";

/** Why this money is not what was asked for; it never marks an order paid. */
export function differenceOf({ amount }: PaymentRow, paid: Paid): string | undefined {
  if (paid.currency !== CURRENCY) return "CURRENCY_DIFFERS";
  return paid.amount === amount ? undefined : "AMOUNT_DIFFERS";
}

export function newsOf(charge: ChannelCharge): News {
  switch (charge.status) {
    case "PENDING":
      return { kind: "open", payUrl: charge.payUrl };
    case "PAID":
      return charge.paid
        ? { kind: "paid", paid: { amount: charge.paid.amount, currency: charge.paid.currency, at: new Date(charge.paid.atMs) } }
        : { kind: "lost", why: "paid, and the channel does not say how much" };
    case "CLOSED":
      return { kind: "ended", reason: "CLOSED" };
    case "ABSENT":
      return { kind: "ended", reason: "ABSENT" };
  }
}

/** What a call came to. Only the making of a charge ends it by being refused: a query or a closing that is refused has told nothing. */
export function newsOfCall(call: "charge" | "query" | "close", outcome: Outcome<ChannelCharge>): News {
  if (outcome.kind === "answered") return newsOf(outcome.value);
  if (outcome.kind === "unknown") return { kind: "lost", why: `${outcome.reason}: ${outcome.detail}` };
  const { code, detail, repeat } = outcome;
  return call === "charge" && repeat === "never" ? { kind: "ended", reason: code } : { kind: "lost", why: `${code} ${detail}`.trim() };
}
