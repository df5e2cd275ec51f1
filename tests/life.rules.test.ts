/**
 * The rules of buying, paying, using, settling and giving back, as pure functions, a hundred thousand lives of a bar beside the plain model of
 * tests/support/life. Ordering itself, with stock and counters over many deals, has a model of its own in order.model.test.ts.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { OPEN_CHARGE } from "../domain/payment/state.ts";
import { Life, openCharge, POOR, type Mood, type Order } from "./support/life/model.ts";
import { RuleBar } from "./support/life/rules.ts";

const LIVES = 100_000;
const MOODS: readonly Mood[] = ["up", "up", "wrong", "down", "deaf", "no", "returns", "busy"];

/** One step: a number that says what is done, to which order, and how. Cheap to draw, and a life shrinks to few of them. */
const step = fc.nat(2 ** 12 - 1);
const whatOf = (n: number): number => n & 31;
const whichOf = (n: number): number => (n >> 5) & 7;
const howOf = (n: number): number => (n >> 8) & 15;

const reached = new Map<string, number>();

function reach(what: string, is: string): true {
  const key = `${what} ${is.replace(/\d+/, "#")}`;
  reached.set(key, (reached.get(key) ?? 0) + 1);
  return true;
}

/** Takes a step in both; false where there is nothing to do it to. */
function take(life: Life, bar: RuleBar, n: number): boolean {
  const said = (what: string, is: string, expected: string): true => {
    assert.equal(is, expected, what);
    return reach(what, is);
  };
  const how = howOf(n);
  const some = life.orders.length;
  const index = some === 0 ? -1 : some - 1 - (whichOf(n) % some);
  const order = life.orders[index];
  const what = whatOf(n);
  if (what < 6 || !order) return place(life, bar, whichOf(n), how);
  const unit = how % Math.max(order.units.length, 1);
  switch (what) {
    case 6:
    case 7:
    case 8:
      return said("wallet", fromWallet(life, bar, index, order), life.payFromWallet(order));
    case 9:
    case 10:
    case 11:
      return said("channel", byChannel(life, bar, index, order), life.payByChannel(order));
    case 12:
    case 13: {
      const charge = order.charges.at(-1);
      if (!charge?.told) return false;
      life.click(order, charge, charge.there !== "CLOSED");
      return said("click", charge.there, charge.there);
    }
    case 14:
    case 15: {
      // Heard once, twice, and again after everything else.
      const at = how % Math.max(order.charges.length, 1);
      const charge = order.charges[at];
      if (charge?.there !== "PAID") return false;
      for (let times = 0; times <= how % 3; times++) bar.tellPaid(index, at, charge.wrong);
      life.hear(order, charge);
      return said("hear", charge.ours, charge.ours);
    }
    case 16:
      return said("cancel", bar.cancel(index), life.cancel(order));
    case 17:
      if (order.fate !== "UNPAID") return false;
      bar.expire(index);
      life.expire(order);
      return true;
    case 18: {
      const party = life.parties.findIndex(({ state }) => state === "OPEN");
      if (party === -1) return false;
      bar.close(
        party,
        [...life.orders.entries()].flatMap(([at, one]) => (one.party === party && one.fate === "UNPAID" ? [at] : [])),
      );
      life.close(party);
      return said("close", "FAILED", life.parties[party]?.state ?? "");
    }
    case 19:
    case 20:
    case 21:
      return order.units.length > 0 && said("redeem", bar.redeem(index, unit), life.redeem(order, unit));
    case 22:
      return order.units.length > 0 && said("reverse", bar.reverse(index, unit), life.reverse(order, unit));
    case 23:
      if (!order.units.some(({ state }) => state === "USED")) return false;
      bar.age(index, 61);
      for (const one of order.units) if (one.state === "USED") one.late = true;
      return true;
    case 24:
      // Used and settled in one go, or hardly any life would come to be paid out.
      if (order.units.length > 0) said("redeem", bar.redeem(index, unit), life.redeem(order, unit));
      bar.settle(index);
      life.settle(order);
      return true;
    case 25:
      bar.settle(index);
      life.settle(order);
      return true;
    case 26:
    case 27: {
      const quantity = how % 3 === 0 ? undefined : how % 3;
      return said("refund", bar.refund(index, quantity), life.refund(order, quantity));
    }
    case 28:
      bar.approve(index);
      life.clawBack(order);
      return true;
    case 29:
      bar.lapse(index);
      life.lapse(order);
      return true;
    case 30:
      return reach("payout", payOut(life, bar, how));
    default:
      life.mood = MOODS[how % MOODS.length] ?? "up";
      bar.arrive(life.mood === "wrong");
      return true;
  }
}

function place(life: Life, bar: RuleBar, which: number, how: number): boolean {
  const join = life.parties.length - 1;
  const way = how < 6 ? "alone" : how < 10 || join < 0 ? "open" : { join };
  const user = which % 3;
  const quantity = 1 + (how % 3);
  if (life.orders.length >= 6 || life.place(user, quantity, way) !== "made") return false;
  bar.place(user, quantity, way === "open" ? "open" : way === "alone" ? undefined : join);
  return true;
}

/** What services/payment does around its rules, without the waiting: a charge that is open is closed, or heard of, first. */
function fromWallet(life: Life, bar: RuleBar, index: number, order: Order): string {
  const { said, payment } = bar.try(index, "wallet");
  if (said !== undefined || !payment) return said ?? "";
  if (OPEN_CHARGE.includes(payment.state)) {
    const charge = openCharge(order);
    if (!life.answers) {
      bar.tell(payment, { kind: "lost", why: "" });
      return "PAYMENT_OPEN";
    }
    if (charge?.there === "PAID") bar.tellPaid(index, order.charges.indexOf(charge), charge.wrong);
    else bar.tell(payment, { kind: "ended", reason: "CLOSED" });
    return fromWallet(life, bar, index, order);
  }
  return bar.decideWallet(payment, order.user !== POOR).state === "CONFIRMING" ? "CONFIRMED" : "INSUFFICIENT_FUNDS";
}

function byChannel(life: Life, bar: RuleBar, index: number, order: Order): string {
  const known = openCharge(order);
  const { said, payment } = bar.try(index, "simpay");
  if (said !== undefined || !payment) return said ?? "";
  if (known?.told) return "PROCESSING";
  if (!life.answers) {
    const refused = life.mood === "no" && !known;
    return bar.tell(payment, refused ? { kind: "ended", reason: "NO" } : { kind: "lost", why: "" }).state === "FAILED"
      ? "CHANNEL_REFUSED"
      : "PROCESSING";
  }
  if (known?.there === "PAID") bar.tellPaid(index, order.charges.indexOf(known), known.wrong);
  else bar.tell(payment, known?.there === "CLOSED" ? { kind: "ended", reason: "CLOSED" } : { kind: "open", payUrl: "page" });
  const { state } = bar.charges(index).at(-1) ?? payment;
  return state === "FAILED" ? "CHANNEL_REFUSED" : state;
}

/** What it comes to at last; every word is told, and then another that comes too late. */
function payOut(life: Life, bar: RuleBar, how: number): string {
  const amount = Math.max(1, how > 12 ? life.payable + 1 : Math.ceil((life.payable * (how % 4)) / 3));
  const asked = bar.payOut(amount);
  assert.equal(asked, life.payOut(amount));
  if (asked !== "REQUESTED") return asked;
  const at = life.payouts.length - 1;
  const ends = life.payouts[at]?.state ?? "UNDER_WAY";
  const words = {
    SUCCEEDED: ["call", "pay", "pay", "refuse"],
    FAILED: ["call", "refuse", "pay"],
    RETURNED: ["call", "return", "pay"],
    UNDER_WAY: ["call", "lose"],
  } as const;
  bar.tellPayout(at, words[ends]);
  return ends;
}

/** The channel is well, everybody is waited for, and whatever was told is told again. */
function heal(life: Life, bar: RuleBar): void {
  for (const [index, order] of life.orders.entries())
    for (const [at, charge] of order.charges.entries()) {
      const payment = bar.charges(index)[at];
      assert.ok(payment);
      if (charge.there === "PAID") bar.tellPaid(index, at, charge.wrong);
      else if (order.fate !== "UNPAID" || charge.there === "CLOSED") bar.tell(payment, { kind: "ended", reason: "CLOSED" });
    }
  bar.silence();
  bar.arrive(true);
  bar.arrive(false);
  for (const [index, { state }] of life.payouts.entries()) if (state === "UNDER_WAY") bar.tellPayout(index, ["pay"]);
  life.heal();
}

test(`${LIVES} lives by the rules alone agree with the model to the fen`, { timeout: 200_000 }, () => {
  fc.assert(
    fc.property(fc.boolean(), fc.boolean(), fc.array(step, { minLength: 8, maxLength: 24, size: "max" }), (anytime, expired, steps) => {
      const life = new Life({ anytime, expired });
      const bar = new RuleBar(life.terms);
      for (const n of steps) if (take(life, bar, n)) assert.deepEqual(life.differences(bar.look(), false), []);
      heal(life, bar);
      assert.deepEqual(life.differences(bar.look(), true), []);
      assert.deepEqual(bar.books.view(), life.books());
      assert.deepEqual(bar.tally(), life.tally());
    }),
    { numRuns: LIVES },
  );
  // Nothing above is worth much if the steps never get there.
  assert.deepEqual([...reached.keys()].toSorted(), [
    "cancel CANCELLED",
    "cancel ORDER_STATE",
    "channel CHANNEL_REFUSED",
    "channel CONFIRMED",
    "channel ORDER_STATE",
    "channel PROCESSING",
    "click CLOSED",
    "click PAID",
    "close FAILED",
    "hear DIFFERS",
    "hear PAID",
    "hear SURPLUS",
    "payout FAILED",
    "payout INSUFFICIENT_FUNDS",
    "payout RETURNED",
    "payout SUCCEEDED",
    "payout UNDER_WAY",
    "redeem REDEEMED",
    "redeem VOUCHER_STATE",
    "refund NOT_REFUNDABLE",
    "refund REQUESTED #",
    "reverse ISSUED",
    "reverse REVERSAL_TOO_LATE",
    "reverse VOUCHER_STATE",
    "wallet CONFIRMED",
    "wallet INSUFFICIENT_FUNDS",
    "wallet ORDER_STATE",
    "wallet PAYMENT_OPEN",
  ]);
});
