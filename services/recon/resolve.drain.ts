/** The drain of a person's decisions about money in suspense: booked, kept and told in one transaction. The rule is in `domain/recon/suspense.ts`. */
import type { DomainError } from "../../domain/error.ts";
import { USER_CITY, type RefundId, type Shard } from "../../domain/ids.ts";
import { invariant } from "../../domain/invariant.ts";
import { toJson } from "../../domain/money.ts";
import { otherMoney, resolve, type Outcome, type Resolved, type Suspended } from "../../domain/recon/suspense.ts";
import type { Answer } from "../../mixins/contract.ts";
import type { Work } from "../../mixins/drain.ts";
import { appendEvents, type NewEvent } from "../../mixins/events.ts";
import type { Keyed } from "../../mixins/idempotency.ts";
import { bookTransfers } from "../../mixins/ledger.ts";
import { isRefusal } from "../../mixins/mailbox.ts";
import { findOrders } from "../order/order.store.ts";
import { lockPayments } from "../payment/payment.store.ts";
import { requestRefunds, type NewRefund } from "../payment/refund.store.ts";
import type { resolveSuspense } from "./recon.contract.ts";
import { lockDifferences, markResolved, toDifference } from "./recon.store.ts";
import { findOutcomes, resolveCases } from "./suspense.store.ts";

export interface ResolveCommand extends Keyed {
  readonly id: string;
  readonly outcome: Outcome;
  readonly note: string;
  readonly requestId: string | undefined;
}
type Shown = Answer<typeof resolveSuspense>;
/** A decision that is taken, by the command that asked for it. */
interface Taken extends Resolved {
  readonly command: ResolveCommand;
}

/** `isOn`: is this channel switched on? `onGivenBack` hears, after the commit, of a shard in which refunds can be paid. */
export const makeResolveDrain =
  (isOn: (channel: string) => boolean, onGivenBack: (shard: Shard) => void) =>
  async (work: Work, commands: readonly ResolveCommand[]): Promise<(Shown | DomainError)[]> => {
    const { shard } = work;
    const items = await lockSuspended(
      work,
      commands.map(({ id }) => id),
      isOn,
    );
    const decided = await findOutcomes(work, shard, [...items.keys()]);
    const taken: Taken[] = [];
    const outcomes = commands.map((command) => {
      const { id, outcome } = command;
      const resolved = resolve(id, outcome, items.get(id), decided.get(id));
      if (isRefusal(resolved)) return resolved;
      decided.set(id, outcome);
      const one = { ...resolved, command };
      taken.push(one);
      return one;
    });
    const now = await work.now();
    const refunds = await write(work, taken, now);
    work.afterCommit(() => {
      if (refunds.size > 0) onGivenBack(shard);
    });
    return outcomes.map((one) => (isRefusal(one) ? one : show(one, refunds.get(one.command.id), now)));
  };

/** What lies in suspense under some ids, locked; of the others there is nothing. */
async function lockSuspended(work: Work, asked: readonly string[], isOn: (channel: string) => boolean): Promise<Map<string, Suspended>> {
  const { shard } = work;
  const ids = [...new Set(asked)].sort();
  const [differences, payments] = await Promise.all([
    lockDifferences(work, shard, ids),
    // Only a city has payments.
    shard.city === USER_CITY ? new Map() : lockPayments(work, shard, ids),
  ]);
  return new Map([
    ...differences.map((row): [string, Suspended] => {
      const { id, state, booked, answer, channel } = row;
      return [id, { about: "difference", difference: toDifference(row), state, booked, asked: answer !== null || !isOn(channel) }];
    }),
    ...[...payments.values()].flatMap((payment): [string, Suspended][] => {
      const money = otherMoney(payment);
      return money ? [[money.id, { about: "payment", money, refundable: isOn(money.channel) }]] : [];
    }),
  ]);
}

/** Answers with the refunds that were made, by the payment they give back. */
async function write(work: Work, taken: readonly Taken[], now: Date): Promise<Map<string, RefundId>> {
  if (taken.length === 0) return new Map();
  const { shard } = work;
  const refunds = await refundsOf(work, taken);
  const [kept] = await Promise.all([
    resolveCases(
      work,
      shard,
      taken.map(({ command: { id, outcome, note, callerId } }) => ({ id, outcome, note, by: callerId })),
      now,
    ),
    // Under a payment's id there is none.
    markResolved(
      work,
      shard,
      taken.map(({ command }) => command.id),
      now,
    ),
    bookTransfers(
      work,
      taken.flatMap(({ transfers }) => transfers),
    ),
    requestRefunds(work, shard, refunds, now),
    appendEvents(work, shard, taken.map(eventOf)),
  ]);
  invariant(kept === taken.length, "what is in suspense is decided once");
  return new Map(refunds.map(({ id, paymentId }) => [paymentId, id]));
}

/** The money is of no unit of its order, which it never paid. */
async function refundsOf(work: Work, taken: readonly Taken[]): Promise<NewRefund[]> {
  const back = taken.flatMap(({ givenBack }) => givenBack ?? []);
  if (back.length === 0) return [];
  const [orders, ids] = await Promise.all([
    findOrders(work, work.shard, [...new Set(back.map(({ orderId }) => orderId))]),
    work.mint(back.length) as Promise<RefundId[]>,
  ]);
  return back.map(({ id: paymentId, orderId, merchantId, paid }, index): NewRefund => {
    const [id, order] = [ids[index], orders.get(orderId)];
    invariant(id !== undefined && order !== undefined, "there is an id for every refund, and the order of its payment");
    const { consumerId, quantity } = order;
    return { id, orderId, paymentId, consumerId, merchantId, quantity, amount: paid.amount, reason: "OTHER_MONEY", surplus: true };
  });
}

const eventOf = ({ amount, currency, givenBack, command }: Taken): NewEvent<"suspense.resolved"> => ({
  type: "suspense.resolved",
  subject: command.id,
  actor: command.callerId,
  requestId: command.requestId,
  idemKey: command.idemKey,
  data: {
    id: command.id,
    outcome: command.outcome,
    amount: toJson(amount),
    currency,
    note: command.note,
    ...(givenBack ? { orderId: givenBack.orderId } : {}),
  },
});

const show = ({ amount, currency, command }: Taken, refundId: RefundId | undefined, now: Date): Shown => ({
  id: command.id as Shown["id"],
  outcome: command.outcome,
  amount: toJson(amount),
  currency,
  note: command.note,
  at: now.toISOString(),
  ...(refundId === undefined ? {} : { refundId }),
});
