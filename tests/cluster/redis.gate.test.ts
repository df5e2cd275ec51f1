import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { DomainError } from "../../domain/error.ts";
import { composeId } from "../../domain/ids.ts";
import { LIMITS } from "../../domain/limits.ts";
import { RedisLink } from "../../mixins/redis.ts";
import { FRESH_MS } from "../../mixins/stock-gate.ts";
import { RedisStockGate } from "../../mixins/stock-gate.redis.ts";
import { RedisServer } from "../support/redis.ts";
import { stockGateConformance } from "../support/stock-gate.ts";
import { until } from "../support/until.ts";

const quiet = { warn: () => undefined } as never;
const deal = composeId({ ms: 1_781_000_000_000, sequence: 0, city: 1, slot: 3 });
const fact = (available: number, version: number) => ({ dealId: deal, bucket: 0, available, version, of: 1 });

describe("the stock gate in Redis", () => {
  let redis: RedisServer;
  let link: RedisLink;
  let gate: RedisStockGate;
  const failures: string[] = [];
  const connected = async (): Promise<void> => {
    link = new RedisLink(redis.url, { failed: (kind) => failures.push(kind) }, quiet);
    gate = new RedisStockGate(link);
    await until(async () => link.usable);
  };
  before(async () => {
    redis = await RedisServer.start();
    await connected();
  });
  after(async () => {
    await gate.close();
    await link.close();
    await redis.stop();
  });
  stockGateConformance(() => gate);

  it("puts no end on live stock", async () => {
    gate.note([fact(5, 1)]);
    await gate.enter({ dealId: deal, requestId: "a", quantity: 1 });
    for (const key of (await redis.command("keys", `*${deal}*`)) as string[]) assert.equal(await redis.command("ttl", key), -1, key);
  });

  it("keeps a shard's keys on one node of a Redis Cluster", async () => {
    const slots = new Set<unknown>();
    for (const key of (await redis.command("keys", `*${deal}*`)) as string[])
      slots.add(await redis.command("cluster", "keyslot", key).catch(() => key.slice(0, key.indexOf("}"))));
    assert.equal(slots.size, 1);
  });

  it("shares what it knows with every node that asks", async () => {
    const other = new RedisLink(redis.url, { failed: () => undefined }, quiet);
    const elsewhere = new RedisStockGate(other);
    await until(async () => other.usable);
    gate.note([fact(2, 100)]);
    await sleep(20);
    assert.equal(await elsewhere.enter({ dealId: deal, requestId: "there", quantity: 3 }), 2);
    await elsewhere.close();
    await other.close();
  });

  it("forgets those inside whose node died", async () => {
    gate.note([fact(1, 200)]);
    await sleep(20);
    await redis.command("hset", `{1/3}gate:${deal}`, "entered", "1000");
    await redis.command("zadd", `{1/3}gate:${deal}:in`, "1", "1000:of-a-dead-node");
    assert.equal(await gate.enter({ dealId: deal, requestId: "next", quantity: 1 }), undefined);
  });

  it("is right again after a Redis that remembers an older day", async () => {
    gate.note([fact(0, 300)]);
    await sleep(20);
    // Stock resurrected from an old snapshot, confirmed long ago.
    await redis.command("hset", `{1/3}gate:${deal}`, "b0", "50", "left", "50", "v0", "12", "fresh", "1");
    await gate.repair([fact(0, 300)]);
    assert.equal(await gate.enter({ dealId: deal, requestId: "x", quantity: 1 }), 0);
  });

  it("lets a few in when its memory is gone, and tells the others to come again", async () => {
    await redis.command("flushall");
    const knock = (n: number) => ({ dealId: deal, requestId: `flood-${n}`, quantity: 1 });
    const results = await Promise.allSettled(Array.from({ length: LIMITS.gateCrowdMax + 100 }, (_, n) => gate.enter(knock(n))));
    const refused = results.filter((result) => result.status === "rejected");
    assert.equal(refused.length, 100);
    assert.ok(refused.every(({ reason }) => reason instanceof DomainError && reason.type === "OVERLOADED"));
    assert.ok(gate.isMissing);
    for (let n = 0; n < results.length; n++) gate.leave(knock(n));
  });

  for (const [what, breakIt, mendIt] of [
    ["frozen", () => redis.freeze(), () => redis.thaw()],
    ["killed", () => redis.kill(), () => redis.restart()],
    ["made a replica", () => redis.command("replicaof", "127.0.0.1", "1"), () => redis.command("replicaof", "no", "one")],
    [
      "full",
      async () => {
        await redis.command("config", "set", "maxmemory-policy", "noeviction");
        await redis.command("config", "set", "maxmemory", "1mb");
      },
      () => redis.command("config", "set", "maxmemory", "0"),
    ],
  ] as const) {
    it(`keeps nobody waiting while Redis is ${what}, refuses nobody, and is back by itself`, async () => {
      gate.note([fact(0, 1_000)]);
      await sleep(20);
      failures.length = 0;
      await breakIt();
      let slowestMs = 0;
      for (let n = 0; n < 40; n++) {
        const startedMs = performance.now();
        const entry = { dealId: deal, requestId: `${what}-${n}`, quantity: 1 };
        // The first may still be refused by what Redis knew when it broke.
        await gate.enter(entry);
        gate.leave(entry);
        slowestMs = Math.max(slowestMs, performance.now() - startedMs);
        await sleep(5);
      }
      assert.ok(slowestMs < 250, `the slowest waited ${slowestMs} ms`);
      await sleep(FRESH_MS);
      assert.equal(await gate.enter({ dealId: deal, requestId: `${what}-last`, quantity: 1 }), undefined);
      assert.ok(failures.length > 0, "it was counted");
      await mendIt();
      await until(async () => {
        gate.note([fact(0, 1_000)]);
        await sleep(20);
        return (await gate.enter({ dealId: deal, requestId: `${what}-after-${performance.now()}`, quantity: 1 })) !== undefined;
      }, 10_000);
    });
  }
});
