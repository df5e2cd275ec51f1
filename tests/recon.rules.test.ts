/** What follows from a difference, by rule: what goes to suspense, that it comes back whole, and what alone explains it. */
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import fc from "fast-check";
import {
  dayAt,
  dayOf,
  isExplained,
  LINE_KINDS,
  moneyOff,
  RECON_CLASSES,
  suspend,
  unsuspend,
  writeOff,
  type Difference,
  type DifferenceClass,
} from "../domain/recon/difference.ts";
import { DomainError } from "../domain/error.ts";
import type { MerchantId, OrderId, PaymentId } from "../domain/ids.ts";
import { fen } from "../domain/money.ts";
import { OUTCOMES, resolve, suspendPayment, type Suspended } from "../domain/recon/suspense.ts";

const CLASSES = RECON_CLASSES.filter((one): one is DifferenceClass => one !== "MATCHED");
const sum = fc.option(fc.bigInt({ min: 1n, max: 10n ** 12n }), { nil: undefined });
const differences = fc.record({
  id: fc.constant("1"),
  channel: fc.constant("simpay"),
  class: fc.constantFrom(...CLASSES),
  kind: fc.constantFrom(...LINE_KINDS),
  number: fc.constant("2"),
  ours: sum,
  theirs: sum,
  currency: fc.constantFrom("CNY", "USD"),
});
const base: Difference = {
  id: "1",
  channel: "simpay",
  class: "AMOUNT",
  kind: "PAYMENT",
  number: "2",
  ours: 1_990n,
  theirs: 1_991n,
  currency: "CNY",
};

/** What the account that mirrors the channel gains, in its own sense: debits are money the channel has. */
const gained = (difference: Difference): bigint =>
  suspend(difference).reduce((total, { debit, amount }) => total + (debit.startsWith("suspense:") ? 0n - amount : amount), 0n);

describe("what is off", () => {
  it("is by how much the statement says more than the books, whichever way the money went", () => {
    const off = (of: Partial<Difference>): bigint => moneyOff({ ...base, ...of });
    assert.deepEqual([off({}), off({ kind: "REFUND" }), off({ kind: "PAYOUT" }), off({ kind: "PAYOUT_RETURN" })], [1n, -1n, -1n, 1n]);
    assert.deepEqual([off({ class: "LONG", ours: undefined }), off({ class: "SHORT", theirs: undefined })], [1_991n, -1_990n]);
    assert.equal(off({ class: "DUPLICATE" }), 1_991n);
    assert.deepEqual([off({ class: "STATUS" }), off({ class: "TIMING" })], [0n, 0n]);
    assert.equal(off({ currency: "USD" }), -1_990n, "other money is none of ours");
  });

  it("goes to suspense to the fen, against the account that mirrors the channel, and comes back whole", () => {
    fc.assert(
      fc.property(differences, (difference) => {
        assert.equal(gained(difference), moneyOff(difference));
        const [out, back] = [suspend(difference), unsuspend(difference)];
        assert.equal(out.length, back.length);
        for (const [index, one] of out.entries()) {
          const other = back[index];
          assert.deepEqual([other?.debit, other?.credit, other?.amount], [one.credit, one.debit, one.amount]);
          assert.notEqual(other?.code, one.code, "each is a business event of its own");
          assert.match(one.debit + one.credit, /suspense:(long|short)/);
        }
      }),
    );
  });
});

describe("a difference", () => {
  const paid = (amount: bigint, currency = "CNY") =>
    ({ about: "charge", charge: { number: "2", status: "PAID", paid: { amount: fen(amount), currency, atMs: 0 } } }) as const;

  it("is explained when the channel says what our books say, and by nothing else", () => {
    assert.equal(isExplained(paid(1_990n), "PAYMENT", 1_990n), true);
    assert.equal(isExplained(paid(1_991n), "PAYMENT", 1_990n), false);
    assert.equal(isExplained(paid(1_990n, "USD"), "PAYMENT", 1_990n), false);
    assert.equal(isExplained(paid(1_990n), "PAYMENT", undefined), false, "money of nobody's stays unexplained");
    const absent = { about: "charge", charge: { number: "2", status: "ABSENT" } } as const;
    assert.equal(isExplained(absent, "PAYMENT", undefined), true, "there is no such money, and our books have none");
    assert.equal(isExplained(absent, "PAYMENT", 1_990n), false);
  });

  it("of a payout that came back is about its way out, or its way back", () => {
    const payout = (status: "SUCCEEDED" | "RETURNED" | "PROCESSING") =>
      ({ about: "payout", payout: { number: "2", status, amount: fen(500n), currency: "CNY" } }) as const;
    assert.deepEqual(
      [isExplained(payout("RETURNED"), "PAYOUT", 500n), isExplained(payout("RETURNED"), "PAYOUT_RETURN", 500n)],
      [true, true],
    );
    assert.deepEqual(
      [isExplained(payout("SUCCEEDED"), "PAYOUT", 500n), isExplained(payout("SUCCEEDED"), "PAYOUT_RETURN", 500n)],
      [true, false],
    );
    assert.equal(isExplained(payout("PROCESSING"), "PAYOUT", 500n), false);
  });
});

it("a day is a Chinese one: it begins at 16:00 UTC of the day before", () => {
  const { from, to } = dayOf("2026-03-01");
  assert.deepEqual([from.toISOString(), to.toISOString()], ["2026-02-28T16:00:00.000Z", "2026-03-01T16:00:00.000Z"]);
  assert.deepEqual([dayAt(from.getTime() - 1), dayAt(from.getTime()), dayAt(to.getTime() - 1)], ["2026-02-28", "2026-03-01", "2026-03-01"]);
});

describe("what a person decides", () => {
  /** What each account gains by transfers: credits less debits. */
  const moved = (transfers: readonly { debit: string; credit: string; amount: bigint }[]): Record<string, bigint> => {
    const gains = new Map<string, bigint>();
    for (const { debit, credit, amount } of transfers) {
      gains.set(debit, (gains.get(debit) ?? 0n) - amount);
      gains.set(credit, (gains.get(credit) ?? 0n) + amount);
    }
    return Object.fromEntries([...gains].filter(([, gain]) => gain !== 0n));
  };
  const payment = (of: { amount?: number; currency?: string; refundable?: boolean } = {}): Suspended => {
    const { amount = 1_989, currency = "CNY", refundable = true } = of;
    const [id, orderId, merchantId] = ["5" as PaymentId, "6" as OrderId, "7" as MerchantId];
    return { about: "payment", refundable, money: { id, channel: "simpay", orderId, merchantId, paid: { amount: fen(amount), currency } } };
  };
  const outcomeOf = (answer: ReturnType<typeof resolve>): string | Record<string, bigint> =>
    answer instanceof DomainError ? answer.type : moved(answer.transfers);

  it("takes exactly what lies in suspense out of it, and nothing from what mirrors the channel", () => {
    fc.assert(
      fc.property(differences, fc.boolean(), (difference, booked) => {
        const answer = resolve("1", "WRITTEN_OFF", { about: "difference", difference, state: "OPEN", booked, asked: true }, undefined);
        assert.ok(!(answer instanceof DomainError));
        const off = moneyOff(difference);
        assert.equal(answer.amount, off);
        const {
          "suspense:long": long = 0n,
          "suspense:short": short = 0n,
          write_off: written = 0n,
        } = moved([...suspend(difference), ...writeOff(difference)]);
        assert.deepEqual([long, short, written], [0n, 0n, off]);
        // Found a moment ago, it goes there first.
        assert.deepEqual(answer.transfers, [...(booked ? [] : suspend(difference)), ...writeOff(difference)]);
      }),
    );
  });

  it("gives other money back to its escrow, whole, or writes it off in its own currency", () => {
    const of = (item: Suspended, outcome: (typeof OUTCOMES)[number]) => outcomeOf(resolve("5", outcome, item, undefined));
    assert.deepEqual(of(payment(), "GIVEN_BACK"), { "suspense:long": -1_989n, "escrow:7": 1_989n });
    assert.deepEqual(of(payment(), "WRITTEN_OFF"), { "suspense:long": -1_989n, write_off: 1_989n });
    assert.deepEqual(of(payment({ currency: "USD" }), "WRITTEN_OFF"), { "suspense:long:USD": -1_989n, "write_off:USD": 1_989n });
    assert.deepEqual(of(payment({ amount: 0 }), "WRITTEN_OFF"), {});
    for (const item of [payment({ currency: "USD" }), payment({ amount: 0 }), payment({ refundable: false })])
      assert.equal(of(item, "GIVEN_BACK"), "NOT_TO_GIVE_BACK");
    for (const item of [payment(), payment({ currency: "USD" })]) {
      assert.ok(item.about === "payment");
      for (const { credit, amount } of suspendPayment(item.money)) {
        const out = resolve("5", "WRITTEN_OFF", item, undefined);
        assert.ok(!(out instanceof DomainError));
        assert.deepEqual([out.transfers[0]?.debit, out.transfers[0]?.amount], [credit, amount], "what went in comes out");
      }
    }
  });

  it("counts once, and only of what is there, open, and was asked about", () => {
    const item = (of: Partial<Suspended & { about: "difference" }> = {}): Suspended => ({
      about: "difference",
      difference: base,
      state: "OPEN",
      booked: true,
      asked: true,
      ...of,
    });
    const code = (of: Suspended | undefined, before?: (typeof OUTCOMES)[number]) => outcomeOf(resolve("1", "WRITTEN_OFF", of, before));
    assert.equal(code(undefined), "SUSPENSE_NOT_FOUND");
    assert.equal(code(payment(), "GIVEN_BACK"), "SUSPENSE_OVER");
    for (const state of ["CLEARING", "CLEARED", "RESOLVED"] as const) assert.equal(code(item({ state })), "SUSPENSE_OVER");
    assert.equal(code(item({ asked: false })), "DIFFERENCE_NOT_ASKED");
    assert.equal(outcomeOf(resolve("1", "GIVEN_BACK", item(), undefined)), "NOT_TO_GIVE_BACK");
  });
});
