/** The program as its user starts it: a process, called over HTTP, killed and started again. */
import assert from "node:assert/strict";
import { spawn, type ChildProcess } from "node:child_process";
import { randomUUID } from "node:crypto";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import pg from "pg";
import { fileURLToPath } from "node:url";
import { runningPostgres } from "../../db/embedded.ts";
import { freePort } from "../../scripts/free-ports.ts";

const root = fileURLToPath(new URL("../..", import.meta.url));

export interface Reply {
  readonly status: number;
  readonly body: unknown;
  readonly headers?: Headers;
}
interface Ask {
  readonly token?: string;
  readonly body?: unknown;
  readonly key?: string;
}

export class Server {
  readonly dataDir: string;
  /** What is started, and what its door speaks. */
  protected readonly script: string = "scripts/start.ts";
  protected readonly scheme: "http" | "https" = "http";
  /** How it is started; a subclass may say more each time. */
  protected parameters: readonly string[] = [];
  /** A payment that a killed process left undecided ends 20 s later; one that is hit three times in a row needs more than a minute. */
  protected readonly patienceMs: number = 100_000;
  protected more: Readonly<Record<string, string>> = {};
  readonly #environment: Readonly<Record<string, string>>;
  #port = 0;
  #process: ChildProcess | undefined;
  /** What the process printed, for messages of failed tests. */
  output = "";

  /** Without sample data: a start is then as quick as it can be. */
  constructor(environment: Readonly<Record<string, string>> & { readonly DATA_DIR: string }) {
    this.#environment = environment;
    this.dataDir = environment.DATA_DIR;
  }

  get base(): string {
    return `${this.scheme}://127.0.0.1:${this.#port}`;
  }

  get pid(): number {
    return this.#process?.pid ?? 0;
  }

  /** A port of its own, which it keeps over restarts. */
  async port(): Promise<number> {
    if (this.#port === 0) this.#port = await freePort();
    return this.#port;
  }

  async start(withinMs?: number): Promise<void> {
    await this.port();
    mkdirSync(this.dataDir, { recursive: true, mode: 0o711 });
    writeFileSync(join(this.dataDir, "samples-loaded"), "none: a test\n");
    this.spawn();
    await this.ready(withinMs);
  }

  protected spawn(): ChildProcess {
    const child = spawn(process.execPath, [this.script, ...this.parameters], {
      cwd: root,
      env: { ...process.env, ...this.#environment, ...this.more, PORT: String(this.#port) },
      stdio: ["ignore", "pipe", "pipe"],
    });
    const keep = (chunk: Buffer): void => void (this.output = (this.output + chunk.toString("utf8")).slice(-20_000));
    child.stdout?.on("data", keep);
    child.stderr?.on("data", keep);
    this.#process = child;
    return child;
  }

  /** Waits until `/readyz` says 200. */
  async ready(withinMs = 60_000): Promise<void> {
    const end = performance.now() + withinMs;
    for (;;) {
      const said = await fetch(`${this.base}/readyz`, { signal: AbortSignal.timeout(2_000) }).then(
        async (answer) => (answer.status === 200 ? "" : answer.text()),
        (error: unknown) => String((error as Error).cause ?? error),
      );
      if (said === "") return;
      assert.ok(performance.now() < end, `ready within ${withinMs} ms; its door says ${said}; the server said:\n${this.output}`);
      await sleep(50);
    }
  }

  /** SIGTERM, as an operator stops it; the exit code. */
  async stop(signal: "SIGTERM" | "SIGINT" = "SIGTERM"): Promise<number | null> {
    const child = this.#process;
    if (!child || child.exitCode !== null || child.signalCode !== null) return child?.exitCode ?? null;
    const exited = new Promise<number | null>((resolve) => child.once("exit", resolve));
    child.kill(signal);
    return exited;
  }

  async killAndRestart(): Promise<void> {
    await this.kill();
    this.spawn();
  }

  /** SIGKILL to the process that was started, and to no other. */
  async kill(): Promise<void> {
    const child = this.#process;
    assert.ok(child && child.exitCode === null && child.signalCode === null, `it runs; it said:\n${this.output}`);
    const exited = new Promise((resolve) => child.once("exit", resolve));
    child.kill("SIGKILL");
    await exited;
  }

  /** SIGKILL to PostgreSQL's first process, as the out-of-memory killer would. */
  killPostgres(): void {
    const pid = runningPostgres(this.dataDir)?.pid ?? 0;
    assert.ok(pid > 1, "PostgreSQL runs");
    process.kill(pid, "SIGKILL");
  }

  /** Behind the program's back, in its own PostgreSQL: for rows that only misfortune makes. */
  async query(database: string, sql: string): Promise<void> {
    const client = new pg.Client({ connectionString: runningPostgres(this.dataDir)?.url(database) ?? assert.fail("PostgreSQL runs") });
    await client.connect();
    await client.query(sql);
    await client.end();
  }

  /** One request; a key of its own on every POST. Network errors are thrown. */
  async ask(method: "GET" | "POST", path: string, { token, body, key = randomUUID() }: Ask = {}): Promise<Reply> {
    const answer = await fetch(`${this.base}/api/v1${path}`, {
      method,
      headers: {
        ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
        ...(method === "POST" ? { "content-type": "application/json", "idempotency-key": key } : {}),
      },
      ...(method === "POST" ? { body: JSON.stringify(body ?? {}) } : {}),
      signal: AbortSignal.timeout(15_000),
    });
    const text = await answer.text();
    return { status: answer.status, body: text === "" ? undefined : (JSON.parse(text) as unknown), headers: answer.headers };
  }

  /** What a careful client does: the same request with the same key until there is an answer that is not "later". */
  async insist(method: "GET" | "POST", path: string, ask: Ask = {}): Promise<Reply> {
    const key = ask.key ?? randomUUID();
    const end = performance.now() + this.patienceMs;
    let last: unknown;
    for (;;) {
      const reply = await this.ask(method, path, { ...ask, key }).catch((error: unknown) => void (last = String(error)));
      last = reply?.body ?? last;
      if (reply && ![429, 502, 503, 504].includes(reply.status)) return reply;
      assert.ok(
        performance.now() < end,
        `${method} ${path} is answered within ${this.patienceMs} ms, not ${JSON.stringify(last)}; the server said:\n${this.output}`,
      );
      await sleep(100);
    }
  }
}
