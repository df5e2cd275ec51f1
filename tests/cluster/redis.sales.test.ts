/** Redis may fail in any way it likes: sales go on, nothing is oversold, and units that come back are sold. */
import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { DomainError } from "../../domain/error.ts";
import type { Id } from "../../domain/ids.ts";
import { shardOf } from "../../domain/ids.ts";
import { RedisStockGate } from "../../mixins/stock-gate.redis.ts";
import { verify } from "../../services/ops/ops.contract.ts";
import { cancelOrder, placeOrder } from "../../services/order/order.contract.ts";
import { makeDeal, userId } from "../support/deals.ts";
import { callAs, caller, testNode, type TestNode } from "../support/node.ts";
import { RedisServer } from "../support/redis.ts";
import { until } from "../support/until.ts";

const STOCK = 200;
const SHOPPERS = 800;

describe("selling with the stock gate in Redis", () => {
  let redis: RedisServer;
  let test: TestNode;
  let people = 0;
  before(async () => {
    redis = await RedisServer.start();
    test = await testNode(["stock", "group", "order", "ops"], {}, { redisUrl: redis.url });
    await until(async () => test.node.platform.redis?.usable === true);
  });
  after(async () => {
    await test.stop();
    await redis.stop();
  });

  /** What a careful client does: later is later, everything else is an answer. */
  const insist = async (deal: Id, user: Id): Promise<string> => {
    for (;;) {
      try {
        return (await callAs(test.node, placeOrder, { dealId: deal, quantity: 1 }, caller(user), `${user}-only`)).id;
      } catch (error) {
        assert.ok(error instanceof DomainError, String(error));
        if (!error.retryable) return error.type;
        await sleep(20);
      }
    }
  };
  const stockOf = async (deal: Id) =>
    (
      await test.node.platform.databaseOf(shardOf(deal)).query<{ held: number; available: number }>(
        {
          name: "test/gate-stock",
          text: "select sum(held)::integer as held, sum(total - held - sold)::integer as available from stock where slot = $1 and deal_id = $2",
        },
        [shardOf(deal).slot, deal],
      )
    )[0];

  const faults: readonly (readonly [string, () => unknown, () => unknown])[] = [
    ["well", () => undefined, () => undefined],
    ["emptied", () => redis.command("flushall"), () => undefined],
    ["frozen", () => redis.freeze(), () => redis.thaw()],
    ["killed", () => redis.kill(), () => redis.restart()],
    ["made a replica", () => redis.command("replicaof", "127.0.0.1", "1"), () => redis.command("replicaof", "no", "one")],
    ["full", () => redis.command("config", "set", "maxmemory", "1mb"), () => redis.command("config", "set", "maxmemory", "0")],
  ];
  for (const [what, breakIt, mendIt] of faults) {
    it(`sells exactly what there is to a stampede while Redis is ${what}`, async () => {
      const deal = await makeDeal(test, { stock: STOCK, buckets: 4 });
      await callAs(test.node, placeOrder, { dealId: deal, quantity: 1 }, caller(userId(++people)));
      const shoppers = Array.from({ length: SHOPPERS }, () => userId(++people));
      const startedMs = performance.now();
      const first = shoppers.slice(0, 100).map((user) => insist(deal, user));
      await breakIt();
      const answers = await Promise.all([...first, ...shoppers.slice(100).map((user) => insist(deal, user))]);
      const tookMs = performance.now() - startedMs;
      const orders = new Set(answers.filter((answer) => /^\d+$/.test(answer)));
      assert.equal(orders.size, STOCK - 1);
      assert.equal(answers.filter((answer) => answer === "SOLD_OUT").length, SHOPPERS - STOCK + 1);
      assert.deepEqual(await stockOf(deal), { held: STOCK, available: 0 });
      // Only so that a stall shows: alone, all this takes about a second.
      assert.ok(tookMs < 20_000, `it took ${tookMs} ms`);
      await mendIt();

      // A unit that comes back is sold, whatever Redis remembers.
      const [order, owner] = [answers.find((answer) => /^\d+$/.test(answer)), answers.findIndex((answer) => /^\d+$/.test(answer))];
      await callAs(test.node, cancelOrder, { id: order as Id }, caller(shoppers[owner] ?? ""));
      const backMs = performance.now();
      const late = userId(++people);
      await until(async () => /^\d+$/.test(await insist(deal, late)));
      assert.ok(performance.now() - backMs < 1_500, `sold after ${performance.now() - backMs} ms`);
      assert.deepEqual(await stockOf(deal), { held: STOCK, available: 0 });
    });
  }

  it("hears of every deal on sale again after Redis was emptied, without anybody ordering it", async () => {
    const gate = test.node.platform.stockGate;
    assert.ok(gate instanceof RedisStockGate);
    const [asked, other] = [await makeDeal(test, { stock: 7 }), await makeDeal(test, { stock: 9 })];
    await until(async () => test.node.platform.redis?.usable === true);
    await redis.command("flushall");
    await insist(asked, userId(++people));
    const key = `{1/${shardOf(other).slot}}gate:${other}`;
    await until(async () => (await redis.command("hget", key, "left")) === "9");
  });

  it("adds up", async () => {
    const { checks } = await callAs(test.node, verify, {}, caller("16", ["admin"]));
    assert.deepEqual(
      checks.filter(({ ok, name }) => !ok && name !== "events.order-index"),
      [],
    );
  });
});
