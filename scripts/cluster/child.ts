/**
 * One process of the cluster: started, watched, started again when it dies by itself, ended. It has a session of its own, so that Ctrl-C reaches the
 * supervisor alone, and a file with its number and birth, so that the next start finds it when the supervisor was killed.
 */
import { spawn, type ChildProcess } from "node:child_process";
import { closeSync, existsSync, openSync, readdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { birthOf } from "../process-lock.mjs";
import { StartError } from "../start-error.ts";

export interface ChildSpec {
  readonly name: string;
  readonly program: string;
  readonly args: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
  /** `says so`: it sends "ready" over its channel; else when this resolves to true, asked every 50 ms. */
  readonly ready: "says so" | (() => Promise<boolean>);
  readonly port: number;
}

export type ChildState = "starting" | "running" | "stopped";

/** Where every process leaves its traces. */
export interface Folders {
  readonly run: string;
  readonly logs: string;
}

const READY_MS_MAX = 60_000;
const READY_POLL_MS = 50;
const RESTART_MS_MIN = 100;
const RESTART_MS_MAX = 5_000;
/** A process that ran this long did not die of its start. */
const STEADY_MS = 10_000;
/** A node waits 10 s for the calls under way, and a little for everything else. */
const STOP_MS_MAX = 20_000;
const LOG_BYTES_MAX = 4 * 2 ** 20;

export class Child {
  readonly spec: ChildSpec;
  readonly #folders: Folders;
  readonly #log: (line: string) => void;
  #process: ChildProcess | undefined;
  #exited: Promise<void> = Promise.resolve();
  #state: ChildState = "stopped";
  #startedMs = 0;
  #restarts = 0;
  #wanted = false;
  #watching: Promise<void> | undefined;

  constructor(spec: ChildSpec, folders: Folders, log: (line: string) => void) {
    this.spec = spec;
    this.#folders = folders;
    this.#log = log;
  }

  get view(): { name: string; state: ChildState; pid: number | undefined; port: number; restarts: number; upSeconds: number } {
    const { name, port } = this.spec;
    const isUp = this.#state !== "stopped";
    const upSeconds = isUp ? Math.round((performance.now() - this.#startedMs) / 1_000) : 0;
    return { name, state: this.#state, pid: isUp ? this.#process?.pid : undefined, port, restarts: this.#restarts, upSeconds };
  }

  /** Resolves when it serves; from then on it is kept running. A process that dies before is a StartError. */
  async start(): Promise<void> {
    if (this.#wanted) return;
    this.#wanted = true;
    try {
      await this.#launch();
    } catch (error) {
      this.#wanted = false;
      throw error;
    }
    this.#watching = this.#watch();
  }

  /** SIGTERM, and SIGKILL for one that does not end; stays down. */
  async stop(): Promise<void> {
    this.#wanted = false;
    const child = this.#process;
    if (child && this.#state !== "stopped") {
      child.kill("SIGTERM");
      // One that was stopped by a signal hears nothing until it goes on.
      child.kill("SIGCONT");
      const patience = new AbortController();
      const late = sleep(STOP_MS_MAX, "late", { signal: patience.signal }).catch(() => undefined);
      if ((await Promise.race([this.#exited, late])) === "late") {
        this.#log(`${this.spec.name} did not end within ${STOP_MS_MAX / 1_000} s and is killed`);
        child.kill("SIGKILL");
      }
      patience.abort();
      await this.#exited;
    }
    await this.#watching;
  }

  /** As its death by itself would be: it is started again. */
  kill(signal: NodeJS.Signals): boolean {
    return this.#state !== "stopped" && this.#process?.kill(signal) === true;
  }

  async #watch(): Promise<void> {
    for (let delayMs = RESTART_MS_MIN; this.#wanted;) {
      await this.#exited;
      if (!this.#wanted) return;
      if (performance.now() - this.#startedMs > STEADY_MS) delayMs = RESTART_MS_MIN;
      this.#log(`${this.spec.name} died; starting it again`);
      await sleep(delayMs);
      delayMs = Math.min(2 * delayMs, RESTART_MS_MAX);
      if (!this.#wanted) return;
      this.#restarts++;
      await this.#launch().catch((error: unknown) => this.#log(error instanceof Error ? error.message : String(error)));
    }
  }

  async #launch(): Promise<void> {
    const { name, program, args, env, ready } = this.spec;
    const logFile = join(this.#folders.logs, `${name}.log`);
    if (existsSync(logFile) && statSync(logFile).size > LOG_BYTES_MAX) renameSync(logFile, `${logFile}.1`);
    const log = openSync(logFile, "a", 0o600);
    const child = spawn(program, args, {
      detached: true,
      stdio: ["ignore", log, log, ...(ready === "says so" ? (["ipc"] as const) : [])],
      env: { PATH: process.env["PATH"] ?? "/usr/bin:/bin", TZ: "UTC", ...env },
    });
    closeSync(log);
    this.#process = child;
    this.#state = "starting";
    this.#startedMs = performance.now();
    const pidFile = join(this.#folders.run, `${name}.pid`);
    this.#exited = new Promise((resolve) => {
      const gone = (): void => {
        if (this.#process === child) this.#state = "stopped";
        rmSync(pidFile, { force: true });
        resolve();
      };
      child.once("exit", gone);
      child.once("error", gone);
    });
    if (child.pid !== undefined) writeFileSync(pidFile, `${child.pid} ${birthOf(child.pid)}\n`);
    const isReady =
      ready === "says so" ? new Promise<boolean>((resolve) => child.once("message", () => resolve(true))) : poll(ready, child);
    const dead = this.#exited.then(() => false);
    const late = new AbortController();
    const tooLate = sleep(READY_MS_MAX, "late" as const, { signal: late.signal }).catch(() => false);
    const outcome = await Promise.race([isReady, dead, tooLate]);
    late.abort();
    if (outcome === true) {
      this.#state = "running";
      return;
    }
    if (outcome === "late") child.kill("SIGKILL");
    throw new StartError(`${name} does not start: ${outcome === "late" ? "it was not ready in time" : lastLine(logFile)} (${logFile})`);
  }
}

async function poll(isReady: () => Promise<boolean>, child: ChildProcess): Promise<boolean> {
  while (child.exitCode === null && child.signalCode === null) {
    if (await isReady()) return true;
    await sleep(READY_POLL_MS);
  }
  return false;
}

const lastLine = (file: string): string => readFileSync(file, "utf8").trim().split("\n").at(-1) ?? "it said nothing";

/** Ends what an earlier supervisor that was killed left running, nodes before the servers they use. */
export async function endLeftovers(folder: string, log: (line: string) => void): Promise<void> {
  const left = readdirSync(folder)
    .filter((file) => file.endsWith(".pid"))
    .flatMap((file) => {
      const [pid = "", birth = ""] = readFileSync(join(folder, file), "utf8").trim().split(" ");
      rmSync(join(folder, file), { force: true });
      return birth !== "" && birthOf(Number(pid)) === birth ? [{ name: file.slice(0, -".pid".length), pid: Number(pid), birth }] : [];
    });
  if (left.length > 0) log(`ending what an earlier run left behind: ${left.map(({ name }) => name).join(", ")}`);
  const isAlive = ({ pid, birth }: { pid: number; birth: string }): boolean => birthOf(pid) === birth;
  const send = (signal: NodeJS.Signals): void => {
    for (const one of left) if (isAlive(one)) process.kill(one.pid, signal);
  };
  send("SIGTERM");
  send("SIGCONT");
  const end = performance.now() + LEFTOVER_MS_MAX;
  while (left.some(isAlive) && performance.now() < end) await sleep(READY_POLL_MS);
  send("SIGKILL");
  while (left.some(isAlive)) await sleep(READY_POLL_MS);
}
/** They may be waiting for each other by now. */
const LEFTOVER_MS_MAX = 3_000;
