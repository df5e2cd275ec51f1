/** A redis-server of a test's own, on a free port; stopped, frozen and filled up as the test likes. */
import { spawn, type ChildProcess } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Redis } from "ioredis";
import { freePort } from "../../scripts/free-ports.ts";
import { findServer } from "../../scripts/servers.ts";
import { until } from "./until.ts";

export class RedisServer {
  readonly port: number;
  readonly #dir = mkdtempSync(join(tmpdir(), "tuanbar-redis-"));
  readonly #options: readonly string[];
  #process: ChildProcess | undefined;

  private constructor(port: number, options: readonly string[]) {
    this.port = port;
    this.#options = options;
  }

  static async start(options: readonly string[] = []): Promise<RedisServer> {
    const server = new RedisServer(await freePort(), options);
    await server.restart();
    return server;
  }

  get url(): string {
    return `redis://127.0.0.1:${this.port}`;
  }

  /** Starts it, empty, where it was stopped. */
  async restart(): Promise<void> {
    const program = await findServer("redis-server");
    const memory = ["--save", "", "--appendonly", "no", "--dir", this.#dir];
    this.#process = spawn(program, ["--port", String(this.port), "--bind", "127.0.0.1", ...memory, ...this.#options], { stdio: "ignore" });
    await until(async () => (await this.command("ping").catch(() => "")) === "PONG");
  }

  /** One command, on a connection of its own. */
  async command(...words: readonly [string, ...string[]]): Promise<unknown> {
    const client = new Redis(this.port, "127.0.0.1", { lazyConnect: true, retryStrategy: () => null, maxRetriesPerRequest: 0 });
    client.on("error", () => undefined);
    try {
      await client.connect();
      const [name, ...args] = words;
      return await client.call(name, ...args);
    } finally {
      client.disconnect();
    }
  }

  /** SIGSTOP and SIGCONT: the connection stays, nobody answers. */
  freeze(): void {
    this.#process?.kill("SIGSTOP");
  }
  thaw(): void {
    this.#process?.kill("SIGCONT");
  }

  async kill(): Promise<void> {
    const child = this.#process;
    if (!child || child.exitCode !== null || child.signalCode !== null) return;
    const exited = new Promise((resolve) => child.once("exit", resolve));
    child.kill("SIGKILL");
    await exited;
  }

  async stop(): Promise<void> {
    await this.kill();
    rmSync(this.#dir, { recursive: true, force: true });
  }
}
