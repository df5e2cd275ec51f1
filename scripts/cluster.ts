/**
 * `npm run cluster`: the platform as a cluster on one machine, without Docker. From a second terminal `npm run cluster -- status` and the other
 * commands of `scripts/cluster/supervisor.ts`. Ctrl-C stops everything in order; a second one does not wait.
 */
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { KeyspacesError, loadKeyspaces } from "../db/keyspaces.ts";
import { MigrationError } from "../db/migrate.ts";
import { makeNode } from "../moleculer.config.ts";
import { loadSamples } from "../samples/load.ts";
import { listenForCommands, sendCommand } from "./cluster/control.ts";
import { Cluster } from "./cluster/supervisor.ts";
import { openDataDir, type DataDir } from "./data-dir.ts";
import { channelEnvironment } from "./channel-settings.ts";
import { readSettings, type Settings } from "./settings.ts";
import { StartError } from "./start-error.ts";

/** Of the cluster itself: it makes these for its nodes. */
const OWN = ["NATS_URL", "REDIS_URL", "KEYSPACES", "SERVICES", "NODE_ID", "NATS_CREDS", "NATS_CA", "TRUSTED_PROXIES"];

const started: { readonly name: string; readonly stop: () => Promise<void> | void }[] = [];
let cluster: Cluster | undefined;
let stopping = false;

async function main(): Promise<void> {
  const given = OWN.find((name) => process.env[name]);
  if (given !== undefined) throw new StartError(`environment: ${given} is set, but npm run cluster brings its own servers: unset it`);
  const settings = readSettings(process.env, { local: true });
  const dataDir = openDataDir(settings.dataDir);
  started.push({ name: "data directory", stop: () => dataDir.release() });
  const adminPassword = settings.adminPassword ?? dataDir.secret("admin-password");
  const running = new Cluster({
    dataDir: dataDir.path,
    host: settings.host,
    port: settings.port,
    secret: (name) => dataDir.secret(name),
    nodeEnvironment: {
      JWT_SECRET: settings.jwtSecret ?? dataDir.secret("jwt"),
      ADMIN_PASSWORD: adminPassword,
      RATE_LIMITS: settings.rateLimits,
      LOG_LEVEL: settings.logLevel,
      ORDER_TTL_SECONDS: String(settings.orderTtlSeconds),
      REVERSAL_MINUTES: String(settings.reversalMinutes),
      SETTLEMENT_DELAY_MINUTES: String(settings.settlementDelayMinutes),
      ...channelEnvironment(process.env, settings.publicUrl),
      BUS_BATCHING: settings.busBatching,
    },
    ...(settings.channels.simpay === undefined ? { simpayPort: settings.simpayPort } : {}),
    log: (line) => void process.stderr.write(`${line}\n`),
  });
  cluster = running;
  started.push({ name: "cluster", stop: () => running.stop() });
  await running.start();
  await samples(running, dataDir, settings);
  const control = await listenForCommands(dataDir.path, (words, say) => running.command(words, say));
  started.push({ name: "control", stop: () => void control.close() });
  banner(settings, running);
}

/** Once, by a node without services that calls the others. */
async function samples({ natsUrl, keyspacesFile }: Cluster, dataDir: DataDir, settings: Settings): Promise<void> {
  const mark = join(dataDir.path, "samples-loaded");
  if (existsSync(mark)) return;
  const { host, password } = new URL(natsUrl);
  const node = await makeNode({
    nodeID: "samples",
    keyspaces: loadKeyspaces(keyspacesFile),
    urlOf: (database) => database,
    services: [],
    nats: { servers: [host], user: "tuanbar", pass: password },
    trade: {
      orderTtlSeconds: settings.orderTtlSeconds,
      reversalMinutes: settings.reversalMinutes,
      settlementDelayMinutes: settings.settlementDelayMinutes,
    },
    logLevel: settings.logLevel,
  });
  await loadSamples(node.broker, readFileSync(fileURLToPath(new URL("../samples/city.yaml", import.meta.url)), "utf8"));
  await node.stop();
  writeFileSync(mark, `${new Date().toISOString()}\n`);
}

function banner(settings: Settings, running: Cluster): void {
  const base = `https://${settings.host === "0.0.0.0" || settings.host === "::" ? "localhost" : settings.host}:${settings.port}`;
  const admin = settings.adminPassword === undefined ? `in ${join(settings.dataDir, "secrets", "admin-password")}` : "as in ADMIN_PASSWORD";
  const lines = [
    "",
    "  Tuanbar 团购 is ready, as a cluster.",
    "",
    `  API       ${base}/api/v1`,
    `  Docs      ${base}/docs`,
    `  Health    ${base}/readyz`,
    ...(running.simpayUrl === "" ? [] : [`  simpay    ${running.simpayUrl} (a payment channel with pretend money)`]),
    `  CA        ${running.caFile}   (curl --cacert, NODE_EXTRA_CA_CERTS)`,
    `  Data      ${settings.dataDir}   logs in ${join(settings.dataDir, "logs")}`,
    "  Samples   consumers xiaoming, xiaohong …; merchants boss-longtang …; password tuanbar-demo-1",
    `  Admin     admin, password ${admin}`,
    "",
    ...running.status().map((line) => `  ${line}`),
    "",
    "  npm run cluster -- status | kill worker-2 | stop worker-2 | restart [name] | add worker",
    "  Ctrl-C stops it.",
    "",
  ];
  process.stdout.write(`${lines.join("\n")}\n`);
}

async function stop(code: number): Promise<never> {
  stopping = true;
  for (const { name, stop: end } of started.toReversed()) {
    try {
      await end();
    } catch (error) {
      code = 1;
      process.stderr.write(`stopping the ${name}: ${error instanceof Error ? error.message : String(error)}\n`);
    }
  }
  process.exit(code);
}

function complain(error: unknown): void {
  const known = error instanceof StartError || error instanceof MigrationError || error instanceof KeyspacesError;
  process.stderr.write(`${known ? error.message : error instanceof Error ? error.stack : String(error)}\n`);
}

const words = process.argv.slice(2);
if (words.length > 0) {
  sendCommand(resolve(readSettings(process.env, { local: true }).dataDir), words, (text) => void process.stdout.write(text)).then(
    (code) => process.exit(code),
    (error: unknown) => {
      complain(error);
      process.exit(1);
    },
  );
} else {
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    process.on(signal, () => {
      if (!stopping) return void stop(0);
      cluster?.killAll();
      process.exit(1);
    });
  }
  main().catch((error: unknown) => {
    if (stopping) return;
    complain(error);
    void stop(1);
  });
}
