/**
 * Paying by an external channel: record → call → confirm. A payment is recorded before its channel is called, and the channel's word is durable
 * before anything follows from it. Without an answer the channel is asked by our number; only a charge it has never heard of is made again, under
 * the same number. An order that is over has its charge closed.
 */
import type { Logger } from "moleculer";
import { raise } from "../../domain/error.ts";
import type { ChannelCharge, Outcome } from "../../domain/channel/records.ts";
import { shardOf, type PaymentId } from "../../domain/ids.ts";
import { CURRENCY, newsOfCall, type ChargeNews } from "../../domain/payment/charge.ts";
import type { Decided } from "../../domain/payment/decide.ts";
import { PAYMENT_ERRORS } from "../../domain/payment/errors.ts";
import { OPEN_CHARGE } from "../../domain/payment/state.ts";
import type { PaymentRow } from "../../domain/payment/try.ts";
import type { Channel } from "../../mixins/channels/index.ts";
import type { ChannelWork } from "../../mixins/channel-work.ts";
import type { Platform } from "../../mixins/platform.ts";
import { isWanted } from "./charge.store.ts";

type Call = "charge" | "query" | "close";

export class Charges {
  readonly #platform: Platform;
  readonly #work: ChannelWork<Channel>;
  readonly #logger: Logger;
  /** One at a time for each payment: whoever asks meanwhile shares what comes of it. */
  readonly #driving = new Map<PaymentId, Promise<PaymentRow>>();

  constructor(platform: Platform, work: ChannelWork<Channel>, logger: Logger) {
    this.#platform = platform;
    this.#work = work;
    this.#logger = logger;
  }

  /** For a buyer who waits: the payment once it can be paid at its channel, or is paid, or has failed. */
  async open(payment: PaymentRow, begun: boolean, requestId: string | undefined): Promise<PaymentRow> {
    if (payment.state === "CONFIRMED" || (payment.state === "PROCESSING" && payment.payUrl !== undefined)) return payment;
    const after = await this.#once(payment, (channel) => this.#open(channel, payment, begun, requestId));
    if (after.state === "FAILED") return raise(PAYMENT_ERRORS, "CHANNEL_REFUSED", { channel: payment.channel, reason: after.reason ?? "" });
    return after;
  }

  /** For a buyer who would rather pay another way: FAILED when the channel says that nobody can pay the charge any more, CONFIRMED when it was paid. */
  async close(payment: PaymentRow, requestId: string | undefined): Promise<PaymentRow> {
    if (!OPEN_CHARGE.includes(payment.state)) return payment;
    const after = await this.#once(payment, (channel) => this.#close(channel, payment, requestId));
    if (OPEN_CHARGE.includes(after.state))
      return raise(PAYMENT_ERRORS, "PAYMENT_OPEN", { orderId: payment.orderId, channel: payment.channel });
    return after;
  }

  /** Recovery: asks for, or closes, charges nobody has heard of for a while. In the background. */
  add(payments: readonly PaymentRow[]): void {
    for (const payment of payments)
      this.#work.add(payment.channel, payment.id, (channel) => this.#once(payment, () => this.#recover(channel, payment)));
  }

  /** What a channel says, asked or unasked. */
  async tell(
    payment: Pick<PaymentRow, "id" | "orderId">,
    said: Pick<ChargeNews, "news" | "channelNo"> & Partial<ChargeNews>,
  ): Promise<PaymentRow> {
    const { id: paymentId, orderId } = payment;
    const news: ChargeNews = { requestId: undefined, callbackId: undefined, ...said, paymentId, orderId };
    return (await this.#platform.post<ChargeNews, Decided>(shardOf(orderId), "payment.decide", news)).payment;
  }

  #once(payment: PaymentRow, drive: (channel: Channel) => Promise<PaymentRow>): Promise<PaymentRow> {
    const running = this.#driving.get(payment.id);
    if (running) return running;
    const channel = this.#platform.channels.get(payment.channel);
    if (!channel) {
      this.#logger.error(`payment ${payment.id} waits: this node has no channel ${payment.channel}`);
      return Promise.resolve(payment);
    }
    const driving = drive(channel).finally(() => this.#driving.delete(payment.id));
    this.#driving.set(payment.id, driving);
    return driving;
  }

  async #open(channel: Channel, payment: PaymentRow, begun: boolean, requestId?: string): Promise<PaymentRow> {
    const known = begun ? undefined : await channel.query(payment.id);
    const makes = known === undefined || isAbsent(known);
    const outcome = makes ? await this.#charge(channel, payment) : known;
    const after = await this.#hear(payment, makes ? "charge" : "query", outcome, requestId);
    // Given up meanwhile, because nobody had heard of it: then nobody may pay it.
    if (after.state === "FAILED" && outcome.kind === "answered" && outcome.value.status === "PENDING") await channel.close(payment.id);
    return after;
  }

  async #close(channel: Channel, payment: PaymentRow, requestId?: string): Promise<PaymentRow> {
    const closed = await channel.close(payment.id);
    if (closed.kind !== "refused") return this.#hear(payment, "close", closed, requestId);
    return this.#hear(payment, "query", await channel.query(payment.id), requestId);
  }

  async #recover(channel: Channel, payment: PaymentRow): Promise<PaymentRow> {
    const shard = shardOf(payment.orderId);
    const wanted = await isWanted(this.#platform.databaseOf(shard), shard, payment.id);
    return wanted ? this.#open(channel, payment, false) : this.#close(channel, payment);
  }

  #charge(channel: Channel, { id, orderId, amount, expiresAt }: PaymentRow): Promise<Outcome<ChannelCharge>> {
    return channel.charge({
      number: id,
      amount,
      currency: CURRENCY,
      // The same on every call, whatever its deal is called by then.
      subject: `团购订单 Order ${orderId}`,
      ...(expiresAt === undefined ? {} : { expiresAtMs: expiresAt.getTime() }),
    });
  }

  async #hear(payment: PaymentRow, call: Call, outcome: Outcome<ChannelCharge>, requestId: string | undefined): Promise<PaymentRow> {
    this.#work.count(payment.channel, call, outcome);
    const news = newsOfCall(call, outcome);
    if (news.kind === "lost") this.#logger.warn(`payment ${payment.id}: ${payment.channel} was asked to ${call}: ${news.why}`);
    const channelNo = outcome.kind === "answered" ? outcome.value.channelNumber : undefined;
    return this.tell(payment, { news, channelNo, requestId });
  }
}

const isAbsent = (outcome: Outcome<ChannelCharge>): boolean => outcome.kind === "answered" && outcome.value.status === "ABSENT";
