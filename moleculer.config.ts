/** How a node is put together; nothing else decides at start-up. `scripts/start.ts` and the tests call `makeNode`. */
import { Errors, ServiceBroker, type BrokerOptions, type Logger, type ServiceSchema } from "moleculer";
import { LIMITS } from "./domain/limits.ts";
import { Database } from "./db/database.ts";
import { displayName, type Keyspaces } from "./db/keyspaces.ts";
import { bundles } from "./mixins/bundles.ts";
import { Bus, oneWayMeta, type NatsSettings } from "./mixins/bus.ts";
import type { Channels } from "./mixins/channels/index.ts";
import { checkLiveOptions, refuseConflict, type NodeMetadata } from "./mixins/cluster.ts";
import { Discoverer, HEARTBEAT_SECONDS } from "./mixins/discoverer.ts";
import { DomainErrorRegenerator } from "./mixins/errors.ts";
import type { Failpoints } from "./mixins/failpoints.ts";
import { EventStreams } from "./mixins/jetstream.ts";
import { journalOf } from "./mixins/journal.ts";
import { Metrics } from "./mixins/metrics.ts";
import { attachPlatform, DEALS_CHANGED, Platform, type PlatformParts, type TradeSettings } from "./mixins/platform.ts";
import { RedisLink } from "./mixins/redis.ts";
import { SlotStrategy } from "./mixins/slot-strategy.ts";
import { RedisStockGate } from "./mixins/stock-gate.redis.ts";
import { surfaceOf } from "./mixins/surface.ts";
import type { Tracing, TracingSettings } from "./mixins/tracing.ts";
import { nextUid } from "./mixins/uids.ts";
import { underWay } from "./mixins/under-way.ts";
import { makeValidator } from "./mixins/validator.ts";
import { Regions } from "./regions/registry.ts";
import { CONTRACTS } from "./services/gateway/routes.ts";

/** Every service there is, in the order they start: what others stand on first, the door last. */
export const SERVICES = [
  "probe",
  "user",
  "wallet",
  "merchant",
  "stock",
  "group",
  "deal",
  "order",
  "payment",
  "voucher",
  "settlement",
  "search",
  "search-index",
  "notify",
  "order-index",
  "journal",
  "routing",
  "ops",
  "callback",
  "recon",
  "gateway",
] as const;
export type ServiceName = (typeof SERVICES)[number];

/**
 * What the processes of a cluster are. A gateway has `notify` for the streams it holds open and `callback`, which keeps what channels tell, and `recon`, which takes
 * their statements in; the journal has beside it those who listen to it.
 * Workers are all alike and own the shards; several `jobs` nodes stand by for each other.
 */
export const ROLES = {
  gateway: ["probe", "notify", "callback", "recon", "gateway"],
  worker: ["probe", "user", "wallet", "merchant", "stock", "group", "deal", "order", "payment", "voucher", "settlement", "search"],
  jobs: ["probe", "search-index", "notify", "order-index", "journal", "ops"],
} as const satisfies Record<string, readonly ServiceName[]>;
export type RoleName = keyof typeof ROLES;

export interface NodeOptions {
  readonly nodeID: string;
  readonly keyspaces: Keyspaces;
  /** The URL of each database that `keyspaces` names, or will name. */
  readonly urlOf: (database: string) => string;
  readonly services: readonly ServiceName[];
  readonly trade: TradeSettings;
  /** Payment channels outside; none: money comes from wallets alone. */
  readonly channels?: Channels;
  /** `mixins/redis.ts` says in which forms; unset: the stock gate and the limits are this process's own. */
  readonly redisUrl?: string;
  /** The manifest of regional policies; unset: every region has the default policy. */
  readonly regionsFile?: string;
  readonly logLevel: string;
  /** The bus to the other nodes; without it this process is the whole platform. */
  readonly nats?: NatsSettings;
  /** Whether calls of one tick to one node travel as one message; off only to measure what that is worth. */
  readonly batching?: "on" | "off";
  /** Unset: nothing is traced. */
  readonly tracing?: TracingSettings | undefined;
  /** Unset: nothing is told of the steps that are passed. */
  readonly failpoints?: Failpoints | undefined;
  /** Settings of a service, over its own. */
  readonly settings?: Partial<Record<ServiceName, Readonly<Record<string, unknown>>>>;
  /** Services to run instead of ours, under the same name: what `bench/` compares ours with. */
  readonly replace?: Partial<Record<ServiceName, ServiceSchema>>;
}

export interface Node {
  readonly broker: ServiceBroker;
  readonly platform: Platform;
  /** Stops taking, drains, commits, leaves. */
  stop(): Promise<void>;
}

export async function makeNode(options: NodeOptions): Promise<Node> {
  // Loaded where it is used: OpenTelemetry is 25 MB and 0.1 s of every start.
  const tracing = options.tracing && new (await import("./mixins/tracing.ts")).Tracing(options.tracing, options.nodeID);
  const broker = new ServiceBroker(brokerOptions(options, tracing));
  const logger = broker.getLogger("platform");
  const { failpoints } = options;
  const openDatabase: PlatformParts["openDatabase"] = (name, keyspace, slots) => {
    const of = {
      name: displayName(name),
      city: keyspace.id,
      slots,
      url: options.urlOf(name),
      onError: (error: Error) => logger.warn(`an idle connection to ${displayName(name)} broke: ${error.message}`),
    };
    return failpoints?.database(of) ?? new Database(of);
  };
  const metrics = new Metrics();
  const redis = options.redisUrl === undefined ? undefined : redisLink(options.redisUrl, metrics, logger);
  const platform = new Platform({
    keyspaces: options.keyspaces,
    databases: new Map(options.keyspaces.databases().map(({ name, keyspace, slots }) => [name, openDatabase(name, keyspace, slots)])),
    openDatabase,
    urlOf: options.urlOf,
    metrics,
    logger,
    trade: options.trade,
    ...(options.channels === undefined ? {} : { channels: failpoints?.channels(options.channels) ?? options.channels }),
    ...(redis === undefined ? {} : { redis, stockGate: new RedisStockGate(redis) }),
    ...(options.regionsFile === undefined ? {} : { regions: await loadRegions(options.regionsFile, metrics, logger) }),
    tellDeals: (change) => void broker.broadcast(DEALS_CHANGED, change),
    tracing,
    failpoints,
  });
  attachPlatform(broker, platform);
  const journal = journalOf(broker);
  journal.passBy(failpoints);
  const streams = options.nats && eventStreams(options.nats, options, logger);
  if (streams) journal.travelBy(streams);
  platform.onRouted(() => {
    journal.follow().catch((error: unknown) => logger.error({ err: error }, "the event consumers did not follow the slots that moved"));
  });
  // Whatever else a node does, it follows the slots that move.
  for (const name of new Set<ServiceName>(["routing", ...options.services])) {
    const schema =
      options.replace?.[name] ?? ((await import(`./services/${name}/${name}.service.ts`)) as { default: ServiceSchema }).default;
    broker.createService({ ...schema, settings: { ...schema.settings, ...options.settings?.[name] } });
  }
  checkLiveOptions(broker, { namespace: NAMESPACE, services: options.services });
  await broker.start().catch(async (error: unknown) => {
    // A node that was refused must not stay on the bus.
    await broker.stop();
    await streams?.close();
    await platform.close();
    throw error;
  });
  if (streams) journal.listen(() => platform.databases.values(), platform.metrics, logger);
  return {
    broker,
    platform,
    async stop() {
      // The door first: what is under way finishes while everything it needs still runs.
      const door = broker.getLocalService("gateway");
      if (door) await broker.destroyService(door);
      // Event consumers need their services.
      await journal.stop();
      await broker.stop();
      await streams?.close();
      await platform.close();
    },
  };
}

function eventStreams(nats: NatsSettings, { nodeID, failpoints }: NodeOptions, logger: Logger): EventStreams {
  const of = [nats, `${nodeID} events`, logger] as const;
  return failpoints?.streams(...of) ?? new EventStreams(...of);
}
function redisLink(url: string, metrics: Metrics, logger: Logger): RedisLink {
  const link = new RedisLink(url, { failed: (kind) => metrics.redisErrors.inc({ kind }) }, logger);
  metrics.gateIsOpen = () => !link.usable;
  return link;
}
const loadRegions = (file: string, metrics: Metrics, logger: Logger): Promise<Regions> =>
  Regions.load(file, {
    fault(region, kind, detail) {
      metrics.regionFaults.inc({ region, kind });
      logger.error(
        `alarm: the policy of region ${region} ${kind === "refused" ? "was refused" : "failed, the default stands in"}: ${detail}`,
      );
    },
  });

/** At `info` Moleculer tells every step of every service's start; our start is one banner, so there only these modules speak below `warn`. */
const levels = (level: string): Record<string, string> =>
  level === "info" ? { GATEWAY: "info", PLATFORM: "info", "**": "warn" } : { "**": level };

/** Stands here and nowhere else: the runner's environment variable of that name would move a node silently. */
const NAMESPACE = "tuanbar";
/** Calls of one action that one node works on at once. Mailboxes bound what shards queue; this bounds everything else, reads and hashes too. */
const ACTION_CALLS_MAX = 4_096;
/** Registries hear within milliseconds that a node leaves; until then it still answers. */
const LEAVE_MS = 300;

/** Between nodes only: in one process there is nobody else to turn to. */
function clusterOptions(bus: Bus): BrokerOptions {
  const metadata: NodeMetadata = { surface: surfaceOf(CONTRACTS), connection: 0 };
  return {
    transporter: bus,
    metadata,
    heartbeatInterval: HEARTBEAT_SECONDS,
    // The discoverer has its own patience; this is what others read in the options.
    heartbeatTimeout: 3 * HEARTBEAT_SECONDS,
    // `preferLocal` beats every strategy: with it 300 of 300 merchants were served by more than one node.
    registry: { strategy: SlotStrategy, preferLocal: false, stopDelay: LEAVE_MS, discoverer: new Discoverer() },
    // A second, by default, in which nobody knows of a node that is ready.
    transit: { serviceChangedDebounceTime: 50 } as NonNullable<BrokerOptions["transit"]>,
    bulkhead: { enabled: true, concurrency: ACTION_CALLS_MAX, maxQueueSize: 1 },
    circuitBreaker: {
      enabled: true,
      threshold: 0.5,
      minRequestCount: 20,
      windowTime: 30,
      halfOpenTime: 5_000,
      // A node that is there and does not answer. A refusal is an answer, and a database that is down is down from every node.
      check: (error: Error) => error instanceof Errors.RequestTimeoutError,
    },
  };
}

function brokerOptions(options: NodeOptions, tracing: Tracing | undefined): BrokerOptions {
  const bus = options.nats && new Bus(options.nats, options.nodeID);
  return {
    namespace: NAMESPACE,
    nodeID: options.nodeID,
    logger: { type: "Pino", options: { level: levels(options.logLevel) } },
    // A service waits for those it depends on; asking once a second made a start a second longer.
    dependencyInterval: 20,
    // bigint, Date and Buffer survive a hop; the default JSON never answers when an error's data holds a bigint. JSONExt, which looks at every key
    // by a function, took 67 µs of CPU to write and read an order and its answer, this takes 24.
    serializer: "CBOR",
    errorRegenerator: new DomainErrorRegenerator(),
    validator: makeValidator(),
    uidGenerator: nextUid,
    // The default waits for ever.
    requestTimeout: LIMITS.requestMs,
    // A merely slow capture would run twice: retries are the caller's, and only where a contract says they are safe.
    retryPolicy: { enabled: false },
    registry: { strategy: SlotStrategy, preferLocal: false },
    // What `underWay` waits for at a stop.
    tracking: { shutdownTimeout: LIMITS.requestMs },
    // Signals are handled once, by the script that started the node.
    skipProcessEventRegistration: true,
    // Ours are Prometheus metrics made by prom-client.
    metrics: false,
    // Traces are made by OpenTelemetry's SDK: `mixins/tracing.ts`.
    tracing: false,
    // Moleculer's own order, from the inside out, but for its breaker, which stood within Timeout and never saw one.
    internalMiddlewares: false,
    middlewares: [
      ...(tracing === undefined ? [] : [tracing.middleware()]),
      oneWayMeta,
      bundles({ sends: options.batching !== "off" }),
      ...(bus === undefined ? [] : [bus.refusal]),
      ...(options.failpoints === undefined ? [] : [options.failpoints.asks()]),
      { name: "Joining", serviceStarting: async ({ broker }) => refuseConflict(broker, (broker.metadata as NodeMetadata).surface) },
      ...["ActionHook", "Validator", "Bulkhead"],
      underWay,
      "CircuitBreaker",
    ],
    ...(bus === undefined ? {} : clusterOptions(bus)),
  };
}
