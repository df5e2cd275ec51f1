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
  type Difference,
  type DifferenceClass,
} from "../domain/recon/difference.ts";
import { fen } from "../domain/money.ts";

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
