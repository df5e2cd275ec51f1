import { accessSync, constants } from "node:fs";
import { isIP } from "node:net";
import { hostname } from "node:os";
import { resolve } from "node:path";
import type { NatsSettings } from "../mixins/bus.ts";
import { ROLES, SERVICES, type RoleName, type ServiceName } from "../moleculer.config.ts";
import type { ChannelSettings } from "../mixins/channels/index.ts";
import { parseRedisUrl, RedisUrlError } from "../mixins/redis.ts";
import type { TracingSettings } from "../mixins/tracing.ts";
import { CHANNEL_VARIABLES, readChannelSettings } from "./channel-settings.ts";
import { StartError } from "./start-error.ts";

/** Every environment variable this program listens to, checked once at start: the rest of the code never reads `process.env`. */
export interface Settings {
  readonly port: number;
  /** The loopback unless asked otherwise: a fresh clone with known sample passwords must not be open to the network. */
  readonly host: string;
  readonly dataDir: string;
  /** Unset: generated and kept in DATA_DIR. */
  readonly jwtSecret?: string;
  readonly adminPassword?: string;
  readonly reversalMinutes: number;
  readonly settlementDelayMinutes: number;
  readonly orderTtlSeconds: number;
  readonly rateLimits: "on" | "off";
  readonly logLevel: LogLevel;
  /** A console on the terminal that started the server. */
  readonly repl: "on" | "off";
  /** Path of a routing table with database URLs; unset: the embedded PostgreSQL. */
  readonly keyspacesFile?: string;
  /** Of the simpay that runs beside the server in the embedded profile when no other is named; 0: a free one, the same every time. */
  readonly simpayPort: number;
  /** Payment channels outside; they hold secrets. */
  readonly channels: ChannelSettings;
  /** Where customers and channels reach us; unset: HOST and PORT. */
  readonly publicUrl?: string;
  /** Addresses and networks of proxies in front, whose X-Forwarded-For counts. */
  readonly trustedProxies: readonly string[];
  /** Set: this process is one node of a cluster. */
  readonly cluster?: ClusterSettings;
  /** Calls of one tick to one node as one message; off to measure what that is worth (docs/benchmarks.md). */
  readonly busBatching: "on" | "off";
  /** Unset: stock gate and limits in this process. */
  readonly redisUrl?: string;
  /** Unset: PostgreSQL searches by itself. */
  readonly elasticsearchUrl?: string;
  /** Unset: nothing is traced. */
  readonly tracing?: TracingSettings | undefined;
  /** This process kills itself at the first of these steps that it passes: `mixins/failpoints.ts`. For tests; none: it lives. */
  readonly failpoints: readonly string[];
}

export interface ClusterSettings {
  readonly nats: NatsSettings;
  readonly nodeId: string;
  readonly services: readonly ServiceName[];
}

const LOG_LEVELS = ["trace", "debug", "info", "warn", "error", "fatal"] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];

/** Servers that the cluster profile brings; refused rather than ignored, or somebody would believe them in use. */
const NOT_YET = ["CLICKHOUSE_URL"];
/** Only a cluster has these. */
const OF_A_CLUSTER = ["SERVICES", "NODE_ID", "NATS_CREDS", "NATS_CA"];

/**
 * Every variable a deployment may set; a test holds `readSettings` to it, and docker-compose.yml and k8s/ to both. PGPASSWORD is read by `pg` itself,
 * so that a routing table needs no password in it.
 */
export const VARIABLES: readonly string[] = [
  ...[
    "PORT",
    "HOST",
    "DATA_DIR",
    "JWT_SECRET",
    "ADMIN_PASSWORD",
    "REVERSAL_MINUTES",
    "SETTLEMENT_DELAY_MINUTES",
    "ORDER_TTL_SECONDS",
    "RATE_LIMITS",
    "LOG_LEVEL",
    "REPL",
  ],
  ...[
    "KEYSPACES",
    "PGPASSWORD",
    "SERVICES",
    "NODE_ID",
    "TRUSTED_PROXIES",
    "NATS_URL",
    "NATS_CREDS",
    "NATS_CA",
    "BUS_BATCHING",
    "REDIS_URL",
    "CLICKHOUSE_URL",
  ],
  ...["PUBLIC_URL", "SIMPAY_PORT", ...CHANNEL_VARIABLES],
  ...["ELASTICSEARCH_URL", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_TRACES_SAMPLER_ARG", "FAILPOINT"],
];

/** In the words of `mixins/failpoints.ts`. */
const STEP = /^(before|after) (drain|call|write|commit|events|answer|ask|publish|acknowledge) \S/;

type Environment = Readonly<Record<string, string | undefined>>;

/**
 * An empty value counts as unset: compose files write `PORT=${PORT:-}`. `local`: the servers behind KEYSPACES are this machine's own, started by
 * `npm run cluster`, so what is allowed with the embedded PostgreSQL is allowed there too.
 */
export function readSettings(environment: Environment = process.env, { local = false }: { local?: boolean } = {}): Settings {
  for (const name of Object.keys(environment)) {
    if (name.startsWith("TUANBAR_"))
      throw new StartError(`environment: ${name} is not known; our variables have no prefix (docs: README, "Settings")`);
  }
  for (const name of NOT_YET) {
    if (environment[name])
      throw new StartError(`environment: ${name} is not supported yet, unset it: this version runs in one process without it`);
  }
  const keyspacesFile = readableFile(environment, "KEYSPACES");
  const rateLimits = oneOf(environment, "RATE_LIMITS", ["on", "off"], "on");
  if (rateLimits === "off" && keyspacesFile !== undefined && !local) {
    throw new StartError(
      'environment: RATE_LIMITS is "off", which is allowed only with the embedded PostgreSQL (KEYSPACES unset) and by npm run cluster',
    );
  }
  const failpoints =
    environment["FAILPOINT"]
      ?.split(",")
      .map((step) => step.trim())
      .filter(Boolean) ?? [];
  if (failpoints.length > 0 && keyspacesFile !== undefined && !local)
    throw new StartError(
      "environment: FAILPOINT is set, which is allowed only with the embedded PostgreSQL (KEYSPACES unset): the server kills itself there",
    );
  const noStep = failpoints.find((step) => !STEP.test(step));
  if (noStep !== undefined) throw wrong("FAILPOINT", noStep, 'steps such as "after drain payment.decide", with commas between');
  const elasticsearchUrl = httpUrl(environment, "ELASTICSEARCH_URL");
  const tracing = tracingSettings(environment);
  const jwtSecret = secret(environment, "JWT_SECRET", 32);
  const cluster = clusterSettings(environment);
  if (cluster !== undefined && keyspacesFile === undefined)
    throw new StartError("environment: NATS_URL is set and KEYSPACES is not: the nodes of a cluster share database servers");
  if (cluster !== undefined && jwtSecret === undefined)
    throw new StartError("environment: NATS_URL is set and JWT_SECRET is not: the nodes of a cluster share one secret");
  const busBatching = oneOf(environment, "BUS_BATCHING", ["on", "off"], "on");
  if (environment["BUS_BATCHING"] && cluster === undefined && !local)
    throw new StartError("environment: BUS_BATCHING is set and NATS_URL is not: without it one process is everything");
  if (cluster !== undefined && environment["REPL"] === "on")
    throw new StartError("environment: REPL is on, which is for a server that is alone: a cluster has npm run repl");
  const redisUrl = redis(environment, "REDIS_URL");
  const publicUrl = httpUrl(environment, "PUBLIC_URL");
  const channels = readChannelSettings(environment);
  if (channels.wechatpay && !publicUrl?.startsWith("https:"))
    throw new StartError("environment: WeChat Pay needs PUBLIC_URL, an https address it can send its callbacks to");
  if (cluster !== undefined && channels.simpay && publicUrl === undefined)
    throw new StartError(
      "environment: SIMPAY_URL is set and PUBLIC_URL is not: one node's own address is not where simpay reaches the cluster",
    );
  const adminPassword = secret(environment, "ADMIN_PASSWORD", 8);
  return Object.freeze({
    port: wholeNumber(environment, "PORT", { from: 0, to: 65_535, otherwise: 3000 }),
    host: address(environment, "HOST", "127.0.0.1"),
    dataDir: resolve(environment["DATA_DIR"] || ".data"),
    reversalMinutes: wholeNumber(environment, "REVERSAL_MINUTES", { from: 0, to: 60, otherwise: 60 }),
    settlementDelayMinutes: wholeNumber(environment, "SETTLEMENT_DELAY_MINUTES", { from: 0, to: 525_600, otherwise: 60 }),
    orderTtlSeconds: wholeNumber(environment, "ORDER_TTL_SECONDS", { from: 1, to: 86_400, otherwise: 900 }),
    rateLimits,
    logLevel: oneOf(environment, "LOG_LEVEL", LOG_LEVELS, "info"),
    repl: oneOf(environment, "REPL", ["on", "off"], "off"),
    ...(jwtSecret === undefined ? {} : { jwtSecret }),
    ...(adminPassword === undefined ? {} : { adminPassword }),
    ...(keyspacesFile === undefined ? {} : { keyspacesFile }),
    simpayPort: wholeNumber(environment, "SIMPAY_PORT", { from: 0, to: 65_535, otherwise: 0 }),
    channels,
    ...(publicUrl === undefined ? {} : { publicUrl }),
    trustedProxies: networks(environment, "TRUSTED_PROXIES"),
    ...(cluster === undefined ? {} : { cluster }),
    busBatching,
    ...(redisUrl === undefined ? {} : { redisUrl }),
    ...(elasticsearchUrl === undefined ? {} : { elasticsearchUrl }),
    failpoints,
    ...(tracing === undefined ? {} : { tracing }),
  });
}

/** Undefined without NATS_URL: then this process is all there is. */
function clusterSettings(environment: Environment): ClusterSettings | undefined {
  const urls = serverUrls(environment, "NATS_URL", ["nats:", "tls:"])?.map((url) => new URL(url));
  if (urls === undefined) {
    const stray = OF_A_CLUSTER.find((name) => environment[name]);
    if (stray !== undefined) throw new StartError(`environment: ${stray} is set and NATS_URL is not: without it one process is everything`);
    return undefined;
  }
  const { username, password } = urls.find((url) => url.username !== "") ?? { username: "", password: "" };
  const credsFile = readableFile(environment, "NATS_CREDS");
  const caFile = readableFile(environment, "NATS_CA");
  return {
    nats: {
      servers: urls.map(({ hostname: host, port }) => `${host}:${port || "4222"}`),
      ...(username === "" ? {} : { user: decodeURIComponent(username), pass: decodeURIComponent(password) }),
      ...(credsFile === undefined ? {} : { credsFile }),
      ...(urls.some(({ protocol }) => protocol === "tls:") ? { tls: true } : {}),
      ...(caFile === undefined ? {} : { caFile }),
    },
    nodeId: nodeId(environment),
    services: services(environment),
  };
}

/** A stable name keeps a node's shards with it over a restart; a made-up one is at least nobody else's. */
function nodeId(environment: Environment): string {
  const value = environment["NODE_ID"] || `${hostname()}-${process.pid}`;
  // A part of NATS subjects: a dot, a star or a space would be read as something else.
  if (!/^[A-Za-z0-9_-]{1,64}$/.test(value.replaceAll(".", "-"))) throw wrong("NODE_ID", value, "1 to 64 letters, digits, - and _");
  return value.replaceAll(".", "-");
}

/** Names of services and of roles, which stand for several; unset: all. In the order in which they start. */
function services(environment: Environment): readonly ServiceName[] {
  const value = environment["SERVICES"];
  if (!value) return SERVICES;
  const isRole = (name: string): name is RoleName => Object.hasOwn(ROLES, name);
  const names = value.split(",").map((name) => name.trim());
  const asked = new Set<string>(names.flatMap((name): readonly string[] => (isRole(name) ? ROLES[name] : [name])));
  const unknown = [...asked].find((name) => !SERVICES.some((service) => service === name));
  if (unknown !== undefined) throw wrong("SERVICES", unknown, [...Object.keys(ROLES), ...SERVICES].join(", "));
  return SERVICES.filter((name) => asked.has(name) || name === "probe");
}

/** Never repeated in an error: there may be a password in it. */
function serverUrls(environment: Environment, name: string, protocols: readonly string[]): readonly string[] | undefined {
  const value = environment[name];
  if (!value) return undefined;
  const urls = value.split(",").map((url) => url.trim());
  const isSound = (url: string): boolean => URL.canParse(url) && protocols.includes(new URL(url).protocol) && new URL(url).hostname !== "";
  if (!urls.every(isSound))
    throw new StartError(`environment: ${name} is not a URL or a list of them, allowed: ${protocols.join("//… or ")}//…`);
  return urls;
}

function networks(environment: Environment, name: string): readonly string[] {
  const value = environment[name];
  if (!value) return [];
  const all = value.split(",").map((network) => network.trim());
  for (const network of all) {
    const [address = "", bits = "0"] = network.split("/");
    const family = isIP(address);
    if (family === 0 || !/^\d{1,3}$/.test(bits) || Number(bits) > (family === 6 ? 128 : 32))
      throw wrong(name, network, "IP addresses and networks such as 10.0.0.0/8, with commas between");
  }
  return all;
}

/** OpenTelemetry's own names for where traces go and what part of all requests is traced. */
function tracingSettings(environment: Environment): TracingSettings | undefined {
  const endpoint = httpUrl(environment, "OTEL_EXPORTER_OTLP_ENDPOINT");
  const ratio = environment["OTEL_TRACES_SAMPLER_ARG"] || "1";
  if (!/^(0(\.\d{1,6})?|1(\.0)?)$/.test(ratio)) throw wrong("OTEL_TRACES_SAMPLER_ARG", ratio, "a number from 0 to 1");
  return endpoint === undefined ? undefined : { endpoint, ratio: Number(ratio) };
}

/** Never repeated in an error: there may be a password in it. */
function httpUrl(environment: Environment, name: string): string | undefined {
  const value = environment[name];
  if (!value) return undefined;
  if (!URL.canParse(value) || !/^https?:$/.test(new URL(value).protocol))
    throw new StartError(`environment: ${name} is not a URL, allowed: http://… or https://…`);
  return value;
}

function wrong(name: string, value: string, allowed: string): StartError {
  return new StartError(`environment: ${name} is ${JSON.stringify(value)}, allowed: ${allowed}`);
}

/** Digits only: `Number` would also take "1e3", "0x10" and " 7". */
function wholeNumber(
  environment: Environment,
  name: string,
  { from, to, otherwise }: { from: number; to: number; otherwise: number },
): number {
  const value = environment[name] || String(otherwise);
  const number = /^\d{1,9}$/.test(value) ? Number(value) : -1;
  if (number < from || number > to) throw wrong(name, value, `a whole number from ${from} to ${to}`);
  return number;
}

function oneOf<const T extends string>(environment: Environment, name: string, allowed: readonly T[], otherwise: T): T {
  const value = environment[name] || otherwise;
  const found = allowed.find((candidate) => candidate === value);
  if (found === undefined) throw wrong(name, value, allowed.join(", "));
  return found;
}

function address(environment: Environment, name: string, otherwise: string): string {
  const value = environment[name] || otherwise;
  if (isIP(value) === 0 && value !== "localhost") throw wrong(name, value, "an IP address or localhost");
  return value;
}

function readableFile(environment: Environment, name: string): string | undefined {
  const value = environment[name];
  if (!value) return undefined;
  try {
    accessSync(value, constants.R_OK);
  } catch (error) {
    throw new StartError(`environment: ${name} is ${JSON.stringify(value)}, allowed: a file that can be read`, { cause: error });
  }
  return resolve(value);
}

/** The URL may hold a password, so the error does not repeat it. */
function redis(environment: Environment, name: string): string | undefined {
  const value = environment[name];
  if (!value) return undefined;
  try {
    parseRedisUrl(value);
  } catch (error) {
    throw new StartError(`environment: ${name} is ${error instanceof RedisUrlError ? error.message : String(error)}`, { cause: error });
  }
  return value;
}

/** The only variables whose value an error must not repeat: error lines end up in logs. */
function secret(environment: Environment, name: string, lengthMin: number): string | undefined {
  const value = environment[name];
  if (!value) return undefined;
  if (value.length < lengthMin) throw new StartError(`environment: ${name} has ${value.length} characters, allowed: ${lengthMin} or more`);
  return value;
}
