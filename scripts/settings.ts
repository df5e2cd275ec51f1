import { accessSync, constants } from "node:fs";
import { isIP } from "node:net";
import { resolve } from "node:path";
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
  /** Path of a routing table with database URLs; unset: the embedded PostgreSQL. */
  readonly keyspacesFile?: string;
}

const LOG_LEVELS = ["trace", "debug", "info", "warn", "error", "fatal"] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];

/** Servers that the cluster profile brings; refused rather than ignored, or somebody would believe them in use. */
const NOT_YET = ["NATS_URL", "REDIS_URL", "CLICKHOUSE_URL", "ELASTICSEARCH_URL"];

type Environment = Readonly<Record<string, string | undefined>>;

/** An empty value counts as unset: compose files write `PORT=${PORT:-}`. */
export function readSettings(environment: Environment = process.env): Settings {
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
  if (rateLimits === "off" && keyspacesFile !== undefined) {
    throw new StartError('environment: RATE_LIMITS is "off", which is allowed only with the embedded PostgreSQL (KEYSPACES unset)');
  }
  const jwtSecret = secret(environment, "JWT_SECRET", 32);
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
    ...(jwtSecret === undefined ? {} : { jwtSecret }),
    ...(adminPassword === undefined ? {} : { adminPassword }),
    ...(keyspacesFile === undefined ? {} : { keyspacesFile }),
  });
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

/** The only variables whose value an error must not repeat: error lines end up in logs. */
function secret(environment: Environment, name: string, lengthMin: number): string | undefined {
  const value = environment[name];
  if (!value) return undefined;
  if (value.length < lengthMin) throw new StartError(`environment: ${name} has ${value.length} characters, allowed: ${lengthMin} or more`);
  return value;
}
