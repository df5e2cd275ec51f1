/**
 * What becomes of money in suspense when a person decides it, because nothing explains it. Pure. Two kinds of money lie there: what a channel took
 * instead of what was asked for (DOMAIN 9), under its payment's id, and what a statement says and our books do not, under its difference's. Two ways lead
 * out, each once and for good: back to whom it came from, or to an account of the house's own.
 */
import { refusal, type DomainError } from "../error.ts";
import type { MerchantId, OrderId, PaymentId } from "../ids.ts";
import type { TransferRequest } from "../ledger.ts";
import type { Fen } from "../money.ts";
import { CURRENCY } from "../payment/charge.ts";
import type { Paid, PaymentRow } from "../payment/try.ts";
import { escrowOf } from "../settlement/decide.ts";
import { moneyOff, suspend, writeOff, type Difference, type DifferenceState } from "./difference.ts";
import { RECON_ERRORS } from "./errors.ts";

/** GIVEN_BACK: by a refund, over the channel it came by. WRITTEN_OFF: the house bears what is missing, or keeps what nobody asks for. */
export const OUTCOMES = ["GIVEN_BACK", "WRITTEN_OFF"] as const;
export type Outcome = (typeof OUTCOMES)[number];

/** Foreign money has accounts of its own, in its own small unit. */
const inCurrency = (account: string, currency: string): string => (currency === CURRENCY ? account : `${account}:${currency}`);

export interface OtherMoney {
  readonly id: PaymentId;
  readonly channel: string;
  readonly orderId: OrderId;
  readonly merchantId: MerchantId;
  readonly paid: Omit<Paid, "at">;
}
/** The payment as what it left in suspense; undefined where a payment is what was asked for, or has no money. */
export const otherMoney = ({ paid, state, ...payment }: PaymentRow): OtherMoney | undefined =>
  state === "FAILED" && paid ? { ...payment, paid } : undefined;

const heldFor = ({ paid: { currency } }: OtherMoney): string => inCurrency("suspense:long", currency);
const post = (money: OtherMoney, code: TransferRequest["code"], debit: string, credit: string): TransferRequest[] =>
  money.paid.amount === 0n
    ? []
    : [{ kind: "post", code, businessKey: money.id, debit, credit, amount: money.paid.amount, orderId: money.orderId }];

/** What a channel took is somebody's, and nothing of ours says what for. */
export const suspendPayment = (money: OtherMoney): TransferRequest[] =>
  post(money, "pay-differs", inCurrency(`channel:${money.channel}`, money.paid.currency), heldFor(money));

/** Back into the escrow it never reached: from there it goes the way of every refund. */
const giveBack = (money: OtherMoney): TransferRequest[] => post(money, "differs-back", heldFor(money), escrowOf(money.merchantId));
const writePaymentOff = (money: OtherMoney): TransferRequest[] =>
  post(money, "differs-off", heldFor(money), inCurrency("write_off", money.paid.currency));

/** A difference as it is locked. */
export interface SuspendedDifference {
  readonly difference: Difference;
  readonly state: DifferenceState;
  readonly booked: boolean;
  /** The channel was asked about it, or is not there to be asked. */
  readonly asked: boolean;
}
export type Suspended =
  | ({ readonly about: "difference" } & SuspendedDifference)
  /** `refundable`: its channel is there, so a refund has a way to go. */
  | { readonly about: "payment"; readonly money: OtherMoney; readonly refundable: boolean };

export interface Resolved {
  readonly transfers: readonly TransferRequest[];
  /** What left suspense: above zero what was too much there, below zero what was missing. */
  readonly amount: bigint;
  readonly currency: string;
  /** The money that a refund is to be made of. */
  readonly givenBack: (OtherMoney & { readonly paid: { readonly amount: Fen } }) | undefined;
}

/** `before`: what became of it, when somebody has decided already. */
export function resolve(id: string, outcome: Outcome, item: Suspended | undefined, before: Outcome | undefined): Resolved | DomainError {
  if (item === undefined) return refusal(RECON_ERRORS, "SUSPENSE_NOT_FOUND", { id });
  if (before !== undefined) return refusal(RECON_ERRORS, "SUSPENSE_OVER", { id, state: before });
  return item.about === "payment" ? resolvePayment(outcome, item) : resolveDifference(outcome, item);
}

function resolvePayment(outcome: Outcome, { money, refundable }: Suspended & { about: "payment" }): Resolved | DomainError {
  const { amount, currency } = money.paid;
  if (outcome === "WRITTEN_OFF") return { transfers: writePaymentOff(money), amount, currency, givenBack: undefined };
  const cannot = (reason: string): DomainError => refusal(RECON_ERRORS, "NOT_TO_GIVE_BACK", { id: money.id, reason });
  if (currency !== CURRENCY) return cannot(`refunds are in ${CURRENCY}, and this is ${currency}`);
  if (amount === 0n) return cannot("nothing was paid");
  if (!refundable) return cannot(`${money.channel} is not switched on`);
  return { transfers: giveBack(money), amount, currency, givenBack: money };
}

/**
 * Asking the channel is the repair that is safe, so it comes first: by hand goes only what the channel, asked, has not explained. Whom it would have to be
 * given back to, a statement does not say.
 */
function resolveDifference(outcome: Outcome, item: SuspendedDifference): Resolved | DomainError {
  const { difference, state, booked, asked } = item;
  const { id } = difference;
  if (state !== "OPEN") return refusal(RECON_ERRORS, "SUSPENSE_OVER", { id, state });
  if (outcome === "GIVEN_BACK")
    return refusal(RECON_ERRORS, "NOT_TO_GIVE_BACK", { id, reason: "a line of a statement is of no payment of ours" });
  if (!asked) return refusal(RECON_ERRORS, "DIFFERENCE_NOT_ASKED", { id });
  return {
    // Found a moment ago, it may not be in suspense yet.
    transfers: [...(booked ? [] : suspend(difference)), ...writeOff(difference)],
    amount: moneyOff(difference),
    currency: CURRENCY,
    givenBack: undefined,
  };
}
