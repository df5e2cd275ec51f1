/** What channels told us takes effect: a payment is made, a refund or a payout has arrived. A callback is done in the transaction of its effect. */
import type { Logger, ServiceBroker } from "moleculer";
import type { ChannelNews } from "../../domain/channel/records.ts";
import { shardKey, type PaymentId, type PayoutId, type RefundId, type Shard } from "../../domain/ids.ts";
import { LIMITS } from "../../domain/limits.ts";
import { isTaken, newsOf } from "../../domain/payment/charge.ts";
import { wordOf } from "../../domain/refund/advance.ts";
import { call } from "../../mixins/contract.ts";
import type { Platform } from "../../mixins/platform.ts";
import { Rounds } from "../../mixins/rounds.ts";
import { findCallbacks, finishCallbacks, noteCallbackFailure, type KeptCallback } from "../callback/callback.store.ts";
import { hearPayout } from "../settlement/settlement.contract.ts";
import type { Charges } from "./charges.ts";
import { findPayments } from "./payment.store.ts";
import { findRefunds } from "./refund.store.ts";
import type { Refunds } from "./refunds.ts";

/** Callbacks one round takes together: what they do is one drain. */
const CALLBACKS_MAX = 512;
/** A buyer may look at the page meanwhile. */
const GATHER_MS = 100;
/** Callbacks of one shard waiting here; the rest is the sweep's. */
const WAITING_MAX = 16_384;

/** Trying again helps nobody. */
class Hopeless extends Error {}

export class Hearing {
  readonly #broker: ServiceBroker;
  readonly #platform: Platform;
  readonly #desks: { readonly charges: Charges; readonly refunds: Refunds };
  readonly #logger: Logger;
  readonly #rounds = new Rounds((shard) => this.#round(shard), GATHER_MS);
  /** By shard, in the order they came. A callback that waits here and is swept meanwhile is worked off once. */
  readonly #waiting = new Map<string, Set<string>>();

  constructor(broker: ServiceBroker, platform: Platform, desks: { readonly charges: Charges; readonly refunds: Refunds }, logger: Logger) {
    this.#broker = broker;
    this.#platform = platform;
    this.#desks = desks;
    this.#logger = logger;
  }

  /** Works callbacks of a shard off, together with those that come meanwhile. */
  hear(shard: Shard, ids: readonly string[]): Promise<void> {
    const key = shardKey(shard);
    const waiting = this.#waiting.get(key) ?? new Set();
    this.#waiting.set(key, waiting);
    for (const id of ids) if (waiting.size < WAITING_MAX) waiting.add(id);
    return this.#rounds.go(shard);
  }

  stop(): Promise<void> {
    return this.#rounds.stop();
  }

  async #round(shard: Shard): Promise<void> {
    const waiting = this.#waiting.get(shardKey(shard)) ?? new Set();
    while (waiting.size > 0) {
      const ids = [...waiting.values().take(CALLBACKS_MAX)];
      for (const id of ids) waiting.delete(id);
      const callbacks = await findCallbacks(this.#platform.databaseOf(shard), shard, ids);
      await Promise.all([
        this.#hearCharges(shard, callbacks.filter(isAbout("charge"))),
        this.#hearRefunds(shard, callbacks.filter(isAbout("refund"))),
        ...callbacks.filter(isAbout("payout")).map((one) => this.#try(shard, [one], () => this.#hearPayout(one))),
      ]);
    }
  }

  /** All at once: what they do meets in the shard's drains. Of a charge that was paid long ago there is nothing left to hear. */
  async #hearCharges(shard: Shard, callbacks: readonly About<"charge">[]): Promise<void> {
    if (callbacks.length === 0) return;
    const database = this.#platform.databaseOf(shard);
    const payments = await findPayments(
      database,
      shard,
      callbacks.map(({ news }) => news.charge.number),
    );
    const paymentOf = ({ news }: About<"charge">) => payments.get(news.charge.number as PaymentId);
    const isHeard = (one: About<"charge">): boolean => {
      const payment = paymentOf(one);
      return payment?.channel === one.channel && isTaken(payment);
    };
    const { heard = [], fresh = [] } = Object.groupBy(callbacks, (one) => (isHeard(one) ? "heard" : "fresh"));
    const ids = heard.map(({ id }) => id);
    const tell = async (one: About<"charge">): Promise<void> => {
      const payment = paymentOf(one);
      if (payment?.channel !== one.channel) throw unknown(one, "payment");
      const { charge } = one.news;
      await this.#desks.charges.tell(payment, { news: newsOf(charge), channelNo: charge.channelNumber, callbackId: one.id });
    };
    await Promise.all([
      this.#try(shard, heard, () => finishCallbacks(database, shard, ids)),
      ...fresh.map((one) => this.#try(shard, [one], () => tell(one))),
    ]);
  }

  async #hearRefunds(shard: Shard, callbacks: readonly About<"refund">[]): Promise<void> {
    if (callbacks.length === 0) return;
    const numbers = callbacks.map(({ news }) => news.refund.number);
    const refunds = new Map((await findRefunds(this.#platform.databaseOf(shard), shard, numbers)).map((one) => [one.id as string, one]));
    const tell = async (one: About<"refund">): Promise<void> => {
      const { refund } = one.news;
      if (refunds.get(refund.number)?.channel !== one.channel) throw unknown(one, "refund");
      const word = wordOf(refund);
      await this.#desks.refunds.tell({ id: refund.number as RefundId, word, channelNo: refund.channelNumber, callbackId: one.id });
    };
    await Promise.all(callbacks.map((one) => this.#try(shard, [one], () => tell(one))));
  }

  async #hearPayout(one: About<"payout">): Promise<void> {
    const { number, status, amount, currency, channelNumber } = one.news.payout;
    const { known } = await call(this.#broker, hearPayout, {
      ...{ id: number as PayoutId, channel: one.channel, status, callbackId: one.id },
      ...(amount === undefined ? {} : { amount: String(amount) }),
      ...(currency === undefined ? {} : { currency }),
      ...(channelNumber === undefined ? {} : { channelNo: channelNumber }),
    });
    if (!known) throw unknown(one, "payout");
  }

  async #try(shard: Shard, callbacks: readonly KeptCallback[], work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (error) {
      for (const callback of callbacks) await this.#note(shard, callback, error);
    }
  }

  async #note(shard: Shard, { id, channel, attempts }: KeptCallback, error: unknown): Promise<void> {
    const why = error instanceof Error ? error.message : String(error);
    const forGood = error instanceof Hopeless || attempts >= LIMITS.attemptsMax;
    await noteCallbackFailure(this.#platform.databaseOf(shard), shard, id, why, forGood);
    if (!forGood) return this.#logger.warn(`callback ${id} of ${channel} waits for its next attempt: ${why}`);
    this.#platform.metrics.callbacks.inc({ channel, verdict: "failed" });
    this.#logger.error(`alarm: callback ${id} of ${channel} cannot be worked off: ${why}`);
  }
}

type About<A extends ChannelNews["about"]> = KeptCallback & { readonly news: Extract<ChannelNews, { readonly about: A }> };
const isAbout =
  <A extends ChannelNews["about"]>(about: A) =>
  (one: KeptCallback): one is About<A> =>
    one.news.about === about;

const unknown = ({ channel }: KeptCallback, about: string): Hopeless => new Hopeless(`${channel} has no such ${about} of ours`);
