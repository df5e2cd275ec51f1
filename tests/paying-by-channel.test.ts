/** Paying by a channel outside, over HTTP from the order to the refund, and every way in which the channel misbehaves. */
import assert from "node:assert/strict";
import { after, afterEach, before, describe, it } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { shardOf, type Id } from "../domain/ids.ts";
import { LIMITS } from "../domain/limits.ts";
import { pruneCallbacks } from "../services/callback/callback.store.ts";
import { listAttention, traceNumber, verify } from "../services/ops/ops.contract.ts";
import { assignSuspense, resolveSuspense } from "../services/recon/recon.contract.ts";
import { sign } from "../simpay/signature.ts";
import { ChannelShop } from "./support/channel-shop.ts";
import { makeDeal, userId } from "./support/deals.ts";
import { callAs, caller } from "./support/node.ts";
import { eventually, refused } from "./support/shop.ts";
import { SECRET } from "./support/simpay.ts";
import { differences } from "./support/witness.ts";

const admin = userId(16) as Id<"user">;
let town: ChannelShop;
/** What simpay never saw, because this test told of it. */
const madeUp: string[] = [];
before(async () => {
  town = await ChannelShop.open();
});
afterEach(() => town.strike());
after(() => town.close());

/** As if its time were over; its charge knows it too. */
const expire = async (order: { id: Id }): Promise<void> => {
  await town.shop.rows(order.id, "update orders set expires_at = now() where slot = $1 and id = $2", [order.id]);
  await town.shop.rows(order.id, "update payments set expires_at = now(), next_attempt_at = now() where slot = $1 and order_id = $2", [
    order.id,
  ]);
};
/** As if its callbacks had been so long ago; how many of them are old enough to go. */
const later = async (order: { id: Id; paymentId: Id }, days: number): Promise<number | undefined> => {
  const aged = "update channel_callbacks set done_at = done_at - make_interval(days => $2) where slot = $1 and subject = $3";
  await town.shop.rows(order.id, aged, [days, order.paymentId]);
  const { databases } = town.shop.test.node.platform;
  return (await pruneCallbacks([...databases.values()], new AbortController().signal))["callbacks"];
};
/** A callback as simpay would send it. */
const callback = (body: object, at = Date.now(), secret = SECRET): Promise<Response> => {
  const text = JSON.stringify(body);
  return fetch(`${town.base}/api/v1/callbacks/simpay`, { method: "POST", headers: { ...sign(secret, "callback", text, at) }, body: text });
};
const paidEvent = (number: string, amount: number, id = `test.${number}`) => ({
  id,
  event: "charge.paid",
  data: {
    type: "charge",
    number,
    channelNumber: `c${number}`,
    status: "PAID",
    amount,
    currency: "CNY",
    paid: { amount, currency: "CNY", at: new Date().toISOString() },
  },
});
const callbacksOf = async (order: { id: Id; paymentId: Id }): Promise<string[]> =>
  (
    await town.shop.rows<{ state: string }>(order.id, "select state from channel_callbacks where slot = $1 and subject = $2", [
      order.paymentId,
    ])
  ).map(({ state }) => state);
const refund = (order: { id: Id; user: Id<"user"> }) => town.ask("POST", `/orders/${order.id}/refunds`, order.user, {});
const transfers = async (order: { id: Id }): Promise<string[]> =>
  (
    await town.shop.rows<{ line: string }>(
      order.id,
      `select concat_ws(' ', code, regexp_replace(debit_account, '\\d{9,}', '#'), '→', regexp_replace(credit_account, '\\d{9,}', '#'), amount) as line
         from transfers where slot = $1 and order_id = $2 order by seq`,
      [order.id],
    )
  ).map(({ line }) => line);

describe("paying by simpay", () => {
  it("answers 202 with a pay page; paid there, the order is confirmed with its vouchers", async () => {
    const order = await town.charged({ quantity: 2 });
    assert.equal(await town.status(order), "PENDING_PAYMENT");
    const again = await town.pay(order);
    assert.deepEqual(
      [again.status, again.body],
      [202, { orderId: order.id, paymentId: order.paymentId, status: "PROCESSING", payUrl: order.payUrl }],
    );
    await town.simpay.pay(order.payUrl);
    await town.becomes(order, /^CONFIRMED$/);
    const paid = await town.pay(order);
    assert.deepEqual([paid.status, paid.body], [200, { orderId: order.id, paymentId: order.paymentId, status: "CONFIRMED" }]);
    const { body } = await town.ask("GET", `/orders/${order.id}/vouchers`, order.user);
    assert.equal((body as unknown[]).length, 2);
    assert.deepEqual(await transfers(order), ["pay channel:simpay → escrow:# 3980"]);
  });

  it("forms a group of members who paid each in their own way", async () => {
    const deal = await makeDeal(town.shop.test, { stock: 9, tiers: [{ size: 2, price: 1_500 }] });
    const first = await town.paid({ deal, groupSize: 2 });
    assert.equal(await town.status(first), "PAID");
    const second = await town.order({ deal, groupId: first.groupId!, fen: 10_000 });
    assert.equal((await town.pay(second, "wallet")).status, 200);
    await Promise.all([first, second].map((order) => town.becomes(order, /^CONFIRMED$/)));
  });

  it("another way closes the open charge first: paid from the wallet, nobody can pay it there any more", async () => {
    const order = await town.charged({ fen: 5_000 });
    const paid = await town.pay(order, "wallet");
    assert.deepEqual([paid.status, (paid.body as { status: string }).status], [200, "CONFIRMED"]);
    await town.simpay.pay(order.payUrl);
    assert.equal((await town.witness()).get(`charge ${order.paymentId}`)?.status, "CLOSED");
    assert.equal((await town.row<{ state: string }>("payments", order.paymentId)).state, "FAILED");
    assert.equal(await town.status(order), "CONFIRMED");
  });

  it("another way while the channel is silent is refused, and what was paid there meanwhile counts", async () => {
    const order = await town.charged({ fen: 5_000 });
    await town.strike("loseCallback", "errorAfterDoing");
    // Closed there, but nobody heard: the charge may be open.
    const refused = await town.pay(order, "wallet");
    assert.deepEqual([refused.status, (refused.body as { code: string }).code], [409, "PAYMENT_OPEN"]);
    await town.strike();
    const other = await town.charged({ fen: 5_000 });
    await town.strike("loseCallback");
    await town.simpay.pay(other.payUrl);
    const paid = await town.pay(other, "wallet");
    assert.deepEqual([paid.status, (paid.body as { paymentId: string }).paymentId], [200, other.paymentId]);
  });

  it("is closed with its order: cancelled or expired, the channel takes no money for it any more", async () => {
    const [cancelled, expired] = [await town.charged(), await town.charged()];
    assert.equal((await town.ask("POST", `/orders/${cancelled.id}/cancel`, cancelled.user)).status, 200);
    await expire(expired);
    await town.becomes(expired, /^EXPIRED$/);
    for (const { paymentId, payUrl } of [cancelled, expired]) {
      await eventually(async () => assert.equal((await town.row<{ state: string }>("payments", paymentId)).state, "FAILED"));
      await town.simpay.pay(payUrl);
      assert.equal((await town.witness()).get(`charge ${paymentId}`)?.status, "CLOSED");
    }
  });

  it("too late, or for an order paid another way, goes back by itself", async () => {
    const late = await town.charged();
    // The channel cannot be reached to close it: the order is cancelled all the same.
    await town.strike("refuse");
    assert.equal((await town.ask("POST", `/orders/${late.id}/cancel`, late.user)).status, 200);
    await town.simpay.pay(late.payUrl);
    await eventually(async () => assert.equal((await town.row<{ surplus: boolean }>("payments", late.paymentId)).surplus, true));
    await town.strike();
    const second = await town.charged({ fen: 5_000 });
    await town.pay(second, "wallet");
    // A channel that takes money for a charge it had closed: only its word, here.
    await callback(paidEvent(second.paymentId, second.amount));
    madeUp.push(second.paymentId);
    await eventually(async () =>
      assert.deepEqual(
        (await town.refundsOf(second)).map(({ reason, surplus }) => [reason, surplus]),
        [["SECOND_PAYMENT", true]],
      ),
    );
    await eventually(async () => {
      await town.hurry(late.id);
      assert.deepEqual(
        (await town.refundsOf(late)).map(({ state, reason }) => [state, reason]),
        [["SUCCEEDED", "LATE_PAYMENT"]],
      );
    });
    assert.equal(await town.status(late), "CANCELLED");
    assert.equal(await town.status(second), "CONFIRMED");
    assert.deepEqual(await transfers(late), [
      "pay channel:simpay → escrow:# 1990",
      "refund escrow:# → refund_in_transit:simpay 1990",
      "refund-paid refund_in_transit:simpay → channel:simpay 1990",
    ]);
    // simpay has no such payment to give back, so this one is a person's.
    await eventually(async () => {
      await town.hurry(second.id);
      assert.equal((await town.refundsOf(second))[0]?.state, "ABNORMAL");
    });
    madeUp.push((await town.refundsOf(second))[0]!.id);
  });

  it("with another amount or currency lies in suspense with an alarm, and the order can be paid again", async () => {
    for (const [fault, reason, booked] of [
      ["wrongAmount", "AMOUNT_DIFFERS", "pay-differs channel:simpay → suspense:long 1989"],
      ["wrongCurrency", "CURRENCY_DIFFERS", "pay-differs channel:simpay:USD → suspense:long:USD 1990"],
    ] as const) {
      await town.strike(fault);
      const order = await town.charged();
      await town.strike();
      await town.simpay.pay(order.payUrl);
      await eventually(async () => {
        const { state, reason: why } = await town.row<{ state: string; reason: string }>("payments", order.paymentId);
        assert.deepEqual([state, why], ["FAILED", reason]);
      });
      assert.equal(await town.status(order), "PENDING_PAYMENT");
      assert.deepEqual(await transfers(order), [booked]);
      const again = await town.pay(order);
      assert.equal(again.status, 202);
      await town.simpay.pay((again.body as { payUrl: string }).payUrl);
      await town.becomes(order, /^CONFIRMED$/);
    }
    const metrics = await town.shop.test.node.platform.metrics.registry.metrics();
    assert.match(metrics, /^tuanbar_channel_differences_total 2$/m);
  });
});

describe("a channel that misbehaves", () => {
  it(
    "is slow, hangs, breaks after doing it, or forges its answer: the payment is queried, never guessed",
    { timeout: 90_000 },
    async () => {
      for (const fault of ["slow", "hang", "errorAfterDoing", "forgedAnswer"] as const) {
        const order = await town.order();
        await town.strike(fault);
        const { status, body } = await town.pay(order);
        assert.equal(status, 202, `${fault}: ${JSON.stringify(body)}`);
        const { paymentId, payUrl } = body as { paymentId: Id; payUrl?: string };
        assert.equal(payUrl !== undefined, fault === "slow", fault);
        if (fault !== "slow") assert.equal((await town.row<{ state: string }>("payments", paymentId)).state, "UNKNOWN");
        await town.strike();
        const again = await town.pay(order);
        assert.equal(again.status, 202);
        assert.equal((again.body as { paymentId: Id }).paymentId, paymentId, "the first payment, under its own number");
        await town.simpay.pay((again.body as { payUrl: string }).payUrl);
        await town.becomes(order, /^CONFIRMED$/);
      }
    },
  );

  it("refuses for now: the same number is tried again; its word is lost: it is asked", async () => {
    const order = await town.order();
    await town.strike("refuse");
    assert.deepEqual(Object.keys((await town.pay(order)).body as object).toSorted(), ["orderId", "paymentId", "status"]);
    await town.strike("loseCallback");
    const { body } = await town.pay(order);
    await town.simpay.pay((body as { payUrl: string }).payUrl);
    await town.hurry(order.id);
    await town.becomes(order, /^CONFIRMED$/);
  });

  it("tells a hundred times, out of order, with replayed, stale and forged ones among them: one effect", async () => {
    await town.strike("repeatCallback", "replayedCallback", "staleCallback", "forgedCallback");
    const order = await town.charged();
    await town.strike("reorderCallback");
    const other = await town.charged();
    await town.strike();
    await Promise.all([order, other].map(({ payUrl }) => town.simpay.pay(payUrl)));
    await Promise.all([order, other].map((one) => town.becomes(one, /^CONFIRMED$/)));
    await sleep(500);
    assert.deepEqual(await transfers(order), ["pay channel:simpay → escrow:# 1990"]);
    const kept = await town.shop.rows(order.id, "select from channel_callbacks where slot = $1 and subject = $2", [order.paymentId]);
    assert.equal(kept.length, 1);
    const [row] = await town.shop.rows<{ body: string }>(order.id, "select body from channel_callbacks where slot = $1 and subject = $2", [
      order.paymentId,
    ]);
    const tellAgain = async () => {
      const again = await Promise.all(Array.from({ length: 100 }, () => callback(JSON.parse(row?.body ?? "{}") as object)));
      assert.deepEqual([...new Set(again.map(({ status }) => status))], [200]);
    };
    // The next day it is the same news, signed anew.
    assert.equal(await later(order, 1), 0, "it is still known");
    await tellAgain();
    assert.deepEqual(await callbacksOf(order), ["DONE"]);
    // Another callback that tells the same has no effect either, nor has one that is told again when it has been forgotten.
    assert.equal((await callback(paidEvent(order.paymentId, 1_990))).status, 200);
    await eventually(async () => assert.deepEqual(await callbacksOf(order), ["DONE", "DONE"]));
    assert.equal(await later(order, LIMITS.callbacksKeptDays), 2);
    await tellAgain();
    await eventually(async () => assert.deepEqual(await callbacksOf(order), ["DONE"]));
    assert.deepEqual(await transfers(order), ["pay channel:simpay → escrow:# 1990"]);
  });

  it("is worked off when its gateway died right after keeping it, and nobody was told", async () => {
    await town.strike("loseCallback");
    const order = await town.charged();
    await town.simpay.pay(order.payUrl);
    const { channel_no: channelNumber } = await town.row<{ channel_no: string }>("payments", order.paymentId);
    const paid = { amount: "1990", currency: "CNY", atMs: Date.now() };
    const news = { id: "kept", about: "charge", charge: { number: order.paymentId, status: "PAID", channelNumber, paid } };
    await town.shop.rows(
      order.id,
      `insert into channel_callbacks (slot, id, channel, callback_id, about, subject, body, news, state, attempts, next_attempt_at, received_at)
       values ($1, (mint_ids($4, $1::smallint, 1))[1], 'simpay', 'kept', 'charge', $2, '{}', $3, 'KEPT', 1, now(), now())`,
      [order.paymentId, JSON.stringify(news), shardOf(order.id).city],
    );
    await town.becomes(order, /^CONFIRMED$/);
    await eventually(async () => assert.deepEqual(await callbacksOf(order), ["DONE"]));
    assert.deepEqual(await transfers(order), ["pay channel:simpay → escrow:# 1990"]);
  });

  it("is not believed without its signature, or outside the window, and what makes no sense waits for a person", async () => {
    const order = await town.charged();
    const event = paidEvent(order.paymentId, 1_990);
    const code = async (answer: Promise<Response>) => [(await answer).status, ((await (await answer).json()) as { code?: string }).code];
    assert.deepEqual(await code(callback(event, Date.now(), "another secret, of 32 letters too")), [401, "BAD_SIGNATURE"]);
    assert.deepEqual(await code(callback(event, Date.now() - 301_000)), [400, "STALE_CALLBACK"]);
    assert.deepEqual(await code(callback(event, Date.now() + 301_000)), [400, "STALE_CALLBACK"]);
    assert.equal((await fetch(`${town.base}/api/v1/callbacks/nopay`, { method: "POST", body: "{}" })).status, 404);
    assert.equal(await town.status(order), "PENDING_PAYMENT");
    assert.equal((await callback({ hello: "world" })).status, 200);
    assert.equal((await callback(paidEvent("123456789012345678901234", 5))).status, 200);
    // One of ours that there never was.
    const nobody = `${BigInt(order.paymentId) + (1n << 30n)}`;
    assert.equal((await callback(paidEvent(nobody, 1_990))).status, 200);
    const attention = async () => {
      const { body } = await town.ask("GET", "/ops/attention", admin, undefined, ["admin"]);
      return (body as { items: { id: Id; kind: string; why: string }[] }).items;
    };
    const failed = async () => (await attention()).filter(({ kind }) => kind === "CALLBACK");
    await eventually(async () => {
      const items = await attention();
      assert.deepEqual((await failed()).length, 3, JSON.stringify(items));
      assert.deepEqual(
        items
          .filter(({ kind }) => kind === "PAYMENT")
          .map(({ why }) => why)
          .toSorted(),
        ["AMOUNT_DIFFERS: 1989 CNY instead of 1990 CNY", "CURRENCY_DIFFERS: 1990 USD instead of 1990 CNY"],
      );
    });
    // The person has looked.
    for (const { id, why } of await failed()) {
      const resolve = async () => (await town.ask("POST", `/ops/callbacks/${id}/resolve`, admin, {}, ["admin"])).status;
      assert.deepEqual([await resolve(), await resolve()], [200, 404]);
      const { state, error } = await town.row<{ state: string; error: string }>("channel_callbacks", id);
      assert.deepEqual([state, error], ["RESOLVED", `${why}; resolved by user-${admin}`]);
    }
    assert.deepEqual(await failed(), []);
  });
});

describe("refunds by channel", () => {
  it("go back the way the payment came, once, under one number, whatever the channel does on the way", { timeout: 90_000 }, async () => {
    const orders = await Promise.all(Array.from({ length: 4 }, () => town.paid()));
    for (const [index, fault] of (["errorAfterDoing", "hang", "refuseRefund", "loseCallback"] as const).entries()) {
      await town.strike(fault);
      const order = orders[index]!;
      assert.equal((await refund(order)).status, 202);
      await eventually(async () => assert.ok((await town.refundsOf(order))[0]!.attempts > 0));
      await sleep(fault === "hang" ? 4_500 : 300);
      await town.strike();
      await eventually(async () => {
        await town.hurry(order.id);
        assert.equal((await town.refundsOf(order))[0]?.state, "SUCCEEDED", fault);
      });
      assert.equal(await town.status(order), "REFUNDED");
    }
  });

  it("of failed groups need nobody: all of them, also when the channel was down from before the deadline until long after", async () => {
    const deal = await makeDeal(town.shop.test, { stock: 60, tiers: [{ size: 4, price: 1_500 }] });
    const GROUPS = 6;
    // Each with somebody who paid by the channel, from the wallet, and somebody whose payment the channel has taken and nobody has told us of.
    const groups = await Promise.all(
      Array.from({ length: GROUPS }, async () => {
        const first = await town.paid({ deal, groupSize: 4 });
        const second = await town.order({ deal, groupId: first.groupId!, fen: 5_000 });
        assert.equal((await town.pay(second, "wallet")).status, 200);
        const third = await town.charged({ deal, groupId: first.groupId! });
        return { id: first.groupId!, first, second, third };
      }),
    );
    await town.strike("loseCallback");
    const unheard = await Promise.all(
      groups.map(async ({ id }) => {
        const order = await town.order({ deal, groupId: id });
        const { body } = await town.pay(order);
        await town.simpay.pay((body as { payUrl: string }).payUrl);
        return order;
      }),
    );
    // Down: nothing is done, whatever is asked.
    await town.strike("refuse", "loseCallback");
    const ids = groups.map(({ id }) => id);
    await town.shop.rows(
      deal,
      `update orders set expires_at = now() - interval '31 s' where slot = $1 and group_id = any($2::bigint[]) and state = 'PENDING_PAYMENT'`,
      [ids],
    );
    await town.shop.rows(deal, "update groups set deadline = now() where slot = $1 and id = any($2::bigint[])", [ids]);
    await eventually(async () => {
      for (const id of ids) assert.equal(await town.shop.stateOf("groups", id), "FAILED");
    }, 30_000);
    await eventually(async () => {
      for (const { first } of groups) assert.ok((await town.refundsOf(first))[0]!.attempts > 0);
    }, 30_000);
    await sleep(1_000);
    for (const { first } of groups) assert.equal((await town.refundsOf(first))[0]!.state, "PROCESSING");

    // It is back. Nobody does anything.
    await town.strike();
    await eventually(async () => {
      await town.hurry(deal);
      for (const { first, second, third } of groups)
        assert.deepEqual(await Promise.all([first, second, third].map((order) => town.status(order))), ["REFUNDED", "REFUNDED", "EXPIRED"]);
      // Heard of at last, and too late.
      for (const order of unheard)
        assert.deepEqual(
          (await town.refundsOf(order)).map(({ state, surplus }) => [state, surplus]),
          [["SUCCEEDED", true]],
        );
    }, 60_000);
    for (const { second } of groups) assert.equal((await town.shop.wallet(second.user)).available, 5_000);
    const { body } = await town.ask("GET", "/ops/attention?limit=100", admin, undefined, ["admin"]);
    const ofGroups = new Set(
      [...unheard, ...groups.flatMap(({ first, second, third }) => [first, second, third])].map(({ id }) => String(id)),
    );
    assert.deepEqual(
      (body as { items: { orderId?: string }[] }).items.filter(({ orderId }) => orderId !== undefined && ofGroups.has(orderId)),
      [],
    );
  });
});

describe("money in suspense", () => {
  const node = () => town.shop.test.node;
  const byAdmin = caller("16", ["admin"]);
  const resolve = (id: Id, outcome: "GIVEN_BACK" | "WRITTEN_OFF", key?: string) =>
    callAs(node(), resolveSuspense, { id, outcome, note: "她多按了一下" }, byAdmin, key);
  /** A payment of other money than was asked for. */
  const differing = async (fault: "wrongAmount" | "wrongCurrency") => {
    await town.strike(fault);
    const order = await town.charged();
    await town.strike();
    await town.simpay.pay(order.payUrl);
    await eventually(async () => assert.equal((await town.row<{ state: string }>("payments", order.paymentId)).state, "FAILED"));
    return order;
  };
  const listed = async (id: Id) => (await callAs(node(), listAttention, { limit: 100 }, byAdmin)).items.find((item) => item.id === id);
  const caseOf = async (id: Id) =>
    (
      await town.shop.rows<object>(id, "select assignee, outcome, note, resolved_by from suspense_cases where slot = $1 and id = $2", [id])
    )[0];
  const proven = async (): Promise<string[]> =>
    (await callAs(node(), verify, {}, undefined)).checks.flatMap(({ name, ok, detail }) =>
      ok || !/^(recon|books|ledger|channels\.clearing|refunds\.within-payment|payments)\b/.test(name) ? [] : [`${name}: ${detail}`],
    );

  it("of a payment goes back by its channel, once, whatever is repeated, and who decided it is kept", async () => {
    const order = await differing("wrongAmount");
    const { paymentId: id } = order;
    assert.deepEqual(await callAs(node(), assignSuspense, { id, assignee: "li.na" }, byAdmin), { id, assignee: "li.na" });
    assert.deepEqual([(await listed(id))?.why, (await listed(id))?.assignee], ["AMOUNT_DIFFERS: 1989 CNY instead of 1990 CNY", "li.na"]);
    const twins = await Promise.allSettled([
      ...Array.from({ length: 5 }, () => resolve(id, "GIVEN_BACK", "one key")),
      ...Array.from({ length: 5 }, (_, n) => resolve(id, "GIVEN_BACK", `key ${n}`)),
    ]);
    const done = twins.flatMap((twin) => (twin.status === "fulfilled" ? [twin.value] : []));
    assert.ok(done.length > 0);
    assert.equal(new Set(done.map(({ at }) => at)).size, 1, "one decision");
    for (const twin of twins) if (twin.status === "rejected") assert.ok(refused("SUSPENSE_OVER")(twin.reason));
    await assert.rejects(resolve(id, "WRITTEN_OFF"), refused("SUSPENSE_OVER"));
    await assert.rejects(callAs(node(), assignSuspense, { id, assignee: "han" }, byAdmin), refused("SUSPENSE_NOT_FOUND"));
    assert.deepEqual([done[0]?.amount, done[0]?.currency, done[0]?.note], [1_989, "CNY", "她多按了一下"]);
    assert.deepEqual(await caseOf(id), { assignee: "li.na", outcome: "GIVEN_BACK", note: "她多按了一下", resolved_by: "16" });
    assert.equal(await listed(id), undefined);
    await eventually(async () => {
      const refunds = (await town.refundsOf(order)).map(({ id: refundId, state, amount, surplus, reason }) => [
        refundId,
        state,
        amount,
        surplus,
        reason,
      ]);
      assert.deepEqual(refunds, [[done[0]?.refundId, "SUCCEEDED", "1989", true, "OTHER_MONEY"]]);
    }, 20_000);
    assert.deepEqual(await transfers(order), [
      "pay-differs channel:simpay → suspense:long 1989",
      "differs-back suspense:long → escrow:# 1989",
      "refund escrow:# → refund_in_transit:simpay 1989",
      "refund-paid refund_in_transit:simpay → channel:simpay 1989",
    ]);
    assert.equal(await town.status(order), "PENDING_PAYMENT", "the order was never paid, and still can be");
    await town.simpay.pay(((await town.pay(order)).body as { payUrl: string }).payUrl);
    await town.becomes(order, /^CONFIRMED$/);
    const { entries } = await callAs(node(), traceNumber, { id: order.id }, byAdmin);
    assert.deepEqual(
      entries.filter(({ kind }) => kind === "suspense").map(({ what }) => what),
      ["GIVEN_BACK"],
    );
    assert.deepEqual(await proven(), []);
  });

  it("is written off to an account of the house's own where it cannot go back", async () => {
    const order = await differing("wrongCurrency");
    const { paymentId: id } = order;
    await assert.rejects(resolve(id, "GIVEN_BACK"), refused("NOT_TO_GIVE_BACK"));
    const answer = await resolve(id, "WRITTEN_OFF", "another key");
    assert.deepEqual([answer.outcome, answer.amount, answer.currency, answer.refundId], ["WRITTEN_OFF", 1_990, "USD", undefined]);
    const { replayed, ...again } = (await resolve(id, "WRITTEN_OFF", "another key")) as typeof answer & { replayed?: boolean };
    assert.deepEqual([replayed, again], [true, answer]);
    assert.deepEqual(await transfers(order), [
      "pay-differs channel:simpay:USD → suspense:long:USD 1990",
      "differs-off suspense:long:USD → write_off:USD 1990",
    ]);
    assert.equal(await listed(id), undefined);
    await assert.rejects(resolve(order.id, "WRITTEN_OFF"), refused("SUSPENSE_NOT_FOUND"));
    const paid = await town.paid();
    await assert.rejects(resolve(paid.paymentId, "GIVEN_BACK"), refused("SUSPENSE_NOT_FOUND"));
    assert.deepEqual(await proven(), []);
  });
});

describe("payouts by channel", () => {
  it("arrive, and may come back, also when nobody is told", async () => {
    const staff = async (path: string, order: { merchantId: Id }, body?: object) => {
      const { status, body: said } = await town.ask(body ? "POST" : "GET", path, admin, body, ["merchant"], order.merchantId);
      assert.ok(status < 300, JSON.stringify(said));
      return said as Record<string, unknown>;
    };
    const order = await town.paid({ quantity: 2 });
    for (const { code } of (await town.ask("GET", `/orders/${order.id}/vouchers`, order.user)).body as { code: string }[])
      await staff("/vouchers/redeem", order, { code });
    const balance = () => staff(`/merchants/${order.merchantId}/balance`, order);
    await eventually(async () => assert.equal((await balance())["payable"], 3_742));
    await staff(`/merchants/${order.merchantId}/payouts`, order, { amount: 1_000 });
    await eventually(async () => assert.equal((await balance())["paidOut"], 1_000));
    await town.strike("returnPayout", "loseCallback", "errorAfterDoing");
    await staff(`/merchants/${order.merchantId}/payouts`, order, { amount: 2_000 });
    await sleep(300);
    await town.strike();
    await eventually(async () => {
      await town.hurry(order.merchantId);
      const states = await town.shop.rows<{ state: string }>(
        order.merchantId,
        "select state from payouts where slot = $1 and merchant_id = $2 order by id",
        [order.merchantId],
      );
      assert.deepEqual(
        states.map(({ state }) => state),
        ["SUCCEEDED", "RETURNED"],
      );
    });
    assert.deepEqual(await balance(), { escrow: 0, payable: 2_742, paidOut: 1_000, currency: "CNY" });
  });
});

describe("everything that happened", () => {
  it("is what simpay saw, and every invariant holds but for what waits for a person", async () => {
    const lines = differences(await town.witness(), await town.ours());
    assert.deepEqual(
      lines.filter((line) => !madeUp.some((id) => line.includes(id))),
      [],
    );
    await eventually(async () => {
      const { body } = await town.ask("GET", "/ops/verify", admin, undefined, ["admin"]);
      const wrong = (body as { checks: { name: string; ok: boolean; detail: string }[] }).checks.filter(({ ok }) => !ok);
      assert.deepEqual(
        wrong.map(({ name }) => name).filter((name) => !["events.order-index", "refunds.finished"].includes(name)),
        [],
        JSON.stringify(wrong),
      );
    }, 30_000);
  });
});
