import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { cityOf, shardOf, type Id, type RefundId } from "../domain/ids.ts";
import { call } from "../mixins/contract.ts";
import { getOrder } from "../services/order/order.contract.ts";
import { confirmWallets, listWalletTransfers, tryWallets } from "../services/wallet/wallet.contract.ts";
import { makeDeal } from "./support/deals.ts";
import { callAs, caller } from "./support/node.ts";
import { eventually, Shop } from "./support/shop.ts";

describe("refunding", () => {
  let shop: Shop;
  before(async () => {
    shop = await Shop.open();
  });
  after(() => shop.close());
  const status = async (order: { id: Id }, user: Id) => (await callAs(shop.test.node, getOrder, { id: order.id }, caller(user))).status;

  /** A group of `size` of which `paid` have paid, and its orders. */
  const group = async (size: number, paid: number, of: { perUserLimit?: number; city?: number } = {}) => {
    const deal = await makeDeal(shop.test, { stock: 100, price: 2_000, tiers: [{ size, price: 1_500 }], ...of });
    const users = await Promise.all(Array.from({ length: paid }, () => shop.person(5_000)));
    const opening = await shop.order(deal, users[0]!, { groupSize: size, quantity: 2 });
    await shop.pay(opening, users[0]!);
    const groupId = opening.groupId as Id;
    const joins = await Promise.all(users.slice(1).map((user) => shop.order(deal, user, { groupId, quantity: 2 })));
    await Promise.all(joins.map((order, index) => shop.pay(order, users[index + 1]!)));
    return { deal, groupId, users, orders: [opening, ...joins] };
  };
  const pass = (groupId: Id) => shop.rows(groupId, "update groups set deadline = now() where slot = $1 and id = $2", [groupId]);

  it("gives everybody of a failed group all of their money back, unasked", async () => {
    const { deal, groupId, users, orders } = await group(5, 4, { perUserLimit: 2 });
    await shop.settled();
    for (const user of users) assert.equal((await shop.wallet(user)).available, 2_000);
    await pass(groupId);
    await eventually(async () =>
      assert.deepEqual(await Promise.all(orders.map((order, index) => status(order, users[index]!))), new Array(4).fill("REFUNDED")),
    );
    assert.equal(await shop.stateOf("groups", groupId), "FAILED");
    for (const user of users) assert.deepEqual(await shop.wallet(user), { available: 5_000, frozen: 0, currency: "CNY" });
    const [move] = (await callAs(shop.test.node, listWalletTransfers, {}, caller(users[0]!))).items;
    assert.deepEqual([move?.direction, move?.code, move?.amount, move?.orderId], ["in", "refund", 3_000, orders[0]?.id]);
    assert.deepEqual(await shop.vouchers(orders[0]!, users[0]!), []);
    // Units and counters are back: whoever was at the limit may buy again.
    assert.equal((await shop.order(deal, users[1]!, { quantity: 2 })).status, "PENDING_PAYMENT");
    await shop.addsUp();
  });

  it("is heard of at once: each refund is requested once and succeeds once", async () => {
    const { groupId, users, orders } = await group(3, 2);
    await pass(groupId);
    await eventually(async () => assert.equal(await status(orders[1]!, users[1]!), "REFUNDED"));
    for (const { id } of orders) {
      const events = await shop.rows<{ type: string }>(
        id,
        "select type from events where slot = $1 and data ->> 'orderId' = $2 and type like 'refund.%' order by id",
        [id],
      );
      assert.deepEqual(
        events.map(({ type }) => type),
        ["refund.requested", "refund.succeeded"],
      );
    }
  });

  /** Stops a refund at a step: nobody drives it but the test, because it is not due. */
  const stopped = async () => {
    const { groupId, users, orders } = await group(3, 1, { city: 3 });
    const order = orders[0]!;
    const user = users[0]!;
    const { platform, broker } = shop.test.node;
    const shard = shardOf(order.id);
    const service = broker.getLocalService("payment") as unknown as { refunds: { advance: unknown; payOut: unknown } };
    const { refunds } = service;
    service.refunds = { advance: () => Promise.resolve(), payOut: () => Promise.resolve() };
    await pass(groupId);
    const refund = await (async (): Promise<Id> => {
      for (;;) {
        const [row] = await shop.rows<{ id: Id }>(order.id, "select id from refunds where slot = $1 and order_id = $2", [order.id]);
        if (row) return row.id;
        await new Promise((resolve) => setTimeout(resolve, 50));
      }
    })();
    const items = [{ xid: refund, kind: "refund" as const, userId: user, city: cityOf(order.id), orderId: order.id, amount: order.amount }];
    const drain = (kind: string) => platform.post<readonly RefundId[], null>(shard, kind, [refund as RefundId]);
    const wallet = (phase: typeof tryWallets | typeof confirmWallets) =>
      call(broker as never, phase as typeof tryWallets, { slot: shardOf(user).slot, items });
    const resume = async () => {
      service.refunds = refunds;
      await shop.rows(order.id, "update refunds set next_attempt_at = now() where slot = $1 and id = $2", [refund]);
    };
    return { refund, order, user, drain, wallet, resume };
  };

  const crashes: { after: string; steps: ("refund.try" | "wallet.try" | "refund.decide" | "wallet.confirm")[] }[] = [
    { after: "the request", steps: [] },
    { after: "the city's try", steps: ["refund.try"] },
    { after: "both tries", steps: ["refund.try", "wallet.try"] },
    { after: "the decision", steps: ["refund.try", "wallet.try", "refund.decide"] },
    { after: "the wallet's confirm", steps: ["refund.try", "wallet.try", "refund.decide", "wallet.confirm"] },
  ];
  for (const { after: point, steps } of crashes) {
    it(`after a crash right after ${point} the money comes, once`, async () => {
      const { refund, order, user, drain, wallet, resume } = await stopped();
      // Each step twice: a repeat does nothing.
      for (const step of steps.flatMap((one) => [one, one])) {
        if (step === "wallet.try") await wallet(tryWallets);
        else if (step === "wallet.confirm") await wallet(confirmWallets);
        else await drain(step);
      }
      assert.notEqual(await shop.stateOf("refunds", refund), "SUCCEEDED");
      assert.equal(await status(order, user), "PAID");
      await resume();
      await eventually(async () => assert.equal(await shop.stateOf("refunds", refund), "SUCCEEDED"));
      assert.equal(await status(order, user), "REFUNDED");
      assert.deepEqual(await shop.wallet(user), { available: 5_000, frozen: 0, currency: "CNY" });
      await shop.addsUp();
    });
  }

  it("refunds beyond what was paid are our fault and move nothing", async () => {
    const { order, refund, drain, resume } = await stopped();
    await shop.rows(order.id, "update refunds set amount = amount + 1 where slot = $1 and id = $2", [refund]);
    await assert.rejects(drain("refund.try"), /never exceed it/);
    assert.equal(await shop.stateOf("refunds", refund), "REQUESTED");
    await shop.rows(order.id, "update refunds set amount = amount - 1 where slot = $1 and id = $2", [refund]);
    await resume();
    await shop.addsUp();
  });
});
