/** Every form of Redis URL, against the real thing: single servers, sentinels, a cluster. */
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { spawn } from "node:child_process";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, describe, it, test } from "node:test";
import { Redis } from "ioredis";
import { freePort } from "../../scripts/free-ports.ts";
import { findServer } from "../../scripts/servers.ts";
import { Background } from "../../mixins/background.ts";
import { Limiter } from "../../mixins/limiter.ts";
import { parseRedisUrl, RedisLink, RedisUrlError } from "../../mixins/redis.ts";
import { RedisStockGate } from "../../mixins/stock-gate.redis.ts";
import { Limits } from "../../services/gateway/limits.ts";
import type { Exchange } from "../../services/gateway/exchange.ts";
import { DomainError } from "../../domain/error.ts";
import { RedisServer } from "../support/redis.ts";
import { stockGateConformance } from "../support/stock-gate.ts";
import { until } from "../support/until.ts";

const quiet = { warn: () => undefined } as never;
const linkTo = async (url: string): Promise<RedisLink> => {
  const link = new RedisLink(url, { failed: () => undefined }, quiet);
  await until(async () => link.usable);
  return link;
};

test("a URL says what kind of Redis, where, and as whom", () => {
  assert.deepEqual(parseRedisUrl("redis://localhost"), { kind: "single", nodes: [{ host: "localhost", port: 6379 }], db: 0, tls: false });
  assert.deepEqual(parseRedisUrl("rediss://me:p%40ss@[::1]:7000/3"), {
    kind: "single",
    nodes: [{ host: "::1", port: 7000 }],
    username: "me",
    password: "p@ss",
    db: 3,
    tls: true,
  });
  assert.deepEqual(parseRedisUrl("redis+sentinel://:secret@a,b:26380/main/2"), {
    kind: "sentinel",
    nodes: [
      { host: "a", port: 26379 },
      { host: "b", port: 26380 },
    ],
    master: "main",
    password: "secret",
    db: 2,
    tls: false,
  });
  assert.equal(parseRedisUrl("redis+cluster://a,b:7001").nodes.length, 2);
  for (const bad of [
    "",
    "http://a",
    "redis://",
    "redis://a,b",
    "redis+sentinel://a",
    "redis+cluster://a/1",
    "redis://a/x",
    "redis://a/1/2",
    "redis://a b",
  ])
    assert.throws(() => parseRedisUrl(bad), RedisUrlError, bad);
});

describe("a Redis Cluster of three", async () => {
  const servers = await Promise.all([0, 1, 2].map(() => RedisServer.start(["--cluster-enabled", "yes"])));
  for (const [n, server] of servers.entries()) {
    const [from, to] = [Math.floor((16_384 * n) / 3), Math.floor((16_384 * (n + 1)) / 3) - 1];
    await server.command("cluster", "addslotsrange", String(from), String(to));
    await server.command("cluster", "meet", "127.0.0.1", String(servers[0]?.port));
  }
  await until(async () => {
    const states = await Promise.all(servers.map((server) => server.command("cluster", "info")));
    return states.every((state) => String(state).includes("cluster_state:ok") && String(state).includes("cluster_known_nodes:3"));
  });
  const link = await linkTo(`redis+cluster://${servers.map(({ port }) => `127.0.0.1:${port}`).join(",")}`);
  const gate = new RedisStockGate(link);
  after(async () => {
    await gate.close();
    await link.close();
    await Promise.all(servers.map((server) => server.stop()));
  });
  stockGateConformance(() => gate);
  limitsHold(() => link);
});

describe("a master that sentinels watch", async () => {
  const master = await RedisServer.start();
  const replica = await RedisServer.start(["--replicaof", "127.0.0.1", String(master.port)]);
  const dir = mkdtempSync(join(tmpdir(), "tuanbar-sentinel-"));
  const program = await findServer("redis-server");
  const sentinels = await Promise.all(
    [1, 2, 3].map(async (n) => {
      const port = await freePort();
      const config = join(dir, `sentinel-${n}.conf`);
      writeFileSync(
        config,
        `port ${port}\nbind 127.0.0.1\ndir ${dir}\nsentinel monitor main 127.0.0.1 ${master.port} 2\n` +
          "sentinel down-after-milliseconds main 500\nsentinel failover-timeout main 1500\n",
      );
      return { port, process: spawn(program, [config, "--sentinel"], { stdio: "ignore" }) };
    }),
  );
  const link = await linkTo(`redis+sentinel://${sentinels.map(({ port }) => `127.0.0.1:${port}`).join(",")}/main`);
  after(async () => {
    await link.close();
    for (const { process: sentinel } of sentinels) {
      const exited = new Promise((resolve) => sentinel.once("exit", resolve));
      sentinel.kill("SIGKILL");
      await exited;
    }
    await master.stop();
    await replica.stop();
    rmSync(dir, { recursive: true, force: true });
  });

  const roleOf = async (server: RedisServer): Promise<unknown> => ((await server.command("role").catch(() => [])) as unknown[])[0];
  const writes = (): Promise<boolean> =>
    link
      .run((client) => client.set("written", "yes"))
      .then(
        () => true,
        () => false,
      );
  /** Where the sentinels know each other and the replica, so that they can agree on it. */
  const areReady = async (): Promise<boolean> => {
    const [, ...facts] = String(await askSentinel("info", "sentinel")).split("master0:");
    return /slaves=1,sentinels=3/.test(facts.join());
  };
  const askSentinel = async (...words: [string, ...string[]]): Promise<unknown> => {
    const client = new Redis(sentinels[0]?.port ?? 0, "127.0.0.1");
    try {
      return await client.call(...words);
    } finally {
      client.disconnect();
    }
  };

  it("is found through them", async () => {
    assert.ok(await writes());
    assert.equal(await roleOf(master), "master");
  });

  it("is another one when it is killed: nobody waits for it, and the link follows by itself", async () => {
    await until(areReady);
    await master.kill();
    let slowestMs = 0;
    await until(async () => {
      const startedMs = performance.now();
      const written = await writes();
      slowestMs = Math.max(slowestMs, performance.now() - startedMs);
      return written && (await roleOf(replica)) === "master";
    });
    assert.ok(slowestMs < 250, `the slowest waited ${slowestMs} ms`);
  });

  it("is the first again when the other is frozen, and what was frozen gets nothing any more", async () => {
    await master.restart();
    // Sentinels look at a server that is well every ten seconds.
    await until(areReady, 40_000);
    replica.freeze();
    await until(async () => (await writes()) && (await roleOf(master)) === "master");
    replica.thaw();
    await until(async () => (await roleOf(replica)) === "slave", 40_000);
    assert.ok(await writes());
    assert.equal(await master.command("get", "written"), "yes");
  });
});

/** Limits of two gateways on one Redis. */
function limitsHold(linkOf: () => RedisLink): void {
  const take = async (limits: Limits, key: string): Promise<boolean> => {
    try {
      await limits.take("user", key, { limitHeaders: [] } as unknown as Exchange);
      return true;
    } catch (error) {
      assert.ok(error instanceof DomainError && error.type === "RATE_LIMITED", String(error));
      return false;
    }
  };
  it("counts requests of all gateways together", async () => {
    const [one, two] = [new Limits({ user: 10 }, linkOf()), new Limits({ user: 10 }, linkOf())];
    const key = randomUUID();
    const answers = [];
    for (let n = 0; n < 8; n++) answers.push(await take(one, key), await take(two, key));
    assert.equal(answers.filter(Boolean).length, 10);
  });

  it("paces the calls of all nodes to one channel together", async () => {
    const perSecond = 10;
    const key = randomUUID();
    const node = (): Background => {
      const limiter = new Limiter({ name: "channel", points: perSecond, seconds: 1 }, linkOf());
      return new Background({ atOnceMax: 16, limiter, key }, (_, error) => assert.fail(String(error)));
    };
    const nodes = [node(), node(), node()];
    const begunMs: number[] = [];
    for (let n = 0; n < 30; n++) nodes[n % 3]?.add(`refund ${n}`, () => Promise.resolve(begunMs.push(performance.now())));
    await until(async () => begunMs.length === 30);
    await Promise.all(nodes.map((one) => one.stop()));
    for (const from of begunMs) assert.ok(begunMs.filter((ms) => ms >= from && ms < from + 950).length <= 2 * perSecond);
    assert.ok((begunMs.at(-1) ?? 0) - (begunMs[0] ?? 0) > 1_000, "30 calls at 10 a second end in the third second");
  });
}

describe("limits on a Redis that dies", async () => {
  const server = await RedisServer.start();
  const link = await linkTo(server.url);
  after(async () => {
    await link.close();
    await server.stop();
  });
  limitsHold(() => link);

  it("are counted by each gateway while it does not answer, and nobody waits for it", async () => {
    const limits = new Limits({ user: 10 }, link);
    const key = randomUUID();
    server.freeze();
    let slowestMs = 0;
    let granted = 0;
    for (let n = 0; n < 30; n++) {
      const startedMs = performance.now();
      const answer = await limits.take("user", key, { limitHeaders: [] } as unknown as Exchange).then(
        () => true,
        () => false,
      );
      granted += answer ? 1 : 0;
      slowestMs = Math.max(slowestMs, performance.now() - startedMs);
    }
    server.thaw();
    assert.equal(granted, 10);
    assert.ok(slowestMs < 250, `the slowest waited ${slowestMs} ms`);
    await until(async () => link.usable && (await link.run((client) => client.ping()).catch(() => "")) === "PONG");
  });
});
