/**
 * Driving payouts: record → call → confirm. That the channel is called is durable before it is; what it says is durable before anything follows
 * from it. Without an answer the payout is UNKNOWN, and whoever takes it up asks the channel: only one it has never heard of is sent again, under
 * the same id.
 */
import type { Logger, ServiceBroker } from "moleculer";
import { shardOf, type Shard } from "../../domain/ids.ts";
import { LIMITS } from "../../domain/limits.ts";
import type { PayoutRow, PayoutWord } from "../../domain/payout/decide.ts";
import type { PayoutState } from "../../domain/payout/state.ts";
import { payoutChannelOf, type PayoutChannel, type PayoutReply } from "../../mixins/payout-channel.ts";
import type { Platform } from "../../mixins/platform.ts";
import { claimPayouts, findPayouts, notePayoutFailure } from "./payout.store.ts";

/** Payouts one attempt takes together. */
const PAYOUTS_MAX = 64;

export class Payouts {
  readonly #broker: ServiceBroker;
  readonly #platform: Platform;
  readonly #logger: Logger;

  constructor(broker: ServiceBroker, platform: Platform, logger: Logger) {
    this.#broker = broker;
    this.#platform = platform;
    this.#logger = logger;
  }

  /** Takes what is due in a shard as far as it goes. */
  async payOut(shard: Shard): Promise<void> {
    const due = await claimPayouts(this.#platform.databaseOf(shard), [shard.slot], PAYOUTS_MAX);
    await this.advance(
      shard,
      due.map(({ id }) => id),
    );
  }

  async advance(shard: Shard, ids: readonly string[]): Promise<void> {
    const payouts = await findPayouts(this.#platform.databaseOf(shard), shard, ids);
    await Promise.all(payouts.map((payout) => this.#advance(shard, payout)));
  }

  /** What a channel says, asked or unasked. */
  async tell(word: PayoutWord): Promise<PayoutState | undefined> {
    const { state } = await this.#platform.post<PayoutWord, { readonly state: PayoutState | undefined }>(
      shardOf(word.id),
      "payout.tell",
      word,
    );
    return state;
  }

  async #advance(shard: Shard, payout: PayoutRow): Promise<void> {
    const { id, state } = payout;
    if (state !== "REQUESTED" && state !== "PROCESSING" && state !== "UNKNOWN") return;
    const channel = payoutChannelOf(this.#broker, payout.channel);
    if (channel === undefined) {
      this.#logger.error(`payout ${id} waits: this node has no channel ${payout.channel}`);
      return;
    }
    if (state === "REQUESTED") await this.tell({ id, event: "call", reason: undefined });
    try {
      await this.#hear(payout, state === "REQUESTED" ? await call(channel, payout) : await ask(channel, payout));
    } catch (error) {
      const why = error instanceof Error ? error.message : String(error);
      this.#logger.warn(`what came of payout ${id} is not known: ${why}`);
      await notePayoutFailure(this.#platform.databaseOf(shard), shard, id, why);
      await this.tell({ id, event: "lose", reason: undefined });
    }
  }

  async #hear({ id }: PayoutRow, reply: PayoutReply): Promise<void> {
    if (reply.status === "PAID") await this.tell({ id, event: "pay", reason: undefined });
    else if (reply.status === "REFUSED") await this.tell({ id, event: "refuse", reason: reply.reason });
  }
}

const call = (channel: PayoutChannel, { id, merchantId, amount }: PayoutRow): Promise<PayoutReply> =>
  inTime((signal) => channel.pay({ id, merchantId, amount }, signal));

async function ask(channel: PayoutChannel, payout: PayoutRow): Promise<PayoutReply> {
  const reply = await inTime((signal) => channel.query(payout.id, signal));
  return reply.status === "ABSENT" ? call(channel, payout) : reply;
}

/** A channel that does not heed its signal is not waited for either. */
function inTime<T>(work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const signal = AbortSignal.timeout(LIMITS.channelMs);
  const late = new Promise<never>((_, reject) =>
    signal.addEventListener("abort", () => reject(new Error(`no answer within ${LIMITS.channelMs} ms`)), { once: true }),
  );
  return Promise.race([work(signal), late]);
}

/** The test channel: a bank that pays at once and remembers nothing, so it may be told twice. Only in the embedded profile. */
export const TEST_BANK: PayoutChannel = {
  name: "bank",
  pay: () => Promise.resolve({ status: "PAID" }),
  query: () => Promise.resolve({ status: "ABSENT" }),
};
