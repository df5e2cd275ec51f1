/**
 * CPU seconds and memory of processes, from /proc. PostgreSQL's are grouped by what they do, told by their titles. A child that ended in between
 * is not lost: its CPU stands in its postmaster's account of children waited for. Where there is no /proc nothing is measured, and reports say so.
 */
import { existsSync, readdirSync, readFileSync } from "node:fs";

export const measurable = existsSync("/proc/self/stat");

/** Kernel ticks a second: 100 on every Linux there is (USER_HZ). */
const TICKS = 100;

export type Group = "server" | "generator" | "backends" | "walsenders" | "walwriter" | "checkpointer" | "other PostgreSQL";
export type CpuSeconds = Readonly<Record<Group, number>>;

const ZERO: CpuSeconds = { server: 0, generator: 0, backends: 0, walsenders: 0, walwriter: 0, checkpointer: 0, "other PostgreSQL": 0 };

interface Stat {
  readonly ppid: number;
  readonly cpu: number;
  readonly childrenCpu: number;
}

function statOf(pid: number): Stat | undefined {
  const text = read(`/proc/${pid}/stat`);
  if (text === undefined) return undefined;
  // The name stands in brackets and may hold anything; fields are counted behind it.
  const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
  const ticks = (at: number): number => Number(fields[at]) / TICKS;
  return { ppid: Number(fields[1]), cpu: ticks(11) + ticks(12), childrenCpu: ticks(13) + ticks(14) };
}

function read(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return undefined; // it ended while we looked
  }
}

export const childrenOf = (parent: number): number[] =>
  readdirSync("/proc").flatMap((entry) => (/^\d+$/.test(entry) && statOf(Number(entry))?.ppid === parent ? [Number(entry)] : []));

const title = (pid: number): string => read(`/proc/${pid}/cmdline`) ?? "";

/** The postmaster a server started; undefined before there is one. */
export function postmasterOf(server: number): number | undefined {
  return childrenOf(server).find((pid) => /postgres\0/.test(title(pid)));
}

function groupOf(pid: number): Group {
  const text = title(pid);
  if (/: walsender /.test(text)) return "walsenders";
  if (/: walwriter/.test(text)) return "walwriter";
  if (/: checkpointer/.test(text)) return "checkpointer";
  // "postgres: tuanbar-…: <user> <database> …": a client's backend.
  return /: (autovacuum|background writer|logical replication|startup|io worker|archiver)/.test(text) ? "other PostgreSQL" : "backends";
}

export interface Watched {
  readonly server: number;
  readonly generator: number;
  readonly postmaster: number | undefined;
}

/** What each process has burnt since it began. */
export interface CpuAccount {
  readonly server: number;
  readonly generator: number;
  readonly postmaster: number;
  /** PostgreSQL's processes that have ended, together. */
  readonly ended: number;
  readonly children: ReadonlyMap<number, { readonly group: Group; readonly cpu: number }>;
}

export function cpuAccount({ server, generator, postmaster }: Watched): CpuAccount {
  const own = postmaster === undefined ? undefined : statOf(postmaster);
  const children = postmaster === undefined ? [] : childrenOf(postmaster);
  return {
    server: statOf(server)?.cpu ?? 0,
    generator: statOf(generator)?.cpu ?? 0,
    postmaster: own?.cpu ?? 0,
    ended: own?.childrenCpu ?? 0,
    children: new Map(children.map((pid) => [pid, { group: groupOf(pid), cpu: statOf(pid)?.cpu ?? 0 }])),
  };
}

/** All that PostgreSQL's processes have burnt, those that have ended included. */
export const postgresOf = ({ postmaster, ended, children }: CpuAccount): number =>
  [...children.values()].reduce((sum, { cpu }) => sum + cpu, postmaster + ended);

/** What was burnt between two accounts. A process that ended between them is counted from the first on, among others: a relay that dozes lets its walsender go. */
export function minus(after: CpuAccount, before: CpuAccount): CpuSeconds {
  const sum: Record<Group, number> = { ...ZERO, server: after.server - before.server, generator: after.generator - before.generator };
  for (const [pid, { group, cpu }] of after.children) sum[group] += Math.max(0, cpu - (before.children.get(pid)?.cpu ?? 0));
  const gone = [...before.children].filter(([pid]) => !after.children.has(pid)).reduce((all, [, { cpu }]) => all + cpu, 0);
  sum["other PostgreSQL"] += after.postmaster - before.postmaster + Math.max(0, after.ended - before.ended - gone);
  return sum;
}

export const POSTGRES_GROUPS = ["backends", "walsenders", "walwriter", "checkpointer", "other PostgreSQL"] as const;
export const postgresSeconds = (cpu: CpuSeconds): number => POSTGRES_GROUPS.reduce((sum, group) => sum + cpu[group], 0);
export const allSeconds = (cpu: CpuSeconds): number => Object.values(cpu).reduce((a, b) => a + b, 0);

/** Megabytes: the server's resident set, and PostgreSQL's proportional one (its processes share their buffers; adding RSS would count them twice). */
export interface Memory {
  readonly server: number;
  readonly postgres: number;
}

export function memory({ server, postmaster }: Pick<Watched, "server" | "postmaster">): Memory {
  const postgres = postmaster === undefined ? [] : [postmaster, ...childrenOf(postmaster)];
  const kilobytes = (path: string, name: string): number =>
    Number(new RegExp(`^${name}:\\s+(\\d+) kB`, "m").exec(read(path) ?? "")?.[1] ?? 0);
  return {
    server: kilobytes(`/proc/${server}/status`, "VmRSS") / 1024,
    postgres:
      postgres.reduce(
        (sum, pid) => sum + (kilobytes(`/proc/${pid}/smaps_rollup`, "Pss") || kilobytes(`/proc/${pid}/status`, "RssAnon")),
        0,
      ) / 1024,
  };
}
