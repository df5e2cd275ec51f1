/** A node that moves slots, in a process of its own: it kills itself where it is told to. Arguments: one JSON document. */
import { makeNode } from "../../moleculer.config.ts";
import { loadKeyspaces } from "../../db/keyspaces.ts";
import { newestKeyspaces } from "../../db/routing.ts";
import { Mover } from "../../services/ops/mover.ts";

const told = JSON.parse(process.argv[2] ?? "{}") as {
  readonly configured: string;
  readonly template: string;
  readonly action: "move" | "abort";
  readonly wish: { readonly city: string; readonly slots: string; readonly to: string };
  /** SIGKILL at the beginning of this step, and so many milliseconds into it. */
  readonly dieAt?: string;
  readonly dieAfterMs?: number;
};

const urlOf = (database: string): string => (URL.canParse(database) ? database : told.template.replace("DATABASE", database));
const node = await makeNode({
  nodeID: `mover-${process.pid}`,
  keyspaces: await newestKeyspaces(loadKeyspaces(told.configured), urlOf),
  urlOf,
  services: [],
  trade: { orderTtlSeconds: 900, reversalMinutes: 60, settlementDelayMinutes: 60 },
  logLevel: "fatal",
});
const mover = new Mover(node.broker, node.platform, node.broker.getLogger("mover"), (step) => {
  if (step !== told.dieAt) return;
  if (told.dieAfterMs === undefined) process.kill(process.pid, "SIGKILL");
  else setTimeout(() => process.kill(process.pid, "SIGKILL"), told.dieAfterMs);
});
await mover.begin(told.wish, told.action);
const ended = await mover.ended();
process.stdout.write(JSON.stringify(ended));
await node.stop();
