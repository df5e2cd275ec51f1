/**
 * Paying refunds out, the way their payment came. By wallet a TCC whose Try cannot fail, since what an order brought is still in escrow. Every step is a batch, every step may be
 * repeated, and a step that fails leaves its refunds for their next attempt. By a channel: recorded, then called, and asked until it says that the money has arrived.
 */
import type { Logger, ServiceBroker } from "moleculer";
import { cityOf, shardOf, type PaymentId, type RefundId, type Shard } from "../../domain/ids.ts";
import { toJson, type Fen } from "../../domain/money.ts";
import { CURRENCY } from "../../domain/payment/charge.ts";
import { WALLET } from "../../domain/payment/try.ts";
import { stepOf, wordOfCall, type RefundStep } from "../../domain/refund/advance.ts";
import type { ChannelWork } from "../../mixins/channel-work.ts";
import type { Channel } from "../../mixins/channels/index.ts";
import type { Platform } from "../../mixins/platform.ts";
import { Rounds } from "../../mixins/rounds.ts";
import { confirmWallets, tryWallets } from "../wallet/wallet.contract.ts";
import { callBranches, type Branch } from "./branches.ts";
import { findPayments } from "./payment.store.ts";
import type { RefundNews } from "./refund.drain.ts";
import { claimRefunds, findRefunds, noteFailure, type RefundRow } from "./refund.store.ts";

/** Refunds one round takes together: however few they are, each phase is a transaction in the city, or one in each of sixteen slots of wallets. */
const REFUNDS_MAX = 512;
/** Who asks for money back expects it in days: those who ask one by one are paid together. */
const GATHER_MS = 250;

const branchOf = ({ id, orderId, consumerId, amount }: RefundRow): Branch => ({
  xid: id,
  kind: "refund",
  userId: consumerId,
  city: cityOf(orderId),
  orderId,
  amount: toJson(amount),
});

type StepKind = "refund.try" | "refund.decide" | "refund.finish";

export class Refunds {
  readonly #broker: ServiceBroker;
  readonly #platform: Platform;
  readonly #logger: Logger;
  readonly #work: ChannelWork<Channel>;
  readonly #rounds = new Rounds((shard) => this.#payOut(shard), GATHER_MS);

  constructor(broker: ServiceBroker, platform: Platform, work: ChannelWork<Channel>, logger: Logger) {
    this.#broker = broker;
    this.#platform = platform;
    this.#work = work;
    this.#logger = logger;
  }

  /** Takes what is due in a shard and pays it out, until nothing is. */
  payOut(shard: Shard): Promise<void> {
    return this.#rounds.go(shard);
  }

  stop(): Promise<void> {
    return this.#rounds.stop();
  }

  async #payOut(shard: Shard): Promise<void> {
    for (;;) {
      const due = await claimRefunds(this.#platform.databaseOf(shard), [shard.slot], REFUNDS_MAX);
      await this.advance(
        shard,
        due.map(({ id }) => id),
      );
      if (due.length < REFUNDS_MAX) return;
    }
  }

  /** Takes refunds as far as they go. */
  async advance(shard: Shard, ids: readonly string[]): Promise<void> {
    if (ids.length === 0) return;
    let refunds: readonly RefundRow[] = await findRefunds(this.#platform.databaseOf(shard), shard, ids);
    const at = (step: RefundStep): RefundRow[] => refunds.filter((refund) => stepOf(refund) === step);
    const step = async (kind: StepKind, some: readonly RefundRow[]): Promise<void> => {
      const after = new Map((await this.#step(shard, kind, some)).map((refund) => [refund.id, refund]));
      refunds = refunds.map((refund) => after.get(refund.id) ?? refund);
    };
    await step("refund.try", at("request"));
    await step("refund.decide", await this.#agreed(shard, at("try"), tryWallets));
    const decided = at("confirm");
    for (const refund of decided)
      if (refund.channel !== WALLET) this.#work.add(refund.channel, refund.id, (channel) => this.#call(channel, refund));
    const byWallet = decided.filter(({ channel }) => channel === WALLET);
    await step("refund.finish", await this.#agreed(shard, byWallet, confirmWallets));
  }

  /** What a channel says, asked or unasked; undefined where there is no such refund. */
  async tell(news: RefundNews): Promise<RefundRow | undefined> {
    return (await this.#platform.post<RefundNews, { refund: RefundRow | undefined }>(shardOf(news.id), "refund.tell", news)).refund;
  }

  /** Under its own number every time. One that was called before is asked for first: only one the channel has never heard of is sent again. */
  async #call(channel: Channel, refund: RefundRow): Promise<void> {
    const { id, paymentId, amount, reason } = refund;
    const shard = shardOf(id);
    const known = refund.attempts > 1 ? await channel.queryRefund(id) : undefined;
    const makes = known === undefined || (known.kind === "answered" && known.value.status === "ABSENT");
    const outcome = makes
      ? await channel.refund({
          number: id,
          chargeNumber: paymentId,
          amount,
          chargeAmount: await this.#chargedUnder(shard, paymentId, amount),
          currency: CURRENCY,
          reason,
        })
      : known;
    const call = makes ? "refund" : "query";
    this.#work.count(refund.channel, call, outcome);
    const word = wordOfCall(call, outcome);
    if (word.kind === "waits" && word.why !== undefined) this.#logger.warn(`refund ${id} waits for ${refund.channel}: ${word.why}`);
    await this.tell({ id, word, channelNo: outcome.kind === "answered" ? outcome.value.channelNumber : undefined, callbackId: undefined });
  }

  /** What the channel took; it may be other money than was asked for. */
  async #chargedUnder(shard: Shard, paymentId: PaymentId, refunded: Fen): Promise<Fen> {
    const payment = (await findPayments(this.#platform.databaseOf(shard), shard, [paymentId])).get(paymentId);
    return payment?.paid?.amount ?? payment?.amount ?? refunded;
  }

  /** Answers with the refunds as they are then. */
  async #step(shard: Shard, kind: StepKind, refunds: readonly RefundRow[]): Promise<readonly RefundRow[]> {
    if (refunds.length === 0) return [];
    const ids = refunds.map(({ id }) => id);
    return this.#platform.post<readonly RefundId[], readonly RefundRow[]>(shard, kind, ids);
  }

  /** The refunds whose wallet has gone along; for the others, why not is kept with them. */
  async #agreed(shard: Shard, refunds: readonly RefundRow[], phase: typeof tryWallets | typeof confirmWallets): Promise<RefundRow[]> {
    const outcomes = await callBranches(this.#broker, phase, refunds.map(branchOf));
    const failed = new Map<string, RefundRow[]>();
    const agreed = refunds.filter((refund) => {
      const outcome = outcomes.get(refund.id);
      if (outcome && !(outcome instanceof Error) && outcome.ok) return true;
      const why = outcome instanceof Error ? outcome.message : "the wallet refused";
      failed.set(why, [...(failed.get(why) ?? []), refund]);
      return false;
    });
    for (const [why, some] of failed) {
      const ids = some.map(({ id }) => id);
      this.#logger.error(`${ids.length} refunds wait for their next attempt (${ids.slice(0, 5).join(", ")}): ${why}`);
      await noteFailure(this.#platform.databaseOf(shard), shard, ids, why);
    }
    return agreed;
  }
}
