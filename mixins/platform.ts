/** What every service of a node stands on, put together once by `moleculer.config.ts` and reached from any service by its broker. */
import type { Logger, ServiceBroker } from "moleculer";
import { COMMON_ERRORS } from "../domain/common-errors.ts";
import { raise } from "../domain/error.ts";
import { shardKey, type Shard } from "../domain/ids.ts";
import { invariant } from "../domain/invariant.ts";
import { LIMITS } from "../domain/limits.ts";
import { NO_REGIONS, type RegionBook, type RegionRules } from "../domain/region/policy.ts";
import type { Database } from "../db/database.ts";
import type { Keyspaces } from "../db/keyspaces.ts";
import type { Channels } from "./channels/index.ts";
import { Drainer, type DrainFunction } from "./drain.ts";
import { type Command, Mailbox, type MailboxWatch } from "./mailbox.ts";
import type { Metrics } from "./metrics.ts";
import type { RedisLink } from "./redis.ts";
import { LocalStockGate, type StockFact, type StockGate } from "./stock-gate.ts";
import type { Tracing } from "./tracing.ts";

/** Figures of the trade that an operator may set; the environment is read in one place and handed down. */
export interface TradeSettings {
  readonly orderTtlSeconds: number;
  /** For so long after a redemption the bar may reverse it. */
  readonly reversalMinutes: number;
  /** What settlement waits beyond that. */
  readonly settlementDelayMinutes: number;
}

/** Deals whose page is another now, and those of them that have units. */
export interface DealsChanged {
  readonly changed: readonly string[];
  readonly available: readonly string[];
}

/** The broadcast that carries it; gateways listen. A node's own gateway has heard it when the broadcast returns. */
export const DEALS_CHANGED = "deals.changed";

export interface PlatformParts {
  readonly keyspaces: Keyspaces;
  readonly databases: ReadonlyMap<string, Database>;
  readonly metrics: Metrics;
  readonly logger: Logger;
  readonly trade: TradeSettings;
  /** Unset: money comes from wallets alone. */
  readonly channels?: Channels;
  /** What the nodes of a cluster share; unset: this process is alone. */
  readonly redis?: RedisLink;
  /** Unset: every region has the default policy. */
  readonly regions?: RegionBook;
  /** Unset: this process's memory. */
  readonly stockGate?: StockGate;
  /** Tells whoever keeps deals near, on this node before it returns. */
  readonly tellDeals?: (change: DealsChanged) => void;
  /** Undefined: nothing is traced. */
  readonly tracing?: Tracing | undefined;
}

export class Platform {
  readonly keyspaces: Keyspaces;
  readonly databases: ReadonlyMap<string, Database>;
  readonly metrics: Metrics;
  readonly trade: TradeSettings;
  /** Payment channels outside, by name. On the platform, not in a service's settings: those are published to every node, secrets and all. */
  readonly channels: Channels;
  readonly redis: RedisLink | undefined;
  readonly regions: RegionBook;
  readonly stockGate: StockGate;
  readonly #tellDeals: (change: DealsChanged) => void;
  readonly tracing: Tracing | undefined;
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
    this.channels = parts.channels ?? new Map();
    this.redis = parts.redis;
    this.regions = parts.regions ?? NO_REGIONS;
    this.stockGate = parts.stockGate ?? new LocalStockGate();
    this.#tellDeals = parts.tellDeals ?? (() => undefined);
    this.tracing = parts.tracing;
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
      traced: this.tracing?.current(),
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

  /** After a commit that changed stock, before its commands are answered: the gate is told, and whoever keeps the deals near. */
  stockChanged(facts: readonly StockFact[]): void {
    if (facts.length === 0) return;
    this.stockGate.note(facts);
    const changed = new Set(facts.map(({ dealId }) => dealId));
    const available = new Set(facts.flatMap((fact) => (fact.available > 0 ? [fact.dealId] : [])));
    this.#tellDeals({ changed: [...changed], available: [...available] });
  }

  /** After a commit that changed something else of deals. */
  dealsChanged(dealIds: readonly string[]): void {
    if (dealIds.length > 0) this.#tellDeals({ changed: dealIds, available: [] });
  }

  /** What the policy of a city's region says at this moment. */
  rulesOf(city: number): RegionRules {
    return this.regions.rulesFor(this.keyspaces.byId(city)?.region);
  }

  mailboxes(): readonly Mailbox[] {
    return [...this.#mailboxes.values()];
  }

  /** Commits what waits, then closes every pool. */
  async close(): Promise<void> {
    await Promise.all(this.mailboxes().map((mailbox) => mailbox.close()));
    await this.stockGate.close();
    await this.redis?.close();
    await Promise.all([...this.databases.values()].map((database) => database.close()));
    await this.tracing?.close().catch((error: unknown) => this.#logger.warn({ err: error }, "the last traces are lost"));
  }

  #mailbox(shard: Shard): Mailbox {
    const key = shardKey(shard);
    const made = this.#mailboxes.get(key);
    if (made) return made;
    const drainer = this.#drainer(this.databaseOf(shard));
    const { tracing } = this;
    const drain = (commands: readonly Command[]): Promise<void> => drainer.drain(shard, commands);
    const traced = tracing && ((commands: readonly Command[]) => tracing.drain(shard, commands, () => drain(commands)));
    const mailbox = new Mailbox(shard, traced ?? drain, LIMITS, this.#watch);
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
