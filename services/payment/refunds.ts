/**
 * Paying refunds out: a TCC whose Try cannot fail, since what an order brought is still in escrow. Every step is a batch, every step may be
 * repeated, and a step that fails leaves its refunds for their next attempt.
 */
import type { Logger, ServiceBroker } from "moleculer";
import { cityOf, shardKey, type RefundId, type Shard } from "../../domain/ids.ts";
import { toJson } from "../../domain/money.ts";
import { stepOf, type RefundStep } from "../../domain/refund/advance.ts";
import type { Platform } from "../../mixins/platform.ts";
import { confirmWallets, tryWallets } from "../wallet/wallet.contract.ts";
import { callBranches, type Branch } from "./branches.ts";
import { claimRefunds, findRefunds, noteFailure, type RefundRow } from "./refund.store.ts";

/** Refunds one attempt takes together. */
export const REFUNDS_MAX = 256;

const branchOf = ({ id, orderId, consumerId, amount }: RefundRow): Branch => ({
  xid: id,
  kind: "refund",
  userId: consumerId,
  city: cityOf(orderId),
  orderId,
  amount: toJson(amount),
});

export class Refunds {
  readonly #broker: ServiceBroker;
  readonly #platform: Platform;
  readonly #logger: Logger;
  readonly #paying = new Map<string, { again: boolean; done: Promise<void> }>();

  constructor(broker: ServiceBroker, platform: Platform, logger: Logger) {
    this.#broker = broker;
    this.#platform = platform;
    this.#logger = logger;
  }

  /**
   * Takes what is due in a shard and pays it out, until nothing is. One at a time a shard: whoever comes while it runs makes it look once more, so
   * that refunds asked for one by one are paid in batches.
   */
  payOut(shard: Shard): Promise<void> {
    const key = shardKey(shard);
    const running = this.#paying.get(key);
    if (running) {
      running.again = true;
      return running.done;
    }
    const paying = { again: false, done: Promise.resolve() };
    this.#paying.set(key, paying);
    const run = async (): Promise<void> => {
      do {
        paying.again = false;
        await this.#payOut(shard);
      } while (paying.again);
    };
    paying.done = run().finally(() => this.#paying.delete(key));
    return paying.done;
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
    await this.#step(shard, "refund.try", await this.#at(shard, ids, "request"));
    await this.#step(shard, "refund.decide", await this.#agreed(shard, await this.#at(shard, ids, "try"), tryWallets));
    await this.#step(shard, "refund.finish", await this.#agreed(shard, await this.#at(shard, ids, "confirm"), confirmWallets));
  }

  async #at(shard: Shard, ids: readonly string[], step: RefundStep): Promise<RefundRow[]> {
    if (ids.length === 0) return [];
    const refunds = await findRefunds(this.#platform.databaseOf(shard), shard, ids);
    return refunds.filter((refund) => stepOf(refund) === step);
  }

  async #step(shard: Shard, kind: "refund.try" | "refund.decide" | "refund.finish", refunds: readonly RefundRow[]): Promise<void> {
    if (refunds.length > 0)
      await this.#platform.post<readonly RefundId[], null>(
        shard,
        kind,
        refunds.map(({ id }) => id),
      );
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
