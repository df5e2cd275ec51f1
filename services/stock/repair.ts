/**
 * The repairer: tells Redis what PostgreSQL has of every deal on sale, twice a minute, and at once when Redis was found empty. Drains tell the
 * same after each commit; this is for what got lost between the two. Ten thousand deals are ten statements and as many script calls a shard.
 */
import { setTimeout as sleep } from "node:timers/promises";
import type { Logger } from "moleculer";
import { shardOf } from "../../domain/ids.ts";
import type { Database } from "../../db/database.ts";
import type { Platform } from "../../mixins/platform.ts";
import { RedisUnavailable, type RedisLink } from "../../mixins/redis.ts";
import type { RedisStockGate } from "../../mixins/stock-gate.redis.ts";
import { factsOnSale } from "./stock.store.ts";

const LOOK_MS = 1_000;
const EVERY_MS = 30_000;
/** One node a database is enough. Two would do the work twice and the same, so a lock that may be lost will do. */
const LOCK_MS = EVERY_MS - 5_000;
const DEALS_A_PAGE = 1_000;

export class Repairer {
  readonly #platform: Platform;
  readonly #link: RedisLink;
  readonly #gate: RedisStockGate;
  readonly #logger: Logger;
  readonly #stopping = new AbortController();
  #running: Promise<void> | undefined;

  constructor(platform: Platform, link: RedisLink, gate: RedisStockGate, logger: Logger) {
    this.#platform = platform;
    this.#link = link;
    this.#gate = gate;
    this.#logger = logger;
  }

  start(): void {
    this.#running = this.#run();
  }

  async stop(): Promise<void> {
    this.#stopping.abort();
    await this.#running;
  }

  async #run(): Promise<void> {
    const { signal } = this.#stopping;
    let dueMs = 0;
    while (!signal.aborted) {
      if (this.#link.usable && (this.#gate.isMissing || performance.now() >= dueMs)) {
        this.#gate.isMissing = false;
        dueMs = performance.now() + EVERY_MS;
        const cities = [...this.#platform.databases.values()].filter(({ city }) => this.#platform.servesCity(city));
        for (const database of cities) if (!signal.aborted && !(await this.#repaired(database))) this.#gate.isMissing = true;
      }
      await sleep(LOOK_MS, undefined, { signal }).catch(() => undefined);
    }
  }

  /** False where it has to be tried again. */
  async #repaired(database: Database): Promise<boolean> {
    const lock = `gate:repair:${database.name}`;
    try {
      if ((await this.#link.run((client) => client.set(lock, "1", "PX", LOCK_MS, "NX"))) === null) return true;
      await this.#repair(database);
      return true;
    } catch (error) {
      this.#logger.warn(`repairing the stock gate of ${database.name}: ${error instanceof Error ? error.message : String(error)}`);
      // Whoever tries again must get the lock; if this is not heard either, it ends by itself.
      if (!(error instanceof RedisUnavailable)) await this.#link.run((client) => client.del(lock)).catch(() => undefined);
      return false;
    }
  }

  async #repair(database: Database): Promise<void> {
    let after = "0";
    while (!this.#stopping.signal.aborted) {
      const facts = await factsOnSale(database, after, DEALS_A_PAGE);
      const last = facts.at(-1)?.dealId;
      if (last === undefined) return;
      // Of a slot that moves there are two copies; the one that serves knows.
      const served = facts.filter(({ dealId }) => database.slots.includes(shardOf(dealId).slot));
      this.#platform.metrics.gateRepairs.inc(await this.#gate.repair(served));
      after = last;
    }
  }
}
