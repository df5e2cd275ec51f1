/**
 * The gateway: every contract with a REST form, over HTTP. Moleculer-web's service in its middleware mode, on a server of our own.
 * Its path through a request (an action context, a chain of promises, one regular expression per alias in turn) is replaced by a route table.
 * CPU time of one order, at 64 connections with a stub behind it: bare `node:http` that reads the same body 1, this gateway with token, key,
 * form and metrics 1.8, moleculer-web unchanged with none of them 3.5. Most of what is left is the kernel's: the write of the answer.
 */
import type { IncomingMessage, Server, ServerResponse } from "node:http";
import { setTimeout as sleep } from "node:timers/promises";
import type { Context, Service, ServiceBroker, ServiceSchema } from "moleculer";
import ApiGateway from "moleculer-web";
import { collectDefaultMetrics } from "prom-client";
import { invariant } from "../../domain/invariant.ts";
import { Health } from "../../mixins/health.ts";
import { DEALS_CHANGED, platformOf, type DealsChanged } from "../../mixins/platform.ts";
import { makeTokens } from "../../mixins/tokens.ts";
import { Callers, proxyList } from "./callers.ts";
import { serveContract, serveRawRoute, type Door, type Serve } from "./calls.ts";
import { Dispatcher } from "./dispatcher.ts";
import type { Exchange } from "./exchange.ts";
import { Limits, type LimitName } from "./limits.ts";
import { NearDeals } from "./near.ts";
import { pages } from "./pages.ts";
import { fullPath, RAW_ROUTES, REST_CONTRACTS } from "./routes.ts";
import { close, listen, makeServer } from "./server.ts";

export interface GatewaySettings {
  /** What access tokens are signed with; 32 bytes or more. */
  readonly jwtSecret: string;
  readonly port: number;
  readonly host: string;
  readonly rateLimits: "on" | "off";
  /** Requests a minute, where they are not to be those of `limits.ts`. */
  readonly rates: Partial<Record<LimitName, number>>;
  /** Addresses and networks (CIDR) of proxies of ours, which write the client's address behind the last comma of X-Forwarded-For. */
  readonly trustedProxies: readonly string[];
  readonly metricsToAll: boolean;
  /** Between readiness failing and the door closing, so that balancers have looked. */
  readonly drainMs: number;
}

interface State {
  dispatcher: Dispatcher;
  near: NearDeals;
  health: Health;
  server: Server;
  /** Answers that stay open until somebody ends them: at the latest, we do. */
  streams: Set<ServerResponse>;
}
/** Of moleculer-web. */
interface Base {
  addRoute(route: object): void;
  express(): (req: IncomingMessage, res: ServerResponse) => void;
}
type This = Service<GatewaySettings> & State & Base;

const gateway: ServiceSchema<Partial<GatewaySettings>> = {
  name: "gateway",
  mixins: [ApiGateway],
  settings: {
    port: 3000,
    host: "127.0.0.1",
    rateLimits: "on",
    rates: {},
    trustedProxies: [],
    metricsToAll: false,
    drainMs: 0,
    // Moleculer-web's: no server of its own, and nobody may add a way in at run time.
    server: false,
    logRouteRegistration: false,
    // Settings are told to every other node; this one is not.
    $secureSettings: ["jwtSecret"],
  } as Partial<GatewaySettings>,
  actions: { rest: false, addRoute: false, removeRoute: false } as never,
  events: {
    [DEALS_CHANGED](this: This, ctx: Context<DealsChanged>): void {
      this.near.changed(ctx.params);
    },
  } as never,
  methods: {
    /** Moleculer-web calls this for each request; it never rejects. */
    httpHandler(this: This, req: IncomingMessage, res: ServerResponse): void {
      this.dispatcher.dispatch(req, res);
    },
  },
  created: build as never,
  started: start as never,
  stopped: stop as never,
};
export default gateway;

function build(this: This): void {
  const { settings, broker } = this;
  invariant(typeof settings.jwtSecret === "string", "the gateway is told the JWT secret");
  const platform = platformOf(broker);
  const { metrics } = platform;
  const serviceOf = ({ name }: { readonly name: string }): string => name.slice(0, name.indexOf("."));
  this.health = new Health(() => platform.databases.values(), {
    expected: new Set(REST_CONTRACTS.map(serviceOf)).size,
    missing: () => [...new Set(REST_CONTRACTS.filter(({ name }) => !isOffered(broker, name)).map(serviceOf))],
  });
  this.dispatcher = new Dispatcher({
    metrics,
    tracing: platform.tracing,
    // pino's order: what follows the message is only put into its place holders.
    warn: (message, details) => this.logger.warn(details, message),
    error: (message, details) => this.logger.error(details, message),
    draining: () => this.health.draining,
  });
  this.streams = new Set();
  const limits = settings.rateLimits === "on" ? new Limits(settings.rates, platform.redis) : undefined;
  this.near = new NearDeals(broker, metrics);
  const callers = new Callers(makeTokens(settings.jwtSecret));
  const proxies = proxyList(settings.trustedProxies);
  const door: Door = { broker, callers, limits, proxies, near: this.near.ways };
  const aliases: Record<string, Serve> = {};
  const add = (method: string, path: string, action: string, serve: Serve): void => {
    aliases[`${method} ${path.replaceAll(/\{(\w+)\}/g, ":$1")}`] = serve;
    const passed = method === "POST" ? platform.failpoints?.answer(`${method} ${path}`, serve) : undefined;
    this.dispatcher.add(method, path, action, passed ?? serve);
  };
  for (const contract of REST_CONTRACTS) add(contract.rest.method, fullPath(contract.rest), contract.name, serveContract(door, contract));
  for (const route of RAW_ROUTES)
    add(route.rest.method, fullPath(route.rest), route.name, serveRawRoute(door, route, trackStream.bind(this)));
  for (const [path, serve] of pages({ health: this.health, metrics, proxies, metricsToAll: settings.metricsToAll }))
    add("GET", path, "", serve);
  // `gateway.listAliases` in the REPL tells them.
  this.addRoute({ path: "/", aliases, bodyParsers: false, mappingPolicy: "restrict" });
  collectDefaultMetrics({ register: metrics.registry });
  this.server = makeServer(this.express());
}

/** Asked of the registry: `findNextActionEndpoint` warns in the log about each one that is missing, at every look. */
const isOffered = (broker: ServiceBroker, action: string): boolean => broker.registry.getActionEndpoints(action)?.hasAvailable() ?? false;

function trackStream(this: This, { res }: Exchange): void {
  this.streams.add(res);
  res.once("close", () => this.streams.delete(res));
}

async function start(this: This): Promise<void> {
  await listen(this.server, this.settings.port, this.settings.host);
  this.logger.info(`listening on ${this.settings.host}:${this.settings.port}`);
}

/** Readiness fails first; then the door closes, open streams end, and the requests under way finish. */
async function stop(this: This): Promise<void> {
  this.health.draining = true;
  if (this.settings.drainMs > 0) await sleep(this.settings.drainMs);
  const closed = close(this.server);
  for (const stream of this.streams) stream.end();
  await closed;
}
