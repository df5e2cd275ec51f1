/** A consumer pays. Paying twice answers the first payment; while it is being decided, everybody waits for the same end. */
import { setTimeout as sleep } from "node:timers/promises";
import type { Service } from "moleculer";
import { raise } from "../../domain/error.ts";
import { cityOf, shardOf, type Shard } from "../../domain/ids.ts";
import { invariant } from "../../domain/invariant.ts";
import { ORDER_ERRORS } from "../../domain/order/errors.ts";
import { WALLET, type PayCommand, type PaymentRow, type Tried } from "../../domain/payment/try.ts";
import { USER_ERRORS } from "../../domain/user/errors.ts";
import type { Answer, Ctx } from "../../mixins/contract.ts";
import type { Platform } from "../../mixins/platform.ts";
import type { Charges } from "./charges.ts";
import type { Desk } from "./desk.ts";
import type { payOrder } from "./payment.contract.ts";
import { findPayments } from "./payment.store.ts";

/** Where payments are made: from wallets, and at channels outside. */
export interface Till {
  readonly platform: Platform;
  desk: Desk;
  charges: Charges;
}
type Paid = Answer<typeof payOrder>;

/** How often a request looks whether the payment it found, decided by another node, has its end. */
const LOOK_MS = 100;
/** After this it decides itself. A decision takes milliseconds; its node was found dead, or stands still, and recovery comes in twenty seconds. */
const PATIENCE_MS = 1_000;

export async function pay(this: Service<{}> & Till, ctx: Ctx<typeof payOrder>): Promise<Paid> {
  const { id, channel } = ctx.params;
  const { caller, requestId } = ctx.meta;
  invariant(caller !== undefined, "the gateway lets nobody in here without a token");
  if (!this.platform.servesCity(cityOf(id))) return raise(ORDER_ERRORS, "ORDER_NOT_FOUND", { orderId: id });
  if (channel !== WALLET && !this.platform.channels.has(channel)) return raise(USER_ERRORS, "CHANNEL_UNKNOWN", { channel });
  const shard = shardOf(id);
  for (;;) {
    const command: PayCommand = { orderId: id, consumerId: caller.userId, channel };
    const tried = await this.platform.post<PayCommand, Tried>(shard, "payment.try", command);
    const ended =
      tried.payment.channel === WALLET ? await fromWallet(this, shard, tried, requestId) : await byChannel(this, tried, channel, requestId);
    if (ended.state === "CONFIRMING" || ended.state === "CONFIRMED")
      return { orderId: ended.orderId, paymentId: ended.id, status: "CONFIRMED" };
    if (ended.channel === channel && channel !== WALLET)
      return {
        orderId: ended.orderId,
        paymentId: ended.id,
        status: "PROCESSING",
        ...(ended.payUrl === undefined ? {} : { payUrl: ended.payUrl }),
      };
    // Another node gave that payment up, or its charge is closed now: this request is a new attempt.
  }
}

/** An order is paid one way at a time: a charge that is open at another channel than the one asked for is closed there first. */
const byChannel = ({ charges }: Till, { payment, begun }: Tried, channel: string, requestId: string | undefined): Promise<PaymentRow> =>
  payment.channel === channel ? charges.open(payment, begun, requestId) : charges.close(payment, requestId);

async function fromWallet(till: Till, shard: Shard, { payment, begun }: Tried, requestId: string | undefined): Promise<PaymentRow> {
  if (payment.state !== "TRYING") return payment;
  const elsewhere = begun || till.desk.drives(payment.id) ? undefined : await decidedElsewhere(till, shard, payment);
  return elsewhere ?? till.desk.drive(payment, requestId);
}

/** Another node decides, or did until it died: its row says what became of it. Undefined while it is undecided. */
async function decidedElsewhere({ platform }: Till, shard: Shard, { id }: PaymentRow): Promise<PaymentRow | undefined> {
  const untilMs = performance.now() + PATIENCE_MS;
  while (performance.now() < untilMs) {
    await sleep(LOOK_MS);
    const found = (await findPayments(platform.databaseOf(shard), shard, [id])).get(id);
    if (found && found.state !== "TRYING") return found;
  }
  return undefined;
}
