/**
 * `npm start`: the whole platform in one process, on the embedded PostgreSQL unless KEYSPACES names servers; with NATS_URL, one node of a cluster.
 * Says in one line why it cannot start; stops cleanly on SIGINT and SIGTERM (exit 0, PostgreSQL stopped too); a second signal does not wait.
 * `--local` is `npm run cluster`'s, which is also told over the channel it made when the node serves, and takes the node with it when it dies.
 */
import { createServer } from "node:net";
import { existsSync, readFileSync, writeFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { startEmbeddedPostgres, type EmbeddedPostgres } from "../db/embedded.ts";
import { displayName, KeyspacesError, loadKeyspaces, saveKeyspaces, type Keyspaces } from "../db/keyspaces.ts";
import { migrate, MigrationError } from "../db/migrate.ts";
import { makeDatabases } from "../db/new-databases.ts";
import { makeChannels, type ChannelSettings } from "../mixins/channels/index.ts";
import { Failpoints } from "../mixins/failpoints.ts";
import { newestKeyspaces } from "../db/routing.ts";
import { makeNode, SERVICES, type Node } from "../moleculer.config.ts";
import { ManifestError } from "../regions/registry.ts";
import { loadSamples } from "../samples/load.ts";
import { openDataDir, type DataDir } from "./data-dir.ts";
import { collectGarbage, giveGarbageRoom } from "./garbage.ts";
import { readSettings, type ClusterSettings, type Settings } from "./settings.ts";
import { startSimpayBeside } from "./simpay-beside.ts";
import { StartError } from "./start-error.ts";

const root = fileURLToPath(new URL("..", import.meta.url));

/** What has been started so far, stopped in reverse order whatever happens. */
const started: { readonly name: string; readonly stop: () => Promise<void> | void }[] = [];
let stopping = false;

const local = process.argv.includes("--local");

/** Told to stop while it starts. */
class Stopped extends Error {}
const goOn = (): void => {
  if (stopping) throw new Stopped();
};

async function main(): Promise<void> {
  giveGarbageRoom();
  const settings = readSettings(process.env, { local });
  await portIsFree(settings);
  await (settings.cluster === undefined ? alone(settings) : clusterNode(settings, settings.cluster));
  collectGarbage();
}

/** One node of a cluster keeps nothing on its own disk: its secrets are given, its data are the database servers'. */
async function clusterNode(settings: Settings, { nats, nodeId, services }: ClusterSettings): Promise<void> {
  const { jwtSecret, adminPassword, port, host } = settings;
  const configured = settings.keyspacesFile ?? "";
  const keyspaces = await newestKeyspaces(loadKeyspaces(configured), (database) => database);
  await Promise.all(keyspaces.databases().map(({ name, keyspace }) => migrate(name, keyspace, displayName(name))));
  goOn();
  const node = await makeNode({
    nodeID: nodeId,
    keyspaces,
    urlOf: (database) => database,
    services,
    nats,
    channels: await makeChannels(settings.channels, settings.publicUrl ?? baseOf(settings)),
    ...common(settings),
    settings: {
      probe: services.includes("gateway") ? {} : { port, host },
      user: { jwtSecret, adminPassword },
      ...searchSettings(settings),
      wallet: { testChannel: local },
      settlement: { testChannel: local },
      gateway: {
        ...{ jwtSecret, port, host, rateLimits: settings.rateLimits, trustedProxies: settings.trustedProxies },
        // Balancers that look every second have looked.
        drainMs: local ? LOCAL_DRAIN_MS : DRAIN_MS,
      },
    },
  });
  started.push({ name: "node", stop: () => node.stop() });
  if (local) node.platform.onRouted(() => saveKeyspaces(configured, node.platform.keyspaces));
  process.send?.("ready");
  process.stdout.write(`${nodeId} serves ${services.join(", ")}\n`);
}

/** Between a gateway's readiness failing and its door closing. */
const DRAIN_MS = 3_000;
/** nginx on the same machine asks nobody: this only lets every kept connection hear once that it will be closed. */
const LOCAL_DRAIN_MS = 1_000;

async function alone(settings: Settings): Promise<void> {
  const dataDir = openDataDir(settings.dataDir);
  started.push({ name: "data directory", stop: () => dataDir.release() });
  const configured = loadKeyspaces(settings.keyspacesFile ?? join(root, "keyspaces.yaml"));
  const isEmbedded = settings.keyspacesFile === undefined;
  const postgres = isEmbedded ? await embedded(dataDir, configured) : undefined;
  const channels = await channelSettings(settings, dataDir, isEmbedded);
  const urlOf = (database: string): string => (URL.canParse(database) ? database : (postgres?.url(database) ?? database));
  const keyspaces = await newestKeyspaces(configured, urlOf);
  await Promise.all(keyspaces.databases().map(({ name, keyspace }) => migrate(urlOf(name), keyspace, displayName(name))));
  goOn();
  const firstPassword = settings.adminPassword === undefined && !existsSync(join(dataDir.path, "secrets", "admin-password"));
  const adminPassword = settings.adminPassword ?? dataDir.secret("admin-password");
  const node = await start(settings, { dataDir, channels, keyspaces, urlOf, adminPassword, embedded: isEmbedded });
  const copyTable = (): void => saveKeyspaces(join(dataDir.path, "keyspaces.yaml"), node.platform.keyspaces);
  copyTable();
  node.platform.onRouted(copyTable);
  goOn();
  if (postgres) await samples(node, dataDir);
  goOn();
  banner(settings, { simpay: channels.simpay?.url, adminPassword: firstPassword ? adminPassword : undefined, embedded: isEmbedded });
  if (settings.repl === "on") await openRepl(node);
}

/** Loaded only where it is wanted: `node:domain`, which comes with a console, puts itself between every emitter of the process and its listeners. */
async function openRepl(node: Node): Promise<void> {
  const { openConsole } = await import("./repl/console.ts");
  openConsole(node.broker, () => void stop(0));
}

/** In the embedded profile there is a simpay, beside us if nobody named another: paying by channel can be tried on a fresh machine. */
async function channelSettings(settings: Settings, dataDir: DataDir, isEmbedded: boolean): Promise<ChannelSettings> {
  if (!isEmbedded || settings.channels.simpay) return settings.channels;
  const simpay = await startSimpayBeside(dataDir, settings.simpayPort);
  started.push({ name: "simpay", stop: () => simpay.stop() });
  return { ...settings.channels, simpay };
}

async function embedded(dataDir: DataDir, keyspaces: Keyspaces): Promise<EmbeddedPostgres> {
  const postgres = await startEmbeddedPostgres({ dataDir: dataDir.path, log: (line) => process.stderr.write(`${line}\n`) });
  started.push({ name: "PostgreSQL", stop: () => postgres.stop() });
  await makeDatabases(
    postgres,
    keyspaces.databases().filter(({ name }) => !URL.canParse(name)),
  );
  return postgres;
}

async function start(
  settings: Settings,
  of: {
    dataDir: DataDir;
    channels: ChannelSettings;
    keyspaces: Keyspaces;
    urlOf: (database: string) => string;
    adminPassword: string;
    embedded: boolean;
  },
): Promise<Node> {
  const jwtSecret = settings.jwtSecret ?? of.dataDir.secret("jwt");
  const node = await makeNode({
    nodeID: `tuanbar-${process.pid}`,
    keyspaces: of.keyspaces,
    urlOf: of.urlOf,
    services: SERVICES,
    channels: await makeChannels(of.channels, settings.publicUrl ?? baseOf(settings)),
    ...common(settings),
    settings: {
      user: { jwtSecret, adminPassword: of.adminPassword },
      ...searchSettings(settings),
      wallet: { testChannel: of.embedded || local },
      settlement: { testChannel: of.embedded || local },
      gateway: {
        ...{ jwtSecret, port: settings.port, host: settings.host, rateLimits: settings.rateLimits },
        trustedProxies: settings.trustedProxies,
      },
    },
  });
  started.push({ name: "node", stop: () => node.stop() });
  return node;
}

/** What a node is told in both profiles. */
const common = (settings: Settings) => ({
  trade: {
    orderTtlSeconds: settings.orderTtlSeconds,
    reversalMinutes: settings.reversalMinutes,
    settlementDelayMinutes: settings.settlementDelayMinutes,
  },
  logLevel: settings.logLevel,
  regionsFile: join(root, "regions", "manifest.yaml"),
  ...(settings.redisUrl === undefined ? {} : { redisUrl: settings.redisUrl }),
  batching: settings.busBatching,
  ...(settings.failpoints.length === 0 ? {} : { failpoints: new Failpoints(dieAt(new Set(settings.failpoints))) }),
  tracing: settings.tracing,
});

/** As if the power had gone: nothing is flushed, nobody is told, but for whoever reads this process's errors. */
const dieAt =
  (failpoints: ReadonlySet<string>) =>
  (step: string): void => {
    if (!failpoints.has(step)) return;
    writeSync(process.stderr.fd, `killed ${step}\n`);
    process.kill(process.pid, "SIGKILL");
  };

const searchSettings = ({ elasticsearchUrl: node }: Settings) =>
  node === undefined ? {} : { search: { elasticsearch: { node } }, "search-index": { elasticsearch: { node } } };

/** Once: the mark is written when all of it is there, so a start that was killed half-way goes on with the rest. */
async function samples(node: Node, dataDir: DataDir): Promise<void> {
  const mark = join(dataDir.path, "samples-loaded");
  if (existsSync(mark)) return;
  await loadSamples(node.broker, readFileSync(join(root, "samples", "city.yaml"), "utf8"));
  writeFileSync(mark, `${new Date().toISOString()}\n`);
}

/** Asked before anything is started: a taken port is the commonest reason not to. */
function portIsFree({ port, host }: Settings): Promise<void> {
  return new Promise((resolve, reject) => {
    const probe = createServer();
    probe.once("error", reject);
    probe.listen(port, host, () => probe.close(() => resolve()));
  });
}

/** Errors an operator can do something about, as one line; undefined for faults of ours. */
function oneLine(error: unknown): StartError | undefined {
  if (error instanceof StartError) return error;
  if (error instanceof MigrationError || error instanceof KeyspacesError || error instanceof ManifestError)
    return new StartError(error.message);
  const { code, message } = error as NodeJS.ErrnoException;
  if (code === "EADDRINUSE") return new StartError(`port ${process.env["PORT"] || 3000} is taken: stop what uses it, or set PORT`);
  if (code === "EACCES") return new StartError(`not allowed: ${message}`);
  if (code === "EADDRNOTAVAIL") return new StartError(`HOST is not an address of this machine: ${message}`);
  if (code === "ENOSPC") return new StartError(`no disk space left: ${message}`);
  return undefined;
}

const baseOf = ({ host, port }: Settings): string => `http://${host === "0.0.0.0" || host === "::" ? "localhost" : host}:${port}`;

function banner(settings: Settings, of: { simpay: string | undefined; adminPassword: string | undefined; embedded: boolean }): void {
  const base = baseOf(settings);
  const lines = [
    "",
    "  Tuanbar 团购 is ready.",
    "",
    `  API       ${base}/api/v1`,
    `  Docs      ${base}/docs`,
    `  Health    ${base}/readyz     Metrics ${base}/metrics`,
    `  Data      ${settings.dataDir}`,
    ...(of.simpay === undefined ? [] : [`  simpay    ${of.simpay} (a payment channel with pretend money)`]),
    ...(of.embedded ? ["  Samples   consumers xiaoming, xiaohong …; merchants boss-longtang …; password tuanbar-demo-1"] : []),
    of.adminPassword === undefined
      ? `  Admin     admin, password ${settings.adminPassword === undefined ? `in ${join(settings.dataDir, "secrets", "admin-password")}` : "as in ADMIN_PASSWORD"}`
      : `  Admin     admin, password ${of.adminPassword} (shown once; kept in ${join(settings.dataDir, "secrets", "admin-password")})`,
    "",
    "  Ctrl-C stops it.",
    "",
  ];
  process.stdout.write(`${lines.join("\n")}\n`);
}

/** A start takes seconds; one that takes longer waits for something that may never come. */
const START_MS_MAX = 30_000;

async function stop(code: number): Promise<never> {
  stopping = true;
  // What is half started cannot be stopped in order: the step under way ends, and the next does not begin.
  await Promise.race([starting, sleep(START_MS_MAX)]);
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

for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
  process.on(signal, () => {
    if (stopping) process.exit(1);
    void stop(0);
  });
}

// The supervisor is gone, whatever became of it: nobody would stop this node any more.
if (local) process.once("disconnect", () => void stop(1));

const starting = main().catch((error: unknown) => {
  if (stopping) return;
  const known = oneLine(error);
  process.stderr.write(known ? `${known.message}\n` : `${error instanceof Error ? error.stack : String(error)}\n`);
  void stop(1);
});
