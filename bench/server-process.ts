/** A server under test: started on a data directory of the bench's own, asked until it is ready, and stopped. */
import { spawn, type ChildProcess } from "node:child_process";
import { randomBytes } from "node:crypto";
import { chmodSync, mkdtempSync, openSync, rmSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { freePort } from "../scripts/free-ports.ts";
import { Generator } from "./load/client.ts";
import { postmasterOf, type Watched } from "./processes.ts";
import type { Result } from "./report.ts";

const root = fileURLToPath(new URL("..", import.meta.url));

export interface Place {
  readonly dataDir: string;
  readonly jwtSecret: string;
  readonly adminPassword: string;
}

export const newPlace = (dataDir: string): Place => ({
  dataDir,
  jwtSecret: randomBytes(32).toString("base64url"),
  adminPassword: randomBytes(12).toString("base64url"),
});

/** A bench in a data directory and with a generator of its own; both are cleared away unless something was wrong or is to be kept. */
export async function inDataDir(
  root: string,
  options: { readonly keep: boolean; readonly signal: AbortSignal; readonly say: (line: string) => void },
  work: (place: Place, generator: Generator) => Promise<Result>,
): Promise<Result> {
  // In the clone, not in the temporary directory, which may be in memory, where a commit costs nothing.
  const dataDir = mkdtempSync(join(root, ".data-bench-"));
  chmodSync(dataDir, 0o711);
  const generator = new Generator();
  let isSound = false;
  try {
    const result = await work(newPlace(dataDir), generator);
    isSound = result.faults.length === 0;
    return result;
  } finally {
    generator.stop();
    if (options.signal.aborted || (isSound && !options.keep)) rmSync(dataDir, { recursive: true, force: true });
    else options.say(`the data directory is kept: ${dataDir}`);
  }
}

const READY_MS_MAX = 120_000;
const POLL_MS = 5;
const STOP_MS_MAX = 60_000;

/** Those that run: a bench that is interrupted leaves none behind. */
const running = new Set<ServerProcess>();
let closed = false;
export async function stopServers(): Promise<void> {
  closed = true;
  await Promise.allSettled([...running].map((server) => server.stop()));
}

export class ServerProcess {
  readonly port: number;
  readySeconds = 0;
  readonly #child: ChildProcess;

  private constructor(child: ChildProcess, port: number) {
    this.#child = child;
    this.port = port;
  }

  /** `script` and its arguments, below the repository; resolves when `isReady` says so, which asks `/readyz` unless told otherwise. */
  static async start(
    script: readonly string[],
    place: Place,
    environment: Readonly<Record<string, string>> = {},
    isReady: (port: number) => Promise<boolean> = answersReady,
  ): Promise<ServerProcess> {
    if (closed) throw new Error("no server is started any more");
    const port = await freePort();
    const log = openSync(join(place.dataDir, "server.log"), "a");
    const startedMs = performance.now();
    const child = spawn(process.execPath, script, {
      cwd: root,
      stdio: ["ignore", log, log],
      env: {
        ...process.env,
        DATA_DIR: place.dataDir,
        PORT: String(port),
        HOST: "127.0.0.1",
        RATE_LIMITS: "off",
        LOG_LEVEL: "warn",
        JWT_SECRET: place.jwtSecret,
        ADMIN_PASSWORD: place.adminPassword,
        // A measurement of whatever directory `npm run bench` was called in is not wanted.
        KEYSPACES: "",
        ...environment,
      },
    });
    const ended = Promise.withResolvers<never>();
    ended.promise.catch(() => undefined);
    child.once("exit", (code, signal) =>
      ended.reject(new Error(`${script.join(" ")} ended (${signal ?? code}); see ${join(place.dataDir, "server.log")}`)),
    );
    const server = new ServerProcess(child, port);
    running.add(server);
    child.once("exit", () => running.delete(server));
    await Promise.race([ready(() => isReady(port), startedMs), ended.promise]);
    server.readySeconds = (performance.now() - startedMs) / 1_000;
    return server;
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  watched(generator: number): Watched {
    return { server: this.pid, generator, postmaster: postmasterOf(this.pid) };
  }

  async stop(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const ended = new Promise((resolve) => this.#child.once("exit", resolve));
    this.#child.kill("SIGTERM");
    const given = new AbortController();
    const late = sleep(STOP_MS_MAX, true, { signal: given.signal }).catch(() => false);
    if ((await Promise.race([ended.then(() => false), late])) === true) {
      this.#child.kill("SIGKILL");
      throw new Error("the server did not stop");
    }
    given.abort();
  }
}

async function ready(isReady: () => Promise<boolean>, startedMs: number): Promise<void> {
  while (!(await isReady())) {
    if (performance.now() - startedMs > READY_MS_MAX) throw new Error("the server is not ready after two minutes");
    await sleep(POLL_MS);
  }
}

const answersReady = (port: number): Promise<boolean> =>
  fetch(`http://127.0.0.1:${port}/readyz`).then(
    async (answer) => {
      await answer.arrayBuffer();
      return answer.status === 200;
    },
    () => false, // nobody listens yet
  );
