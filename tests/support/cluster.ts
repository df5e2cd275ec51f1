/** A cluster as its user starts it: `npm run cluster`, asked through nginx, ordered about as from a second terminal. */
import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { getCACertificates, setDefaultCACertificates } from "node:tls";
import { randomUUID } from "node:crypto";
import { loadKeyspaces } from "../../db/keyspaces.ts";
import type { Id } from "../../domain/ids.ts";
import { makeNode, type Node } from "../../moleculer.config.ts";
import type { Tokens } from "../../mixins/tokens.ts";
import { sendCommand } from "../../scripts/cluster/control.ts";
import { userId } from "./deals.ts";
import { caller } from "./node.ts";
import { Server, type Reply } from "./server.ts";
import type { Shopper, Shopping } from "./shoppers.ts";
import { until } from "./until.ts";

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

  /** One that was killed is started again a moment later, and others may have done its work by then. */
  async pidOf(name: string): Promise<number> {
    let pid = 0;
    await until(async () => (pid = (await this.processes()).get(name)?.pid ?? 0) > 1);
    return pid;
  }
}

/** Somebody with more in the wallet than a test can spend. */
export async function shopper(server: ClusterServer, tokens: Tokens, n: number): Promise<Shopper> {
  const token = await tokens.sign(caller(userId(n + 100)), 3_600);
  await expect(201, server.insist("POST", "/wallet/topups", { token, body: { amount: 50_000_000, channel: "test" } }));
  return { token };
}

/** The body of an answer that has this status. */
export async function expect<B>(status: number, reply: Promise<Reply>): Promise<B> {
  const { status: got, body } = await reply;
  assert.equal(got, status, JSON.stringify(body));
  return body as B;
}

/** Every order somebody was told of is there, and paid if they were told so. */
export async function everyOrderIsThere(server: ClusterServer, { acknowledged }: Shopping): Promise<void> {
  const left = [...acknowledged];
  const look = async (): Promise<void> => {
    for (let next = left.pop(); next; next = left.pop()) {
      const [id, { token, paid }] = next;
      const { status } = await expect<{ status: string }>(200, server.insist("GET", `/orders/${id}`, { token }));
      if (paid) assert.match(status, /^(PAID|CONFIRMED)$/, `order ${id} was paid`);
    }
  };
  await Promise.all(Array.from({ length: LOOKS_AT_ONCE }, look));
}

export async function everythingHolds(server: ClusterServer, admin: string, shopping: Shopping): Promise<void> {
  await everyOrderIsThere(server, shopping);
  let failing: unknown;
  // What was being paid when its node went is given up after 20 s.
  await until(async () => {
    const { ok, checks } = await expect<{ ok: boolean; checks: { ok: boolean }[] }>(
      200,
      server.insist("GET", "/ops/verify", { token: admin }),
    );
    failing = checks.filter((check) => !check.ok);
    return ok;
  }, 60_000).catch((error: unknown) => assert.fail(`${String(error)}: ${JSON.stringify(failing)}`));
}
const LOOKS_AT_ONCE = 16;

/** A merchant with deals on sale, made as their owner would. */
export async function openBar(
  server: Pick<Server, "insist">,
  admin: string,
  count: number,
  stock = 1_000_000,
  city = "sh",
): Promise<{ boss: string; merchantId: Id; deals: Id[] }> {
  const username = `boss-${randomUUID().slice(0, 8)}`;
  const password = "cluster-test-boss";
  await expect(201, server.insist("POST", "/auth/register", { body: { username, password } }));
  const form = { name: `cluster bar ${username}`, city, commissionBps: 600, ownerUsername: username };
  const { id: merchantId } = await expect<{ id: Id }>(201, server.insist("POST", "/merchants", { token: admin, body: form }));
  const { accessToken: token } = await expect<{ accessToken: string }>(
    200,
    server.insist("POST", "/auth/login", { body: { username, password } }),
  );
  const deals: Id[] = [];
  for (let n = 0; n < count; n++) {
    const { id } = await expect<{ id: Id }>(
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

/** A node of the test's own on the cluster's bus, without services: it can send any call to any node. */
export async function joined(server: ClusterServer): Promise<Node> {
  const nats = (await server.processes()).get("nats");
  const pass = readFileSync(join(server.dataDir, "secrets", "nats"), "utf8").trim();
  return makeNode({
    nodeID: "test",
    keyspaces: loadKeyspaces(join(server.dataDir, "keyspaces.yaml")),
    urlOf: (database) => database,
    services: [],
    nats: { servers: [`127.0.0.1:${nats?.port}`], user: "tuanbar", pass },
    trade: { orderTtlSeconds: 900, reversalMinutes: 60, settlementDelayMinutes: 60 },
    logLevel: "fatal",
  });
}
