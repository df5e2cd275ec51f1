/** Slots move to another database while a cluster sells from them: to the other PostgreSQL server and back, with the tool an operator uses. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { randomUUID } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import pg from "pg";
import { loadKeyspaces } from "../../db/keyspaces.ts";
import { slotOf, type Id } from "../../domain/ids.ts";
import { makeTokens } from "../../mixins/tokens.ts";
import { ClusterServer, everythingHolds, expect, shopper } from "../support/cluster.ts";
import { userId } from "../support/deals.ts";
import { caller } from "../support/node.ts";
import { Shopping, type Shopper } from "../support/shoppers.ts";
import { until } from "../support/until.ts";

const SECRET = "a secret for tests of moves, long enough";
const PASSWORD = "move-test-admin";
const SHOPPERS = 12;
const FIRST_MOVED = 14;

describe("slots that move under load", () => {
  const dataDir = mkdtempSync(join(tmpdir(), "tb-move-"));
  const cluster = new ClusterServer({
    DATA_DIR: dataDir,
    JWT_SECRET: SECRET,
    RATE_LIMITS: "off",
    ADMIN_PASSWORD: PASSWORD,
    LOG_LEVEL: "error",
  });
  const tokens = makeTokens(SECRET);
  let admin: string;
  let deals: Id[];
  let shoppers: Shopper[];

  before(async () => {
    await cluster.start();
    admin = await tokens.sign(caller(userId(1), ["admin"]), 3_600);
    deals = await dealsOnBothSides();
    shoppers = await Promise.all(Array.from({ length: SHOPPERS }, (_, n) => shopper(cluster, tokens, n)));
  });
  after(async () => {
    await cluster.stop();
    rmSync(dataDir, { recursive: true, force: true });
  });

  /** Of as many merchants as it takes until deals lie on both sides of the first slot that moves. */
  async function dealsOnBothSides(): Promise<Id[]> {
    const made: Id[] = [];
    while (made.length < 3 || new Set(made.map((deal) => slotOf(deal) >= FIRST_MOVED)).size < 2) {
      const body = { username: `boss-${randomUUID().slice(0, 8)}`, password: "move-test-boss" };
      await expect(201, cluster.insist("POST", "/auth/register", { body }));
      const merchant = { name: "moving bar", city: "hz", commissionBps: 600, ownerUsername: body.username };
      await expect(201, cluster.insist("POST", "/merchants", { token: admin, body: merchant }));
      const { accessToken: token } = await expect<{ accessToken: string }>(200, cluster.insist("POST", "/auth/login", { body }));
      const form = { title: "two pints", price: 1_990, tiers: [{ size: 2, price: 1_490 }], stock: 1_000_000 };
      const { id } = await expect<{ id: Id }>(201, cluster.insist("POST", "/deals", { token, body: form }));
      await expect(200, cluster.insist("POST", `/deals/${id}/publish`, { token }));
      made.push(id);
    }
    return made;
  }

  /** `npm run shards`, as from a second terminal. */
  const shards = (...args: readonly string[]): Promise<{ code: number | null; output: string }> =>
    new Promise((resolve) => {
      const child = spawn(process.execPath, ["scripts/shards.ts", ...args], {
        cwd: new URL("../..", import.meta.url),
        env: { ...process.env, ADMIN_PASSWORD: PASSWORD, DATA_DIR: dataDir, PORT: new URL(cluster.base).port },
      });
      let output = "";
      for (const stream of [child.stdout, child.stderr]) stream.on("data", (chunk: Buffer) => void (output += chunk.toString("utf8")));
      child.once("exit", (code) => resolve({ code, output }));
    });

  /** The URLs of the city's databases, as the nodes have them. */
  const placeOf = (city: string, slot: number): string =>
    loadKeyspaces(join(dataDir, "keyspaces.yaml")).byCode(city)?.databases[slot] ?? "";

  async function count(url: string, text: string, values: readonly unknown[] = []): Promise<number> {
    const client = new pg.Client(url);
    await client.connect();
    try {
      return Number((await client.query<{ n: string }>(text, [...values])).rows[0]?.n);
    } finally {
      await client.end();
    }
  }

  it("to another server and back, nobody loses an order or hears more than `try again`", async (t) => {
    const origin = placeOf("hz", 15);
    const away = new URL(placeOf("sh", 0));
    away.pathname = "/hz_away";
    const shopping = new Shopping(cluster, shoppers, deals);
    try {
      for (const to of [away.toString(), "hz_a"]) {
        await until(async () => shopping.acknowledged.size > 20);
        const before = shopping.acknowledged.size;
        const { code, output } = await shards("move", "hz", `${FIRST_MOVED}-15`, to);
        assert.equal(code, 0, `${output}\n${cluster.output}`);
        t.diagnostic(`${shopping.acknowledged.size - before} orders meanwhile; ${output.trim().split("\n").at(-1)}`);
        shopping.mark();
        await until(async () => shopping.firstAfterMark !== undefined);
      }
    } finally {
      await shopping.end();
    }
    t.diagnostic(`${shopping.requests} requests, ${shopping.statuses.get(503) ?? 0} of them 503`);
    assert.deepEqual(shopping.failures, []);
    await everythingHolds(cluster, admin, shopping);

    const ids = [...shopping.acknowledged.keys()].filter((id) => slotOf(id) >= FIRST_MOVED);
    const orders = "select count(*) as n from orders where id = any($1::bigint[])";
    assert.equal(placeOf("hz", 15), placeOf("hz", 0));
    assert.equal(await count(placeOf("hz", 15), orders, [ids]), ids.length, "all of them are where the routing says");
    for (const url of [origin, away.toString()]) {
      assert.equal(await count(url, orders, [ids]), 0);
      assert.equal(await count(url, `select count(*) as n from transfers where slot >= ${FIRST_MOVED}`), 0);
    }
    // What a database that serves nothing any more held of the log is let go.
    assert.equal(await count(away.toString(), "select count(*) as n from pg_replication_slots where database = current_database()"), 0);
    // Every event found its consumer, whichever way it had to take.
    await until(
      async () =>
        (await count(placeOf("user", 0), "select count(*) as n from order_index where order_id = any($1::bigint[])", [ids])) === ids.length,
    );
  });

  it("the cluster comes back with the table the moves have made", async () => {
    assert.equal(await cluster.stop(), 0);
    await cluster.start();
    const { code, output } = await shards();
    assert.equal(code, 0, output);
    assert.match(output, /^hz +15 +localhost\/hz_a .* worker-\d /m);
    assert.match(output, /^hz +11 +localhost\/hz_b /m);
    const [deal] = deals;
    const seen = await expect<{ id: string }>(200, cluster.insist("GET", `/deals/${deal}`));
    assert.equal(seen.id, deal);
  });
});
