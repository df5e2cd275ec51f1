/** What a channel's word does to a payout. Pure. Money in transit is neither the merchant's to spend nor paid. */
import type { MerchantId, PayoutId, UserId } from "../ids.ts";
import type { TransferRequest } from "../ledger.ts";
import type { Fen } from "../money.ts";
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

/** What is heard of a payout, or done with it; `lose`: the channel was called and did not answer. */
export interface PayoutWord {
  readonly id: PayoutId;
  readonly event: PayoutEvent;
  readonly reason: string | undefined;
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
    if (!payout) return [];
    const from = now.get(id) ?? payout.state;
    const to = next(PAYOUT, from, event);
    if (to === undefined) return [];
    now.set(id, to);
    return [{ payout, from, to, reason, transfers: transfersOf(payout, to) }];
  });
}

function transfersOf(payout: PayoutRow, to: PayoutState): TransferRequest[] {
  if (to === "SUCCEEDED") return [transfer(payout, "payout-paid", IN_TRANSIT, channelOf(payout))];
  if (to === "FAILED") return [transfer(payout, "payout-returned", IN_TRANSIT, payableOf(payout.merchantId))];
  if (to === "RETURNED") return [transfer(payout, "payout-returned", channelOf(payout), payableOf(payout.merchantId))];
  return [];
}
