import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { DomainError } from "../domain/error.ts";
import { shardOf, type Id } from "../domain/ids.ts";
import { LIMITS } from "../domain/limits.ts";
import { cancelOrder, getOrder, placeOrder } from "../services/order/order.contract.ts";
import { makeDeal, userId } from "./support/deals.ts";
import { callAs, caller, testNode, type TestNode } from "./support/node.ts";
import { until } from "./support/until.ts";

const refused = (code: string) => (error: unknown) => error instanceof DomainError && error.type === code;
const codeOf = (result: PromiseSettledResult<unknown>): string =>
  result.status === "fulfilled" ? "ok" : result.reason instanceof DomainError ? result.reason.type : String(result.reason);
const tally = (results: readonly PromiseSettledResult<unknown>[]): Record<string, number> => {
  const counts: Record<string, number> = {};
  for (const result of results) counts[codeOf(result)] = (counts[codeOf(result)] ?? 0) + 1;
  return counts;
};

describe("ordering", () => {
  let test: TestNode;
  before(async () => {
    test = await testNode(["order"]);
  });
  after(() => test.stop());
  const place = (deal: Id, user: string, of: { quantity?: number; groupSize?: number; groupId?: Id } = {}, key?: string) => {
    const { quantity = 1, ...group } = of;
    return callAs(test.node, placeOrder, { dealId: deal, quantity, ...group }, caller(user), key);
  };
  const stockOf = async (deal: Id) => {
    const shard = shardOf(deal);
    const [row] = await test.node.platform.databaseOf(shard).query<{ total: number; held: number; sold: number }>(
      {
        name: "test/stock",
        text: "select sum(total)::integer as total, sum(held)::integer as held, sum(sold)::integer as sold from stock where slot = $1 and deal_id = $2",
      },
      [shard.slot, deal],
    );
    return row;
  };

  it("sells 50 units to 200 shoppers who race for them, and not one more", async () => {
    const deal = await makeDeal(test, { stock: 50 });
    const results = await Promise.allSettled(Array.from({ length: 200 }, (_, n) => place(deal, userId(n))));
    assert.deepEqual(tally(results), { ok: 50, SOLD_OUT: 150 });
    assert.deepEqual(await stockOf(deal), { total: 50, held: 50, sold: 0 });
  });

  it("makes one order of one key used 50 times at once", async () => {
    const deal = await makeDeal(test, { stock: 50 });
    const results = await Promise.all(Array.from({ length: 50 }, () => place(deal, userId(1), {}, "the-key")));
    assert.equal(new Set(results.map((order) => order.id)).size, 1);
    assert.deepEqual(await stockOf(deal), { total: 50, held: 1, sold: 0 });
  });

  it("refuses a key that comes with another body", async () => {
    const deal = await makeDeal(test, { stock: 50 });
    await place(deal, userId(1), {}, "again");
    await assert.rejects(place(deal, userId(1), { quantity: 2 }, "again"), refused("IDEMPOTENCY_KEY_REUSED"));
  });

  it("answers a repeated success although the deal is sold out since", async () => {
    const deal = await makeDeal(test, { stock: 1 });
    const first = await place(deal, userId(1), {}, "mine");
    await assert.rejects(place(deal, userId(2)), refused("SOLD_OUT"));
    await assert.rejects(place(deal, userId(3)), refused("SOLD_OUT"));
    assert.equal((await place(deal, userId(1), {}, "mine")).id, first.id);
  });

  it("holds a seat for everyone who joins, and never one too many", async () => {
    const deal = await makeDeal(test, { stock: 500, tiers: [{ size: 3, price: 1590 }] });
    const opener = await place(deal, userId(1), { groupSize: 3 });
    assert.equal(opener.unitPrice, 1590);
    const groupId = opener.groupId as Id;
    await assert.rejects(place(deal, userId(2), { groupId }), refused("GROUP_NOT_FOUND"));
    await openGroup(test, groupId);
    const results = await Promise.allSettled(Array.from({ length: 100 }, (_, n) => place(deal, userId(n + 10), { groupId })));
    assert.deepEqual(tally(results), { ok: 2, GROUP_FULL: 98 });
  });

  it("refuses a second seat in one group, and a size no tier has", async () => {
    const deal = await makeDeal(test, { stock: 500, tiers: [{ size: 3, price: 1590 }] });
    const opener = await place(deal, userId(1), { groupSize: 3 });
    await openGroup(test, opener.groupId as Id);
    await assert.rejects(place(deal, userId(1), { groupId: opener.groupId as Id }), refused("ALREADY_IN_GROUP"));
    await assert.rejects(place(deal, userId(1), { groupSize: 4 }), refused("NO_SUCH_TIER"));
  });

  it("counts all deals of a merchant as one merchant's share of the mailbox", async () => {
    const first = await makeDeal(test, { stock: 5_000 });
    const second = await makeDeal(test, { stock: 5_000, sibling: first });
    await Promise.all([place(first, userId(1)), place(second, userId(1))]);
    const share = LIMITS.mailboxMerchantCommandsMax;
    const results = await Promise.allSettled(
      Array.from({ length: share + 100 }, (_, n) => place(n % 2 === 0 ? first : second, userId(n + 10))),
    );
    assert.deepEqual(tally(results), { ok: share, OVERLOADED: 100 });
  });

  it("counts units per user and unpaid orders per merchant, and gives both back", async () => {
    const limited = await makeDeal(test, { stock: 50, perUserLimit: 3 });
    const first = await place(limited, userId(1), { quantity: 2 });
    await assert.rejects(place(limited, userId(1), { quantity: 2 }), refused("USER_LIMIT_EXCEEDED"));
    const cancelled = await callAs(test.node, cancelOrder, { id: first.id }, caller(userId(1)));
    assert.equal(cancelled.status, "CANCELLED");
    await place(limited, userId(1), { quantity: 3 });

    const free = await makeDeal(test, { stock: 50 });
    const results = await Promise.allSettled(Array.from({ length: 7 }, () => place(free, userId(2))));
    assert.deepEqual(tally(results), { ok: 5, TOO_MANY_UNPAID: 2 });
  });

  it("serves an order that no single bucket could, from several together", async () => {
    const deal = await makeDeal(test, { stock: 12, buckets: 4 });
    const order = await place(deal, userId(1), { quantity: 10 });
    assert.equal(order.quantity, 10);
    assert.deepEqual(await stockOf(deal), { total: 12, held: 10, sold: 0 });
    await assert.rejects(place(deal, userId(2), { quantity: 3 }), refused("SOLD_OUT"));
    await place(deal, userId(3), { quantity: 2 });
  });

  it("does not tell that somebody else's order exists", async () => {
    const deal = await makeDeal(test, { stock: 5 });
    const order = await place(deal, userId(1));
    assert.equal((await callAs(test.node, getOrder, { id: order.id }, caller(userId(1)))).id, order.id);
    await assert.rejects(callAs(test.node, getOrder, { id: order.id }, caller(userId(2))), refused("ORDER_NOT_FOUND"));
    await assert.rejects(callAs(test.node, cancelOrder, { id: order.id }, caller(userId(2))), refused("ORDER_NOT_FOUND"));
    await assert.rejects(callAs(test.node, getOrder, { id: "4096" as Id }, caller(userId(2))), refused("ORDER_NOT_FOUND"));
  });

  it("expires what nobody pays, and gives stock, seat and counters back", async () => {
    const deal = await makeDeal(test, { stock: 5, perUserLimit: 1, tiers: [{ size: 2, price: 1500 }] });
    const order = await place(deal, userId(1), { groupSize: 2 });
    const shard = shardOf(order.id);
    await test.node.platform
      .databaseOf(shard)
      .query({ name: "test/age", text: "update orders set expires_at = now() - interval '1 second' where slot = $1 and id = $2" }, [
        shard.slot,
        order.id,
      ]);
    await until(async () => (await callAs(test.node, getOrder, { id: order.id }, caller(userId(1)))).status === "EXPIRED");
    assert.deepEqual(await stockOf(deal), { total: 5, held: 0, sold: 0 });
    await place(deal, userId(1), { groupSize: 2 });
  });
});

async function openGroup(test: TestNode, groupId: Id): Promise<void> {
  const shard = shardOf(groupId);
  await test.node.platform.databaseOf(shard).query(
    {
      name: "test/open",
      text: "update groups set state = 'OPEN', held = held - 1, taken = taken + 1, deadline = now() + interval '1 hour' where slot = $1 and id = $2",
    },
    [shard.slot, groupId],
  );
}
