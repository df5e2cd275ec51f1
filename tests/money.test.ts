import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import type { Claim } from "../domain/settlement/decide.ts";
import { LIMITS } from "../domain/limits.ts";
import { shardOf, type Id, type PayoutId, type RefundId } from "../domain/ids.ts";
import { answered, refused as refusedBy, type ChannelPayout, type Outcome } from "../domain/channel/records.ts";
import { offerPayoutChannel, type PayoutChannel } from "../mixins/payout-channel.ts";
import { call } from "../mixins/contract.ts";
import { getOrder } from "../services/order/order.contract.ts";
import { advanceRefunds, approveRefund, listRefunds, requestRefund } from "../services/payment/payment.contract.ts";
import { hearPayout, listSettlements, merchantBalance, requestPayout, settleVouchers } from "../services/settlement/settlement.contract.ts";
import type { Payouts } from "../services/settlement/payouts.ts";
import { claimSettlements } from "../services/settlement/settlement.store.ts";
import { lapseVouchers, redeemVoucher, reverseVoucher } from "../services/voucher/voucher.contract.ts";
import { makeDeal } from "./support/deals.ts";
import { callAs, caller } from "./support/node.ts";
import { eventually, refused, Shop, tally } from "./support/shop.ts";

let shop: Shop;
before(async () => {
  shop = await Shop.open();
});
after(() => shop.close());

/** A paid order with its vouchers, at 10.01 yuan a unit, 6 % ours. */
async function bought(quantity: number, of: { perUserLimit?: number; terms?: { anytime?: boolean; expired?: boolean } } = {}) {
  const deal = await makeDeal(shop.test, {
    stock: 200,
    price: 1_001,
    ...(of.perUserLimit === undefined ? {} : { perUserLimit: of.perUserLimit }),
  });
  const { anytime = true, expired = true } = of.terms ?? {};
  await shop.rows(deal, "update deals set refund_anytime = $3, refund_expired = $4 where slot = $1 and id = $2", [deal, anytime, expired]);
  const user = await shop.person(200_000);
  const order = await shop.order(deal, user, { quantity });
  await shop.pay(order, user);
  await shop.settled();
  const codes = (await shop.vouchers(order, user)).map(({ code }) => code);
  const status = async () => (await callAs(shop.test.node, getOrder, { id: order.id }, caller(user))).status;
  const states = async () => (await shop.vouchers(order, user)).map((voucher) => voucher.status).join(" ");
  return { deal, order, user, codes, status, states, merchantId: order.merchantId };
}
type Bought = Awaited<ReturnType<typeof bought>>;

const staff = (merchantId: Id) => caller("16", ["merchant"], merchantId);
const redeem = (code: string, merchantId: Id, key?: string) => callAs(shop.test.node, redeemVoucher, { code }, staff(merchantId), key);
const reverse = (code: string, merchantId: Id, key?: string) => callAs(shop.test.node, reverseVoucher, { code }, staff(merchantId), key);
const refund = ({ order, user }: Bought, quantity?: number, key?: string) =>
  callAs(shop.test.node, requestRefund, { id: order.id, ...(quantity === undefined ? {} : { quantity }) }, caller(user), key);
const balance = (merchantId: Id) => callAs(shop.test.node, merchantBalance, { id: merchantId }, staff(merchantId));
const payout = (merchantId: Id, amount: number, key?: string) =>
  callAs(shop.test.node, requestPayout, { id: merchantId, amount }, staff(merchantId), key);
const settledAll = (one: Bought) => eventually(async () => assert.match(await one.states(), /^SETTLED( SETTLED)*$/));
/** An order of one unit of a quantity, used and settled. */
async function settledOrder(quantity: number): Promise<Bought> {
  const one = await bought(quantity);
  for (const code of one.codes) await redeem(code, one.merchantId);
  await age(one);
  await settledAll(one);
  return one;
}
/** As if so much time had passed since the redemptions of an order: as only somebody with the database's password could have it. */
async function age(one: Bought, minutes = 121): Promise<void> {
  const { platform } = shop.test.node;
  await platform.databaseOf(shardOf(one.order.id)).transaction(async (tx) => {
    const { slot } = shardOf(one.order.id);
    const run = (name: string, text: string, values: unknown[]) => tx.query({ name: `test/age-${name}`, text }, values);
    await run("quiet", "set local session_replication_role = replica", []);
    await run("log", "update redemptions set at = at - make_interval(mins => $3) where slot = $1 and order_id = $2", [
      slot,
      one.order.id,
      minutes,
    ]);
    await run(
      "vouchers",
      "update vouchers set redeemed_at = redeemed_at - make_interval(mins => $3) where slot = $1 and order_id = $2 and redeemed_at is not null",
      [slot, one.order.id, minutes],
    );
    await run("settlements", "update settlements set due_at = due_at - make_interval(mins => $3) where slot = $1 and order_id = $2", [
      slot,
      one.order.id,
      minutes,
    ]);
  });
}

describe("refunds by request", () => {
  it("give back units at what was paid for each, the rest is still there to use; the last one ends the order", async () => {
    const one = await bought(3, { perUserLimit: 3 });
    const first = await refund(one, 1);
    assert.deepEqual([first.amount, first.status], [1_001, "REQUESTED"]);
    await eventually(async () => assert.equal(await one.states(), "ISSUED ISSUED REFUNDED"));
    assert.equal(await one.status(), "CONFIRMED");
    // The counter went back with the unit: one more may be bought, two may not.
    await assert.rejects(shop.order(one.deal, one.user, { quantity: 2 }), refused("USER_LIMIT_EXCEEDED"));
    await redeem(one.codes[0]!, one.merchantId);
    assert.deepEqual((await refund(one)).amount, 1_001);
    assert.equal(await one.status(), "COMPLETED");
    await eventually(async () => assert.equal(await one.states(), "REDEEMED REFUNDED REFUNDED"));
    assert.equal((await shop.wallet(one.user)).available, 200_000 - 1_001);
    await assert.rejects(refund(one), refused("NOT_REFUNDABLE"));
    await shop.addsUp();
  });

  it("of everything refund the order; the same key gives the same answer, and the money comes once", async () => {
    const one = await bought(2);
    const [first, second] = [await refund(one, undefined, "k1"), await refund(one, undefined, "k1")];
    assert.deepEqual({ ...second }, { ...first, replayed: true });
    await eventually(async () => assert.equal(await one.status(), "REFUNDED"));
    assert.equal((await shop.wallet(one.user)).available, 200_000);
    const shown = await callAs(shop.test.node, listRefunds, { id: one.order.id }, caller(one.user));
    assert.deepEqual(
      shown.map(({ amount, quantity, status, reason }) => [amount, quantity, status, reason]),
      [[2_002, 2, "SUCCEEDED", "REQUESTED"]],
    );
    // Each step once more does nothing.
    const { city, slot } = shardOf(one.order.id);
    await call(shop.test.node.broker as never, advanceRefunds, { city, slot, ids: [first.id] });
    await shop.addsUp();
  });

  it("are refused where the deal does not allow them, of more than is unused, before the group has formed, and to strangers", async () => {
    const fixed = await bought(1, { terms: { anytime: false } });
    await assert.rejects(refund(fixed), refused("NOT_REFUNDABLE"));
    const one = await bought(2);
    await assert.rejects(refund(one, 3), refused("NOT_REFUNDABLE"));
    await assert.rejects(refund({ ...one, user: fixed.user }), refused("ORDER_NOT_FOUND"));
    await assert.rejects(callAs(shop.test.node, listRefunds, { id: one.order.id }, caller(fixed.user)), refused("ORDER_NOT_FOUND"));
    for (const id of ["16", "4096"])
      await assert.rejects(refund({ ...one, order: { ...one.order, id: id as Id } }), refused("ORDER_NOT_FOUND"));
    await shop.addsUp();
  });

  it("leave a formed group formed", async () => {
    const deal = await makeDeal(shop.test, { stock: 10, price: 2_000, tiers: [{ size: 2, price: 1_500 }] });
    const users = [await shop.person(5_000), await shop.person(5_000)];
    const first = await shop.order(deal, users[0]!, { groupSize: 2 });
    await shop.pay(first, users[0]!);
    await assert.rejects(callAs(shop.test.node, requestRefund, { id: first.id }, caller(users[0]!)), refused("NOT_REFUNDABLE"));
    const second = await shop.order(deal, users[1]!, { groupId: first.groupId as Id });
    await shop.pay(second, users[1]!);
    await callAs(shop.test.node, requestRefund, { id: second.id }, caller(users[1]!));
    await eventually(async () => assert.equal(await shop.stateOf("orders", second.id), "REFUNDED"));
    assert.equal(await shop.stateOf("groups", first.groupId as Id), "FORMED");
    await shop.addsUp();
  });

  it("race redeeming: of each unit one of them has it", async () => {
    const many = await Promise.all(Array.from({ length: 6 }, () => bought(2)));
    const results = await Promise.allSettled(
      many.flatMap((one) => [refund(one, 1), redeem(one.codes[1]!, one.merchantId), refund(one, 1), redeem(one.codes[0]!, one.merchantId)]),
    );
    const counts = tally(results);
    assert.equal(counts["ok"], 12, JSON.stringify(counts));
    assert.deepEqual(
      Object.keys(counts).filter((code) => !["ok", "NOT_REFUNDABLE", "VOUCHER_STATE"].includes(code)),
      [],
    );
    await shop.addsUp();
    for (const one of many) assert.match(await one.states(), /^(REDEEMED|REFUNDED) (REDEEMED|REFUNDED)$/);
  });
});

describe("reversing", () => {
  it("gives the voucher back, as a row of its own, and the order with it; it may be redeemed again", async () => {
    const one = await bought(1);
    await redeem(one.codes[0]!, one.merchantId);
    assert.equal(await one.status(), "COMPLETED");
    const first = await reverse(one.codes[0]!, one.merchantId, "r1");
    assert.equal(first.status, "ISSUED");
    assert.deepEqual({ ...(await reverse(one.codes[0]!, one.merchantId, "r1")) }, { ...first, replayed: true });
    assert.deepEqual([await one.status(), await one.states()], ["CONFIRMED", "ISSUED"]);
    await redeem(one.codes[0]!, one.merchantId);
    const log = await shop.rows<{ kind: string }>(
      one.order.id,
      "select kind from redemptions where slot = $1 and order_id = $2 order by id",
      [one.order.id],
    );
    assert.deepEqual(
      log.map(({ kind }) => kind),
      ["REDEEM", "REVERSE", "REDEEM"],
    );
    await assert.rejects(
      shop.rows(one.order.id, "delete from redemptions where slot = $1 and order_id = $2", [one.order.id]),
      /append-only/,
    );
    await shop.addsUp();
  });

  it("is for its own bar, of what is redeemed, for an hour", async () => {
    const one = await bought(1);
    const other = await bought(1);
    await assert.rejects(reverse(one.codes[0]!, one.merchantId), refused("VOUCHER_STATE"));
    await redeem(one.codes[0]!, one.merchantId);
    await assert.rejects(reverse(one.codes[0]!, other.merchantId), refused("VOUCHER_NOT_FOUND"));
    await age(one, 60);
    await assert.rejects(reverse(one.codes[0]!, one.merchantId), refused("REVERSAL_TOO_LATE"));
  });

  it("and settling race for a voucher: one of them has it", async () => {
    const many = await Promise.all(Array.from({ length: 8 }, () => bought(1)));
    for (const one of many) await redeem(one.codes[0]!, one.merchantId);
    // Due for both at once: as if the platform waited for nothing.
    for (const one of many)
      await shop.rows(one.order.id, "update settlements set due_at = now(), created_at = now() where slot = $1 and order_id = $2", [
        one.order.id,
      ]);
    const results = await Promise.allSettled(many.map((one) => reverse(one.codes[0]!, one.merchantId)));
    for (const [index, one] of many.entries()) {
      if (results[index]?.status === "fulfilled") assert.equal(await one.states(), "ISSUED");
      else await settledAll(one);
    }
    await shop.addsUp();
  });
});

describe("vouchers that nobody used in time", () => {
  const lapse = async (one: Bought) => {
    await shop.rows(one.order.id, "update vouchers set valid_until = now() where slot = $1 and order_id = $2", [one.order.id]);
    const ids = await shop.rows<{ id: Id }>(one.order.id, "select id from vouchers where slot = $1 and order_id = $2", [one.order.id]);
    const { city, slot } = shardOf(one.order.id);
    // Twice, and beside the sweep: acting twice on a row does nothing.
    const act = () => call(shop.test.node.broker as never, lapseVouchers, { city, slot, ids: ids.map(({ id }) => id) });
    await Promise.all([act(), act()]);
  };

  it("are refunded where the deal says so", async () => {
    const one = await bought(2);
    await lapse(one);
    await eventually(async () => assert.equal(await one.status(), "REFUNDED"));
    assert.equal(await one.states(), "REFUNDED REFUNDED");
    assert.equal((await shop.wallet(one.user)).available, 200_000);
    await shop.addsUp();
  });

  it("are else breakage, never the merchant's; a used one beside them is still settled", async () => {
    const one = await bought(3, { terms: { expired: false } });
    await redeem(one.codes[0]!, one.merchantId);
    await lapse(one);
    assert.deepEqual([await one.states(), await one.status()], ["REDEEMED EXPIRED EXPIRED", "COMPLETED"]);
    await assert.rejects(refund(one), refused("NOT_REFUNDABLE"));
    await assert.rejects(redeem(one.codes[1]!, one.merchantId), refused("VOUCHER_STATE"));
    assert.deepEqual(await balance(one.merchantId), { escrow: 1_001, payable: 0, paidOut: 0, currency: "CNY" });
    await shop.addsUp();
  });
});

describe("settlement", () => {
  it("follows redemption after the reversal window and the delay: the net to the payable, the commission to us, linked", async () => {
    const one = await bought(2);
    for (const code of one.codes) await redeem(code, one.merchantId);
    await sleep(1_200);
    assert.equal(await one.states(), "REDEEMED REDEEMED");
    await age(one);
    await settledAll(one);
    // 6 % of 1,001 fen are 60.06.
    assert.deepEqual(await balance(one.merchantId), { escrow: 0, payable: 2 * 941, paidOut: 0, currency: "CNY" });
    const { items } = await callAs(shop.test.node, listSettlements, { id: one.merchantId }, staff(one.merchantId));
    assert.deepEqual(
      items.map(({ orderId, gross, commission, net, status }) => [orderId, gross, commission, net, status]),
      [1, 2].map(() => [one.order.id, 1_001, 60, 941, "SUCCESS"]),
    );
    assert.deepEqual(items.map(({ voucherCode }) => voucherCode).sort(), one.codes.toSorted());
    await assert.rejects(reverse(one.codes[0]!, one.merchantId), refused("VOUCHER_STATE"));
    await shop.addsUp();
  });

  it("is done once: by two workers at once, by one that comes back from the dead, and once more", async () => {
    const one = await bought(2);
    for (const code of one.codes) await redeem(code, one.merchantId);
    const shard = shardOf(one.order.id);
    const { platform, broker } = shop.test.node;
    const ids = (
      await shop.rows<{ id: Id }>(one.order.id, "select id from settlements where slot = $1 and order_id = $2", [one.order.id])
    ).map(({ id }) => id);
    const claim = () => claimSettlements(platform.databaseOf(shard), shard, ids);
    assert.deepEqual(await claim(), [], "not due");
    await age(one);
    const claims = await claim();
    if (claims.length === 2) {
      assert.deepEqual(await claim(), [], "somebody's");
      // He is taken for dead, and somebody else claims them.
      await shop.rows(one.order.id, "update settlements set lease_until = now() where slot = $1 and order_id = $2", [one.order.id]);
      const act = () => call(broker as never, settleVouchers, { ...shard, ids });
      await Promise.all([act(), act()]);
      // He was not dead: his number is an old one.
      await platform.post<readonly Claim[], null>(shard, "settlement.settle", claims);
      await act();
    }
    await settledAll(one);
    assert.deepEqual(await balance(one.merchantId), { escrow: 0, payable: 1_882, paidOut: 0, currency: "CNY" });
    await shop.addsUp();
  });

  it("takes a hundred vouchers in one batch as it takes one", async () => {
    const one = await settledOrder(99);
    assert.deepEqual(await balance(one.merchantId), { escrow: 0, payable: 99 * 941, paidOut: 0, currency: "CNY" });
    const transfers = await shop.rows<{ code: string; transfers: string }>(
      one.order.id,
      "select code, count(distinct business_key) as transfers from transfers where slot = $1 and order_id = $2 and code in ('settle', 'commission') group by code order by code",
      [one.order.id],
    );
    assert.deepEqual(
      transfers.map(({ code, transfers: count }) => [code, count]),
      [
        ["commission", "99"],
        ["settle", "99"],
      ],
    );
    await shop.addsUp();
  });

  it("of a voucher that is not redeemed fails, moves nothing, and waits for a person", async () => {
    const one = await bought(1);
    await redeem(one.codes[0]!, one.merchantId);
    await shop.rows(one.order.id, "update vouchers set state = 'ISSUED' where slot = $1 and order_id = $2", [one.order.id]);
    await age(one);
    const state = () =>
      shop.rows<{ state: string; reason: string }>(
        one.order.id,
        "select state, reason from settlements where slot = $1 and order_id = $2",
        [one.order.id],
      );
    await eventually(async () => assert.deepEqual(await state(), [{ state: "FAILED", reason: "VOUCHER_ISSUED" }]));
    assert.deepEqual(await balance(one.merchantId), { escrow: 1_001, payable: 0, paidOut: 0, currency: "CNY" });
    // The person finds the voucher used after all, and has it settled.
    await shop.rows(one.order.id, "update vouchers set state = 'REDEEMED' where slot = $1 and order_id = $2", [one.order.id]);
    await shop.rows(
      one.order.id,
      "update settlements set state = 'INIT', reason = null, ended_at = null where slot = $1 and order_id = $2",
      [one.order.id],
    );
    await settledAll(one);
    await shop.addsUp();
  });

  it("is its merchant's to see, and finance's and the administrators'", async () => {
    const one = await bought(1);
    for (const action of [merchantBalance, listSettlements]) {
      for (const role of ["finance", "admin"] as const)
        assert.ok(await callAs(shop.test.node, action as typeof merchantBalance, { id: one.merchantId }, caller("16", [role])));
      for (const stranger of [caller("16"), staff("4112" as Id)])
        await assert.rejects(
          callAs(shop.test.node, action as typeof merchantBalance, { id: one.merchantId }, stranger),
          refused("MERCHANT_NOT_FOUND"),
        );
    }
    await assert.rejects(
      callAs(shop.test.node, requestPayout, { id: one.merchantId, amount: 1 }, staff("4112" as Id)),
      refused("MERCHANT_NOT_FOUND"),
    );
  });
});

describe("a refund after settlement", () => {
  it("is its merchant's to approve; both parts come back, ours pro rata", async () => {
    const one = await settledOrder(2);
    const asked = await refund(one, 1);
    assert.deepEqual([asked.amount, asked.status], [1_001, "REQUESTED"]);
    await assert.rejects(
      callAs(shop.test.node, approveRefund, { id: one.merchantId, refundId: asked.id }, staff("4112" as Id)),
      refused("REFUND_NOT_FOUND"),
    );
    // Nothing moves without a word, whoever pushes.
    await shop.test.node.platform.post<readonly RefundId[], null>(shardOf(one.order.id), "refund.try", [asked.id as RefundId]);
    assert.equal(await shop.stateOf("refunds", asked.id), "REQUESTED");
    assert.equal((await balance(one.merchantId)).payable, 2 * 941);
    const approve = () => callAs(shop.test.node, approveRefund, { id: one.merchantId, refundId: asked.id }, staff(one.merchantId));
    await Promise.all([approve(), approve()]);
    await eventually(async () => assert.equal(await shop.stateOf("refunds", asked.id), "SUCCEEDED"));
    assert.equal((await shop.wallet(one.user)).available, 200_000 - 1_001);
    assert.deepEqual(await balance(one.merchantId), { escrow: 0, payable: 941, paidOut: 0, currency: "CNY" });
    assert.deepEqual([await one.states(), await one.status()], ["SETTLED SETTLED", "COMPLETED"]);
    await refund(one);
    await assert.rejects(refund(one), refused("NOT_REFUNDABLE"));
    await shop.addsUp();
  });

  it("is paid after a day without a word, also from a payable that is empty; only then is it below zero, and nothing can be paid out", async () => {
    const one = await settledOrder(1);
    await payout(one.merchantId, 941);
    await eventually(async () => assert.equal((await balance(one.merchantId)).paidOut, 941));
    const asked = await refund(one);
    await shop.rows(one.order.id, "update refunds set approve_by = now(), next_attempt_at = now() where slot = $1 and id = $2", [asked.id]);
    await eventually(async () => assert.equal(await shop.stateOf("refunds", asked.id), "SUCCEEDED"));
    assert.deepEqual(await balance(one.merchantId), { escrow: 0, payable: -941, paidOut: 941, currency: "CNY" });
    await assert.rejects(payout(one.merchantId, 1), refused("INSUFFICIENT_FUNDS"));
    // The database says so too: not even by a fen, and not by somebody who forgets to ask.
    await assert.rejects(
      shop.rows(one.order.id, "update accounts set debits_posted = debits_posted + 1 where slot = $1 and account = $2", [
        `payable:${one.merchantId}`,
      ]),
      /accounts_floor/,
    );
    await shop.addsUp();
  });
});

describe("payouts", () => {
  /** A channel that does what the test says next. */
  const replies: (ChannelPayout["status"] | "REFUSED" | Error)[] = [];
  const heard: string[] = [];
  const next = (number: string, what: string): Promise<Outcome<ChannelPayout>> => {
    heard.push(what);
    const reply = replies.shift() ?? "PROCESSING";
    if (reply instanceof Error) return Promise.reject(reply);
    return Promise.resolve(reply === "REFUSED" ? refusedBy("NO_SUCH_ACCOUNT", "") : answered({ number, status: reply }));
  };
  const moody: PayoutChannel = {
    name: "moody",
    payout: ({ number, amount }) => next(number, `pay ${number} ${amount}`),
    queryPayout: (number) => next(number, `query ${number}`),
  };
  before(() => offerPayoutChannel(shop.test.node.broker, moody));
  const stateOf = async (id: Id) =>
    (await shop.rows<{ state: string }>(id, "select state from payouts where slot = $1 and id = $2", [id]))[0]?.state;
  /** A payout by a channel of the test's, which nobody drives but the test. */
  const asked = async (one: Bought, amount: number, channel = "moody"): Promise<Id> => {
    const shard = shardOf(one.merchantId);
    const service = shop.test.node.broker.getLocalService("settlement") as unknown as { payouts: { payOut: unknown } };
    const { payOut } = service.payouts;
    service.payouts.payOut = () => Promise.resolve();
    const command = {
      callerId: "16",
      operation: "settlement.payout",
      idemKey: undefined,
      bodyHash: undefined,
      merchantId: one.merchantId,
      amount,
      channel,
    };
    const { id } = await shop.test.node.platform.post<object, { id: PayoutId }>(shard, "payout.request", {
      ...command,
      requestId: undefined,
    });
    await shop.rows(id, "update payouts set next_attempt_at = now() + interval '1 hour' where slot = $1 and id = $2", [id]);
    service.payouts.payOut = payOut;
    return id;
  };
  const advance = (id: Id) => {
    const { payouts } = shop.test.node.broker.getLocalService("settlement") as unknown as { payouts: Payouts };
    return payouts.advance(moody, shardOf(id), id);
  };
  const tell = (id: Id, status: ChannelPayout["status"]) => call(shop.test.node.broker, hearPayout, { id, channel: "moody", status });

  it("leave the payable at once, by the test bank; not more than is there, and once a key", async () => {
    const one = await settledOrder(2);
    await assert.rejects(payout(one.merchantId, 1_883), refused("INSUFFICIENT_FUNDS"));
    const results = await Promise.allSettled(Array.from({ length: 5 }, () => payout(one.merchantId, 900)));
    assert.deepEqual(tally(results), { ok: 2, INSUFFICIENT_FUNDS: 3 });
    const last = await payout(one.merchantId, 82, "last");
    assert.deepEqual({ ...(await payout(one.merchantId, 82, "last")) }, { ...last, replayed: true });
    await eventually(async () =>
      assert.deepEqual(await balance(one.merchantId), { escrow: 0, payable: 0, paidOut: 1_882, currency: "CNY" }),
    );
    await shop.addsUp();
  });

  it("whose answer is lost are UNKNOWN and asked about, never sent twice unless the channel has never heard of them", async () => {
    const one = await settledOrder(1);
    const id = await asked(one, 500);
    heard.length = 0;
    replies.push(new Error("the line is dead"));
    await advance(id);
    assert.equal(await stateOf(id), "UNKNOWN");
    replies.push(new Error("still dead"));
    await advance(id);
    replies.push("ABSENT", "PROCESSING");
    await advance(id);
    assert.equal(await stateOf(id), "UNKNOWN");
    replies.push("SUCCEEDED");
    await advance(id);
    // It may still come back: it is asked about again.
    replies.push("SUCCEEDED");
    await advance(id);
    assert.equal(await stateOf(id), "SUCCEEDED");
    assert.deepEqual(heard, [`pay ${id} 500`, `query ${id}`, `query ${id}`, `pay ${id} 500`, `query ${id}`, `query ${id}`]);
    await shop.addsUp();
  });

  it("of a channel that hangs hold up nobody else's", async () => {
    const one = await settledOrder(1);
    const { promise: over, resolve: end } = Promise.withResolvers<void>();
    const pays = ({ number }: { number: string }) => over.then(() => answered({ number, status: "SUCCEEDED" as const }));
    offerPayoutChannel(shop.test.node.broker, { name: "hanging", payout: pays, queryPayout: (number) => pays({ number }) });
    const stuck: Id[] = [];
    for (let n = 0; n <= LIMITS.channelCallsMax; n++) stuck.push(await asked(one, 1, "hanging"));
    const { payouts } = shop.test.node.broker.getLocalService("settlement") as unknown as { payouts: Payouts };
    await payouts.add(shardOf(one.merchantId), stuck);
    const { id } = await payout(one.merchantId, 900);
    await eventually(async () => assert.equal(await stateOf(id), "SUCCEEDED"));
    end();
    for (const other of stuck) await eventually(async () => assert.equal(await stateOf(other), "SUCCEEDED"));
    await shop.addsUp();
  });

  it("that are refused, or sent back later, come back to the payable, once", async () => {
    const one = await settledOrder(1);
    const [refusedOne, returned] = [await asked(one, 400), await asked(one, 541)];
    assert.equal((await balance(one.merchantId)).payable, 0);
    replies.push("REFUSED");
    await advance(refusedOne);
    assert.equal(await stateOf(refusedOne), "FAILED");
    assert.equal((await balance(one.merchantId)).payable, 400);
    replies.push("SUCCEEDED");
    await advance(returned);
    assert.equal((await balance(one.merchantId)).paidOut, 541);
    const back = { known: true, status: "RETURNED" };
    assert.deepEqual(await Promise.all([tell(returned, "RETURNED"), tell(returned, "RETURNED")]), [back, back]);
    assert.equal((await tell(refusedOne, "SUCCEEDED")).status, "FAILED");
    assert.deepEqual(await call(shop.test.node.broker, hearPayout, { id: returned, channel: "another", status: "FAILED" }), {
      known: false,
    });
    assert.deepEqual(await balance(one.merchantId), { escrow: 0, payable: 941, paidOut: 0, currency: "CNY" });
    await shop.addsUp();
  });
});
