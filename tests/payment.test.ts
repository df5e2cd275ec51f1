import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { cityOf, composeId, shardOf, type Id, type PaymentId } from "../domain/ids.ts";
import type { Decided } from "../domain/payment/decide.ts";
import type { Tried } from "../domain/payment/try.ts";
import { call } from "../mixins/contract.ts";
import { cancelOrder, getOrder } from "../services/order/order.contract.ts";
import { cancelWallets, confirmWallets, topUp, tryWallets } from "../services/wallet/wallet.contract.ts";
import { makeDeal } from "./support/deals.ts";
import { callAs, caller } from "./support/node.ts";
import { eventually, refused, Shop, tally } from "./support/shop.ts";

describe("paying", () => {
  let shop: Shop;
  before(async () => {
    shop = await Shop.open();
  });
  after(() => shop.close());
  const status = async (order: { id: Id }, user: Id) => (await callAs(shop.test.node, getOrder, { id: order.id }, caller(user))).status;

  /** The steps of a payment one at a time, so that a test can stop between any two of them: a crash is what does not come next. */
  const steps = (order: { id: Id; amount: number }, user: Id) => {
    const { platform, broker } = shop.test.node;
    const shard = shardOf(order.id);
    let id: PaymentId;
    const items = () => [{ xid: id, kind: "pay" as const, userId: user, city: cityOf(order.id), orderId: order.id, amount: order.amount }];
    const slot = shardOf(user).slot;
    return {
      id: () => id,
      async tryCity() {
        const tried = await platform.post<unknown, Tried>(shard, "payment.try", { orderId: order.id, consumerId: user, channel: "wallet" });
        id = tried.payment.id;
        return tried;
      },
      tryWallet: () => call(broker as never, tryWallets, { slot, items: items() }),
      confirmWallet: () => call(broker as never, confirmWallets, { slot, items: items() }),
      cancelWallet: () => call(broker as never, cancelWallets, { slot, items: items() }),
      decide: (confirm: boolean) =>
        platform.post<unknown, Decided>(shard, "payment.decide", {
          paymentId: id,
          orderId: order.id,
          confirm,
          reason: "TIMEOUT",
          requestId: undefined,
        }),
      state: async () => (await shop.stateOf("payments", id)) ?? "none",
    };
  };
  /** As if the process had died right after the decision: nobody is told of it. */
  const withoutFinisher = async (run: () => Promise<unknown>): Promise<void> => {
    const payment = shop.test.node.broker.getLocalService("payment") as unknown as { finisher: { add: unknown } };
    const { finisher } = payment;
    payment.finisher = { add: () => undefined };
    try {
      await run();
    } finally {
      payment.finisher = finisher;
    }
  };
  /** Makes everything unfinished due for recovery now, as if its time had passed. */
  const age = (order: { id: Id }) =>
    shop.rows(
      order.id,
      "update payments set next_attempt_at = now() where slot = $1 and order_id = $2 and state in ('TRYING', 'CONFIRMING', 'CANCELLING')",
      [order.id],
    );

  it("confirms a solo order and issues its vouchers, which are worth what was paid", async () => {
    const deal = await makeDeal(shop.test, { stock: 10, price: 1_000 });
    const user = await shop.person(10_000);
    const order = await shop.order(deal, user, { quantity: 3 });
    const paid = await shop.pay(order, user);
    assert.deepEqual([paid.orderId, paid.status, await status(order, user)], [order.id, "CONFIRMED", "CONFIRMED"]);
    const vouchers = await shop.vouchers(order, user);
    assert.deepEqual(
      vouchers.map((voucher) => [voucher.status, /^[0-9]{16}$/.test(voucher.code)]),
      Array.from({ length: 3 }, () => ["ISSUED", true]),
    );
    await eventually(async () => assert.deepEqual(await shop.wallet(user), { available: 7_000, frozen: 0, currency: "CNY" }));
    await shop.addsUp();
  });

  it("makes one payment of 20 requests at once, and answers all of them with it", async () => {
    const deal = await makeDeal(shop.test, { stock: 10, price: 1_000 });
    const user = await shop.person(10_000);
    const order = await shop.order(deal, user);
    const answers = await Promise.all(Array.from({ length: 20 }, () => shop.pay(order, user)));
    assert.equal(new Set(answers.map(({ paymentId }) => paymentId)).size, 1);
    assert.deepEqual(await shop.pay(order, user), answers[0]);
    assert.equal((await shop.rows(order.id, "select id from payments where slot = $1 and order_id = $2", [order.id])).length, 1);
    await eventually(async () => assert.deepEqual(await shop.wallet(user), { available: 9_000, frozen: 0, currency: "CNY" }));
  });

  it("opens a group with its opener's payment, and forms it once when both seats of two are paid at once", async () => {
    const deal = await makeDeal(shop.test, { stock: 100, tiers: [{ size: 3, price: 1_500 }], groupTtlMinutes: 30 });
    const [leader, ...others] = await Promise.all([shop.person(5_000), shop.person(5_000), shop.person(5_000)]);
    const opening = await shop.order(deal, leader, { groupSize: 3 });
    const groupId = opening.groupId as Id;
    assert.equal(await shop.stateOf("groups", groupId), "PENDING");
    await shop.pay(opening, leader);
    assert.deepEqual([await shop.stateOf("groups", groupId), await status(opening, leader)], ["OPEN", "PAID"]);
    const [{ minutes } = { minutes: "" }] = await shop.rows<{ minutes: string }>(
      groupId,
      "select round(extract(epoch from deadline - now()) / 60)::text as minutes from groups where slot = $1 and id = $2",
      [groupId],
    );
    assert.equal(minutes, "30");
    assert.deepEqual(await shop.vouchers(opening, leader), []);

    const joins = await Promise.all(others.map((user) => shop.order(deal, user, { groupId })));
    await Promise.all(joins.map((order, index) => shop.pay(order, others[index]!)));
    assert.equal(await shop.stateOf("groups", groupId), "FORMED");
    for (const [order, user] of [[opening, leader] as const, ...joins.map((one, index) => [one, others[index]!] as const)]) {
      assert.equal(await status(order, user), "CONFIRMED");
      assert.equal((await shop.vouchers(order, user)).length, 1);
    }
    const formed = await shop.rows(groupId, "select id from events where slot = $1 and type = 'group.formed' and subject = $2", [groupId]);
    assert.equal(formed.length, 1);
    await shop.addsUp();
  });

  it("refuses what the wallet cannot pay, leaves the order payable, and takes it when there is money", async () => {
    const deal = await makeDeal(shop.test, { stock: 10, price: 1_000 });
    const user = await shop.person(999);
    const order = await shop.order(deal, user);
    await assert.rejects(shop.pay(order, user), refused("INSUFFICIENT_FUNDS"));
    assert.equal(await status(order, user), "PENDING_PAYMENT");
    const rich = await shop.person(1_000);
    await assert.rejects(shop.pay(order, rich), refused("ORDER_NOT_FOUND"));
    await shop.addsUp();
    assert.deepEqual(await shop.wallet(user), { available: 999, frozen: 0, currency: "CNY" });
  });

  it("pays one order of three with money for one", async () => {
    const deal = await makeDeal(shop.test, { stock: 10, price: 1_000 });
    const user = await shop.person(1_900);
    const orders = await Promise.all(Array.from({ length: 3 }, () => shop.order(deal, user)));
    const results = await Promise.allSettled(orders.map((order) => shop.pay(order, user)));
    assert.deepEqual(tally(results), { ok: 1, INSUFFICIENT_FUNDS: 2 });
    await shop.addsUp();
  });

  it("does not pay what is cancelled, expired, unknown, or a group that closed", async () => {
    const deal = await makeDeal(shop.test, { stock: 10, price: 1_000, tiers: [{ size: 3, price: 900 }] });
    const user = await shop.person(9_000);
    const cancelled = await shop.order(deal, user);
    await callAs(shop.test.node, cancelOrder, { id: cancelled.id }, caller(user));
    await assert.rejects(shop.pay(cancelled, user), refused("ORDER_STATE"));
    const late = await shop.order(deal, user);
    await shop.rows(late.id, "update orders set expires_at = now() where slot = $1 and id = $2", [late.id]);
    await assert.rejects(shop.pay(late, user), refused("ORDER_STATE"));
    const nowhere = composeId({ ms: 1_780_000_000_000, sequence: 1, city: 9, slot: 1 });
    for (const id of ["4096", "16", nowhere]) await assert.rejects(shop.pay({ id: id as Id }, user), refused("ORDER_NOT_FOUND"));

    const leader = await shop.person(9_000);
    const opening = await shop.order(deal, leader, { groupSize: 3 });
    await shop.pay(opening, leader);
    const joining = await shop.order(deal, user, { groupId: opening.groupId as Id });
    await shop.rows(opening.id, "update groups set deadline = now() where slot = $1 and id = $2", [opening.groupId]);
    await assert.rejects(shop.pay(joining, user), refused("GROUP_CLOSED"));
    await shop.rows(joining.id, "update orders set expires_at = now() where slot = $1 and id = $2", [joining.id]);
    await eventually(async () => assert.equal(await status(opening, leader), "REFUNDED"));
    await shop.addsUp();
  });

  it("gives the money back when the order is cancelled between try and decision", async () => {
    const deal = await makeDeal(shop.test, { stock: 10, price: 1_000 });
    const user = await shop.person(5_000);
    const order = await shop.order(deal, user);
    const step = steps(order, user);
    await step.tryCity();
    await step.tryWallet();
    assert.equal((await shop.wallet(user)).frozen, 1_000);
    await callAs(shop.test.node, cancelOrder, { id: order.id }, caller(user));
    const decided = await step.decide(true);
    assert.deepEqual([decided.payment.state, decided.refused?.type], ["CANCELLING", "ORDER_STATE"]);
    await eventually(async () => assert.equal(await step.state(), "CANCELLED"));
    assert.deepEqual(await shop.wallet(user), { available: 5_000, frozen: 0, currency: "CNY" });
    await shop.addsUp();
  });

  it("waits with expiry for a payment that began in time, and takes the late decision", async () => {
    const deal = await makeDeal(shop.test, { stock: 10, price: 1_000 });
    const user = await shop.person(5_000);
    const order = await shop.order(deal, user);
    const step = steps(order, user);
    await step.tryCity();
    await step.tryWallet();
    await shop.rows(order.id, "update orders set expires_at = now() - interval '1 second' where slot = $1 and id = $2", [order.id]);
    await new Promise((resolve) => setTimeout(resolve, 1_500));
    assert.equal(await status(order, user), "PENDING_PAYMENT");
    assert.equal((await step.decide(true)).refused, undefined);
    assert.equal(await status(order, user), "CONFIRMED");
    await shop.addsUp();
  });

  it("a decision made once is answered again, and not made again the other way", async () => {
    const deal = await makeDeal(shop.test, { stock: 10, price: 1_000 });
    const user = await shop.person(5_000);
    const order = await shop.order(deal, user);
    const step = steps(order, user);
    await step.tryCity();
    await step.tryWallet();
    const all = await Promise.all([step.decide(true), step.decide(false), step.decide(true)]);
    assert.deepEqual(
      all.map(({ refused: why }) => why),
      [undefined, undefined, undefined],
    );
    assert.equal((await step.decide(false)).refused, undefined);
    await shop.addsUp();
  });

  describe("after a crash", () => {
    const crashes: { after: string; run: (step: ReturnType<typeof steps>) => Promise<unknown>; paid: boolean }[] = [
      { after: "the city's try", run: (step) => step.tryCity(), paid: false },
      {
        after: "both tries",
        async run(step) {
          await step.tryCity();
          await step.tryWallet();
        },
        paid: false,
      },
      {
        after: "the decision to confirm",
        async run(step) {
          await step.tryCity();
          await step.tryWallet();
          await withoutFinisher(() => step.decide(true));
        },
        paid: true,
      },
      {
        after: "the decision to cancel",
        async run(step) {
          await step.tryCity();
          await step.tryWallet();
          await withoutFinisher(() => step.decide(false));
        },
        paid: false,
      },
      {
        after: "the wallet's confirm",
        async run(step) {
          await step.tryCity();
          await step.tryWallet();
          await withoutFinisher(() => step.decide(true));
          await step.confirmWallet();
        },
        paid: true,
      },
      {
        after: "the wallet's cancel",
        async run(step) {
          await step.tryCity();
          await step.tryWallet();
          await withoutFinisher(() => step.decide(false));
          await step.cancelWallet();
        },
        paid: false,
      },
    ];
    for (const { after: point, run, paid } of crashes) {
      it(`right after ${point}, recovery ${paid ? "confirms" : "cancels"}, and both books agree`, async () => {
        const deal = await makeDeal(shop.test, { stock: 10, price: 1_000, city: 3 });
        const user = await shop.person(5_000);
        const order = await shop.order(deal, user);
        const step = steps(order, user);
        await run(step);
        assert.notEqual(await step.state(), paid ? "CONFIRMED" : "CANCELLED");
        await age(order);
        await eventually(async () => assert.equal(await step.state(), paid ? "CONFIRMED" : "CANCELLED"));
        assert.equal(await status(order, user), paid ? "CONFIRMED" : "PENDING_PAYMENT");
        assert.deepEqual(await shop.wallet(user), { available: paid ? 4_000 : 5_000, frozen: 0, currency: "CNY" });
        // A try that was only slow finds its cancel.
        if (!paid) assert.deepEqual(await step.tryWallet(), [{ xid: step.id(), ok: false }]);
        if (!paid) assert.equal((await shop.pay(order, user)).status, "CONFIRMED");
        await shop.addsUp();
      });
    }
  });

  it("a request that finds a payment begun by a node that died gets its own, once that one is cancelled", async () => {
    const deal = await makeDeal(shop.test, { stock: 10, price: 1_000 });
    const user = await shop.person(1_000);
    const order = await shop.order(deal, user);
    const step = steps(order, user);
    await step.tryCity();
    await step.tryWallet();
    const waiting = shop.pay(order, user);
    await step.decide(false);
    const paid = await waiting;
    assert.notEqual(paid.paymentId, step.id());
    assert.equal(await status(order, user), "CONFIRMED");
    await shop.addsUp();
  });

  describe("a payment whose node died before it was decided", () => {
    for (const [died, tries] of [
      ["before the wallet was asked", ["tryCity"]],
      ["after it", ["tryCity", "tryWallet"]],
    ] as const) {
      it(`${died}, is driven to its end by the requests that find it, once, and recovery is not waited for`, async () => {
        const deal = await makeDeal(shop.test, { stock: 10, price: 1_000 });
        const user = await shop.person(1_500);
        const order = await shop.order(deal, user);
        const step = steps(order, user);
        for (const one of tries) await step[one]();
        const paid = await Promise.all(Array.from({ length: 5 }, () => shop.pay(order, user)));
        for (const { paymentId } of paid) assert.equal(paymentId, step.id());
        // It only stood still, and goes on: late.
        if (tries.length === 1) assert.deepEqual(await step.tryWallet(), [{ xid: step.id(), ok: true }]);
        const late = await step.decide(false);
        assert.deepEqual([late.refused, late.payment.state.startsWith("CONFIRM")], [undefined, true]);
        assert.equal(await status(order, user), "CONFIRMED");
        await eventually(async () => assert.deepEqual(await shop.wallet(user), { available: 500, frozen: 0, currency: "CNY" }));
        await shop.addsUp();
      });
    }

    it("is cancelled where the wallet is too short, and the order stays payable", async () => {
      const deal = await makeDeal(shop.test, { stock: 10, price: 1_000 });
      const user = await shop.person(600);
      const order = await shop.order(deal, user);
      const step = steps(order, user);
      await step.tryCity();
      await assert.rejects(shop.pay(order, user), refused("INSUFFICIENT_FUNDS"));
      await eventually(async () => assert.equal(await step.state(), "CANCELLED"));
      await callAs(shop.test.node, topUp, { amount: 400, channel: "test" }, caller(user));
      assert.equal((await shop.pay(order, user)).status, "CONFIRMED");
      await shop.addsUp();
    });
  });

  it("pays again with money that an earlier attempt, cancelled, had set aside, and with nobody else's", async () => {
    const deal = await makeDeal(shop.test, { stock: 10, price: 1_000 });
    const user = await shop.person(1_000);
    const [order, other] = [await shop.order(deal, user), await shop.order(deal, user)];
    const step = steps(order, user);
    await step.tryCity();
    await step.tryWallet();
    await withoutFinisher(() => step.decide(false));
    assert.deepEqual(await shop.wallet(user), { available: 0, frozen: 1_000, currency: "CNY" });
    await assert.rejects(shop.pay(other, user), refused("INSUFFICIENT_FUNDS"));
    assert.equal((await shop.pay(order, user)).status, "CONFIRMED");
    await age(order);
    await shop.addsUp();
    assert.deepEqual(await shop.wallet(user), { available: 0, frozen: 0, currency: "CNY" });
  });

  it("asks for the decision again when the database could not make it, and answers the same request", async () => {
    const deal = await makeDeal(shop.test, { stock: 10, price: 1_000 });
    const user = await shop.person(5_000);
    const order = await shop.order(deal, user);
    const hold = (id: Id, text: string, values: unknown[], seconds: number) => {
      const held = Promise.withResolvers<undefined>();
      const database = shop.test.node.platform.databaseOf(shardOf(id));
      const over = database.transaction(async (tx) => {
        await tx.query({ name: "", text }, [shardOf(id).slot, ...values]);
        held.resolve(undefined);
        await tx.query({ name: "", text: "select pg_sleep($1)" }, [seconds]);
      });
      return { held: held.promise, over };
    };
    // The wallet's Try waits while the row is taken that the decision will need.
    const wallet = hold(user, "select 1 from chain_heads where slot = $1 for update", [], 0.5);
    await wallet.held;
    const paying = shop.pay(order, user);
    let begun: { id: Id } | undefined;
    await eventually(async () => {
      [begun] = await shop.rows<{ id: Id }>(order.id, "select id from payments where slot = $1 and order_id = $2", [order.id]);
      assert.ok(begun);
    });
    // A command that waits for a lock is refused after three tries of a second.
    const row = hold(order.id, "select 1 from payments where slot = $1 and id = $2 for update", [begun!.id], 4);
    await row.held;
    assert.equal((await paying).paymentId, begun!.id);
    await Promise.all([wallet.over, row.over]);
    assert.equal(await status(order, user), "CONFIRMED");
    await shop.addsUp();
  });

  it("200 shoppers open, join and pay at once, and everything adds up", async () => {
    const deal = await makeDeal(shop.test, { stock: 150, price: 2_000, tiers: [{ size: 2, price: 1_500 }] });
    const leaders = await Promise.all(Array.from({ length: 60 }, () => shop.person(2_000)));
    const openings = await Promise.all(leaders.map((user) => shop.order(deal, user, { groupSize: 2 })));
    await Promise.all(openings.map((order, index) => shop.pay(order, leaders[index]!)));
    const members = await Promise.all(Array.from({ length: 140 }, () => shop.person(2_000)));
    const results = await Promise.allSettled(
      members.map(async (user, index) => {
        const order = await shop.order(deal, user, { groupId: openings[index % 60]!.groupId as Id });
        await shop.pay(order, user);
      }),
    );
    assert.deepEqual(tally(results), { ok: 60, GROUP_FULL: 80 });
    assert.deepEqual(await Promise.all(openings.map(({ groupId }) => shop.stateOf("groups", groupId as Id))), new Array(60).fill("FORMED"));
    await shop.addsUp();
  });
});
