/**
 * Payment: an order's amount from its consumer's wallet to its merchant's escrow, and back. A TCC between the user and the city keyspace: the
 * city's drains are in `pay.drain.ts` and `refund.drain.ts`, the coordinator in `desk.ts`, what follows the answer in `finisher.ts`.
 */
import { setTimeout as sleep } from "node:timers/promises";
import type { Service, ServiceSchema } from "moleculer";
import { COMMON_ERRORS } from "../../domain/common-errors.ts";
import { raise } from "../../domain/error.ts";
import { cityOf, shardOf, type Shard } from "../../domain/ids.ts";
import { invariant } from "../../domain/invariant.ts";
import { LIMITS } from "../../domain/limits.ts";
import { ORDER_ERRORS } from "../../domain/order/errors.ts";
import type { PayCommand, PaymentRow, Tried } from "../../domain/payment/try.ts";
import { handle, type Answer, type Ctx } from "../../mixins/contract.ts";
import { storedAnswers } from "../../mixins/idempotency.ts";
import { platformOf, type Platform } from "../../mixins/platform.ts";
import { sweep, type Sweep } from "../../mixins/sweep.ts";
import { Desk } from "./desk.ts";
import { Finisher } from "./finisher.ts";
import { finishDrain, makeDecideDrain, tryDrain } from "./pay.drain.ts";
import { approveDrain, approve, list as listOfOrder, makeRequestDrain, request } from "./asking.ts";
import {
  advanceRefunds,
  approveRefund,
  listRefunds,
  payOrder,
  recoverPayments,
  REFUNDS_REQUESTED,
  refundsRequested,
  requestRefund,
} from "./payment.contract.ts";
import { claimPayments, findPayments, findStuckPayments } from "./payment.store.ts";
import { finishRefundsDrain, makeDecideRefundsDrain, tryRefundsDrain } from "./refund.drain.ts";
import { claimRefunds } from "./refund.store.ts";
import { Refunds } from "./refunds.ts";

interface Parts {
  platform: Platform;
  desk: Desk;
  finisher: Finisher;
  refunds: Refunds;
  sweeps: Sweep[];
}
type This = Service<{}> & Parts;

/** How often a request looks whether the payment it found, decided by another node, has its end. */
const LOOK_MS = 100;
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
  },
  events: {
    [REFUNDS_REQUESTED]: { handler: onRefundsRequested },
  },
  created() {
    this.platform = platformOf(this.broker);
    const { metrics } = this.platform;
    this.desk = new Desk(this.broker, this.platform);
    this.finisher = new Finisher(this.broker, this.platform, this.logger);
    this.refunds = new Refunds(this.broker, this.platform, this.logger);
    this.sweeps = [];
    this.platform.offer("payment.try", tryDrain);
    this.platform.offer(
      "payment.decide",
      makeDecideDrain(this.platform, (decided) => this.finisher.add(decided)),
    );
    this.platform.offer("payment.finish", finishDrain);
    const due = (shard: Shard): void => refundsRequested(this.broker, shard);
    this.platform.offer("refund.approve", storedAnswers(approveDrain(due)));
    this.platform.offer("refund.request", storedAnswers(makeRequestDrain(this.platform, due)));
    this.platform.offer("refund.try", tryRefundsDrain);
    this.platform.offer("refund.decide", makeDecideRefundsDrain(metrics));
    this.platform.offer("refund.finish", finishRefundsDrain);
  },
  started() {
    this.sweeps = [
      sweep(this, "unfinished payments", { find: claimPayments, act: recoverPayments }),
      sweep(this, "unfinished refunds", { find: claimRefunds, act: advanceRefunds }),
    ];
  },
  async stopped() {
    await Promise.all(this.sweeps.map((one) => one.stop()));
    await this.finisher.stop();
  },
};
export default payment;

/** Paying twice answers the first payment; while it is being decided, both wait for the same end. */
async function pay(this: This, ctx: Ctx<typeof payOrder>): Promise<Answer<typeof payOrder>> {
  const { id } = ctx.params;
  const { caller, requestId } = ctx.meta;
  invariant(caller !== undefined, "the gateway lets nobody in here without a token");
  if (!this.platform.servesCity(cityOf(id))) return raise(ORDER_ERRORS, "ORDER_NOT_FOUND", { orderId: id });
  const shard = shardOf(id);
  const untilMs = performance.now() + LIMITS.requestMs;
  for (;;) {
    const { payment: found, begun } = await this.platform.post<PayCommand, Tried>(shard, "payment.try", {
      orderId: id,
      consumerId: caller.userId,
    });
    const ended =
      found.state !== "TRYING"
        ? found
        : await (begun ? this.desk.drive(found, requestId) : (this.desk.join(found.id) ?? decidedElsewhere(this, shard, found, untilMs)));
    if (ended.state === "CONFIRMING" || ended.state === "CONFIRMED")
      return { orderId: ended.orderId, paymentId: ended.id, status: "CONFIRMED" };
    // Another node gave that payment up: this request is a new attempt.
  }
}

/** Another node decides, or did until it died: its row says what became of it. */
async function decidedElsewhere({ platform }: This, shard: Shard, { id }: PaymentRow, untilMs: number): Promise<PaymentRow> {
  while (performance.now() < untilMs) {
    await sleep(LOOK_MS);
    const found = (await findPayments(platform.databaseOf(shard), shard, [id])).get(id);
    if (found && found.state !== "TRYING") return found;
  }
  return raise(COMMON_ERRORS, "TIMEOUT", {});
}

/** An undecided payment is cancelled, whatever its Try came to: its coordinator has been silent for `LIMITS.tryMs`. A decided one is finished. */
async function recover(this: This, ctx: Ctx<typeof recoverPayments>): Promise<undefined> {
  const { city, slot, ids } = ctx.params;
  const shard = { city, slot };
  const database = this.platform.databaseOf(shard);
  const payments = [...(await findPayments(database, shard, ids)).values()];
  this.finisher.add(payments.filter(({ state }) => state === "CONFIRMING" || state === "CANCELLING"));
  const stuck = await findStuckPayments(database, shard, ids, ALARM_ATTEMPTS);
  if (stuck.length > 0) this.logger.error(`payments are decided and do not end: ${stuck.join(", ")}`);
  const silent = payments.filter(({ state }) => state === "TRYING");
  await Promise.all(silent.map((one) => this.desk.decide(one, { confirm: false, reason: "TIMEOUT", requestId: undefined })));
}

async function refund(this: This, ctx: Ctx<typeof advanceRefunds>): Promise<undefined> {
  const { city, slot, ids } = ctx.params;
  await this.refunds.advance({ city, slot }, ids);
}

/** A hint, not a promise: what fails here is due for recovery. */
async function onRefundsRequested(this: This, ctx: { readonly params: Shard }): Promise<void> {
  await this.refunds.payOut(ctx.params).catch((error: unknown) => this.logger.warn({ err: error }, "refunds are left to recovery"));
}
