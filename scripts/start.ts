/**
 * `npm start`: the whole platform in one process, on the embedded PostgreSQL unless KEYSPACES names servers. Says in one line why it cannot
 * start; stops cleanly on SIGINT and SIGTERM (exit 0, PostgreSQL stopped too); a second signal does not wait.
 */
import { createServer } from "node:net";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { startEmbeddedPostgres, type EmbeddedPostgres } from "../db/embedded.ts";
import { displayName, KeyspacesError, newestKeyspaces, type Keyspaces } from "../db/keyspaces.ts";
import { migrate, MigrationError } from "../db/migrate.ts";
import { makeNode, SERVICES, type Node } from "../moleculer.config.ts";
import { loadSamples } from "../samples/load.ts";
import { openDataDir, type DataDir } from "./data-dir.ts";
import { readSettings, type Settings } from "./settings.ts";
import { StartError } from "./start-error.ts";

const root = fileURLToPath(new URL("..", import.meta.url));

/** What has been started so far, stopped in reverse order whatever happens. */
const started: { readonly name: string; readonly stop: () => Promise<void> | void }[] = [];
let stopping = false;

async function main(): Promise<void> {
  const settings = readSettings();
  await portIsFree(settings);
  const dataDir = openDataDir(settings.dataDir);
  started.push({ name: "data directory", stop: () => dataDir.release() });
  const routingFile = join(dataDir.path, "keyspaces.yaml");
  const keyspaces = newestKeyspaces(settings.keyspacesFile ?? join(root, "keyspaces.yaml"), routingFile);
  const postgres = settings.keyspacesFile === undefined ? await embedded(dataDir, keyspaces) : undefined;
  const urlOf = (database: string): string => (URL.canParse(database) ? database : (postgres?.url(database) ?? database));
  await Promise.all(keyspaces.databases().map(({ name, keyspace }) => migrate(urlOf(name), keyspace, displayName(name))));
  const firstPassword = settings.adminPassword === undefined && !existsSync(join(dataDir.path, "secrets", "admin-password"));
  const adminPassword = settings.adminPassword ?? dataDir.secret("admin-password");
  const node = await start(settings, { dataDir, keyspaces, urlOf, routingFile, adminPassword, embedded: postgres !== undefined });
  if (postgres) await samples(node, dataDir);
  banner(settings, { adminPassword: firstPassword ? adminPassword : undefined, embedded: postgres !== undefined });
}

async function embedded(dataDir: DataDir, keyspaces: Keyspaces): Promise<EmbeddedPostgres> {
  const postgres = await startEmbeddedPostgres({ dataDir: dataDir.path, log: (line) => process.stderr.write(`${line}\n`) });
  started.push({ name: "PostgreSQL", stop: () => postgres.stop() });
  await postgres.ensureDatabases(keyspaces.databases().flatMap(({ name }) => (URL.canParse(name) ? [] : [name])));
  return postgres;
}

async function start(
  settings: Settings,
  of: {
    dataDir: DataDir;
    keyspaces: Keyspaces;
    urlOf: (database: string) => string;
    routingFile: string;
    adminPassword: string;
    embedded: boolean;
  },
): Promise<Node> {
  const jwtSecret = settings.jwtSecret ?? of.dataDir.secret("jwt");
  const node = await makeNode({
    nodeID: `tuanbar-${process.pid}`,
    keyspaces: of.keyspaces,
    urlOf: of.urlOf,
    routingFile: of.routingFile,
    services: SERVICES,
    trade: { orderTtlSeconds: settings.orderTtlSeconds, settlementDelayMinutes: settings.settlementDelayMinutes },
    logLevel: settings.logLevel,
    settings: {
      user: { jwtSecret, adminPassword: of.adminPassword },
      wallet: { testChannel: of.embedded },
      gateway: { jwtSecret, port: settings.port, host: settings.host, rateLimits: settings.rateLimits },
    },
  });
  started.push({ name: "node", stop: () => node.stop() });
  return node;
}

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
  if (error instanceof MigrationError || error instanceof KeyspacesError) return new StartError(error.message);
  const { code, message } = error as NodeJS.ErrnoException;
  if (code === "EADDRINUSE") return new StartError(`port ${process.env["PORT"] || 3000} is taken: stop what uses it, or set PORT`);
  if (code === "EACCES") return new StartError(`not allowed: ${message}`);
  if (code === "EADDRNOTAVAIL") return new StartError(`HOST is not an address of this machine: ${message}`);
  if (code === "ENOSPC") return new StartError(`no disk space left: ${message}`);
  return undefined;
}

function banner(settings: Settings, of: { adminPassword: string | undefined; embedded: boolean }): void {
  const base = `http://${settings.host === "0.0.0.0" || settings.host === "::" ? "localhost" : settings.host}:${settings.port}`;
  const lines = [
    "",
    "  Tuanbar 团购 is ready.",
    "",
    `  API       ${base}/api/v1`,
    `  Docs      ${base}/docs`,
    `  Health    ${base}/readyz     Metrics ${base}/metrics`,
    `  Data      ${settings.dataDir}`,
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

for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
  process.on(signal, () => {
    if (stopping) process.exit(1);
    void stop(0);
  });
}

main().catch((error: unknown) => {
  if (stopping) return;
  const known = oneLine(error);
  process.stderr.write(known ? `${known.message}\n` : `${error instanceof Error ? error.stack : String(error)}\n`);
  void stop(1);
});
