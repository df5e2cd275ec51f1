/** What channels told us takes effect: a payment is made, a refund or a payout has arrived. A callback is done in the transaction of its effect. */
import type { Logger, ServiceBroker } from "moleculer";
import type { PaymentId, PayoutId, RefundId, Shard } from "../../domain/ids.ts";
import { LIMITS } from "../../domain/limits.ts";
import { newsOf } from "../../domain/payment/charge.ts";
import { wordOf } from "../../domain/refund/advance.ts";
import { call } from "../../mixins/contract.ts";
import type { Platform } from "../../mixins/platform.ts";
import { Rounds } from "../../mixins/rounds.ts";
import { claimCallbacks, findCallbacks, noteCallbackFailure, type KeptCallback } from "../callback/callback.store.ts";
import { hearPayout } from "../settlement/settlement.contract.ts";
import type { Charges } from "./charges.ts";
import { findPayments } from "./payment.store.ts";
import { findRefunds } from "./refund.store.ts";
import type { Refunds } from "./refunds.ts";

/** Callbacks one round takes together. */
const CALLBACKS_MAX = 256;

/** Trying again helps nobody. */
class Hopeless extends Error {}

export class Hearing {
  readonly #broker: ServiceBroker;
  readonly #platform: Platform;
  readonly #desks: { readonly charges: Charges; readonly refunds: Refunds };
  readonly #logger: Logger;
  readonly #rounds = new Rounds((shard) => this.#round(shard));

  constructor(broker: ServiceBroker, platform: Platform, desks: { readonly charges: Charges; readonly refunds: Refunds }, logger: Logger) {
    this.#broker = broker;
    this.#platform = platform;
    this.#desks = desks;
    this.#logger = logger;
  }

  /** Everything a shard has to work off. */
  hearAll(shard: Shard): Promise<void> {
    return this.#rounds.go(shard);
  }

  async #round(shard: Shard): Promise<void> {
    for (;;) {
      const due = await claimCallbacks(this.#platform.databaseOf(shard), [shard.slot], CALLBACKS_MAX);
      await this.hear(
        shard,
        due.map(({ id }) => id),
      );
      if (due.length < CALLBACKS_MAX) return;
    }
  }

  /** All at once: what they do meets in the shard's drains. */
  async hear(shard: Shard, ids: readonly string[]): Promise<void> {
    const callbacks = await findCallbacks(this.#platform.databaseOf(shard), shard, ids);
    await Promise.all(callbacks.map((callback) => this.#tryHear(shard, callback)));
  }

  async #tryHear(shard: Shard, callback: KeptCallback): Promise<void> {
    try {
      await this.#hear(shard, callback);
    } catch (error) {
      const why = error instanceof Error ? error.message : String(error);
      const forGood = error instanceof Hopeless || callback.attempts >= LIMITS.attemptsMax;
      await noteCallbackFailure(this.#platform.databaseOf(shard), shard, callback.id, why, forGood);
      if (!forGood) return this.#logger.warn(`callback ${callback.id} of ${callback.channel} waits for its next attempt: ${why}`);
      this.#platform.metrics.callbacks.inc({ channel: callback.channel, verdict: "failed" });
      this.#logger.error(`alarm: callback ${callback.id} of ${callback.channel} cannot be worked off: ${why}`);
    }
  }

  async #hear(shard: Shard, { id: callbackId, channel, news }: KeptCallback): Promise<void> {
    const database = this.#platform.databaseOf(shard);
    const isOf = (about: string, row: { readonly channel: string } | undefined): void => {
      if (row?.channel !== channel) throw new Hopeless(`${channel} has no such ${about} of ours`);
    };
    if (news.about === "charge") {
      const id = news.charge.number as PaymentId;
      const payment = (await findPayments(database, shard, [id])).get(id);
      isOf("payment", payment);
      if (payment) await this.#desks.charges.tell(payment, { news: newsOf(news.charge), channelNo: news.charge.channelNumber, callbackId });
    } else if (news.about === "refund") {
      const id = news.refund.number as RefundId;
      isOf("refund", (await findRefunds(database, shard, [id]))[0]);
      await this.#desks.refunds.tell({ id, word: wordOf(news.refund), channelNo: news.refund.channelNumber, callbackId });
    } else {
      const { number, status, amount, currency, channelNumber } = news.payout;
      const { known } = await call(this.#broker, hearPayout, {
        ...{ id: number as PayoutId, channel, status, callbackId },
        ...(amount === undefined ? {} : { amount: String(amount) }),
        ...(currency === undefined ? {} : { currency }),
        ...(channelNumber === undefined ? {} : { channelNo: channelNumber }),
      });
      if (!known) throw new Hopeless(`${channel} has no such payout of ours`);
    }
  }
}
