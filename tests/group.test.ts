import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { shardOf, type Id } from "../domain/ids.ts";
import { getGroup } from "../services/group/group.contract.ts";
import { getOrder, placeOrder } from "../services/order/order.contract.ts";
import { payOrder } from "../services/payment/payment.contract.ts";
import { listVouchers } from "../services/voucher/voucher.contract.ts";
import { getWallet, topUp } from "../services/wallet/wallet.contract.ts";
import { makeDeal, userId } from "./support/deals.ts";
import { callAs, caller, testNode, type TestNode } from "./support/node.ts";
import { until } from "./support/until.ts";

describe("a group whose deadline passes", () => {
  let test: TestNode;
  before(async () => {
    test = await testNode(["wallet", "stock", "group", "order", "payment", "voucher"], { wallet: { testChannel: true } });
  });
  after(() => test.stop());

  const rich = async (n: number): Promise<Id> => {
    await callAs(test.node, topUp, { amount: 100_000, channel: "test" }, caller(userId(n)));
    return userId(n);
  };
  const buy = async (deal: Id, user: Id, of: { groupSize?: number; groupId?: Id }) => {
    const order = await callAs(test.node, placeOrder, { dealId: deal, quantity: 2, ...of }, caller(user));
    await callAs(test.node, payOrder, { id: order.id, channel: "wallet" }, caller(user));
    return order;
  };
  const available = async (user: Id): Promise<number> => (await callAs(test.node, getWallet, {}, caller(user))).available;
  const passDeadline = async (groupId: Id): Promise<void> => {
    const shard = shardOf(groupId);
    await test.node.platform
      .databaseOf(shard)
      .query({ name: "test/deadline", text: "update groups set deadline = now() - interval '1 second' where slot = $1 and id = $2" }, [
        shard.slot,
        groupId,
      ]);
  };
  const group = (id: Id) => callAs(test.node, getGroup, { id }, undefined);
  const stock = async (deal: Id) => {
    const shard = shardOf(deal);
    const rows = await test.node.platform
      .databaseOf(shard)
      .query({ name: "test/units", text: "select total, held, sold from stock where slot = $1 and deal_id = $2" }, [shard.slot, deal]);
    return rows[0];
  };

  it("fails, gives the units back, and everyone has their money back without asking", async () => {
    const deal = await makeDeal(test, { stock: 10, perUserLimit: 2, tiers: [{ size: 3, price: 1_500 }] });
    const [first, second] = [await rich(1), await rich(2)];
    const opener = await buy(deal, first, { groupSize: 3 });
    const groupId = opener.groupId as Id;
    await buy(deal, second, { groupId });
    assert.equal(await available(first), 97_000);
    await passDeadline(groupId);
    await until(async () => (await group(groupId)).status === "FAILED");
    await until(async () => (await callAs(test.node, getOrder, { id: opener.id }, caller(first))).status === "REFUNDED");
    await until(async () => (await available(first)) === 100_000 && (await available(second)) === 100_000);
    assert.deepEqual(await stock(deal), { total: 10, held: 0, sold: 0 });
    // The counter came back too: the limit of two units is free again.
    await buy(deal, first, { groupSize: 3 });
  });

  it("forms when the last seat was taken, and every unit has a voucher", async () => {
    const deal = await makeDeal(test, { stock: 10, tiers: [{ size: 2, price: 1_500 }] });
    const [first, second] = [await rich(11), await rich(12)];
    const opener = await buy(deal, first, { groupSize: 2 });
    await buy(deal, second, { groupId: opener.groupId as Id });
    assert.equal((await group(opener.groupId as Id)).status, "FORMED");
    assert.equal((await callAs(test.node, listVouchers, { id: opener.id }, caller(first))).length, 2);
    assert.deepEqual(await stock(deal), { total: 10, held: 0, sold: 4 });
  });

  it("is filled up by the merchant from the share the deal says, with seats that cost nobody anything", async () => {
    const deal = await makeDeal(test, { stock: 10, tiers: [{ size: 3, price: 1_500 }], autoFillBps: 6_000 });
    const [first, second] = [await rich(21), await rich(22)];
    const opener = await buy(deal, first, { groupSize: 3 });
    const groupId = opener.groupId as Id;
    await buy(deal, second, { groupId });
    await passDeadline(groupId);
    await until(async () => (await group(groupId)).status === "FORMED");
    const formed = await group(groupId);
    assert.deepEqual([formed.taken, formed.filled, formed.members.length], [2, 1, 2]);
    assert.equal((await callAs(test.node, listVouchers, { id: opener.id }, caller(first))).length, 2);
    assert.deepEqual(await stock(deal), { total: 10, held: 0, sold: 4 });
  });

  it("is not filled up below that share", async () => {
    const deal = await makeDeal(test, { stock: 10, tiers: [{ size: 3, price: 1_500 }], autoFillBps: 6_000 });
    const first = await rich(31);
    const opener = await buy(deal, first, { groupSize: 3 });
    await passDeadline(opener.groupId as Id);
    await until(async () => (await group(opener.groupId as Id)).status === "FAILED");
    await until(async () => (await available(first)) === 100_000);
  });
});
