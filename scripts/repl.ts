/**
 * `npm run repl`: a console on a running cluster, as a node of it that serves nothing: moleculer-repl with `shards`, `mailboxes`, `verify`,
 * `trace <id>`, `drain <node>` and `deal pause <id>`. Finds the cluster that `npm run cluster` has made in DATA_DIR, or, with NATS_URL and KEYSPACES,
 * any other. The embedded server has its console on its own terminal: `REPL=on npm start`.
 */
import { join } from "node:path";
import { loadKeyspaces } from "../db/keyspaces.ts";
import { newestKeyspaces } from "../db/routing.ts";
import type { NatsSettings } from "../mixins/bus.ts";
import { makeNode } from "../moleculer.config.ts";
import { verify } from "../services/ops/ops.contract.ts";
import { sendCommand } from "./cluster/control.ts";
import { natsOf } from "./cluster/files.ts";
import { openConsole } from "./repl/console.ts";
import { readSettings, type Settings } from "./settings.ts";
import { StartError } from "./start-error.ts";

const HEARD_MS = 10_000;

async function main(): Promise<void> {
  const settings = readSettings(process.env, { local: true });
  const { nats, keyspacesFile } = await place(settings);
  const node = await makeNode({
    nodeID: `console-${process.pid}`,
    keyspaces: await newestKeyspaces(loadKeyspaces(keyspacesFile), (database) => database),
    urlOf: (database) => database,
    services: [],
    nats,
    trade: settings,
    logLevel: settings.logLevel === "info" ? "warn" : settings.logLevel,
  });
  const end = (code: number): void => void node.stop().then(() => process.exit(code));
  for (const signal of ["SIGTERM", "SIGHUP"] as const) process.once(signal, () => end(0));
  await node.broker.waitForServices(verify.name.slice(0, verify.name.indexOf(".")), HEARD_MS).catch(() => {
    throw new StartError(`no node of this cluster has the service ops within ${HEARD_MS / 1_000} s`);
  });
  openConsole(node.broker, () => end(0));
}

async function place({ cluster, keyspacesFile, dataDir }: Settings): Promise<{ nats: NatsSettings; keyspacesFile: string }> {
  if (cluster !== undefined) return { nats: cluster.nats, keyspacesFile: keyspacesFile ?? "" };
  await sendCommand(dataDir, ["status"], () => undefined).catch((error: unknown) => {
    throw error instanceof StartError
      ? new StartError(`${error.message}; or set NATS_URL and KEYSPACES; the embedded server has its console with REPL=on npm start`)
      : error;
  });
  return { nats: natsOf(dataDir), keyspacesFile: join(dataDir, "keyspaces.yaml") };
}

main().catch((error: unknown) => {
  process.stderr.write(`${error instanceof StartError ? error.message : error instanceof Error ? error.stack : String(error)}\n`);
  process.exit(1);
});
