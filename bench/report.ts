/** Figures and how they are shown: a table on the terminal, `results/latest.md` for people, `results/latest.json` for programs. */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Machine } from "./machine.ts";
import type { Measured } from "./measure.ts";
import { postgresSeconds, type CpuSeconds } from "./processes.ts";

export interface Figure {
  readonly name: string;
  readonly value: number;
  readonly unit: string;
}

export interface Result {
  readonly at: string;
  readonly machine: Machine;
  readonly versions: Readonly<Record<string, string>>;
  readonly settings: Readonly<Record<string, string | number>>;
  readonly figures: readonly Figure[];
  readonly faults: readonly string[];
}

/** What this version promises on two cores with the generator on the same machine. */
interface Target {
  readonly figure: string;
  readonly holds: "at least" | "at most";
  readonly value: number;
}
const TARGETS: readonly Target[] = [
  { figure: "orders.drain", holds: "at least", value: 10_000 },
  { figure: "orders.drain.p99", holds: "at most", value: 60 },
  { figure: "ratio.for_update", holds: "at least", value: 10 },
  { figure: "ratio.skip_locked", holds: "at least", value: 3 },
  { figure: "ratio.limit", holds: "at least", value: 40 },
  { figure: "orders.refused", holds: "at least", value: 20_000 },
  { figure: "lives", holds: "at least", value: 2_000 },
  { figure: "orders.zipf", holds: "at least", value: 6_000 },
  { figure: "start.first", holds: "at most", value: 20 },
  { figure: "start.second", holds: "at most", value: 3 },
  { figure: "memory.idle", holds: "at most", value: 400 },
  { figure: "memory.load", holds: "at most", value: 1_024 },
  { figure: "callbacks", holds: "at least", value: 5_000 },
  { figure: "refunds.wallet", holds: "at least", value: 1_500 },
  { figure: "settlement", holds: "at least", value: 3_000 },
  { figure: "recon", holds: "at most", value: 60 },
  { figure: "recon.rss.server", holds: "at most", value: 500 },
  { figure: "verify", holds: "at most", value: 60 },
  { figure: "cluster.orders", holds: "at least", value: 5_000 },
  { figure: "cluster.orders.p99", holds: "at most", value: 100 },
  { figure: "ratio.batching", holds: "at least", value: 1.5 },
  { figure: "cluster.refused", holds: "at least", value: 15_000 },
  { figure: "cluster.kill", holds: "at most", value: 6 },
  { figure: "cluster.restart.failed", holds: "at most", value: 0 },
  { figure: "cluster.restart.later", holds: "at most", value: 0.5 },
  { figure: "soak.growth", holds: "at most", value: 10 },
];

export const median = (values: readonly number[]): number => {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? (sorted[middle] ?? NaN) : ((sorted[middle - 1] ?? NaN) + (sorted[middle] ?? NaN)) / 2;
};

/** What is counted, one of it. */
const EACH: Readonly<Record<string, string>> = {
  "orders/s": "order",
  "refusals/s": "refusal",
  "lives/s": "life",
  "requests/s": "request",
  "callbacks/s": "callback",
  "refunds/s": "refund",
  "vouchers/s": "voucher",
};

/** What is told of the CPU of a section, and whose it is. */
const CPU: readonly (readonly [suffix: string, seconds: (cpu: CpuSeconds) => number])[] = [
  [".cpu.server", (cpu) => cpu.server],
  [".cpu.postgres", postgresSeconds],
  [".cpu.postgres.backends", (cpu) => cpu.backends],
  [".cpu.postgres.walsenders", (cpu) => cpu.walsenders],
  [".cpu.postgres.walwriter", (cpu) => cpu.walwriter],
  [".cpu.postgres.checkpointer", (cpu) => cpu.checkpointer],
  [".cpu.generator", (cpu) => cpu.generator],
];

/** Of a section that is no window of one load: `done` things and what they cost. */
export function costOf(name: string, unit: string, done: number, cpu: CpuSeconds | undefined): Figure[] {
  if (cpu === undefined) return [];
  return CPU.map(([suffix, seconds]) => ({ name: name + suffix, value: (seconds(cpu) * 1e6) / done, unit: `µs/${EACH[unit] ?? ""}` }));
}

/** Of one section measured several times: medians, and the extremes of the throughput. */
export function figuresOf(name: string, unit: string, runs: readonly Measured[]): Figure[] {
  if (runs.length === 0) return [];
  const of = (pick: (run: Measured) => number | undefined): number => median(runs.map((run) => pick(run) ?? NaN));
  const figure = (suffix: string, value: number, of: string): Figure[] =>
    Number.isNaN(value) ? [] : [{ name: name + suffix, value, unit: of }];
  const each = EACH[unit] ?? "";
  return [
    ...figure(
      "",
      of((run) => run.perSecond),
      unit,
    ),
    ...(runs.length > 1
      ? [
          ...figure(".min", Math.min(...runs.map((run) => run.perSecond)), unit),
          ...figure(".max", Math.max(...runs.map((run) => run.perSecond)), unit),
        ]
      : []),
    ...figure(
      ".p50",
      of((run) => run.latencyMs.p50),
      "ms",
    ),
    ...figure(
      ".p99",
      of((run) => run.latencyMs.p99),
      "ms",
    ),
    ...figure(
      ".p999",
      of((run) => run.latencyMs.p999),
      "ms",
    ),
    ...CPU.flatMap(([suffix, seconds]) =>
      figure(
        suffix,
        of((run) => run.cpu && (seconds(run.cpu) * 1e6) / run.done),
        `µs/${each}`,
      ),
    ),
    ...figure(
      ".rss.server",
      of((run) => run.memory?.server),
      "MB",
    ),
    ...figure(
      ".rss.postgres",
      of((run) => run.memory?.postgres),
      "MB",
    ),
    ...(of((run) => run.batch) > 0
      ? figure(
          ".batch",
          of((run) => run.batch),
          "commands/drain",
        )
      : []),
    ...figure(
      ".wal",
      of((run) => run.walBytes),
      `bytes/${each}`,
    ),
  ];
}

export const shown = (value: number): string =>
  Math.abs(value) >= 100
    ? Math.round(value).toLocaleString("en-US")
    : value.toLocaleString("en-US", { maximumFractionDigits: Math.abs(value) >= 10 ? 1 : 2 });

function verdict(figures: readonly Figure[], { figure, holds, value }: Target): string[] | undefined {
  const found = figures.find(({ name }) => name === figure);
  if (!found) return undefined;
  const met = holds === "at least" ? found.value >= value : found.value <= value;
  return [figure, `${shown(found.value)} ${found.unit}`, `${holds} ${shown(value)}`, met ? "yes" : "no"];
}

const SECTIONS: readonly (readonly [string, string])[] = [
  ["arrivals", "GET /cities, token never seen"],
  ["orders.drain", "(a) one hot deal, 256 connections"],
  ["orders.drain.cold", "(a) on a server that has just started"],
  ["orders.drain.64", "(a) at 64 connections"],
  ["orders.drain.at80", "(a) open loop at 80 % of its rate"],
  ["orders.drain.at50", "(a) open loop at 50 % of its rate"],
  ["orders.for_update", "(b) a transaction each, FOR UPDATE"],
  ["orders.skip_locked", "(c) a transaction each, 16 buckets, SKIP LOCKED"],
  ["orders.refused", "(e) refusals of a sold-out deal"],
  ["lives", "(f) ordered, paid, formed, vouchers"],
  ["lives.spread", "the same on 12 deals in 3 cities"],
  ["cluster.orders", "cluster: one hot deal, 256 connections"],
  ["cluster.orders.single", "cluster: the same, each call a message"],
  ["cluster.refused", "cluster: refusals of a sold-out deal"],
  ["orders.zipf", "(g) Zipf 1.1 over 1,000 deals in 3 cities"],
  ["callbacks", "callbacks of a channel, kept and answered"],
  ["refunds.wallet", "refunds by wallet, from request to REFUNDED"],
  ["settlement", "vouchers due at once, until all are settled"],
];

function table(rows: readonly (readonly string[])[]): string[] {
  const widths = (rows[0] ?? []).map((_, column) => Math.max(...rows.map((row) => width(row[column] ?? ""))));
  const line = (row: readonly string[]): string =>
    `| ${row.map((cell, column) => (column === 0 ? cell + " ".repeat((widths[column] ?? 0) - width(cell)) : " ".repeat((widths[column] ?? 0) - width(cell)) + cell)).join(" | ")} |`;
  const [head = [], ...body] = rows;
  return [
    line(head),
    `| ${widths.map((size, column) => (column === 0 ? "-".repeat(size) : `${"-".repeat(size - 1)}:`)).join(" | ")} |`,
    ...body.map(line),
  ];
}
const width = (text: string): number => [...text].length;

/** The report in Markdown; its tables are what the terminal shows as well. */
export function markdown(result: Result): string {
  const value = (name: string): string => {
    const figure = result.figures.find((one) => one.name === name);
    return figure ? shown(figure.value) : "";
  };
  const sections = SECTIONS.filter(([name]) => value(name) !== "");
  const told = new Set(
    sections.flatMap(([name]) =>
      result.figures
        .filter(
          (figure) =>
            figure.name === name ||
            (/^\.(p\d|cpu|rss|batch|wal|min|max)/.test(figure.name.slice(name.length)) && figure.name.startsWith(name)),
        )
        .map((figure) => figure.name),
    ),
  );
  const targets = TARGETS.flatMap((target) => {
    const row = verdict(result.figures, target);
    return row ? [row] : [];
  });
  const lines = [
    `# Benchmark of ${result.at}`,
    "",
    `${result.machine.cpu}, ${result.machine.cores} cores, ${result.machine.memoryGb} GB, ${result.machine.system}, ${result.machine.fileSystem}. ` +
      `The load generator runs on the same cores. Method: docs/benchmarks.md.`,
    "",
    result.faults.length === 0
      ? "Every order counted was acknowledged and found afterwards, and `/ops/verify` is clean."
      : `**Not valid**, ${result.faults.length} faults:\n\n${result.faults.map((fault) => `- ${fault}`).join("\n")}`,
    "",
    "## Throughput and latency",
    "",
    ...table([
      ["section", "per second", "min", "max", "p50 ms", "p99 ms", "p999 ms", "batch", "WAL bytes"],
      ...sections.map(([name, title]) => [
        title,
        ...["", ".min", ".max", ".p50", ".p99", ".p999", ".batch", ".wal"].map((suffix) => value(name + suffix)),
      ]),
    ]),
    "",
    "## CPU for each (µs) and memory (MB)",
    "",
    ...table([
      [
        "section",
        "server",
        "PostgreSQL",
        "backends",
        "walsenders",
        "walwriter",
        "checkpointer",
        "generator",
        "RSS server",
        "PSS PostgreSQL",
      ],
      ...sections
        .filter(([name]) => value(`${name}.cpu.server`) !== "")
        .map(([name, title]) => [
          title,
          ...[
            ".cpu.server",
            ".cpu.postgres",
            ".cpu.postgres.backends",
            ".cpu.postgres.walsenders",
            ".cpu.postgres.walwriter",
            ".cpu.postgres.checkpointer",
          ].map((suffix) => value(name + suffix)),
          ...[".cpu.generator", ".rss.server", ".rss.postgres"].map((suffix) => value(name + suffix)),
        ]),
    ]),
    "",
    "## Other figures",
    "",
    ...table([
      ["figure", "value", "unit"],
      ...result.figures.filter(({ name }) => !told.has(name)).map((figure) => [figure.name, shown(figure.value), figure.unit]),
    ]),
    "",
    ...(targets.length === 0
      ? []
      : ["## Against what is promised on two cores", "", ...table([["figure", "measured", "promised", "met"], ...targets]), ""]),
    "## Settings and versions",
    "",
    ...table([["name", "value"], ...Object.entries({ ...result.settings, ...result.versions }).map(([name, one]) => [name, String(one)])]),
    "",
  ];
  return lines.join("\n");
}

export function write(directory: string, result: Result): void {
  mkdirSync(directory, { recursive: true });
  writeFileSync(join(directory, "latest.md"), markdown(result));
  writeFileSync(join(directory, "latest.json"), `${JSON.stringify(result, undefined, 2)}\n`);
}
