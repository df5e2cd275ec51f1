/** What every service of a node stands on, put together once by `moleculer.config.ts` and reached from any service by its broker. */
import type { Logger, ServiceBroker } from "moleculer";
import { COMMON_ERRORS } from "../domain/common-errors.ts";
import { raise } from "../domain/error.ts";
import { SLOT_COUNT, shardKey, type Shard } from "../domain/ids.ts";
import { invariant } from "../domain/invariant.ts";
import { LIMITS } from "../domain/limits.ts";
import { NO_REGIONS, type RegionBook, type RegionRules } from "../domain/region/policy.ts";
import type { Database } from "../db/database.ts";
import type { Channels } from "./channels/index.ts";
import type { Keyspace, Keyspaces } from "../db/keyspaces.ts";
import { Drainer, type DrainFunction } from "./drain.ts";
import type { Failpoints } from "./failpoints.ts";
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
  /** The URL of a database by its name in a routing table. */
  readonly urlOf: (database: string) => string;
  /** Opens a database that a later routing table names. */
  readonly openDatabase: (name: string, keyspace: Keyspace, slots: readonly number[]) => Database;
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
  /** Unset, as it always is but for tests that kill: nothing is told of the steps that are passed. */
  readonly failpoints?: Failpoints | undefined;
}

/** How long a command waits for its shard to arrive in another database; most moves hold it for less than a second. */
const HELD_COMMAND_MS = 3_000;
/** Whoever has looked up a database that serves nothing any more has used it by then. */
const RETIRED_MS = LIMITS.requestMs;

export class Platform {
  readonly metrics: Metrics;
  readonly trade: TradeSettings;
  /** Payment channels outside, by name. On the platform, not in a service's settings: those are published to every node, secrets and all. */
  readonly channels: Channels;
  readonly urlOf: PlatformParts["urlOf"];
  readonly redis: RedisLink | undefined;
  readonly regions: RegionBook;
  readonly stockGate: StockGate;
  readonly #tellDeals: (change: DealsChanged) => void;
  readonly tracing: Tracing | undefined;
  readonly failpoints: Failpoints | undefined;
  readonly #logger: Logger;
  readonly #kinds = new Map<string, DrainFunction<never, unknown>>();
  readonly #mailboxes = new Map<string, Mailbox>();
  readonly #drainers = new Map<Database, Drainer>();
  readonly #watch: MailboxWatch;
  readonly #openDatabase: PlatformParts["openDatabase"];
  #keyspaces: Keyspaces;
  #databases: ReadonlyMap<string, Database>;
  /** Databases no slot is in any more, until they are closed. */
  readonly #retired = new Map<Database, NodeJS.Timeout>();
  readonly #held = new Set<string>();
  readonly #onRouted: (() => void)[] = [];

  constructor(parts: PlatformParts) {
    this.#keyspaces = parts.keyspaces;
    this.#databases = parts.databases;
    this.urlOf = parts.urlOf;
    this.#openDatabase = parts.openDatabase;
    this.metrics = parts.metrics;
    this.trade = parts.trade;
    this.channels = parts.channels ?? new Map();
    this.redis = parts.redis;
    this.regions = parts.regions ?? NO_REGIONS;
    this.stockGate = parts.stockGate ?? new LocalStockGate();
    this.#tellDeals = parts.tellDeals ?? (() => undefined);
    this.tracing = parts.tracing;
    this.failpoints = parts.failpoints;
    this.#logger = parts.logger;
    this.#watch = parts.metrics.mailboxWatch();
  }

  /** The routing table in force: it is replaced when slots move, so nobody keeps it. */
  get keyspaces(): Keyspaces {
    return this.#keyspaces;
  }

  /** Every database that serves a slot now, by its name in the routing table. */
  get databases(): ReadonlyMap<string, Database> {
    return this.#databases;
  }

  /** Takes a newer routing table into force: from the next look-up on, slots are where it says. An older one, or the same again, changes nothing. */
  route(keyspaces: Keyspaces): void {
    if (keyspaces.version <= this.#keyspaces.version) return;
    const before = this.#databases;
    const after = new Map<string, Database>();
    for (const { name, keyspace, slots } of keyspaces.databases()) {
      const known = before.get(name);
      known?.serve(slots);
      after.set(name, known ?? this.#openDatabase(name, keyspace, slots));
    }
    this.#keyspaces = keyspaces;
    this.#databases = after;
    for (const [name, database] of before) if (!after.has(name)) this.#retire(database);
    for (const tell of this.#onRouted) tell();
  }

  /** Runs after each change of the routing table. */
  onRouted(tell: () => void): void {
    this.#onRouted.push(tell);
  }

  /** Drains nothing of these shards until `release`; resolves when what was under way is committed. */
  async hold(shards: readonly Shard[]): Promise<void> {
    for (const shard of shards) this.#held.add(shardKey(shard));
    await Promise.all(shards.map((shard) => this.#mailbox(shard).hold(HELD_COMMAND_MS)));
  }

  release(shards: readonly Shard[]): void {
    for (const shard of shards) if (this.#held.delete(shardKey(shard))) this.#mailbox(shard).release();
  }

  /** Shards whose commands wait here, because their data are on their way to another database. */
  held(): Shard[] {
    return this.keyspaces.all.flatMap(({ id }) =>
      Array.from({ length: SLOT_COUNT }, (_, slot) => ({ city: id, slot })).filter((shard) => this.#held.has(shardKey(shard))),
    );
  }

  /** The slots of a database that may be worked on: those that are moving are left alone. */
  openSlots({ city, slots }: Database): number[] {
    return slots.filter((slot) => !this.#held.has(shardKey({ city, slot })));
  }

  /** A service offers to drain commands of one kind, named like its action. Before the first command only: the set is the lock order. */
  offer<I, O>(kind: string, drain: DrainFunction<I, O>): void {
    invariant(!this.#kinds.has(kind), `${kind} is drained by one function`);
    invariant(this.#drainers.size === 0, `${kind} is offered before the first command`);
    this.#kinds.set(kind, this.failpoints?.drain(kind, drain) ?? drain);
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
    for (const timer of this.#retired.values()) clearTimeout(timer);
    await Promise.all([...this.databases.values(), ...this.#retired.keys()].map((database) => database.close()));
    this.#retired.clear();
    await this.tracing?.close().catch((error: unknown) => this.#logger.warn({ err: error }, "the last traces are lost"));
  }

  #retire(database: Database): void {
    database.serve([]);
    this.#drainers.delete(database);
    const close = (): void => {
      this.#retired.delete(database);
      database.close().catch((error: unknown) => this.#logger.warn({ err: error }, `closing ${database.name}`));
    };
    this.#retired.set(database, setTimeout(close, RETIRED_MS));
  }

  #mailbox(shard: Shard): Mailbox {
    const key = shardKey(shard);
    const made = this.#mailboxes.get(key);
    if (made) return made;
    this.databaseOf(shard); // a shard that nobody serves has no mailbox
    const { tracing } = this;
    // Looked up for each batch: the one before may have been the last in its old database.
    const drain = (commands: readonly Command[], passOn: () => void): Promise<void> =>
      this.#drainer(this.databaseOf(shard)).drain(shard, commands, passOn);
    const traced =
      tracing && ((...[commands, passOn]: Parameters<typeof drain>) => tracing.drain(shard, commands, () => drain(commands, passOn)));
    const mailbox = new Mailbox(shard, traced ?? drain, LIMITS, this.#watch, async (run) => this.databaseOf(shard).inTurn(shard.slot, run));
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
