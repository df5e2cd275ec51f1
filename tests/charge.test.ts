/** What channels say of charges, as a pure rule: whatever is told, in whatever order and however often, money counts once and pays one order at most. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import fc from "fast-check";
import { refused, unknown, answered } from "../domain/channel/records.ts";
import type { PaymentId } from "../domain/ids.ts";
import { fen } from "../domain/money.ts";
import type { OrderRow } from "../domain/order/place.ts";
import { newsOfCall, type ChargeNews, type News } from "../domain/payment/charge.ts";
import { decidePayments } from "../domain/payment/decide.ts";
import type { PaymentRow } from "../domain/payment/try.ts";
import { NOW, orderOf, paymentOf } from "./support/orders.ts";

const order = orderOf(0);
const payment = (n: number, state: PaymentRow["state"]): PaymentRow =>
  paymentOf(order, { id: `p${n}` as PaymentId, channel: "simpay", state });
const paid = (amount: number, currency = "CNY"): News => ({ kind: "paid", paid: { amount: fen(amount), currency, at: NOW } });
const told = (n: number, news: News): ChargeNews => ({
  paymentId: `p${n}` as PaymentId,
  orderId: order.id,
  news,
  channelNo: undefined,
  requestId: undefined,
  callbackId: undefined,
});
const decide = (state: OrderRow["state"], payments: readonly PaymentRow[], commands: readonly ChargeNews[]) =>
  decidePayments(
    { orders: new Map([[order.id, { ...order, state }]]), payments: new Map(payments.map((one) => [one.id, one])), groups: new Map() },
    commands,
    NOW,
  ).writes;

describe("a channel's word", () => {
  test("pays an order that waits for it; too late, twice or after it was given up, all of it goes back; other money is suspense", () => {
    const open = payment(0, "PROCESSING");
    const ends = (writes: ReturnType<typeof decide>) =>
      [writes.captured, writes.surplus, writes.differing].map(({ length }) => length).join(" ");
    assert.equal(ends(decide("PENDING_PAYMENT", [open], [told(0, paid(100))])), "1 0 0");
    assert.equal(ends(decide("PENDING_PAYMENT", [open], [told(0, paid(100)), told(0, paid(100))])), "1 0 0");
    for (const state of ["CANCELLED", "EXPIRED", "PAID", "CONFIRMED"] as const)
      assert.equal(ends(decide(state, [open], [told(0, paid(100))])), "0 1 0", state);
    assert.equal(ends(decide("PENDING_PAYMENT", [payment(0, "FAILED")], [told(0, paid(100))])), "0 1 0");
    for (const other of [paid(99), paid(101), paid(100, "USD"), paid(0)])
      assert.equal(ends(decide("PENDING_PAYMENT", [open], [told(0, other), told(0, paid(100))])), "0 0 1");
  });

  test("counts once, whatever is told in whatever order", () => {
    const news = fc.oneof(
      fc.constant<News>({ kind: "open", payUrl: "http://pay" }),
      fc.constant<News>({ kind: "lost", why: "silence" }),
      fc.constant<News>({ kind: "ended", reason: "CLOSED" }),
      fc.constantFrom(paid(100), paid(99), paid(100, "USD")),
    );
    const states = fc.constantFrom<PaymentRow["state"]>("CREATED", "PROCESSING", "UNKNOWN", "FAILED");
    fc.assert(
      fc.property(
        fc.array(states, { minLength: 1, maxLength: 4 }),
        fc.array(fc.tuple(fc.nat(3), news), { maxLength: 12 }),
        fc.constantFrom<OrderRow["state"]>("PENDING_PAYMENT", "CANCELLED", "CONFIRMED"),
        (of, words, state) => {
          const commands = words.filter(([n]) => n < of.length).map(([n, word]) => told(n, word));
          const {
            captured,
            surplus,
            differing,
            paid: orders,
            charges,
          } = decide(
            state,
            of.map((one, n) => payment(n, one)),
            commands,
          );
          const first = new Map<string, News>();
          for (const { paymentId, news: word } of commands) if (word.kind === "paid" && !first.has(paymentId)) first.set(paymentId, word);
          assert.equal(captured.length + surplus.length + differing.length, first.size, "all money there is has a place, and one place");
          assert.equal(orders.length, captured.length);
          assert.ok(captured.length <= (state === "PENDING_PAYMENT" ? 1 : 0), "an order is paid once");
          for (const { payment: after } of charges.values()) assert.equal(after.paid !== undefined, first.has(after.id));
        },
      ),
      { numRuns: 2_000 },
    );
  });

  test("is heard only where it says something: silence and refused questions end nothing", () => {
    const charge = { number: "p0", status: "CLOSED" } as const;
    assert.equal(newsOfCall("query", answered(charge)).kind, "ended");
    assert.equal(newsOfCall("charge", unknown("timeout", "")).kind, "lost");
    assert.equal(newsOfCall("charge", refused("BUSY", "", "later")).kind, "lost");
    assert.equal(newsOfCall("charge", refused("NO_SUCH_MERCHANT", "")).kind, "ended");
    assert.equal(newsOfCall("query", refused("BAD_SIGNATURE", "")).kind, "lost");
    assert.equal(newsOfCall("close", refused("CHARGE_PAID", "")).kind, "lost");
  });
});
