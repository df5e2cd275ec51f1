/**
 * Payment: an order's amount to its merchant's escrow, and back. From the wallet a TCC between the user and the city keyspace: the coordinator is in
 * `desk.ts`, what follows the answer in `finisher.ts`. By a channel outside record → call → confirm: `charges.ts`; what channels tell unasked is
 * worked off by `hearing.ts`. Both end in the drains of `pay.drain.ts` and `refund.drain.ts`.
 */
import type { Service, ServiceSchema } from "moleculer";
import type { Shard } from "../../domain/ids.ts";
import { OPEN_CHARGE } from "../../domain/payment/state.ts";
import { ChannelWork } from "../../mixins/channel-work.ts";
import type { Channel } from "../../mixins/channels/index.ts";
import { handle, type Ctx } from "../../mixins/contract.ts";
import { storedAnswers } from "../../mixins/idempotency.ts";
import { platformOf, type Platform } from "../../mixins/platform.ts";
import { sweep, type Sweep } from "../../mixins/sweep.ts";
import { CALLBACKS_KEPT, type CallbacksKept } from "../callback/callback.contract.ts";
import { claimCallbacks } from "../callback/callback.store.ts";
import { Charges } from "./charges.ts";
import { Desk } from "./desk.ts";
import { Finisher } from "./finisher.ts";
import { Hearing } from "./hearing.ts";
import { finishDrain, makeDecideDrain, tryDrain } from "./pay.drain.ts";
import { approveDrain, approve, list as listOfOrder, makeRequestDrain, request, resume, resumeDrain } from "./asking.ts";
import { pay, type Till } from "./paying.ts";
import {
  advanceRefunds,
  approveRefund,
  hearCallbacks,
  listRefunds,
  payOrder,
  recoverPayments,
  REFUNDS_REQUESTED,
  refundsRequested,
  requestRefund,
  resumeRefund,
} from "./payment.contract.ts";
import { claimPayments, findPayments, findStuckPayments } from "./payment.store.ts";
import { finishRefundsDrain, makeDecideRefundsDrain, makeTellRefundsDrain, tryRefundsDrain } from "./refund.drain.ts";
import { claimRefunds } from "./refund.store.ts";
import { Refunds } from "./refunds.ts";

interface Parts extends Till {
  platform: Platform;
  finisher: Finisher;
  work: ChannelWork<Channel>;
  refunds: Refunds;
  hearing: Hearing;
  sweeps: Sweep[];
}
type This = Service<{}> & Parts;

/** Attempts of recovery, some two minutes, after which an end that does not come is a person's business too. */
const ALARM_ATTEMPTS = 6;

const payment: ServiceSchema<{}, {}, Parts> = {
  name: "payment",
  dependencies: ["wallet"],
  actions: {
    pay: handle(payOrder, pay),
    recover: handle(recoverPayments, recover),
    refund: handle(advanceRefunds, refund),
    requestRefund: handle(requestRefund, request),
    refundsOf: handle(listRefunds, listOfOrder),
    approveRefund: handle(approveRefund, approve),
    resumeRefund: handle(resumeRefund, resume),
    hear: handle(hearCallbacks, hear),
  },
  events: {
    [REFUNDS_REQUESTED]: { handler: onRefundsRequested },
    [CALLBACKS_KEPT]: { handler: onCallbacksKept },
  },
  created() {
    this.platform = platformOf(this.broker);
    const { metrics } = this.platform;
    this.desk = new Desk(this.broker, this.platform);
    this.finisher = new Finisher(this.broker, this.platform, this.logger);
    this.work = new ChannelWork((name) => this.platform.channels.get(name), this.platform, this.logger);
    this.charges = new Charges(this.platform, this.work, this.logger);
    this.refunds = new Refunds(this.broker, this.platform, this.work, this.logger);
    this.hearing = new Hearing(this.broker, this.platform, { charges: this.charges, refunds: this.refunds }, this.logger);
    this.sweeps = [];
    this.platform.offer("payment.try", tryDrain);
    const due = (shard: Shard): void => refundsRequested(this.broker, shard);
    const decide = makeDecideDrain(this.platform, {
      onDecided: (decided) => this.finisher.add(decided),
      onSurplus: due,
      onDiffering: (differing) => {
        for (const { payment, paid, reason } of differing)
          this.logger.error(
            `alarm: ${payment.channel} took ${paid.amount} ${paid.currency} for payment ${payment.id} of ${payment.amount}: ${reason}`,
          );
      },
    });
    this.platform.offer("payment.decide", decide);
    this.platform.offer("payment.finish", finishDrain);
    this.platform.offer("refund.approve", storedAnswers(approveDrain(due)));
    this.platform.offer("refund.request", storedAnswers(makeRequestDrain(this.platform, due)));
    this.platform.offer("refund.try", tryRefundsDrain);
    this.platform.offer("refund.decide", makeDecideRefundsDrain(metrics));
    this.platform.offer("refund.finish", finishRefundsDrain);
    this.platform.offer("refund.resume", resumeDrain(due));
    const told = makeTellRefundsDrain(metrics, ({ id, channel }, reason) =>
      this.logger.error(`alarm: refund ${id} waits for a person: ${channel} says ${reason}`),
    );
    this.platform.offer("refund.tell", told);
  },
  started() {
    this.sweeps = [
      sweep(this, "unfinished payments", { find: claimPayments, act: recoverPayments }),
      sweep(this, "unfinished refunds", { find: claimRefunds, act: advanceRefunds }),
      sweep(this, "callbacks", { find: claimCallbacks, act: hearCallbacks }),
    ];
  },
  async stopped() {
    await Promise.all(this.sweeps.map((one) => one.stop()));
    await Promise.all([this.hearing.stop(), this.refunds.stop()]);
    await this.work.stop();
    await this.finisher.stop();
  },
};
export default payment;

/** An undecided payment is cancelled, whatever its Try came to: its coordinator has been silent for `LIMITS.tryMs`. A decided one is finished. */
async function recover(this: This, ctx: Ctx<typeof recoverPayments>): Promise<undefined> {
  const { city, slot, ids } = ctx.params;
  const shard = { city, slot };
  const database = this.platform.databaseOf(shard);
  const payments = [...(await findPayments(database, shard, ids)).values()];
  this.finisher.add(payments.filter(({ state }) => state === "CONFIRMING" || state === "CANCELLING"));
  const stuck = await findStuckPayments(database, shard, ids, ALARM_ATTEMPTS);
  if (stuck.length > 0) this.logger.error(`payments are decided and do not end: ${stuck.join(", ")}`);
  this.charges.add(payments.filter(({ state }) => OPEN_CHARGE.includes(state)));
  const silent = payments.filter(({ state }) => state === "TRYING");
  await Promise.all(silent.map((one) => this.desk.decide(one, { confirm: false, reason: "TIMEOUT", requestId: undefined })));
}

async function hear(this: This, ctx: Ctx<typeof hearCallbacks>): Promise<undefined> {
  const { city, slot, ids } = ctx.params;
  await this.hearing.hear({ city, slot }, ids);
}

/** A hint, not a promise: what fails here is due for the sweep. */
async function onCallbacksKept(this: This, ctx: { readonly params: CallbacksKept }): Promise<void> {
  const { city, slot, ids } = ctx.params;
  await this.hearing
    .hear({ city, slot }, ids)
    .catch((error: unknown) => this.logger.warn({ err: error }, "callbacks are left to the sweep"));
}

async function refund(this: This, ctx: Ctx<typeof advanceRefunds>): Promise<undefined> {
  const { city, slot, ids } = ctx.params;
  await this.refunds.advance({ city, slot }, ids);
}

/** A hint, not a promise: what fails here is due for recovery. */
async function onRefundsRequested(this: This, ctx: { readonly params: Shard }): Promise<void> {
  await this.refunds.payOut(ctx.params).catch((error: unknown) => this.logger.warn({ err: error }, "refunds are left to recovery"));
}
