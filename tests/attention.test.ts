/** What waits for a person is seen in one list, and what is tried again anyway can be tried now. */
import assert from "node:assert/strict";
import { after, before, it } from "node:test";
import type { Id } from "../domain/ids.ts";
import { listAttention, retryAttention } from "../services/ops/ops.contract.ts";
import { makeDeal } from "./support/deals.ts";
import { callAs, caller } from "./support/node.ts";
import { eventually, refused, Shop } from "./support/shop.ts";

const admin = caller("16", ["admin"]);
let shop: Shop;
before(async () => {
  shop = await Shop.open();
});
after(() => shop.close());

const listed = async (id: Id): Promise<string | undefined> => {
  const { items } = await callAs(shop.test.node, listAttention, { limit: 100 }, admin);
  const item = items.find((one) => one.id === id);
  return item && `${item.kind} ${item.why}`;
};

it("a payout that its channel never answers is listed after twelve attempts, and tried at once when somebody asks", async () => {
  const deal = await makeDeal(shop.test, { stock: 1 });
  const [payout] = await shop.rows<{ id: Id }>(
    deal,
    `insert into payouts (slot, id, merchant_id, channel, amount, state, requested_by, attempts, last_error, next_attempt_at, created_at)
     select $1, id + 4096 * 7, merchant_id, 'gone', 100, 'UNKNOWN', 16, 11, 'timeout', now() + interval '1 hour', now() from deals where slot = $1 and id = $2
     returning id`,
    [deal],
  );
  assert.ok(payout);
  assert.equal(await listed(payout.id), undefined);
  await shop.rows(deal, "update payouts set attempts = 12 where slot = $1 and id = $2", [payout.id]);
  assert.equal(await listed(payout.id), "PAYOUT 12 attempts: timeout");
  assert.deepEqual(await callAs(shop.test.node, retryAttention, { id: payout.id }, admin), { retrying: true });
  await eventually(async () => assert.equal(await listed(payout.id), "PAYOUT 13 attempts: timeout"));
  await shop.rows(deal, "update payouts set state = 'FAILED' where slot = $1 and id = $2", [payout.id]);
  assert.equal(await listed(payout.id), undefined);
  await assert.rejects(callAs(shop.test.node, retryAttention, { id: payout.id }, admin), refused("DEAD_LETTER_NOT_FOUND"));
  await assert.rejects(callAs(shop.test.node, retryAttention, { id: "16" as Id }, admin), refused("DEAD_LETTER_NOT_FOUND"));
});

it("a settlement that failed is listed with its reason, and settled once, however often somebody has it tried again", async () => {
  const user = await shop.person(10_000);
  const deal = await makeDeal(shop.test, { stock: 1, price: 1_000 });
  const order = await shop.order(deal, user);
  await shop.pay(order, user);
  const [settlement] = await shop.rows<{ id: Id; merchant_id: Id }>(
    deal,
    `insert into settlements (slot, id, voucher_id, order_id, merchant_id, gross, commission, state, reason, attempt, created_at, due_at, ended_at)
     select $1, id + 4096, id, order_id, merchant_id, amount, 0, 'FAILED', 'VOUCHER_ISSUED', 1, now(), now(), now() from vouchers where slot = $1 and order_id = $2
     returning id, merchant_id`,
    [order.id],
  );
  assert.ok(settlement);
  const { id } = settlement;
  const retry = () => callAs(shop.test.node, retryAttention, { id }, admin);
  const row = async () => {
    const [found] = await shop.rows<{ state: string; attempt: number; reason: string | null }>(
      deal,
      "select state, attempt, reason from settlements where slot = $1 and id = $2",
      [id],
    );
    return found && [found.state, found.attempt, found.reason];
  };
  const payable = async () => {
    const [account] = await shop.rows<{ credits: string }>(
      deal,
      "select credits_posted as credits from accounts where slot = $1 and account = 'payable:' || $2",
      [settlement.merchant_id],
    );
    return Number(account?.credits ?? 0);
  };
  assert.equal(await listed(id), "SETTLEMENT VOUCHER_ISSUED");

  // What made it fail is still so: it is tried, under the next number, and fails again.
  assert.deepEqual(await retry(), { retrying: true });
  await eventually(async () => assert.deepEqual(await row(), ["FAILED", 2, "VOUCHER_ISSUED"]));
  assert.equal(await payable(), 0);

  await shop.rows(deal, "update vouchers set state = 'REDEEMED', redeemed_at = now() where slot = $1 and order_id = $2", [order.id]);
  assert.deepEqual(await Promise.all([retry(), retry(), retry()]), [{ retrying: true }, { retrying: true }, { retrying: true }]);
  await eventually(async () => assert.deepEqual(await row(), ["SUCCESS", 3, null]));
  assert.equal(await payable(), 1_000);
  assert.equal(await listed(id), undefined);
  await assert.rejects(retry(), refused("DEAD_LETTER_NOT_FOUND"));
  assert.deepEqual([await row(), await payable()], [["SUCCESS", 3, null], 1_000]);
});
