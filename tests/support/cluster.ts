/** A cluster as its user starts it: `npm run cluster`, asked through nginx, ordered about as from a second terminal. */
import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { getCACertificates, setDefaultCACertificates } from "node:tls";
import { sendCommand } from "../../scripts/cluster/control.ts";
import { Server } from "./server.ts";

export class ClusterServer extends Server {
  protected override readonly script = "scripts/cluster.ts";
  protected override readonly scheme = "https";
  #trusted = false;

  get caFile(): string {
    return join(this.dataDir, "tls", "ca.pem");
  }

  override async ready(withinMs = 120_000): Promise<void> {
    const end = performance.now() + withinMs;
    while (!this.#trusted && performance.now() < end) {
      if (existsSync(this.caFile) && readFileSync(this.caFile, "utf8").includes("END CERTIFICATE")) {
        setDefaultCACertificates([...getCACertificates("default"), readFileSync(this.caFile, "utf8")]);
        this.#trusted = true;
      } else await sleep(50);
    }
    await super.ready(end - performance.now());
    // The door is open a moment before the control is.
    while (!existsSync(join(this.dataDir, "run", "control.sock")) && performance.now() < end) await sleep(50);
  }

  async command(...words: string[]): Promise<string> {
    let said = "";
    const code = await sendCommand(this.dataDir, words, (text) => (said += text));
    assert.equal(code, 0, `${words.join(" ")}: ${said}`);
    return said;
  }

  /** Processes by name, as `status` tells them. */
  async processes(): Promise<Map<string, { readonly state: string; readonly pid: number; readonly port: number }>> {
    const [, ...lines] = (await this.command("status")).trim().split("\n");
    return new Map(
      lines.map((line) => {
        const [name = "", state = "", pid, port] = line.split(/\s+/);
        return [name, { state, pid: Number(pid), port: Number(port) }];
      }),
    );
  }

  async pidOf(name: string): Promise<number> {
    const pid = (await this.processes()).get(name)?.pid ?? 0;
    assert.ok(pid > 1, `${name} has a process`);
    return pid;
  }
}
