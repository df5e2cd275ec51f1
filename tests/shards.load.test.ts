/** Slots move to another database while they are sold from: over HTTP, with the program as its user starts it and the tool an operator uses. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { randomUUID } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import pg from "pg";
import { slotOf } from "../domain/ids.ts";
import { makeTokens } from "../mixins/tokens.ts";
import { userId } from "./support/deals.ts";
import { caller } from "./support/node.ts";
import { Server, type Reply } from "./support/server.ts";
import { testServer, type TestServer } from "./support/databases.ts";
import { until } from "./support/until.ts";

const SECRET = "a secret for tests of moves, long enough";
const PASSWORD = "move-test-admin";
const SHOPPERS = 16;

describe("a move under load", () => {
  const dataDir = mkdtempSync(join(tmpdir(), "tuanbar-move-"));
  const server = new Server({ DATA_DIR: dataDir, JWT_SECRET: SECRET, RATE_LIMITS: "off", ADMIN_PASSWORD: PASSWORD, LOG_LEVEL: "fatal" });
  const tokens = makeTokens(SECRET);
  let second: TestServer;
  let admin = "";
  before(async () => {
    second = await testServer();
    await server.start();
    admin = await tokens.sign(caller(userId(1), ["admin"]), 3_600);
  });
  after(async () => {
    await server.stop();
    await second.stop();
    rmSync(dataDir, { recursive: true, force: true });
  });

  const shards = (...args: readonly string[]): Promise<{ code: number | null; output: string }> =>
    new Promise((resolve) => {
      const child = spawn(process.execPath, ["scripts/shards.ts", "--url", server.base, ...args], {
        cwd: new URL("..", import.meta.url),
        env: { ...process.env, ADMIN_PASSWORD: PASSWORD, DATA_DIR: dataDir },
      });
      let output = "";
      for (const stream of [child.stdout, child.stderr]) stream.on("data", (chunk: Buffer) => void (output += chunk.toString("utf8")));
      child.once("exit", (code) => resolve({ code, output }));
    });

  const socketUrl = (database: string): string => {
    const [, , , , host = ""] = readFileSync(join(dataDir, "postgres", "postmaster.pid"), "utf8").split("\n");
    return `postgresql://tuanbar@localhost/${database}?host=${encodeURIComponent(host)}&port=5432&sslmode=disable`;
  };
  const count = async (url: string, text: string, values: readonly unknown[] = []): Promise<number> => {
    const client = new pg.Client(url);
    await client.connect();
    try {
      return Number((await client.query<{ n: string }>(text, [...values])).rows[0]?.n);
    } finally {
      await client.end();
    }
  };

  it("loses no order, has none in two databases, and fails only with what may be repeated", { timeout: 240_000 }, async (t) => {
    const deals = await dealsInHz(server, admin, 4);
    const moved = deals.filter((deal) => slotOf(deal) >= 12);
    assert.ok(moved.length > 0 && moved.length < deals.length, `deals on both sides of the cut: ${deals.map(slotOf).join(" ")}`);
    const shoppers = await Promise.all(Array.from({ length: SHOPPERS }, (_, n) => tokens.sign(caller(userId(n + 100)), 3_600)));
    for (const token of shoppers)
      assert.equal((await server.insist("POST", "/wallet/topups", { token, body: { amount: 5_000_000, channel: "test" } })).status, 201);

    const acknowledged = new Map<string, { token: string; paid: boolean }>();
    const refusals = new Map<string, number>();
    let over = false;
    let longestMs = 0;
    /** Repeats what may be repeated, under one key, and writes down what it was told. */
    const insist = async (path: string, token: string, body: object): Promise<Reply> => {
      const key = randomUUID();
      const startMs = performance.now();
      for (;;) {
        const reply = await server.ask("POST", path, { token, body, key });
        if (reply.status < 500) {
          longestMs = Math.max(longestMs, performance.now() - startMs);
          return reply;
        }
        const { code } = reply.body as { code: string };
        refusals.set(`${reply.status} ${code}`, (refusals.get(`${reply.status} ${code}`) ?? 0) + 1);
        assert.equal(reply.status, 503, JSON.stringify(reply.body));
        assert.ok(reply.headers?.has("retry-after"));
        await sleep(50);
      }
    };
    const shop = async (token: string, n: number): Promise<void> => {
      for (let turn = n; !over; turn++) {
        const placed = await insist("/orders", token, {
          dealId: deals[turn % deals.length],
          quantity: 1,
          ...(turn % 3 === 0 ? { groupSize: 2 } : {}),
        });
        assert.equal(placed.status, 201, JSON.stringify(placed.body));
        const { id } = placed.body as { id: string };
        acknowledged.set(id, { token, paid: false });
        const paid = await insist(`/orders/${id}/pay`, token, { channel: "wallet" });
        // A payment whose second half met the fence may have been cancelled; the buyer then gives the order up.
        if (paid.status === 200) acknowledged.set(id, { token, paid: true });
        else await insist(`/orders/${id}/cancel`, token, {});
        const seen = await server.ask("GET", `/orders/${id}`, { token });
        assert.equal(seen.status, 200, `an acknowledged order is seen at once: ${JSON.stringify(seen.body)}`);
      }
    };
    const shopping = Promise.all(shoppers.map(shop));
    shopping.catch(() => undefined);
    await until(async () => acknowledged.size > 60, 60_000);

    const away = `${second.urlOf(`hz_away_${randomUUID().slice(0, 8)}`)}`;
    for (const to of [away, "hz_a"]) {
      const before = acknowledged.size;
      const { code, output } = await shards("move", "hz", "12-15", to);
      assert.equal(code, 0, `${output}\n${server.output}`);
      t.diagnostic(
        `${acknowledged.size - before} orders meanwhile; ${output.trim().split("\n").at(-1)}; refusals ${JSON.stringify([...refusals])}`,
      );
      await until(async () => acknowledged.size > before + 20, 60_000);
    }
    over = true;
    await shopping;
    t.diagnostic(`${acknowledged.size} orders, the longest request ${Math.round(longestMs)} ms`);
    assert.deepEqual(
      [...refusals.keys()].filter((key) => !key.startsWith("503 ")),
      [],
    );

    for (const [id, { token, paid }] of acknowledged) {
      const { status, body } = await server.insist("GET", `/orders/${id}`, { token });
      assert.equal(status, 200, `order ${id} was acknowledged`);
      if (paid) assert.match((body as { status: string }).status, /^(PAID|CONFIRMED)$/, `order ${id} was paid`);
    }
    const ids = [...acknowledged.keys()].filter((id) => slotOf(id) >= 12);
    const orders = "select count(*) as n from orders where id = any($1::bigint[])";
    assert.equal(await count(socketUrl("hz_a"), orders, [ids]), ids.length, "all of them are where the routing says");
    for (const url of [socketUrl("hz_b"), away]) {
      assert.equal(await count(url, orders, [ids]), 0);
      assert.equal(await count(url, "select count(*) as n from transfers where slot >= 12"), 0);
    }
    // What a database that serves nothing any more held of the log is let go.
    assert.equal(await count(away, "select count(*) as n from pg_replication_slots where database = current_database()"), 0);
    await verified(server, admin);

    const map = await shards();
    assert.equal(map.code, 0, map.output);
    const slot = slotOf(moved[0] ?? "");
    assert.match(map.output, new RegExp(`^hz +${slot} +hz_a +[1-9]\\d* +\\d+\\.\\d`, "m"));
    assert.equal(await server.stop(), 0);
    await server.start();
    assert.match((await shards()).output, /^hz +15 +hz_a /m);
    assert.equal((await server.insist("GET", `/orders/${ids[0]}`, { token: acknowledged.get(ids[0] ?? "")?.token ?? "" })).status, 200);
  });
});

async function verified(server: Server, admin: string): Promise<void> {
  const end = performance.now() + 60_000;
  let failing: unknown = "nothing asked yet";
  do {
    await sleep(1_000);
    const { body } = await server.insist("GET", "/ops/verify", { token: admin });
    failing = (body as { checks?: { name: string; ok: boolean; detail: string }[] }).checks?.filter((check) => !check.ok);
  } while (JSON.stringify(failing) !== "[]" && performance.now() < end);
  assert.deepEqual(failing, [], "every invariant holds");
}

/** Deals of so many merchants, and of more until they lie on both sides of slot 12. */
async function dealsInHz(server: Server, admin: string, merchants: number): Promise<string[]> {
  const deals: string[] = [];
  while (deals.length < merchants || new Set(deals.map((deal) => slotOf(deal) >= 12)).size < 2) {
    const username = `boss-${randomUUID().slice(0, 8)}`;
    const password = "move-test-boss";
    const expect = async (status: number, reply: Promise<Reply>): Promise<{ id: string; accessToken: string }> => {
      const { status: got, body } = await reply;
      assert.equal(got, status, JSON.stringify(body));
      return body as { id: string; accessToken: string };
    };
    await expect(201, server.insist("POST", "/auth/register", { body: { username, password } }));
    const merchant = { name: "moving bar", city: "hz", commissionBps: 600, ownerUsername: username };
    await expect(201, server.insist("POST", "/merchants", { token: admin, body: merchant }));
    const { accessToken: token } = await expect(200, server.insist("POST", "/auth/login", { body: { username, password } }));
    const form = { title: "two pints", price: 1_990, tiers: [{ size: 2, price: 1_490 }], stock: 1_000_000 };
    const { id } = await expect(201, server.insist("POST", "/deals", { token, body: form }));
    await expect(200, server.insist("POST", `/deals/${id}/publish`, { token }));
    deals.push(id);
  }
  return deals;
}
