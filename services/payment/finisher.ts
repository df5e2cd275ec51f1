/**
 * After the decision: Confirm or Cancel at the wallets, then the payment's end. In the background: the buyer has the answer already, and the
 * payment's row says what is left to do, so whatever fails here is left to the recovery worker, for ever if need be.
 */
import { setTimeout as sleep } from "node:timers/promises";
import type { Logger, ServiceBroker } from "moleculer";
import { cityOf, shardKey, shardOf, type PaymentId } from "../../domain/ids.ts";
import { toJson } from "../../domain/money.ts";
import type { PaymentRow } from "../../domain/payment/try.ts";
import type { Platform } from "../../mixins/platform.ts";
import { cancelWallets, confirmWallets } from "../wallet/wallet.contract.ts";
import { callBranches, type Branch } from "./branches.ts";

/** Nobody waits for an end, so it is gathered: at 2,000 payments a second a round ends 500 with one transaction a user slot, not 500. */
const GATHER_MS = 250;
/** Ends waiting here; the rest is the recovery worker's. */
const WAITING_MAX = 16_384;

export const branchOf = ({ id, orderId, consumerId, amount }: PaymentRow): Branch => ({
  xid: id,
  kind: "pay",
  userId: consumerId,
  city: cityOf(orderId),
  orderId,
  amount: toJson(amount),
});

export class Finisher {
  readonly #broker: ServiceBroker;
  readonly #platform: Platform;
  readonly #logger: Logger;
  #waiting = new Map<PaymentId, PaymentRow>();
  #running: Promise<void> | undefined;
  readonly #stopping = new AbortController();

  constructor(broker: ServiceBroker, platform: Platform, logger: Logger) {
    this.#broker = broker;
    this.#platform = platform;
    this.#logger = logger;
  }

  /** Payments in CONFIRMING or CANCELLING. One that waits already, or is on its way, may come again. */
  add(payments: readonly PaymentRow[]): void {
    if (this.#stopping.signal.aborted) return;
    for (const payment of payments) if (this.#waiting.size < WAITING_MAX) this.#waiting.set(payment.id, payment);
    if (this.#waiting.size > 0) this.#running ??= this.#run().finally(() => (this.#running = undefined));
  }

  /** Ends what waits, once, and takes no more. */
  async stop(): Promise<void> {
    this.#stopping.abort();
    await this.#running;
  }

  async #run(): Promise<void> {
    while (this.#waiting.size > 0) {
      await sleep(GATHER_MS, undefined, { signal: this.#stopping.signal }).catch(() => undefined);
      const round = [...this.#waiting.values()];
      this.#waiting = new Map();
      await this.#end(round).catch((error: unknown) => this.#logger.warn({ err: error }, "payments are left to recovery"));
    }
  }

  async #end(round: readonly PaymentRow[]): Promise<void> {
    const [confirming, cancelling] = [
      round.filter(({ state }) => state === "CONFIRMING"),
      round.filter(({ state }) => state === "CANCELLING"),
    ];
    const outcomes = new Map(
      (
        await Promise.all([
          callBranches(this.#broker, confirmWallets, confirming.map(branchOf)),
          callBranches(this.#broker, cancelWallets, cancelling.map(branchOf)),
        ])
      ).flatMap((some) => [...some]),
    );
    const done: PaymentId[] = [];
    for (const { id } of round) {
      const outcome = outcomes.get(id);
      if (outcome instanceof Error) this.#logger.warn({ err: outcome }, `payment ${id} is left to recovery`);
      else if (outcome?.ok) done.push(id);
    }
    const byShard = Map.groupBy(done, (id) => shardKey(shardOf(id)));
    const post = ([id, ...others]: readonly PaymentId[]): Promise<null> =>
      id === undefined
        ? Promise.resolve(null)
        : this.#platform.post<readonly PaymentId[], null>(shardOf(id), "payment.finish", [id, ...others]);
    await Promise.all([...byShard.values()].map(post));
  }
}
