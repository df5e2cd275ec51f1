/**
 * Processes of an embedded PostgreSQL (`embedded.ts`): as whom they run, how they end, and which of them an earlier run has left behind.
 */
import { spawn, type ChildProcess } from "node:child_process";
import { existsSync, readFileSync, readdirSync } from "node:fs";
import { basename, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { StartError } from "./start-error.ts";

export interface Exit {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

/** How a child is started so that it is nobody's root, and which user its files belong to. */
export interface Guise {
  readonly prefix: readonly string[];
  readonly identity: { readonly uid?: number; readonly gid?: number };
  readonly fileOwner: { readonly uid: number; readonly gid: number };
}

/** Nothing of our environment: PGPORT, PGTZ and a dozen others would change the server, LC_ALL its messages. */
const CHILD_ENVIRONMENT = { PATH: process.env["PATH"] ?? "/usr/bin:/bin", LC_ALL: "C", TZ: "UTC" };

const FAST_SHUTDOWN_MS_MAX = 20_000;
/** A postmaster told to quit at once kills its children itself after 5 s. */
const IMMEDIATE_SHUTDOWN_MS_MAX = 8_000;
const GONE_POLL_MS = 10;

/**
 * Tries the ways to run PostgreSQL here, best first, and takes the first in which a child can both enter DATA_DIR and
 * execute the binaries: modes of parent directories, container policies and missing tools are not worth predicting.
 * The first one works nearly everywhere and costs 20 ms.
 */
export async function chooseGuise(binaries: string, dataDir: string): Promise<Guise> {
  const dieWithUs = process.platform === "linux" ? [["setpriv", "--pdeathsig", "INT", "--"], []] : [[]];
  const isRoot = process.getuid?.() === 0;
  const ways = isRoot
    ? guisesOfRoot()
    : [{ prefix: [], identity: {}, fileOwner: { uid: process.getuid?.() ?? 0, gid: process.getgid?.() ?? 0 } }];
  let complaint = "";
  for (const way of ways) {
    for (const last of dieWithUs) {
      const guise: Guise = { ...way, prefix: [...way.prefix, ...last] };
      const probe = ["/bin/sh", "-c", 'cd "$1" && exec "$2" --version', "sh", dataDir, join(binaries, "postgres")];
      const { exit, output } = await runAs(guise, probe);
      if (exit.code === 0) return guise;
      // Why the plainest way fails is what the user can change; the others fail for want of a tool or a privilege.
      if (way === ways[0]) complaint = complaintIn(output);
    }
  }
  throw new StartError(
    isRoot
      ? `PostgreSQL must not run as root, and an unprivileged user cannot reach ${dataDir} or ${binaries} (${complaint}): move them out of private directories, or start as an ordinary user`
      : `PostgreSQL cannot run here: ${complaint}`,
  );
}

function guisesOfRoot(): Guise[] {
  const user = unprivilegedUser();
  return [
    // Truly powerless: even SQL that runs programs could touch nothing but the database.
    { prefix: [], identity: user, fileOwner: user },
    // Outside the namespace this is still root, though without capabilities: for places only root can enter.
    {
      prefix: ["unshare", "--user", `--map-user=${user.uid}`, `--map-group=${user.gid}`, "--"],
      identity: {},
      fileOwner: { uid: 0, gid: 0 },
    },
  ];
}

/** `postgres` first: `nobody` is shared with every other program that wants to be harmless. initdb asks for a name, so it must exist. */
function unprivilegedUser(): { uid: number; gid: number } {
  const users = readFileSync("/etc/passwd", "utf8").split("\n");
  for (const name of ["postgres", "nobody"]) {
    const [, , uid, gid] = users.find((line) => line.startsWith(`${name}:`))?.split(":") ?? [];
    if (Number(uid) > 0 && Number(gid) > 0) return { uid: Number(uid), gid: Number(gid) };
  }
  throw new StartError("PostgreSQL must not run as root, and there is neither a user postgres nor nobody: start as an ordinary user");
}

export function spawnAs(
  { prefix, identity }: Guise,
  command: readonly string[],
  stdio: ["ignore" | "pipe", number | "pipe", number | "pipe"],
): ChildProcess {
  const [program = "", ...args] = [...prefix, ...command];
  return spawn(program, args, { ...identity, cwd: "/", detached: true, env: CHILD_ENVIRONMENT, stdio });
}

export async function runAs(guise: Guise, command: readonly string[], input = ""): Promise<{ exit: Exit; output: string }> {
  const child = spawnAs(guise, command, ["pipe", "pipe", "pipe"]);
  child.stdin?.on("error", () => undefined).end(input); // one that ends without reading says why by its output
  let output = "";
  for (const stream of [child.stdout, child.stderr]) stream?.setEncoding("utf8").on("data", (text: string) => (output += text));
  // "close", not "exit": the last words may still be in the pipe. A program that is missing ends in "error".
  const exit = await new Promise<Exit>((settle) => {
    child.once("close", (code, signal) => settle({ code, signal }));
    child.once("error", (error) => {
      output += error.message;
      settle({ code: 127, signal: null });
    });
  });
  return { exit, output };
}

const exits = new WeakMap<ChildProcess, Promise<Exit>>();

/** Remembered per child: whoever asks late gets the same answer. */
export function exitOf(child: ChildProcess): Promise<Exit> {
  let exit = exits.get(child);
  if (exit === undefined) {
    exit = new Promise((settle) => {
      if (child.exitCode !== null || child.signalCode !== null) settle({ code: child.exitCode, signal: child.signalCode });
      child.once("exit", (code, signal) => settle({ code, signal }));
      child.once("error", () => settle({ code: 127, signal: null }));
    });
    exits.set(child, exit);
  }
  return exit;
}

/** PostgreSQL's own meaning of the signals: INT fast, QUIT at once (recovery at the next start), KILL for one that hangs. */
const SHUTDOWN = [
  ["SIGINT", FAST_SHUTDOWN_MS_MAX],
  ["SIGQUIT", IMMEDIATE_SHUTDOWN_MS_MAX],
  ["SIGKILL", 1_000],
] as const;

export async function end(child: ChildProcess): Promise<void> {
  const exit = exitOf(child);
  for (const [signal, patienceMs] of SHUTDOWN) {
    if (child.exitCode !== null || child.signalCode !== null || child.pid === undefined) return;
    child.kill(signal);
    const given = new AbortController();
    await Promise.race([exit, sleep(patienceMs, undefined, { signal: given.signal }).catch(ignoreAbort)]);
    given.abort();
  }
  await exit;
}

/**
 * Ends every PostgreSQL process of this data directory that another run left behind: a postmaster gets a fast shutdown;
 * children without one, which would keep the shared memory and the next start out, are quit.
 */
export async function endLeftovers(tag: string, log: (line: string) => void): Promise<void> {
  let left = processesTitled(tag);
  if (left.length === 0) return;
  log(`ending the PostgreSQL that an earlier run left behind (process ${left.map(({ pid }) => pid).join(", ")})`);
  // The fast way is the postmaster's to lead; without one only the hard ways are left.
  for (const [signal, patienceMs] of left.some(({ isPostmaster }) => isPostmaster) ? SHUTDOWN : SHUTDOWN.slice(1)) {
    for (const { pid, isPostmaster } of left) if (isPostmaster || signal !== "SIGINT") sendSignal(pid, signal);
    const deadline = performance.now() + patienceMs;
    do {
      await sleep(GONE_POLL_MS);
      left = processesTitled(tag);
      if (left.length === 0) return;
    } while (performance.now() < deadline);
  }
  throw new StartError(`a PostgreSQL of an earlier run does not end: process ${left.map(({ pid }) => pid).join(", ")}`);
}

/** The tag is in the postmaster's arguments and, as cluster_name, in its children's titles ("postgres: <tag>: walwriter"). */
function processesTitled(tag: string): { pid: number; isPostmaster: boolean }[] {
  if (!existsSync("/proc/self/cmdline")) return [];
  const processes = [];
  for (const entry of readdirSync("/proc")) {
    if (!/^\d+$/.test(entry)) continue;
    const [program = "", ...args] = commandLine(entry);
    const isPostmaster = basename(program) === "postgres" && args.includes(`cluster_name=${tag}`);
    if (isPostmaster || program.startsWith(`postgres: ${tag}: `)) processes.push({ pid: Number(entry), isPostmaster });
  }
  return processes;
}

/** Empty for a process that went away while we looked, and for a zombie. */
export function commandLine(pid: string): string[] {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0");
  } catch (error) {
    if (isCode(error, "ENOENT", "ESRCH")) return [];
    throw error;
  }
}

function sendSignal(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch (error) {
    if (isCode(error, "EPERM"))
      throw new StartError(`a PostgreSQL of another user runs on this data directory (process ${pid}): stop it first`, { cause: error });
    if (!isCode(error, "ESRCH")) throw error;
  }
}

export function complaintIn(output: string): string {
  const lines = output.split("\n").filter((line) => line.trim() !== "");
  const telling = lines.findLast((line) => /\b(FATAL|PANIC|error|could not|cannot|denied)\b/.test(line)) ?? lines.at(-1);
  return telling?.replace(/^.*?(FATAL|PANIC):\s*/, "") ?? "it said nothing";
}

export function describe({ code, signal }: Exit): string {
  return signal === null ? `exit code ${code}` : `signal ${signal}`;
}

function ignoreAbort(error: unknown): void {
  if (!(error instanceof Error && error.name === "AbortError")) throw error;
}

export function isCode(error: unknown, ...codes: string[]): boolean {
  return error instanceof Error && "code" in error && codes.some((code) => code === error.code);
}
