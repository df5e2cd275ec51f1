/**
 * A server to compare ours with: the same node (gateway, database, every other service) around another order service. Started by the bench as
 * `node bench/server.ts <variant>`, with the same environment as `scripts/start.ts`.
 */
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { startEmbeddedPostgres } from "../db/embedded.ts";
import { displayName, loadKeyspaces } from "../db/keyspaces.ts";
import { migrate } from "../db/migrate.ts";
import { makeDatabases } from "../db/new-databases.ts";
import { makeNode, SERVICES } from "../moleculer.config.ts";
import { openDataDir } from "../scripts/data-dir.ts";
import { giveGarbageRoom } from "../scripts/garbage.ts";
import { readSettings } from "../scripts/settings.ts";
import { variant, VARIANTS } from "./variants/index.ts";

const root = fileURLToPath(new URL("..", import.meta.url));
const name = VARIANTS.find((one) => one === process.argv[2]);
if (name === undefined) throw new Error(`usage: node bench/server.ts <${VARIANTS.join("|")}>`);

giveGarbageRoom();
const settings = readSettings();
const dataDir = openDataDir(settings.dataDir);
const postgres = await startEmbeddedPostgres({ dataDir: dataDir.path, log: (line) => process.stderr.write(`${line}\n`) });
const keyspaces = loadKeyspaces(join(root, "keyspaces.yaml"));
await makeDatabases(postgres, keyspaces.databases());
await Promise.all(
  keyspaces.databases().map((database) => migrate(postgres.url(database.name), database.keyspace, displayName(database.name))),
);
const jwtSecret = settings.jwtSecret ?? dataDir.secret("jwt");
const node = await makeNode({
  nodeID: `bench-${process.pid}`,
  keyspaces,
  urlOf: (database) => postgres.url(database),
  services: SERVICES,
  trade: {
    orderTtlSeconds: settings.orderTtlSeconds,
    reversalMinutes: settings.reversalMinutes,
    settlementDelayMinutes: settings.settlementDelayMinutes,
  },
  logLevel: settings.logLevel,
  settings: {
    user: { jwtSecret, adminPassword: settings.adminPassword ?? dataDir.secret("admin-password") },
    wallet: { testChannel: true },
    gateway: { jwtSecret, port: settings.port, host: settings.host, rateLimits: settings.rateLimits },
  },
  replace: { order: variant(name) },
});

async function stop(): Promise<never> {
  await node.stop();
  await postgres.stop();
  dataDir.release();
  process.exit(0);
}
process.once("SIGTERM", () => void stop());
process.once("SIGINT", () => void stop());
