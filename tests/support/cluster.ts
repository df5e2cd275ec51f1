/** A cluster as its user starts it: `npm run cluster`, asked through nginx, ordered about as from a second terminal. */
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { getCACertificates, setDefaultCACertificates } from "node:tls";
import { sendCommand } from "../../scripts/cluster/control.ts";
import type { Id } from "../../domain/ids.ts";
import { Server, type Reply } from "./server.ts";

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

/** A merchant in Shanghai with deals on sale, made as their owner would. */
export async function openBar(
  server: ClusterServer,
  admin: string,
  count: number,
  stock = 1_000_000,
): Promise<{ boss: string; merchantId: Id; deals: Id[] }> {
  const username = `boss-${randomUUID().slice(0, 8)}`;
  const password = "cluster-test-boss";
  const expect = async (status: number, reply: Promise<Reply>): Promise<{ id: Id; accessToken: string }> => {
    const { status: got, body } = await reply;
    assert.equal(got, status, JSON.stringify(body));
    return body as { id: Id; accessToken: string };
  };
  await expect(201, server.insist("POST", "/auth/register", { body: { username, password } }));
  const form = { name: `cluster bar ${username}`, city: "sh", commissionBps: 600, ownerUsername: username };
  const { id: merchantId } = await expect(201, server.insist("POST", "/merchants", { token: admin, body: form }));
  const { accessToken: token } = await expect(200, server.insist("POST", "/auth/login", { body: { username, password } }));
  const deals: Id[] = [];
  for (let n = 0; n < count; n++) {
    const { id } = await expect(
      201,
      server.insist("POST", "/deals", {
        token,
        body: { title: `two pints ${n}`, price: 1_990, tiers: [{ size: 2, price: 1_490 }], stock },
      }),
    );
    await expect(200, server.insist("POST", `/deals/${id}/publish`, { token }));
    deals.push(id);
  }
  return { boss: token, merchantId, deals };
}
