/** What a channel's word does to a payout. Pure. Money in transit is neither the merchant's to spend nor paid. */
import type { ChannelPayout, Outcome } from "../channel/records.ts";
import type { MerchantId, PayoutId, UserId } from "../ids.ts";
import type { TransferRequest } from "../ledger.ts";
import type { Fen } from "../money.ts";
import { CURRENCY } from "../payment/charge.ts";
import { payableOf } from "../settlement/decide.ts";
import { next } from "../transition.ts";
import { PAYOUT, type PayoutEvent, type PayoutState } from "./state.ts";

export interface PayoutRow {
  readonly id: PayoutId;
  readonly merchantId: MerchantId;
  readonly channel: string;
  readonly amount: Fen;
  readonly state: PayoutState;
  readonly requestedBy: UserId;
}

/** What is heard of a payout, or done with it. Without an event nothing has changed, but something was learned. */
export interface PayoutWord {
  readonly id: PayoutId;
  readonly event?: PayoutEvent | undefined;
  readonly reason?: string | undefined;
  readonly channelNo?: string | undefined;
  /** What keeps it. */
  readonly error?: string | undefined;
  /** The callback that brought it. */
  readonly callbackId?: string | undefined;
}
/** How a payout stands after what was told of it; undefined: there is none. */
export interface PayoutTold {
  readonly state: PayoutState | undefined;
}

/** What a channel's record of a payout says. Paid out is what was asked for, or nobody knows what it is. */
export function payoutWord(
  said: Pick<ChannelPayout, "status" | "amount" | "currency">,
  { amount }: Pick<PayoutRow, "amount">,
): Omit<PayoutWord, "id"> {
  const { status } = said;
  const differs = (said.amount ?? amount) !== amount || (said.currency ?? CURRENCY) !== CURRENCY;
  if (differs) return { error: `DIFFERS: the channel says ${String(said.amount)} ${said.currency}` };
  if (status === "SUCCEEDED") return { event: "pay" };
  if (status === "FAILED") return { event: "refuse", reason: "FAILED" };
  if (status === "RETURNED") return { event: "return", reason: "RETURNED" };
  return status === "ABSENT" ? { error: "the channel has never heard of it" } : {};
}

/** What a call came to. A refusal of the payout for good ends it; a query that is refused has told nothing. */
export function payoutWordOf(call: "payout" | "query", outcome: Outcome<ChannelPayout>, payout: PayoutRow): Omit<PayoutWord, "id"> {
  if (outcome.kind === "answered") return { channelNo: outcome.value.channelNumber, ...payoutWord(outcome.value, payout) };
  if (outcome.kind === "unknown") return { event: "lose", error: `${outcome.reason}: ${outcome.detail}` };
  const why = `${outcome.code} ${outcome.detail}`.trim();
  return call === "payout" && outcome.repeat === "never" ? { event: "refuse", reason: why } : { error: why };
}

export interface PayoutMove {
  readonly payout: PayoutRow;
  readonly from: PayoutState;
  readonly to: PayoutState;
  readonly reason: string | undefined;
  readonly transfers: readonly TransferRequest[];
}

export const IN_TRANSIT = "payout_in_transit";
const channelOf = ({ channel }: PayoutRow): string => `payout:${channel}`;

const transfer = (payout: PayoutRow, code: TransferRequest["code"], debit: string, credit: string): TransferRequest => ({
  kind: "post",
  code,
  businessKey: payout.id,
  debit,
  credit,
  amount: payout.amount,
});

/** Asked for: no longer the merchant's to spend. */
export const requestTransfer = (payout: PayoutRow): TransferRequest => ({
  ...transfer(payout, "payout", payableOf(payout.merchantId), IN_TRANSIT),
  fresh: true,
});

/** A word that changes nothing (a repeat, or one that comes late) is dropped. Of several about one payout each is heard where the one before it left off. */
export function decidePayouts(words: readonly PayoutWord[], payouts: ReadonlyMap<PayoutId, PayoutRow>): PayoutMove[] {
  const now = new Map<PayoutId, PayoutState>();
  return words.flatMap(({ id, event, reason }): PayoutMove[] => {
    const payout = payouts.get(id);
    if (!payout || !event) return [];
    return stepsOf(now.get(id) ?? payout.state, event).flatMap((step): PayoutMove[] => {
      const from = now.get(id) ?? payout.state;
      const to = next(PAYOUT, from, step);
      if (to === undefined) return [];
      now.set(id, to);
      return [{ payout, from, to, reason: step === event ? reason : undefined, transfers: transfersOf(payout, to) }];
    });
  });
}

/** That money has come back tells that it had arrived, of which the news may be late or lost. */
const stepsOf = (from: PayoutState, event: PayoutEvent): PayoutEvent[] =>
  event === "return" && next(PAYOUT, from, "pay") !== undefined ? ["pay", "return"] : [event];

function transfersOf(payout: PayoutRow, to: PayoutState): TransferRequest[] {
  if (to === "SUCCEEDED") return [transfer(payout, "payout-paid", IN_TRANSIT, channelOf(payout))];
  if (to === "FAILED") return [transfer(payout, "payout-returned", IN_TRANSIT, payableOf(payout.merchantId))];
  if (to === "RETURNED") return [transfer(payout, "payout-returned", channelOf(payout), payableOf(payout.merchantId))];
  return [];
}
