/** How a node is put together; nothing else decides at start-up. `scripts/start.ts` and the tests call `makeNode`. */
import { ServiceBroker, type BrokerOptions, type ServiceSchema } from "moleculer";
import { LIMITS } from "./domain/limits.ts";
import { Database } from "./db/database.ts";
import { displayName, type Keyspaces } from "./db/keyspaces.ts";
import { DomainErrorRegenerator } from "./mixins/errors.ts";
import { Metrics } from "./mixins/metrics.ts";
import { attachPlatform, Platform, type PlatformParts, type TradeSettings } from "./mixins/platform.ts";
import { SlotStrategy } from "./mixins/slot-strategy.ts";
import { makeValidator } from "./mixins/validator.ts";

/** Every service there is, in the order they start: what others stand on first, the door last. */
export const SERVICES = [
  "user",
  "wallet",
  "merchant",
  "stock",
  "group",
  "deal",
  "order",
  "payment",
  "voucher",
  "search",
  "notify",
  "journal",
  "routing",
  "ops",
  "gateway",
] as const;
export type ServiceName = (typeof SERVICES)[number];

export interface NodeOptions {
  readonly nodeID: string;
  readonly keyspaces: Keyspaces;
  /** The URL of each database that `keyspaces` names, or will name. */
  readonly urlOf: (database: string) => string;
  /** Where a routing table that a move has changed is kept for the next start; without it nothing can be moved. */
  readonly routingFile?: string;
  readonly services: readonly ServiceName[];
  readonly trade: TradeSettings;
  readonly logLevel: string;
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
  const broker = new ServiceBroker(brokerOptions(options));
  const logger = broker.getLogger("platform");
  const openDatabase: PlatformParts["openDatabase"] = (name, keyspace, slots) =>
    new Database({
      name: displayName(name),
      city: keyspace.id,
      slots,
      url: options.urlOf(name),
      onError: (error) => logger.warn(`an idle connection to ${displayName(name)} broke: ${error.message}`),
    });
  const platform = new Platform({
    keyspaces: options.keyspaces,
    databases: new Map(options.keyspaces.databases().map(({ name, keyspace, slots }) => [name, openDatabase(name, keyspace, slots)])),
    openDatabase,
    urlOf: options.urlOf,
    routingFile: options.routingFile,
    metrics: new Metrics(),
    logger,
    trade: options.trade,
  });
  attachPlatform(broker, platform);
  // Whatever else a node does, it follows the slots that move.
  for (const name of new Set<ServiceName>(["routing", ...options.services])) {
    const schema =
      options.replace?.[name] ?? ((await import(`./services/${name}/${name}.service.ts`)) as { default: ServiceSchema }).default;
    broker.createService({ ...schema, settings: { ...schema.settings, ...options.settings?.[name] } });
  }
  await broker.start();
  return {
    broker,
    platform,
    async stop() {
      // The door first: what is under way finishes while everything it needs still runs.
      const door = broker.getLocalService("gateway");
      if (door) await broker.destroyService(door);
      await broker.stop();
      await platform.close();
    },
  };
}

/** At `info` Moleculer tells every step of every service's start; our start is one banner, so there only these modules speak below `warn`. */
const levels = (level: string): Record<string, string> =>
  level === "info" ? { GATEWAY: "info", PLATFORM: "info", "**": "warn" } : { "**": level };

function brokerOptions(options: NodeOptions): BrokerOptions {
  return {
    nodeID: options.nodeID,
    logger: { type: "Pino", options: { level: levels(options.logLevel) } },
    // A service waits for those it depends on; asking once a second made a start a second longer.
    dependencyInterval: 20,
    // bigint and Date survive a hop; the default JSON never answers when an error's data holds a bigint.
    serializer: "JSONExt",
    errorRegenerator: new DomainErrorRegenerator(),
    validator: makeValidator(),
    // The default waits for ever.
    requestTimeout: LIMITS.requestMs,
    // A merely slow capture would run twice: retries are the caller's, and only where a contract says they are safe.
    retryPolicy: { enabled: false },
    // `preferLocal` beats every strategy: with it 300 of 300 merchants were served by more than one node.
    registry: { strategy: SlotStrategy, preferLocal: false },
    // Stopping without it drops the calls under way.
    tracking: { enabled: true, shutdownTimeout: LIMITS.requestMs },
    // Signals are handled once, by the script that started the node.
    skipProcessEventRegistration: true,
    // Ours are Prometheus metrics made by prom-client.
    metrics: false,
    tracing: false,
    circuitBreaker: { enabled: false },
  };
}
