/**
 * `npm run shards`: the map of a running server (city and slot → database, rows, bytes, owner node, commands waiting), and
 * `npm run shards -- move hz 8-15 <database>`, which moves slots to another database and tells how far it is. Interrupted in any way, the same
 * command goes on with it; `-- move --abort hz 8-15 <database>` takes it back, until it is decided. Also of `npm run cluster`. See docs/sharding.md.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import type { Of } from "../mixins/contract.ts";
import type { MoveView, ShardView } from "../services/ops/ops.contract.ts";
import { Operator, Unreachable } from "./operator.ts";
import { shardLines } from "./repl/commands.ts";
import { readSettings } from "./settings.ts";
import { StartError } from "./start-error.ts";

type Move = Of<typeof MoveView>;
type Shard = Of<typeof ShardView>;

const USAGE = "usage: npm run shards [-- move [--abort] <city> <slots> <database>] [--url <address of the server>]";
const LOOK_MS = 500;
/** A server that restarts is waited for: the move is in the databases, not in it. */
const AWAY_MS = 20_000;

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { url: { type: "string" }, abort: { type: "boolean", default: false } },
  });
  const operator = new Operator(readSettings(), values.url);
  const [verb, city, slots, to] = positionals;
  if (verb === undefined && !values.abort) {
    const { items } = await operator.ask<{ items: Shard[] }>("GET", "/ops/shards?sizes=true");
    process.stdout.write(`${shardLines(items).join("\n")}\n`);
    return;
  }
  if (verb !== "move" || city === undefined || slots === undefined || to === undefined || positionals.length > 4)
    throw new StartError(USAGE);
  const path = values.abort ? "/ops/shards/move/abort" : "/ops/shards/move";
  await follow(operator, await operator.ask<Move>("POST", path, { city, slots, to }));
}

/** Prints each step until the end; the exit code says which end it was. */
async function follow(operator: Operator, begun: Move): Promise<void> {
  let printed = "";
  let awayMs = performance.now();
  for (let move = begun; ;) {
    const told = `${move.step}${move.detail === "" ? "" : `: ${move.detail}`}`;
    if (told !== printed) process.stdout.write(`${move.action} ${move.city} ${move.slots} ${move.from} → ${move.to}  ${told}\n`);
    printed = told;
    if (move.state !== "running") {
      const held = move.heldMs === undefined ? "" : `; its commands waited ${move.heldMs} ms`;
      process.stdout.write(`${move.state}${held}\n`);
      process.exitCode = move.state === "done" ? 0 : 1;
      return;
    }
    await sleep(LOOK_MS);
    try {
      const { items } = await operator.ask<{ items: Move[] }>("GET", "/ops/shards/moves");
      const same = items.find(({ startedAt, to }) => startedAt === begun.startedAt && to === begun.to);
      if (!same) throw new StartError("the server that moved them was restarted: repeat the command, it goes on where it was");
      move = same;
      awayMs = performance.now();
    } catch (error) {
      if (!(error instanceof Unreachable) || performance.now() - awayMs > AWAY_MS) throw error;
    }
  }
}

main().catch((error: unknown) => {
  process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`);
  process.exitCode = 1;
});
