/** A real nats-server with JetStream, to be stopped, started again on its port, and robbed of its files. */
import { spawn, type ChildProcess } from "node:child_process";
import { once as happened } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { connect, type NatsConnection } from "nats";
import { freePort } from "../../scripts/free-ports.ts";
import { findServer } from "../../scripts/servers.ts";
import { until } from "./journal.ts";

export class TestNats {
  readonly url: string;
  readonly #port: number;
  readonly #dataDir = mkdtempSync(join(tmpdir(), "tuanbar-nats-"));
  #process: ChildProcess | undefined;

  private constructor(port: number) {
    this.#port = port;
    this.url = `nats://127.0.0.1:${port}`;
  }

  static async start(): Promise<TestNats> {
    const nats = new TestNats(await freePort());
    await nats.start();
    return nats;
  }

  async start(): Promise<void> {
    const program = await findServer("nats-server");
    const parameters = ["-a", "127.0.0.1", "-p", String(this.#port), "-js", "-sd", this.#dataDir];
    this.#process = spawn(program, parameters, { stdio: ["ignore", "ignore", "ignore"] });
    await until("nats-server answers", () =>
      connect({ servers: this.url, reconnect: false }).then(
        async (connection) => {
          const answers = await connection.jetstreamManager().then(
            () => true,
            () => false,
          );
          await connection.close();
          return answers;
        },
        () => false,
      ),
    );
  }

  /** As a crash would. */
  async kill(): Promise<void> {
    const running = this.#process;
    this.#process = undefined;
    if (!running) return;
    running.kill("SIGKILL");
    await happened(running, "exit");
  }

  /** Only while it is not running: everything JetStream has kept is gone. */
  loseFiles(): void {
    rmSync(this.#dataDir, { recursive: true, force: true });
  }

  async stop(): Promise<void> {
    await this.kill();
    this.loseFiles();
  }

  /** For a moment, a client of one's own. */
  async ask<R>(question: (connection: NatsConnection) => Promise<R>): Promise<R> {
    const connection = await connect({ servers: this.url });
    try {
      return await question(connection);
    } finally {
      await connection.close();
    }
  }
}
