/**
 * Which shards' commands wait on this node, and for how long. Somebody who moves a shard holds it with a lease and renews it; when he dies, the
 * lease ends, and what the database says decides: a slot that is fenced stays held (its writes would be refused anyway), any other goes on.
 */
import type { Logger } from "moleculer";
import { shardKey, type Shard } from "../../domain/ids.ts";
import type { Database } from "../../db/database.ts";
import type { Platform } from "../../mixins/platform.ts";

const LOOK_MS = 500;

export class Holds {
  readonly #platform: Platform;
  readonly #fenced: (database: Database) => Promise<number[]>;
  readonly #logger: Logger;
  /** When each lease ends, of `performance.now()`. */
  readonly #leases = new Map<string, number>();
  #timer: NodeJS.Timeout | undefined;
  #stopped = false;

  constructor(platform: Platform, fenced: (database: Database) => Promise<number[]>, logger: Logger) {
    this.#platform = platform;
    this.#fenced = fenced;
    this.#logger = logger;
  }

  /** A move that was under way when the house went down has left its fences. */
  async start(): Promise<void> {
    await Promise.all([...this.#platform.databases.values()].map((database) => this.#holdFenced(database)));
    this.#lookLater();
  }

  stop(): void {
    this.#stopped = true;
    clearTimeout(this.#timer);
  }

  async hold(shards: readonly Shard[], leaseMs: number): Promise<void> {
    for (const shard of shards) this.#leases.set(shardKey(shard), performance.now() + leaseMs);
    this.#lookLater();
    await this.#platform.hold(shards);
  }

  release(shards: readonly Shard[]): void {
    for (const shard of shards) this.#leases.delete(shardKey(shard));
    this.#platform.release(shards);
  }

  async #holdFenced(database: Database): Promise<void> {
    try {
      const fenced = (await this.#fenced(database)).filter((slot) => database.slots.includes(slot));
      await this.#platform.hold(fenced.map((slot) => ({ city: database.city, slot })));
    } catch (error) {
      this.#logger.warn(`whether slots of ${database.name} are moving: ${error instanceof Error ? error.message : String(error)}`);
    }
  }

  #lookLater(): void {
    clearTimeout(this.#timer);
    if (!this.#stopped && this.#platform.held().length > 0) this.#timer = setTimeout(() => void this.#look(), LOOK_MS);
  }

  /** Lets go of shards that nobody holds any more, neither a lease nor a fence. */
  async #look(): Promise<void> {
    const idle = this.#platform.held().filter((shard) => (this.#leases.get(shardKey(shard)) ?? 0) < performance.now());
    const byDatabase = Map.groupBy(idle, (shard) => this.#platform.databaseOf(shard));
    for (const [database, shards] of byDatabase) {
      try {
        const fenced = await this.#fenced(database);
        this.release(shards.filter(({ slot }) => !fenced.includes(slot) && database.slots.includes(slot)));
      } catch (error) {
        this.#logger.warn(`whether slots of ${database.name} are moving: ${error instanceof Error ? error.message : String(error)}`);
      }
    }
    this.#lookLater();
  }
}
