/** The drains of payouts: ask, and hear what the channel says. The rule is in `domain/payout/decide.ts`. */
import { refusal, type DomainError } from "../../domain/error.ts";
import type { MerchantId, PayoutId, UserId } from "../../domain/ids.ts";
import { invariant } from "../../domain/invariant.ts";
import { fen, toJson } from "../../domain/money.ts";
import {
  decidePayouts,
  requestTransfer,
  type PayoutMove,
  type PayoutRow,
  type PayoutTold,
  type PayoutWord,
} from "../../domain/payout/decide.ts";
import { PAYOUT_INITIAL, type PayoutState } from "../../domain/payout/state.ts";
import { USER_ERRORS } from "../../domain/user/errors.ts";
import type { Work } from "../../mixins/drain.ts";
import { appendEvents, type NewEvent } from "../../mixins/events.ts";
import type { Keyed } from "../../mixins/idempotency.ts";
import { bookTransfers } from "../../mixins/ledger.ts";
import type { Metrics } from "../../mixins/metrics.ts";
import { finishCallbacks } from "../callback/callback.store.ts";
import { countPaidOut, insertPayouts, lockPayouts, movePayouts, notePayouts } from "./payout.store.ts";

export interface PayoutCommand extends Keyed {
  readonly merchantId: MerchantId;
  readonly amount: number;
  readonly channel: string;
  readonly requestId: string | undefined;
}
export interface PayoutAsked {
  readonly id: PayoutId;
  readonly status: PayoutState;
}

const factsOf = ({ id, merchantId, requestedBy, channel, amount }: PayoutRow) => ({
  payoutId: id,
  merchantId,
  requestedBy,
  channel,
  amount: toJson(amount),
});

/** The record: payable → in transit, and a row. What the payable does not hold is refused. */
export const makeRequestPayoutsDrain =
  (onRequested: (work: Work) => void) =>
  async (work: Work, commands: readonly PayoutCommand[]): Promise<(PayoutAsked | DomainError)[]> => {
    const ids = (await work.mint(commands.length)) as PayoutId[];
    const payouts = commands.map(({ merchantId, amount, channel, callerId }): PayoutRow => {
      const id = ids.shift();
      invariant(id !== undefined, "there is an id for every payout");
      return { id, merchantId, channel, amount: fen(amount), state: PAYOUT_INITIAL, requestedBy: callerId as UserId };
    });
    const booked = await bookTransfers(work, payouts.map(requestTransfer));
    const outcomes = payouts.map((payout, index): PayoutAsked | DomainError => {
      const outcome = booked[index];
      if (outcome?.ok) return { id: payout.id, status: payout.state };
      const left = outcome?.available ?? 0n;
      return refusal(USER_ERRORS, "INSUFFICIENT_FUNDS", { available: toJson(left > 0n ? left : 0n) });
    });
    const taken = payouts.filter((_, index) => booked[index]?.ok);
    await Promise.all([
      insertPayouts(work, work.shard, taken, await work.now()),
      appendEvents(
        work,
        work.shard,
        taken.map((payout): NewEvent<"payout.requested"> => {
          const by = commands[payouts.indexOf(payout)];
          return {
            type: "payout.requested",
            subject: payout.id,
            actor: payout.requestedBy,
            requestId: by?.requestId,
            idemKey: by?.idemKey,
            data: factsOf(payout),
          };
        }),
      ),
    ]);
    work.afterCommit(() => {
      if (taken.length > 0) onRequested(work);
    });
    return outcomes;
  };

/** What was done, or heard; each answered with the payout as it is then, undefined where there is none. */
export const makeTellPayoutsDrain =
  (metrics: Metrics) =>
  async (work: Work, words: readonly PayoutWord[]): Promise<PayoutTold[]> => {
    const { shard } = work;
    const payouts = await lockPayouts(work, shard, [...new Set(words.map(({ id }) => id))]);
    const moves = decidePayouts(words, payouts);
    const now = await work.now();
    await notePayouts(work, shard, words);
    await Promise.all([
      finishCallbacks(
        work,
        shard,
        words.flatMap(({ id, callbackId }) => (payouts.has(id) ? [callbackId] : [])),
      ),
      movePayouts(work, shard, moves, now),
      countPaidOut(work, shard, paidOut(moves)),
      bookTransfers(
        work,
        moves.flatMap(({ transfers }) => transfers),
      ),
      appendEvents(
        work,
        shard,
        moves.map(({ payout, from, to, reason }): NewEvent<"payout.moved"> => ({
          type: "payout.moved",
          subject: payout.id,
          data: { ...factsOf(payout), from, to, ...(reason === undefined ? {} : { reason }) },
        })),
      ),
    ]);
    work.afterCommit(() => {
      for (const { to, payout } of moves) if (to === "SUCCEEDED") metrics.moneyFen.inc({ code: "payout" }, toJson(payout.amount));
    });
    const after = new Map(moves.map(({ payout, to }) => [payout.id, to]));
    return words.map(({ id }) => ({ state: after.get(id) ?? payouts.get(id)?.state }));
  };

function paidOut(moves: readonly PayoutMove[]): Map<MerchantId, bigint> {
  const changes = new Map<MerchantId, bigint>();
  for (const { payout, to } of moves) {
    const by = to === "SUCCEEDED" ? payout.amount : to === "RETURNED" ? 0n - payout.amount : 0n;
    changes.set(payout.merchantId, (changes.get(payout.merchantId) ?? 0n) + by);
  }
  return changes;
}
