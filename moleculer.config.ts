/** How a node is put together; nothing else decides at start-up. `scripts/start.ts` and the tests call `makeNode`. */
import { ServiceBroker, type BrokerOptions, type ServiceSchema } from "moleculer";
import { LIMITS } from "./domain/limits.ts";
import { Database } from "./db/database.ts";
import type { Keyspaces } from "./db/keyspaces.ts";
import { DomainErrorRegenerator } from "./mixins/errors.ts";
import { Metrics } from "./mixins/metrics.ts";
import { attachPlatform, Platform, type TradeSettings } from "./mixins/platform.ts";
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
  "ops",
  "gateway",
] as const;
export type ServiceName = (typeof SERVICES)[number];

export interface NodeOptions {
  readonly nodeID: string;
  readonly keyspaces: Keyspaces;
  /** The URL of each database that `keyspaces` names. */
  readonly urlOf: (database: string) => string;
  readonly services: readonly ServiceName[];
  readonly trade: TradeSettings;
  readonly logLevel: string;
  /** Settings of a service, over its own. */
  readonly settings?: Partial<Record<ServiceName, Readonly<Record<string, unknown>>>>;
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
  const databases = options.keyspaces.databases().map(
    ({ name, keyspace, slots }) =>
      new Database({
        name,
        city: keyspace.id,
        slots,
        url: options.urlOf(name),
        onError: (error) => logger.warn(`an idle connection to ${name} broke: ${error.message}`),
      }),
  );
  const platform = new Platform({
    keyspaces: options.keyspaces,
    databases: new Map(databases.map((database) => [database.name, database])),
    metrics: new Metrics(),
    logger,
    trade: options.trade,
  });
  attachPlatform(broker, platform);
  for (const name of options.services) {
    const module = (await import(`./services/${name}/${name}.service.ts`)) as { default: ServiceSchema };
    broker.createService({ ...module.default, settings: { ...module.default.settings, ...options.settings?.[name] } });
  }
  await broker.start();
  return {
    broker,
    platform,
    async stop() {
      await broker.stop();
      await platform.close();
    },
  };
}

function brokerOptions(options: NodeOptions): BrokerOptions {
  return {
    nodeID: options.nodeID,
    logger: { type: "Pino", options: { level: options.logLevel } },
    logLevel: options.logLevel as Exclude<BrokerOptions["logLevel"], undefined>,
    // bigint and Date survive a hop; the default JSON never answers when an error's data holds a bigint.
    serializer: "JSONExt",
    errorRegenerator: new DomainErrorRegenerator(),
    validator: makeValidator(),
    // The default waits for ever.
    requestTimeout: LIMITS.requestMs,
    // A merely slow capture would run twice: retries are the caller's, and only where a contract says they are safe.
    retryPolicy: { enabled: false },
    // `preferLocal` beats every strategy: with it 300 of 300 merchants were served by more than one node.
    registry: { strategy: SlotStrategy as never, preferLocal: false },
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
