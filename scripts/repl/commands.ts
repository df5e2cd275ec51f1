/** Commands of our own for the console: each asks one action of the cluster and prints lines. They act for the platform, so nobody's role is asked. */
import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import type { ServiceBroker } from "moleculer";
import { call, type CallMeta, type Of } from "../../mixins/contract.ts";
import { nodesByAction } from "../../mixins/nodes.ts";
import type { Id } from "../../domain/ids.ts";
import { pauseDeal } from "../../services/deal/deal.contract.ts";
import { drainNode, listAllMailboxes, listShards, type ShardView, traceNumber, verify } from "../../services/ops/ops.contract.ts";
import { STAYING } from "../../services/probe/probe.contract.ts";

export interface ConsoleCommand {
  /** Its name and its arguments, as commander writes them. */
  readonly command: string;
  readonly description: string;
  readonly run: (broker: ServiceBroker, words: Readonly<Record<string, string>>, say: (line: string) => void) => Promise<void>;
}

/** Found in the events by it. */
const meta = (): { meta: CallMeta } => ({ meta: { requestId: `console-${randomUUID()}` } });

export const COMMANDS: readonly ConsoleCommand[] = [
  {
    command: "shards",
    description: "Where each shard lives, who owns it, and what waits there",
    async run(broker, _words, say) {
      shardLines((await call(broker, listShards, { sizes: true }, meta())).items).forEach(say);
    },
  },
  {
    command: "mailboxes",
    description: "What waits in the mailboxes of every node",
    async run(broker, _words, say) {
      const boxes = await call(broker, listAllMailboxes, {}, meta());
      say(columns(["node", "shard", "waiting", "last batch"], BOX));
      for (const { node, city, slot, depth, batchSize } of boxes)
        say(columns([node, `${city}/${slot}`, String(depth), String(batchSize)], BOX));
    },
  },
  {
    command: "verify",
    description: "Proves every invariant of stock, orders and money",
    async run(broker, _words, say) {
      const { ok, checks } = await call(broker, verify, {}, meta());
      for (const check of checks) if (!check.ok) say(`${check.name}: ${check.violations} violations\n${check.detail}`);
      say(ok ? `all ${checks.length} checks hold` : "NOT everything holds");
    },
  },
  {
    command: "trace <id>",
    description: "Everything that happened to an order, a payment, a voucher …",
    async run(broker, { id = "" }, say) {
      const { kind, entries } = await call(broker, traceNumber, { id }, meta());
      say(`${id} is the number of: ${kind}`);
      for (const { at, keyspace, slot, kind: of, id: number, what, data } of entries)
        say(`${at}  ${keyspace}/${slot}  ${of} ${number}  ${what}  ${JSON.stringify(data)}`);
    },
  },
  {
    command: "drain <node>",
    description: "Lets a node finish what it has and serve nothing more",
    async run(broker, { node = "" }, say) {
      const services = await call(broker, drainNode, { node }, meta());
      say(`${node} gives up ${services.join(", ")}`);
      for (const end = performance.now() + DRAIN_MS; performance.now() < end; await sleep(LOOK_MS)) {
        const left = await servedBy(broker, node);
        if (left.length === 0) return say(`${node} serves nothing more and can be ended`);
      }
      say(`${node} still has ${(await servedBy(broker, node)).join(", ")}: its log says why`);
    },
  },
  {
    command: "deal <verb> <id>",
    description: "deal pause <id>: ends the sale of a deal until its merchant publishes it again",
    async run(broker, { verb = "", id = "" }, say) {
      if (verb !== "pause") return say("usage: deal pause <id>");
      const { title, status } = await call(broker, pauseDeal, { id: id as Id }, meta());
      say(`${id} ${title}: ${status}`);
    },
  },
];

const DRAIN_MS = 30_000;
const LOOK_MS = 200;

async function servedBy(broker: ServiceBroker, node: string): Promise<string[]> {
  const actions = [...(await nodesByAction(broker))].filter(([, nodes]) => nodes.includes(node)).map(([name]) => name);
  return [...new Set(actions.map((name) => name.slice(0, name.indexOf("."))))].filter((service) => !STAYING.has(service));
}

const BOX = [24, 8, 8, 10];
const columns = (cells: readonly string[], widths: readonly number[]): string =>
  cells
    .map((cell, at) => cell.padEnd(widths[at] ?? 0))
    .join("  ")
    .trimEnd();

const MAP = [6, 4, 28, 10, 8, 24, 7];
/** The map as a table; `npm run shards` prints the same. */
export const shardLines = (shards: readonly Of<typeof ShardView>[]): string[] => [
  columns(["city", "slot", "database", "rows", "MB", "owner", "waiting"], MAP),
  ...shards.map(({ city, slot, database, rows = 0, bytes = 0, owner, depth, moving }) => {
    const cells = [city, `${slot}`, database, `${rows}`, (bytes / 2 ** 20).toFixed(1), owner, `${depth}${moving ? "  moving" : ""}`];
    return columns(cells, MAP);
  }),
];
