/** `/ops/trace` and `/ops/account-statement` on lives that were really lived, and on the books they left. */
import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { composeId, shardOf, slotOf, type Id, USER_CITY } from "../domain/ids.ts";
import { advancePayouts, requestPayout } from "../services/settlement/settlement.contract.ts";
import { requestRefund } from "../services/payment/payment.contract.ts";
import { redeemVoucher } from "../services/voucher/voucher.contract.ts";
import { stateAccount, traceNumber } from "../services/ops/ops.contract.ts";
import { makeDeal } from "./support/deals.ts";
import { ADMIN } from "./support/market.ts";
import { callAs, caller } from "./support/node.ts";
import { eventually, refused, Shop } from "./support/shop.ts";

let shop: Shop;
before(async () => {
  shop = await Shop.open({ services: ["notify", "order-index", "journal"] });
});
after(() => shop.close());

const trace = (id: string) => callAs(shop.test.node, traceNumber, { id }, ADMIN);
type Traced = Awaited<ReturnType<typeof trace>>;
const kindsOf = ({ entries }: Traced): string[] => [...new Set(entries.map(({ kind }) => kind))].toSorted();
const whats = ({ entries }: Traced, kind: string): string[] => entries.filter((entry) => entry.kind === kind).map(({ what }) => what);

/** Three units of one order: one is used and settled, one is given back, one is left; the merchant is paid out. */
async function life() {
  const deal = await makeDeal(shop.test, { stock: 10, price: 1_000 });
  const user = await shop.person(10_000);
  const order = await shop.order(deal, user, { quantity: 3 });
  await shop.pay(order, user);
  await shop.settled();
  const vouchers = await shop.vouchers(order, user);
  const code = vouchers[0]?.code ?? "";
  const staff = caller("16", ["merchant"], order.merchantId);
  await callAs(shop.test.node, redeemVoucher, { code }, staff);
  await shop.rows(order.id, "update settlements set due_at = now() where slot = $1 and order_id = $2", [order.id]);
  await eventually(async () => {
    const [row] = await shop.rows<{ state: string }>(order.id, "select state from settlements where slot = $1 and order_id = $2", [
      order.id,
    ]);
    assert.equal(row?.state, "SUCCESS");
  });
  const refund = await callAs(shop.test.node, requestRefund, { id: order.id, quantity: 1 }, caller(user));
  await shop.settled();
  const payout = await callAs(shop.test.node, requestPayout, { id: order.merchantId, amount: 500 }, staff);
  await callAs(shop.test.node, advancePayouts, { ...shardOf(payout.id), ids: [payout.id] }, undefined);
  return { deal, user, order, code, refund, payout };
}

describe("a trace", () => {
  let lived: Awaited<ReturnType<typeof life>>;
  before(async () => {
    lived = await life();
  });

  it("of an order tells its whole life in order of time: rows, events, stock, money on both sides, and what people were told", async () => {
    const { order, user } = lived;
    await eventually(async () => {
      const told = whats(await trace(order.id), "notification");
      for (const kind of ["order.paid", "order.confirmed", "voucher.issued", "voucher.redeemed", "refund.succeeded"])
        assert.ok(told.includes(kind), `${kind} among ${told.join(", ")}`);
    });
    const traced = await trace(order.id);
    assert.deepEqual([traced.kind, traced.orderId], ["order", order.id]);
    assert.deepEqual(kindsOf(traced), [
      ...["event", "notification", "order", "payment", "redemption", "refund", "request", "settlement", "stock", "transfer", "voucher"],
    ]);
    const times = traced.entries.map(({ at }) => at);
    assert.deepEqual(times, times.toSorted());
    assert.deepEqual(whats(traced, "order"), ["created", "paid"]);
    assert.deepEqual(
      whats(traced, "stock")
        .map((what) => what.split(":")[0] ?? "")
        .toSorted(),
      ["held", "refunded", "sold"].toSorted(),
    );
    for (const type of ["order.created", "order.moved", "payment.confirmed", "voucher.issued", "voucher.redeemed", "settlement.succeeded"])
      assert.ok(whats(traced, "event").includes(type), type);
    const transfers = traced.entries.filter(({ kind }) => kind === "transfer");
    const codes = (keyspace: string): string[] =>
      transfers
        .filter((one) => one.keyspace === keyspace)
        .map(({ what }) => what.split(" ").slice(0, 2).join(" "))
        .toSorted();
    const both = ["pay PENDING", "pay POSTED", "refund PENDING", "refund POSTED"];
    assert.deepEqual(codes("sh"), [...both, "commission POSTED", "settle POSTED"].toSorted());
    assert.deepEqual(codes("user"), both.toSorted());
    assert.ok(transfers.filter((one) => one.keyspace === "user").every((one) => one.slot === slotOf(user)));
    assert.ok(
      traced.entries.every(({ data }) => !/"(\w+_)?id":\d/.test(JSON.stringify(data))),
      "ids are texts wherever they stand",
    );
  });

  it("is found by every number that leads to it", async () => {
    const { order, code, refund, payout, user } = lived;
    const rows = (table: string) =>
      shop.rows<{ id: string }>(order.id, `select id from ${table} where slot = $1 and order_id = $2`, [order.id]);
    for (const table of ["payments", "refunds", "vouchers", "settlements", "redemptions", "transfers"]) {
      const [row] = await rows(table);
      const traced = await trace(row?.id ?? "");
      assert.deepEqual([traced.kind, traced.orderId], [table.slice(0, -1), order.id]);
    }
    const atUser = await shop.rows<{ id: string }>(user, "select id from transfers where slot = $1 and order_id = $2", [order.id]);
    const first = await trace(atUser[0]?.id ?? "");
    assert.deepEqual([first.kind, first.orderId], ["transfer", order.id]);
    assert.deepEqual([(await trace(code)).kind, (await trace(refund.id)).kind], ["voucher", "refund"]);
    const paidOut = await trace(payout.id);
    assert.deepEqual([paidOut.kind, paidOut.orderId], ["payout", undefined]);
    assert.ok(whats(paidOut, "event").includes("payout.requested"));
    assert.ok(whats(paidOut, "transfer").some((what) => what.startsWith("payout POSTED payable:")));
    await shop.rows(order.id, "update refunds set channel_no = 'SP2026112200000000042R' where slot = $1 and id = $2", [refund.id]);
    const byChannel = await trace("SP2026112200000000042R");
    assert.deepEqual([byChannel.kind, byChannel.orderId], ["refund", order.id]);
  });

  it("of a top-up is the money's way into the wallet", async () => {
    const { user } = lived;
    const [row] = await shop.rows<{ id: string }>(user, "select id from topups where slot = $1 and user_id = $2", [user]);
    const traced = await trace(row?.id ?? "");
    assert.equal(traced.kind, "topup");
    assert.deepEqual(kindsOf(traced), ["event", "request", "topup", "transfer"]);
  });

  it("of what never was is not found, and of digits that are no number of anything is refused", async () => {
    for (const id of [
      "1",
      "4194304017",
      composeId({ ms: 1_765_000_000_000, sequence: 0, city: 99, slot: 3 }),
      "9999999999999977",
      "SP0000000X",
    ])
      await assert.rejects(trace(id), refused("TRACE_NOT_FOUND"), id);
    await assert.rejects(trace("9223372036854775808"), refused("VALIDATION_ERROR"));
  });
});

describe("the statement of an account", () => {
  const state = (account: string, of: { city?: string; slot: number; from?: string; to?: string; limit?: number; cursor?: string }) =>
    callAs(shop.test.node, stateAccount, { account, city: "user", ...of }, ADMIN);

  it("tells what a wallet held at any time, as its transfers do from the first on", async () => {
    const deal = await makeDeal(shop.test, { stock: 10, price: 1_234 });
    const user: Id<"user"> = await shop.person(50_000);
    for (let n = 0; n < 3; n++) await shop.pay(await shop.order(deal, user), user);
    await shop.settled();
    const account = `wallet:${user}`;
    const slot = slotOf(user);
    const moves = await shop.rows<{ at: Date; signed: string }>(
      user,
      `select at, case when debit_account = $2 then -amount else amount end as signed
         from transfers where slot = $1 and state = 'POSTED' and (debit_account = $2 or credit_account = $2) order by seq`,
      [account],
    );
    assert.equal(moves.length, 4);
    const heldAt = (time: Date): number => moves.filter(({ at }) => at <= time).reduce((sum, { signed }) => sum + Number(signed), 0);
    for (const { at } of moves) {
      for (const time of [new Date(at.getTime() - 1), at]) {
        const { closing, items } = await state(account, { slot, to: time.toISOString() });
        assert.deepEqual([closing, items], [heldAt(time), []], time.toISOString());
      }
    }
    const now = await state(account, { slot });
    assert.deepEqual([now.closing, now.promisedOut], [50_000 - 3 * 1_234, 0]);

    const from = new Date((moves[0]?.at.getTime() ?? 0) - 1).toISOString();
    const [to] = [new Date().toISOString()];
    const whole = await state(account, { slot, from, to });
    assert.equal(whole.opening, 0);
    assert.deepEqual(
      whole.items.map(({ amount, balance }) => [amount, balance]),
      [
        [50_000, 50_000],
        [-1_234, 48_766],
        [-1_234, 47_532],
        [-1_234, 46_298],
      ],
    );
    const first = await state(account, { slot, from, to, limit: 3 });
    assert.ok(typeof first.nextCursor === "string");
    const rest = await state(account, { slot, from, to, limit: 3, cursor: first.nextCursor });
    assert.deepEqual([...first.items, ...rest.items], whole.items);
    assert.equal(rest.nextCursor, undefined);
  });

  it("tells what was promised then, and neither kept nor given up", async () => {
    const deal = await makeDeal(shop.test, { stock: 10, price: 1_000 });
    const user = await shop.person(5_000);
    const order = await shop.order(deal, user);
    await shop.pay(order, user);
    await shop.settled();
    const [tried] = await shop.rows<{ at: Date }>(
      user,
      "select at from transfers where slot = $1 and order_id = $2 and state = 'PENDING'",
      [order.id],
    );
    const [kept] = await shop.rows<{ at: Date }>(user, "select at from transfers where slot = $1 and order_id = $2 and state = 'POSTED'", [
      order.id,
    ]);
    assert.ok(tried && kept && tried.at < kept.at);
    const then = await state(`wallet:${user}`, { slot: slotOf(user), to: tried.at.toISOString() });
    assert.deepEqual([then.closing, then.promisedOut, then.promisedIn], [5_000, 1_000, 0]);
  });

  it("of an account that is not in that book is not found; a time that runs backwards is refused", async () => {
    await assert.rejects(state("wallet:1", { slot: 3 }), refused("ACCOUNT_NOT_FOUND"));
    await assert.rejects(state("wallet:1", { slot: 3, city: "nowhere" }), refused("CITY_NOT_FOUND"));
    const account = `wallet:${await shop.person(1)}`;
    const [from, to] = ["2026-01-02T00:00:00Z", "2026-01-01T00:00:00Z"];
    await assert.rejects(state(account, { slot: 1, from, to }), refused("VALIDATION_ERROR"));
    assert.equal(USER_CITY, 0);
  });

  it("reads no more than what was written since, by the index of times", async () => {
    const { platform } = shop.test.node;
    const [row] = await platform.databaseOf({ city: 1, slot: 0 }).query<{ indexes: string }>({
      name: "test/brin",
      text: "select string_agg(indexdef, ' ') as indexes from pg_indexes where indexname like 'transfers%_at%'",
    });
    assert.match(row?.indexes ?? "", /using brin \(at\)/i);
  });
});
