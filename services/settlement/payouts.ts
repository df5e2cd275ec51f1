/**
 * Driving payouts: record → call → confirm. That the channel is called is durable before it is; what it says is durable before anything follows
 * from it. Without an answer the payout is UNKNOWN, and whoever takes it up asks the channel: only one it has never heard of is sent again, under
 * the same id. One that arrived is asked about for some days more: banks send money back.
 */
import type { Logger, ServiceBroker } from "moleculer";
import { answered, unknown, type ChannelPayout, type Outcome } from "../../domain/channel/records.ts";
import { shardOf, type Shard } from "../../domain/ids.ts";
import { CURRENCY } from "../../domain/payment/charge.ts";
import { payoutWordOf, type PayoutRow, type PayoutTold, type PayoutWord } from "../../domain/payout/decide.ts";
import { ChannelWork } from "../../mixins/channel-work.ts";
import { payoutChannelOf, type PayoutChannel } from "../../mixins/payout-channel.ts";
import type { Platform } from "../../mixins/platform.ts";
import { claimPayouts, findPayouts } from "./payout.store.ts";

/** Payouts one attempt takes together. */
const PAYOUTS_MAX = 64;

export class Payouts {
  readonly #platform: Platform;
  readonly #logger: Logger;
  readonly #work: ChannelWork<PayoutChannel>;

  constructor(broker: ServiceBroker, platform: Platform, logger: Logger) {
    this.#platform = platform;
    this.#logger = logger;
    this.#work = new ChannelWork((name) => payoutChannelOf(broker, name), platform, logger);
  }

  /** Takes what is due in a shard as far as it goes, in the background. */
  async payOut(shard: Shard): Promise<void> {
    const due = await claimPayouts(this.#platform.databaseOf(shard), [shard.slot], PAYOUTS_MAX);
    await this.add(
      shard,
      due.map(({ id }) => id),
    );
  }

  /** Nobody waits for a channel that hangs; of one payout there is one call at a time. */
  async add(shard: Shard, ids: readonly string[]): Promise<void> {
    const payouts = await findPayouts(this.#platform.databaseOf(shard), shard, ids);
    for (const { id, channel: name } of payouts) this.#work.add(name, id, (channel) => this.advance(channel, shard, id));
  }

  stop(): Promise<void> {
    return this.#work.stop();
  }

  /** Looks anew: it may have waited behind others. */
  async advance(channel: PayoutChannel, shard: Shard, id: string): Promise<void> {
    for (const payout of await findPayouts(this.#platform.databaseOf(shard), shard, [id])) await this.#advance(channel, payout);
  }

  /** What a channel says, asked or unasked. */
  tell(word: PayoutWord): Promise<PayoutTold> {
    return this.#platform.post<PayoutWord, PayoutTold>(shardOf(word.id), "payout.tell", word);
  }

  async #advance(channel: PayoutChannel, payout: PayoutRow): Promise<void> {
    const { id, state } = payout;
    if (state === "FAILED" || state === "RETURNED") return;
    if (state === "REQUESTED") await this.tell({ id, event: "call" });
    const known = state === "REQUESTED" ? undefined : await outcomeOf(channel.queryPayout(id));
    const makes = known === undefined || (state !== "SUCCEEDED" && known.kind === "answered" && known.value.status === "ABSENT");
    const outcome = makes ? await call(channel, payout) : known;
    const made = makes ? "payout" : "query";
    this.#work.count(channel.name, made, outcome);
    const word = payoutWordOf(made, outcome, payout);
    if (word.error !== undefined) this.#logger.warn(`payout ${id} waits for ${channel.name}: ${word.error}`);
    await this.tell({ id, ...word });
  }
}

const call = (channel: PayoutChannel, { id, merchantId, amount }: PayoutRow): Promise<Outcome<ChannelPayout>> =>
  // The channel knows a merchant by our number for it.
  outcomeOf(channel.payout({ number: id, amount, currency: CURRENCY, account: merchantId, reason: `货款 Payout ${id}` }));

/** An adapter that throws has told nothing: that is as unknown as a line that breaks. */
const outcomeOf = (call: Promise<Outcome<ChannelPayout>>): Promise<Outcome<ChannelPayout>> =>
  call.catch((error: unknown) => unknown("connection", error instanceof Error ? error.message : String(error)));

/** The test channel: a bank that pays at once and remembers nothing, so it may be told twice. Only in the embedded profile. */
export const TEST_BANK: PayoutChannel = {
  name: "bank",
  payout: ({ number, amount, currency }) => Promise.resolve(answered({ number, status: "SUCCEEDED", amount, currency })),
  queryPayout: (number) => Promise.resolve(answered({ number, status: "ABSENT" })),
};
