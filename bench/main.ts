/** `npm run bench [-- orders] [money] [cluster] [options]`: measures, prints a table, writes `bench/results/latest.{md,json}`; exit 1 when something is not right. */
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { benchCluster } from "./cluster.ts";
import { benchOrders, SECTIONS, type Section } from "./orders.ts";
import { markdown, write, type Result } from "./report.ts";
import { stopServers } from "./server-process.ts";

const USAGE = `usage: npm run bench [-- orders] [money] [cluster] [--rounds n] [--seconds n] [--warm n] [--past orders] [--soak minutes] [--keep]
  --rounds   how often drain, variants, limit, lives and Zipf (of the cluster: batching on and off) are measured in turns (3)
  --seconds  length of each measured window (5), --warm of the warm-up before it (3)
  --past     orders of the past for money: verified, and lines of the statement that is reconciled (1000000)
  --soak     minutes of load at the end of orders, for flat memory (0: none)
  --keep     keep the data directory`;

const root = fileURLToPath(new URL("..", import.meta.url));

class UsageError extends Error {}

const BENCHES = [...SECTIONS, "cluster"] as const;
type BenchName = (typeof BENCHES)[number];
const isBench = (name: string): name is BenchName => BENCHES.some((one) => one === name);
const isSection = (name: BenchName): name is Section => name !== "cluster";

function parsed(): {
  names: readonly BenchName[];
  rounds: number;
  seconds: number;
  warm: number;
  past: number;
  soak: number;
  keep: boolean;
} {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      rounds: { type: "string", default: "3" },
      seconds: { type: "string", default: "5" },
      warm: { type: "string", default: "3" },
      past: { type: "string", default: "1000000" },
      soak: { type: "string", default: "0" },
      keep: { type: "boolean", default: false },
    },
  });
  const number = (name: "rounds" | "seconds" | "warm" | "past" | "soak", from: number): number => {
    const value = Number(values[name]);
    if (!(value >= from)) throw new UsageError(`--${name} is a number from ${from}`);
    return value;
  };
  const unknown = positionals.find((name) => !isBench(name));
  if (unknown !== undefined) throw new UsageError(`there is no benchmark ${unknown}`);
  return {
    names: positionals.length === 0 ? BENCHES : positionals.filter(isBench),
    past: number("past", 1_000),
    rounds: number("rounds", 1),
    seconds: number("seconds", 1),
    warm: number("warm", 0),
    soak: number("soak", 0),
    keep: values.keep,
  };
}

/** One report of all that was measured. */
const together = (results: readonly Result[]): Result => ({
  ...(Object.assign({}, ...results) as Result),
  versions: Object.assign({}, ...results.map(({ versions }) => versions)) as Result["versions"],
  settings: Object.assign({}, ...results.map(({ settings }) => settings)) as Result["settings"],
  figures: results.flatMap(({ figures }) => figures),
  faults: results.flatMap(({ faults }) => faults),
});

const interrupt = new AbortController();
for (const signal of ["SIGINT", "SIGTERM"] as const) {
  process.once(signal, () => {
    interrupt.abort();
    void stopServers();
  });
}

async function main(): Promise<number> {
  const { names, warm: warmSeconds, soak: soakMinutes, ...asked } = parsed();
  const startedMs = performance.now();
  const say = (line: string): void =>
    void process.stderr.write(`${((performance.now() - startedMs) / 1_000).toFixed(0).padStart(4)} s  ${line}\n`);
  const options = { ...asked, warmSeconds, soakMinutes, signal: interrupt.signal, say };
  const sections = names.filter(isSection);
  const results: Result[] = [];
  if (sections.length > 0) results.push(await benchOrders(root, { ...options, sections }));
  if (names.includes("cluster")) results.push(await benchCluster(root, options));
  const result = together(results);
  const directory = join(root, "bench", "results");
  write(directory, result);
  process.stdout.write(`\n${markdown(result)}\nWritten to ${join(directory, "latest.md")} and latest.json.\n`);
  return result.faults.length === 0 ? 0 : 1;
}

main().then(
  (code) => process.exit(code),
  (error: unknown) => {
    if (interrupt.signal.aborted) process.exit(130);
    const usage = error instanceof UsageError || (error as { code?: string }).code?.startsWith("ERR_PARSE_ARGS") === true;
    process.stderr.write(
      usage && error instanceof Error ? `${error.message}\n${USAGE}\n` : `${error instanceof Error ? error.stack : String(error)}\n`,
    );
    process.exit(1);
  },
);
