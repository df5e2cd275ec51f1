/**
 * A whole cluster on this machine, bought from through nginx while its processes are killed, stopped and restarted. After each: first success for
 * the shards concerned within 6 s, every acknowledged order there, every invariant holds.
 */
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { connect } from "node:tls";
import { shardOf, type Id } from "../../domain/ids.ts";
import { call } from "../../mixins/contract.ts";
import { makeTokens } from "../../mixins/tokens.ts";
import { birthOf } from "../../scripts/process-lock.mjs";
import { RATES } from "../../services/gateway/limits.ts";
import { placeOrder } from "../../services/order/order.contract.ts";
import { ClusterServer, everyOrderIsThere, everythingHolds, expect, joined, openBar, shopper } from "../support/cluster.ts";
import { userId } from "../support/deals.ts";
import { caller } from "../support/node.ts";
import { Shopping, type Shopper } from "../support/shoppers.ts";
import { until } from "../support/until.ts";

const SECRET = "a secret for cluster tests, long enough";
const SHOPPERS = 16;
const RECOVERED_MS_MAX = 6_000;
const tokens = makeTokens(SECRET);

describe("a cluster", () => {
  const dataDir = mkdtempSync(join(tmpdir(), "tb-cluster-"));
  const environment = { DATA_DIR: dataDir, JWT_SECRET: SECRET, ADMIN_PASSWORD: "cluster-test-admin", LOG_LEVEL: "error" };
  const cluster = new ClusterServer({ ...environment, RATE_LIMITS: "off" });
  let admin: string;
  let boss: string;
  let deals: Id[];
  let shoppers: Shopper[];

  before(async () => {
    await cluster.start();
    admin = await tokens.sign(caller(userId(1), ["admin"]), 3_600);
    ({ boss, deals } = await openBar(cluster, admin, 1));
    // Several bars, so that every worker owns some of what is sold.
    for (let n = 1; n < 5; n++) deals.push(...(await openBar(cluster, admin, 1)).deals);
    shoppers = await Promise.all(Array.from({ length: SHOPPERS }, (_, n) => shopper(cluster, tokens, n)));
  });
  after(async () => {
    await cluster.stop();
    rmSync(dataDir, { recursive: true, force: true });
  });

  function dealOf(bar: number): Id {
    const deal = deals[bar];
    assert.ok(deal, "every bar has a deal");
    return deal;
  }

  /** The node a deal's calls go to. */
  async function ownerOf(deal: Id): Promise<string> {
    const { slot } = shardOf(deal);
    const { items } = await expect<{ items: { city: string; slot: number; owner: string }[] }>(
      200,
      cluster.insist("GET", "/ops/shards", { token: admin }),
    );
    return items.find((shard) => shard.city === "sh" && shard.slot === slot)?.owner ?? "";
  }

  /** Shops at one deal, does something to a process, and measures how long nobody could buy. `heal` undoes it while people buy. */
  async function under(fault: (worker: string) => Promise<void>, deal: Id, heal = () => Promise.resolve()): Promise<number> {
    const shopping = new Shopping(cluster, shoppers, [deal]);
    await until(async () => shopping.acknowledged.size > 20);
    await fault(await ownerOf(deal));
    shopping.mark();
    await until(async () => shopping.firstAfterMark !== undefined);
    const recoveredMs = shopping.firstAfterMark ?? Number.POSITIVE_INFINITY;
    await heal();
    await sleep(1_000);
    await shopping.end();
    await everyOrderIsThere(cluster, shopping);
    return recoveredMs;
  }

  it("loads the rules of its regions anew on every node, the workers above all", async () => {
    const { items } = await expect<{ items: { node: string; state: string }[] }>(
      200,
      cluster.insist("POST", "/ops/regions/reload", { token: admin }),
    );
    const nodes = [...(await cluster.processes()).keys()].filter((name) => /^(gateway|worker|jobs)-/.test(name));
    assert.deepEqual(
      nodes.filter((name) => !items.some(({ node, state }) => node === name && state === "ACTIVE")),
      [],
    );
  });

  it("takes money by the simpay beside it, whose callbacks come in through nginx", async () => {
    const { token } = await shopper(cluster, tokens, 60);
    const { id } = await expect<{ id: Id }>(201, cluster.insist("POST", "/orders", { token, body: { dealId: dealOf(1), quantity: 1 } }));
    const { payUrl } = await expect<{ payUrl: string }>(
      202,
      cluster.insist("POST", `/orders/${id}/pay`, { token, body: { channel: "simpay" } }),
    );
    assert.equal((await fetch(payUrl, { method: "POST", redirect: "manual" })).status, 303);
    // Sooner than anybody asks: it was told.
    await until(
      async () => ((await cluster.insist("GET", `/orders/${id}`, { token })).body as { status: string }).status === "CONFIRMED",
      8_000,
    );
  });

  it("sells to two strangers who buy together, tells them in a live stream, and serves them at the bar", async () => {
    const deal = dealOf(0);
    const [{ token: first }, { token: second }] = [await shopper(cluster, tokens, 50), await shopper(cluster, tokens, 51)];
    const leaving = new AbortController();
    const stream = await fetch(`${cluster.base}/api/v1/events/stream`, {
      headers: { authorization: `Bearer ${first}`, "last-event-id": "0" },
      signal: leaving.signal,
    });
    assert.equal(stream.status, 200);
    let told = "";
    const reading = (async () => {
      for await (const chunk of stream.body?.pipeThrough(new TextDecoderStream()) ?? []) told += chunk;
    })().catch(() => undefined);
    const open = await expect<{ id: string; groupId: string }>(
      201,
      cluster.insist("POST", "/orders", { token: first, body: { dealId: deal, quantity: 1, groupSize: 2 } }),
    );
    await expect(200, cluster.insist("POST", `/orders/${open.id}/pay`, { token: first, body: { channel: "wallet" } }));
    const join = await expect<{ id: string }>(
      201,
      cluster.insist("POST", "/orders", { token: second, body: { dealId: deal, quantity: 1, groupId: open.groupId } }),
    );
    await expect(200, cluster.insist("POST", `/orders/${join.id}/pay`, { token: second, body: { channel: "wallet" } }));
    const group = await expect<{ status: string }>(200, cluster.ask("GET", `/groups/${open.groupId}`));
    assert.equal(group.status, "FORMED");
    const [voucher] = await expect<{ code: string }[]>(200, cluster.ask("GET", `/orders/${open.id}/vouchers`, { token: first }));
    await expect(200, cluster.insist("POST", "/vouchers/redeem", { token: boss, body: { code: voucher?.code } }));
    // Both come by way of the jobs node: the list of one's orders, and the stream.
    await until(async () => {
      const { items } = await expect<{ items: { id: string }[] }>(200, cluster.ask("GET", "/orders", { token: first }));
      return items.some(({ id }) => id === open.id);
    });
    await until(async () => told.includes(open.id));
    leaving.abort();
    await reading;
  });

  it("speaks TLS 1.3 and nothing older", async () => {
    const { hostname: host, port } = new URL(cluster.base);
    const shake = (version: "TLSv1.2" | "TLSv1.3"): Promise<string> =>
      new Promise((resolve, reject) => {
        const socket = connect(
          { host, port: Number(port), ca: readFileSync(cluster.caFile), minVersion: version, maxVersion: version },
          () => {
            resolve(socket.getProtocol() ?? "");
            socket.destroy();
          },
        );
        socket.once("error", reject);
      });
    assert.equal(await shake("TLSv1.3"), "TLSv1.3");
    await assert.rejects(shake("TLSv1.2"), { code: "ERR_SSL_TLSV1_ALERT_PROTOCOL_VERSION" });
  });

  it("goes on within 6 s when the worker that owns a shard is killed", async (t) => {
    const ms = await under(async (worker) => void (await cluster.command("kill", worker)), dealOf(1));
    t.diagnostic(`first success after ${Math.round(ms)} ms`);
    assert.ok(ms < RECOVERED_MS_MAX, `first success after ${ms} ms`);
  });

  it("goes on within 6 s when that worker stops in the middle of its work, and is not wrong when it goes on", async (t) => {
    const goesOn = Promise.withResolvers<undefined>();
    const ms = await under(
      async (worker) => {
        const stopped = await cluster.pidOf(worker);
        process.kill(stopped, "SIGSTOP");
        setTimeout(() => {
          process.kill(stopped, "SIGCONT");
          goesOn.resolve(undefined);
        }, 8_000);
      },
      dealOf(2),
      () => goesOn.promise,
    );
    t.diagnostic(`first success after ${Math.round(ms)} ms`);
    assert.ok(ms < RECOVERED_MS_MAX, `first success after ${ms} ms`);
  });

  it("goes on within 6 s when a gateway is killed", async (t) => {
    const ms = await under(async () => void (await cluster.command("kill", "gateway-1")), dealOf(3));
    t.diagnostic(`first success after ${Math.round(ms)} ms`);
    assert.ok(ms < RECOVERED_MS_MAX, `first success after ${ms} ms`);
  });

  it("has kept every invariant through all that", () => everythingHolds(cluster, admin, new Shopping(cluster, [], deals)));

  it("stays right when two workers drain one shard at once", async () => {
    const stock = 400;
    const { deals: own } = await openBar(cluster, admin, 1, stock);
    const [deal] = own;
    assert.ok(deal, "the bar has a deal");
    const node = await joined(cluster);
    try {
      // Each of 2 x 300 buyers asks for one; every second one is sent to the wrong worker.
      const outcomes = await Promise.all(
        Array.from({ length: 600 }, async (_, n) => {
          const meta = { caller: caller(userId(n + 1_000)), requestId: "test", idempotencyKey: randomUUID(), bodyHash: "00".repeat(32) };
          await sleep(n * 4);
          const order = { dealId: deal, quantity: 1 };
          return call(node.broker, placeOrder, order, { meta, nodeID: `worker-${1 + (n % 2)}` }).then(
            () => "sold",
            (error: { type?: string }) => error.type ?? "?",
          );
        }),
      );
      const count = (outcome: string): number => outcomes.filter((one) => one === outcome).length;
      assert.deepEqual(
        [...new Set(outcomes)].filter((one) => !["sold", "SOLD_OUT", "OVERLOADED"].includes(one)),
        [],
      );
      const { stock: left } = await expect<{ stock: { available: number; held: number } }>(200, cluster.ask("GET", `/deals/${deal}`));
      assert.equal(left.held, count("sold"), "what was sold is held");
      assert.equal(left.available, stock - count("sold"));
    } finally {
      await node.stop();
    }
    await everythingHolds(cluster, admin, new Shopping(cluster, [], deals));
  });

  it("is restarted node by node, and nobody hears more than `try again`", async (t) => {
    const shopping = new Shopping(cluster, shoppers, deals);
    const startedMs = performance.now();
    await cluster.command("restart");
    await sleep(500);
    await shopping.end();
    const later = shopping.statuses.get(503) ?? 0;
    t.diagnostic(`${shopping.requests} requests in ${Math.round(performance.now() - startedMs)} ms, ${later} of them 503`);
    assert.deepEqual(shopping.failures, []);
    assert.ok(later <= shopping.requests * 0.005, `${later} of ${shopping.requests} were told to try again`);
    await everythingHolds(cluster, admin, shopping);
  });

  it("takes a worker in, gives it its shards, and lets it go again, and nobody who buys hears of it", async () => {
    const owners = async (): Promise<Set<string>> => {
      const { items } = await expect<{ items: { owner: string }[] }>(200, cluster.insist("GET", "/ops/shards", { token: admin }));
      return new Set(items.map(({ owner }) => owner));
    };
    const shopping = new Shopping(cluster, shoppers, deals);
    assert.match(await cluster.command("add", "worker"), /^worker-4 serves$/m);
    await until(async () => (await owners()).has("worker-4"));
    assert.equal((await cluster.processes()).get("worker-4")?.state, "running");
    await until(async () => shopping.acknowledged.size > 20);
    assert.match(await cluster.command("stop", "worker-4"), /^worker-4 has stopped/m);
    await until(async () => !(await owners()).has("worker-4"));
    await shopping.end();
    assert.deepEqual(shopping.failures, []);
    await everyOrderIsThere(cluster, shopping);
  });

  it("comes back with everything after kill -9 of the supervisor and every node, and stops cleanly", async () => {
    const shopping = new Shopping(cluster, shoppers.slice(0, 4), deals);
    await until(async () => shopping.acknowledged.size > 10).catch(async (error: unknown) => {
      await shopping.end();
      throw error;
    });
    const processes = await cluster.processes();
    const ended = shopping.end();
    await cluster.kill();
    for (const [name, { pid }] of processes) if (/^(worker|gateway|jobs)/.test(name) && birthOf(pid) !== "") process.kill(pid, "SIGKILL");
    // nats, redis and nginx are left running: the next start has to find and end them.
    await cluster.start();
    await ended;
    await everythingHolds(cluster, admin, shopping);
    const now = await cluster.processes();
    assert.equal(await cluster.stop(), 0);
    assert.deepEqual(
      [...now].filter(([, { pid }]) => birthOf(pid) !== "").map(([name]) => name),
      [],
      "nothing is left running",
    );
  });

  it("knows its tokens from others, and counts guesses at all its gateways together, whatever a client says of its address", async () => {
    await cluster.stop();
    const limited = new ClusterServer({ ...environment, RATE_LIMITS: "on" });
    await limited.start();
    try {
      const boss = caller(userId(1), ["admin"]);
      const forged = await makeTokens("the secret of somebody else, long enough").sign(boss, 3_600);
      const statuses: [string | undefined, number][] = [
        [undefined, 401],
        [forged, 401],
        [await tokens.sign(boss, -10), 401],
        [await tokens.sign(caller(userId(2)), 3_600), 403],
        [admin, 200],
      ];
      for (const [token, status] of statuses)
        assert.equal((await limited.ask("GET", "/ops/shards", token === undefined ? {} : { token })).status, status);

      const guess = (base: string, n = 0): Promise<number> =>
        fetch(`${base}/api/v1/auth/login`, {
          method: "POST",
          headers: { "content-type": "application/json", ...(n > 0 ? { "x-forwarded-for": `203.0.113.${n}` } : {}) },
          body: JSON.stringify({ username: "admin", password: "a wrong password" }),
        }).then(({ status }) => status);
      const answers: number[] = [];
      for (let n = 1; n <= RATES.loginGuess; n++) answers.push(await guess(limited.base, n));
      assert.deepEqual(new Set(answers), new Set([401]));
      assert.equal(await guess(limited.base, 99), 429);
      for (const [name, { port }] of await limited.processes())
        if (name.startsWith("gateway-")) assert.equal(await guess(`http://127.0.0.1:${port}`), 429, name);
    } finally {
      await limited.stop();
    }
  });
});
