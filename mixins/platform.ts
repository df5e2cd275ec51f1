/** What every service of a node stands on, put together once by `moleculer.config.ts` and reached from any service by its broker. */
import type { Logger, ServiceBroker } from "moleculer";
import { COMMON_ERRORS } from "../domain/common-errors.ts";
import { raise } from "../domain/error.ts";
import { shardKey, type Shard } from "../domain/ids.ts";
import { invariant } from "../domain/invariant.ts";
import { LIMITS } from "../domain/limits.ts";
import type { Database } from "../db/database.ts";
import type { Keyspaces } from "../db/keyspaces.ts";
import { Drainer, type DrainFunction } from "./drain.ts";
import { Mailbox, type MailboxWatch } from "./mailbox.ts";
import type { Metrics } from "./metrics.ts";
import { StockGate } from "./stock-gate.ts";

/** Figures of the trade that an operator may set; the environment is read in one place and handed down. */
export interface TradeSettings {
  readonly orderTtlSeconds: number;
  /** For so long after a redemption the bar may reverse it. */
  readonly reversalMinutes: number;
  /** What settlement waits beyond that. */
  readonly settlementDelayMinutes: number;
}

export interface PlatformParts {
  readonly keyspaces: Keyspaces;
  readonly databases: ReadonlyMap<string, Database>;
  readonly metrics: Metrics;
  readonly logger: Logger;
  readonly trade: TradeSettings;
}

export class Platform {
  readonly keyspaces: Keyspaces;
  readonly databases: ReadonlyMap<string, Database>;
  readonly metrics: Metrics;
  readonly trade: TradeSettings;
  readonly stockGate = new StockGate();
  readonly #logger: Logger;
  readonly #kinds = new Map<string, DrainFunction<never, unknown>>();
  readonly #mailboxes = new Map<string, Mailbox>();
  readonly #drainers = new Map<Database, Drainer>();
  readonly #watch: MailboxWatch;

  constructor(parts: PlatformParts) {
    this.keyspaces = parts.keyspaces;
    this.databases = parts.databases;
    this.metrics = parts.metrics;
    this.trade = parts.trade;
    this.#logger = parts.logger;
    this.#watch = parts.metrics.mailboxWatch();
  }

  /** A service offers to drain commands of one kind, named like its action. Before the first command only: the set is the lock order. */
  offer<I, O>(kind: string, drain: DrainFunction<I, O>): void {
    invariant(!this.#kinds.has(kind), `${kind} is drained by one function`);
    invariant(this.#drainers.size === 0, `${kind} is offered before the first command`);
    this.#kinds.set(kind, drain);
  }

  /** Puts a command into its shard's mailbox and waits for its answer. */
  post<I, O>(shard: Shard, kind: string, input: I, options: { merchantId?: string | undefined; timeoutMs?: number } = {}): Promise<O> {
    return this.#mailbox(shard).post<I, O>(kind, input, {
      merchantId: options.merchantId,
      timeoutMs: options.timeoutMs ?? LIMITS.requestMs,
    });
  }

  /** The database of a shard; a shard nobody serves is a CITY_NOT_FOUND of the caller's (an id made up, or of a city long gone). */
  databaseOf(shard: Shard): Database {
    const name = this.keyspaces.databaseOf(shard);
    const database = name === undefined ? undefined : this.databases.get(name);
    return database ?? raise(COMMON_ERRORS, "CITY_NOT_FOUND", { city: String(shard.city) });
  }

  /** True where a shard's keyspace is a city that is served here. */
  servesCity(city: number): boolean {
    return this.keyspaces.byId(city)?.kind === "city";
  }

  mailboxes(): readonly Mailbox[] {
    return [...this.#mailboxes.values()];
  }

  /** Commits what waits, then closes every pool. */
  async close(): Promise<void> {
    await Promise.all(this.mailboxes().map((mailbox) => mailbox.close()));
    await Promise.all([...this.databases.values()].map((database) => database.close()));
  }

  #mailbox(shard: Shard): Mailbox {
    const key = shardKey(shard);
    const made = this.#mailboxes.get(key);
    if (made) return made;
    const drainer = this.#drainer(this.databaseOf(shard));
    const mailbox = new Mailbox(shard, (commands) => drainer.drain(shard, commands), LIMITS, this.#watch);
    this.#mailboxes.set(key, mailbox);
    return mailbox;
  }

  #drainer(database: Database): Drainer {
    const made = this.#drainers.get(database);
    if (made) return made;
    const inLockOrder = new Map([...this.#kinds].sort(([a], [b]) => (a < b ? -1 : 1))) as Map<string, DrainFunction<unknown, unknown>>;
    const drainer = new Drainer(database, inLockOrder, (error, kind) =>
      this.#logger.error({ err: error }, `a ${kind} command failed its batch`),
    );
    this.#drainers.set(database, drainer);
    return drainer;
  }
}

const platforms = new WeakMap<ServiceBroker, Platform>();

export const attachPlatform = (broker: ServiceBroker, platform: Platform): void => void platforms.set(broker, platform);

export function platformOf(broker: ServiceBroker): Platform {
  const platform = platforms.get(broker);
  invariant(platform !== undefined, "a node has a platform before it has services");
  return platform;
}
