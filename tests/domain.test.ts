/** The vocabulary of the domain: money, ids, state machines and errors, by property and by table. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import fc from "fast-check";
import { DEAL, DEAL_INITIAL } from "../domain/deal/state.ts";
import { DomainError, raise, refusal, type ErrorDef } from "../domain/error.ts";
import { AUDIT_ERRORS } from "../domain/audit/errors.ts";
import { COMMON_ERRORS } from "../domain/common-errors.ts";
import { DEAL_ERRORS } from "../domain/deal/errors.ts";
import { ERRORS } from "../domain/errors.ts";
import { GROUP_ERRORS } from "../domain/group/errors.ts";
import { JOURNAL_ERRORS } from "../domain/journal/errors.ts";
import { GROUP, GROUP_INITIAL, SEAT, SEAT_INITIAL } from "../domain/group/state.ts";
import { cityOf, composeId, ID_EPOCH_MS, isId, mintedAtMs, shardOf, slotOf } from "../domain/ids.ts";
import { InvariantViolation } from "../domain/invariant.ts";
import { basisPoints, fen, FEN_MAX, REQUEST_FEN_MAX, share, sum, toJson } from "../domain/money.ts";
import { OPS_ERRORS } from "../domain/ops/errors.ts";
import { ORDER_ERRORS } from "../domain/order/errors.ts";
import { ORDER, ORDER_INITIAL } from "../domain/order/state.ts";
import { PAYMENT_ERRORS } from "../domain/payment/errors.ts";
import { CHARGE, CHARGE_INITIAL, PAYMENT, PAYMENT_INITIAL } from "../domain/payment/state.ts";
import { PAYOUT, PAYOUT_INITIAL } from "../domain/payout/state.ts";
import { RECON_ERRORS } from "../domain/recon/errors.ts";
import { REFUND_ERRORS } from "../domain/refund/errors.ts";
import { REFUND, REFUND_INITIAL } from "../domain/refund/state.ts";
import { SETTLEMENT, SETTLEMENT_INITIAL } from "../domain/settlement/state.ts";
import { arrows, next, unreachableStates, type Transitions } from "../domain/transition.ts";
import { USER_ERRORS } from "../domain/user/errors.ts";
import { VOUCHER_ERRORS } from "../domain/voucher/errors.ts";
import { VOUCHER, VOUCHER_INITIAL } from "../domain/voucher/state.ts";

const INT8_MAX = 2n ** 63n - 1n;
const amount = fc.bigInt({ min: 0n, max: FEN_MAX }).map(fen);
const weights = fc
  .array(fc.bigInt({ min: 0n, max: 10n ** 9n }), { minLength: 1, maxLength: 99 })
  .filter((all) => all.some((one) => one > 0n));

describe("money", () => {
  test("parts sum to the whole, and none is a fen or more away from its exact share", () => {
    fc.assert(
      fc.property(amount, weights, (total, shares) => {
        const whole = shares.reduce((a, b) => a + b, 0n);
        const parts = share(total, shares);
        assert.equal(sum(parts), total);
        for (const [index, part] of parts.entries()) {
          // |part - total × weight / whole| < 1, without dividing.
          const off = part * whole - total * (shares[index] ?? 0n);
          assert.ok(off < whole && off > -whole);
        }
      }),
    );
  });
  test("leftover fen go to the largest remainders, the earlier part first on a tie", () => {
    fc.assert(
      fc.property(amount, weights, (total, shares) => {
        const whole = shares.reduce((a, b) => a + b, 0n);
        const parts = share(total, shares);
        const rows = shares.map((weight, index) => ({
          index,
          remainder: (total * weight) % whole,
          extra: (parts[index] ?? 0n) - (total * weight) / whole,
        }));
        const lucky = rows.filter(({ extra }) => extra === 1n);
        const plain = rows.filter(({ extra }) => extra === 0n);
        assert.equal(lucky.length + plain.length, rows.length);
        for (const one of lucky)
          for (const other of plain)
            assert.ok(one.remainder > other.remainder || (one.remainder === other.remainder && one.index < other.index));
      }),
    );
    assert.deepEqual(share(fen(100), [1n, 1n, 1n]), [34n, 33n, 33n]);
    assert.deepEqual(share(fen(100), [1n, 2n, 3n]), [17n, 33n, 50n]);
    assert.deepEqual(share(fen(1), [0n, 5n]), [0n, 1n]);
    assert.deepEqual(share(fen(0), [7n, 5n]), [0n, 0n]);
    assert.throws(() => share(fen(1), [0n, 0n]), InvariantViolation);
    assert.throws(() => share(fen(1), []), InvariantViolation);
  });
  test("basis points are rounded half up", () => {
    const table: [number, number, bigint][] = [
      [0, 600, 0n],
      [1990, 0, 0n],
      [1990, 10_000, 1990n],
      [1990, 600, 119n], // 119.4
      [1, 5_000, 1n], // 0.5
      [1, 4_999, 0n],
      [25, 200, 1n], // 0.5
      [24, 200, 0n], // 0.48
    ];
    for (const [of, bps, part] of table) assert.equal(basisPoints(fen(of), bps), part, `${bps} bps of ${of}`);
    fc.assert(
      fc.property(amount, fc.integer({ min: 0, max: 10_000 }), (of, bps) => {
        const part = basisPoints(of, bps);
        const off = part * 10_000n - of * BigInt(bps);
        assert.ok(off > -5_000n && off <= 5_000n && part <= of);
      }),
    );
    for (const bps of [-1, 10_001, 0.5, Number.NaN]) assert.throws(() => basisPoints(fen(1), bps), InvariantViolation);
  });
  test("there is no negative, broken or boundless amount", () => {
    assert.equal(fen(FEN_MAX), FEN_MAX);
    for (const wrong of [-1, -1n, FEN_MAX + 1n, "-5"]) assert.throws(() => fen(wrong), InvariantViolation);
    for (const wrong of [0.5, Number.NaN, Infinity]) assert.throws(() => fen(wrong), RangeError);
    assert.throws(() => fen("12.5"), SyntaxError);
    assert.throws(() => sum([fen(FEN_MAX), fen(1)]), InvariantViolation);
  });
  test("an amount is exact in JSON, up to the largest and over a batch of the largest requests", () => {
    fc.assert(
      fc.property(fc.bigInt({ min: -FEN_MAX, max: FEN_MAX }), (one) => BigInt(JSON.parse(JSON.stringify(toJson(one))) as number) === one),
    );
    assert.throws(() => toJson(FEN_MAX + 1n), InvariantViolation);
    assert.ok(FEN_MAX <= BigInt(Number.MAX_SAFE_INTEGER));
    assert.ok(BigInt(REQUEST_FEN_MAX) * 99n < FEN_MAX);
    assert.ok(FEN_MAX * 9_000n < INT8_MAX);
  });
});

describe("ids", () => {
  const parts = fc.record({
    ms: fc.integer({ min: 0, max: 2 ** 41 - 1 }).map((since) => ID_EPOCH_MS + since),
    sequence: fc.integer({ min: 0, max: 1023 }),
    city: fc.integer({ min: 0, max: 255 }),
    slot: fc.integer({ min: 0, max: 15 }),
  });
  const positive = parts.filter(({ ms, sequence, city, slot }) => ms > ID_EPOCH_MS || sequence + city + slot > 0);

  test("what an id is composed of can be read back from its digits", () => {
    fc.assert(
      fc.property(positive, (of) => {
        const id = composeId(of);
        assert.ok(isId(id));
        assert.deepEqual([slotOf(id), cityOf(id), mintedAtMs(id)], [of.slot, of.city, of.ms]);
        assert.deepEqual(shardOf(id), { city: of.city, slot: of.slot });
        assert.equal(BigInt(id) % 16n, BigInt(of.slot));
        assert.equal((BigInt(id) >> 4n) & 255n, BigInt(of.city));
        assert.equal((BigInt(id) >> 12n) & 1023n, BigInt(of.sequence));
      }),
    );
  });
  test("the address of any positive int8 is what its bits say", () => {
    fc.assert(
      fc.property(fc.bigInt({ min: 1n, max: INT8_MAX }), (n) => {
        assert.ok(isId(String(n)));
        assert.deepEqual(shardOf(String(n)), { city: Number((n >> 4n) & 255n), slot: Number(n % 16n) });
      }),
    );
  });
  test("ids sort by time, then by sequence", () => {
    fc.assert(
      fc.property(positive, positive, (a, b) => {
        const before = a.ms < b.ms || (a.ms === b.ms && a.sequence < b.sequence);
        if (before) assert.ok(BigInt(composeId(a)) < BigInt(composeId(b)));
      }),
    );
  });
  test("an id is a positive int8 in plain decimal, nothing else", () => {
    for (const good of ["1", "16", "999999999999999999", "1000000000000000000", String(INT8_MAX)]) assert.ok(isId(good), good);
    const bad = [
      "",
      "0",
      "-1",
      "+1",
      "01",
      "1.0",
      "1e3",
      " 1",
      "1 ",
      "1\n",
      "0x10",
      "１",
      "9223372036854775808",
      "9999999999999999999",
      "10000000000000000000",
    ];
    for (const text of bad) assert.ok(!isId(text), JSON.stringify(text));
    fc.assert(fc.property(fc.bigInt({ min: INT8_MAX + 1n, max: 10n ** 30n }), (n) => !isId(String(n))));
  });
  test("the last id of the 41 bits is an int8, and parts that do not fit are refused", () => {
    const last = composeId({ ms: ID_EPOCH_MS + 2 ** 41 - 1, sequence: 1023, city: 255, slot: 15 });
    assert.equal(BigInt(last), INT8_MAX);
    const fits = { ms: ID_EPOCH_MS, sequence: 0, city: 0, slot: 1 };
    for (const wrong of [
      { sequence: 1024 },
      { sequence: -1 },
      { city: 256 },
      { city: -1 },
      { slot: 16 },
      { slot: -1 },
      { ms: ID_EPOCH_MS + 2 ** 41 },
      { ms: ID_EPOCH_MS - 1 },
    ]) {
      assert.throws(() => composeId({ ...fits, ...wrong }), InvariantViolation, JSON.stringify(wrong));
    }
  });
});

describe("state machines", () => {
  interface Machine {
    readonly table: Transitions<string, string>;
    readonly initial: string;
    /** Written by hand from DOMAIN.md: a changed arrow is a changed rule. */
    readonly arrows: string;
  }
  const machines: Readonly<Record<string, Machine>> = {
    deal: {
      table: DEAL,
      initial: DEAL_INITIAL,
      arrows: "DRAFT>ON_SALE DRAFT>CLOSED ON_SALE>PAUSED ON_SALE>CLOSED PAUSED>ON_SALE PAUSED>CLOSED",
    },
    group: {
      table: GROUP,
      initial: GROUP_INITIAL,
      arrows: "PENDING>OPEN PENDING>FAILED OPEN>FORMED OPEN>CLOSING CLOSING>FORMED CLOSING>FAILED",
    },
    seat: { table: SEAT, initial: SEAT_INITIAL, arrows: "HELD>TAKEN HELD>RELEASED TAKEN>REFUNDED" },
    order: {
      table: ORDER,
      initial: ORDER_INITIAL,
      arrows: `PENDING_PAYMENT>PAID PENDING_PAYMENT>CANCELLED PENDING_PAYMENT>EXPIRED PAID>CONFIRMED PAID>REFUNDED
        CONFIRMED>COMPLETED CONFIRMED>REFUNDED COMPLETED>CONFIRMED`,
    },
    payment: {
      table: PAYMENT,
      initial: PAYMENT_INITIAL,
      arrows: "TRYING>CONFIRMING TRYING>CANCELLING CONFIRMING>CONFIRMED CANCELLING>CANCELLED",
    },
    charge: {
      table: CHARGE,
      initial: CHARGE_INITIAL,
      arrows: `CREATED>PROCESSING CREATED>UNKNOWN CREATED>FAILED CREATED>CONFIRMED PROCESSING>PROCESSING PROCESSING>PROCESSING PROCESSING>FAILED
        PROCESSING>CONFIRMED UNKNOWN>PROCESSING UNKNOWN>UNKNOWN UNKNOWN>FAILED UNKNOWN>CONFIRMED FAILED>CONFIRMED`,
    },
    refund: {
      table: REFUND,
      initial: REFUND_INITIAL,
      arrows: "REQUESTED>PROCESSING PROCESSING>SUCCEEDED PROCESSING>ABNORMAL ABNORMAL>PROCESSING",
    },
    settlement: {
      table: SETTLEMENT,
      initial: SETTLEMENT_INITIAL,
      arrows: "INIT>PROCESSING PROCESSING>PROCESSING PROCESSING>SUCCESS PROCESSING>FAILED FAILED>INIT",
    },
    payout: {
      table: PAYOUT,
      initial: PAYOUT_INITIAL,
      arrows: `REQUESTED>PROCESSING PROCESSING>SUCCEEDED PROCESSING>FAILED PROCESSING>UNKNOWN UNKNOWN>SUCCEEDED UNKNOWN>FAILED
        SUCCEEDED>RETURNED`,
    },
    voucher: {
      table: VOUCHER,
      initial: VOUCHER_INITIAL,
      arrows: "ISSUED>REDEEMED ISSUED>REFUNDING ISSUED>EXPIRED REDEEMED>SETTLED REDEEMED>ISSUED EXPIRED>REFUNDING REFUNDING>REFUNDED",
    },
  };
  for (const [name, machine] of Object.entries(machines)) {
    test(`every ${name} state can be reached, along these arrows only`, () => {
      assert.deepEqual(unreachableStates(machine.table, machine.initial), []);
      const drawn = arrows(machine.table).map((arrow) => arrow.join(">"));
      assert.deepEqual(drawn.toSorted(), machine.arrows.split(/\s+/).toSorted());
    });
  }
  test("a state nothing leads to is found, and an arrow that is not there is not taken", () => {
    const table: Transitions<"a" | "b" | "orphan", "go"> = { a: { go: "b" }, b: {}, orphan: { go: "b" } };
    assert.deepEqual(unreachableStates(table, "a"), ["orphan"]);
    assert.equal(next(table, "a", "go"), "b");
    assert.equal(next(table, "b", "go"), undefined);
  });
  test("what is final stays so: a confirmed payment is never cancelled, a failed group never revives", () => {
    const ends = (table: Transitions<string, string>) =>
      Object.keys(table).filter((state) => arrows(table).every(([from]) => from !== state));
    assert.deepEqual(ends(PAYMENT), ["CONFIRMED", "CANCELLED"]);
    assert.deepEqual(ends(GROUP), ["FORMED", "FAILED"]);
    assert.deepEqual(ends(ORDER), ["CANCELLED", "EXPIRED", "REFUNDED"]);
    assert.deepEqual(ends(SETTLEMENT), ["SUCCESS"], "one that failed waits for a person");
    assert.deepEqual(ends(PAYOUT), ["FAILED", "RETURNED"]);
    assert.deepEqual(ends(DEAL), ["CLOSED"]);
  });
});

describe("errors", () => {
  /** Data with every field any sentence may ask for. */
  const anything = new Proxy({}, { get: (_, field) => (field === "allow" ? ["GET"] : field === "errors" ? [] : `<${String(field)}>`) });

  test("every row has a name of its own, a status of an error, and a sentence that says something", () => {
    const tables: readonly object[] = [
      COMMON_ERRORS,
      USER_ERRORS,
      DEAL_ERRORS,
      ORDER_ERRORS,
      GROUP_ERRORS,
      VOUCHER_ERRORS,
      REFUND_ERRORS,
      PAYMENT_ERRORS,
      JOURNAL_ERRORS,
      AUDIT_ERRORS,
      RECON_ERRORS,
      OPS_ERRORS,
    ];
    const names = tables.flatMap((table) => Object.keys(table));
    assert.deepEqual(
      names.toSorted(),
      Object.keys(ERRORS).toSorted(),
      "no name stands in two tables, and none is missing from the joined one",
    );
    for (const [code, def] of Object.entries(ERRORS) as [string, ErrorDef<unknown>][]) {
      assert.match(code, /^[A-Z][A-Z_]+$/);
      assert.ok(def.status >= 400 && def.status < 600, code);
      const sentence = def.say(anything);
      assert.match(sentence, /\S+ \S+|^<reason>$/, code);
      assert.doesNotMatch(sentence, /undefined|\[object/, code);
    }
  });
  test("only luck that can turn invites a repeat: busy, late or in progress", () => {
    const later = (Object.entries(ERRORS) as [string, ErrorDef<unknown>][])
      .filter(([, def]) => def.retry === "later")
      .map(([code]) => code);
    assert.deepEqual(later.toSorted(), [
      "IDEMPOTENCY_IN_PROGRESS",
      "MOVE_IN_PROGRESS",
      "NODE_NEEDED",
      "OVERLOADED",
      "PAYMENT_OPEN",
      "RATE_LIMITED",
      "REQUEST_TIMEOUT",
      "SHARD_MOVING",
      "TIMEOUT",
      "UNAVAILABLE",
    ]);
  });
  test("a refusal carries its row's status, name, data and sentence, and no stack", () => {
    const error = refusal(DEAL_ERRORS, "SOLD_OUT", { dealId: "16", available: 2 });
    assert.ok(error instanceof DomainError && error instanceof Error);
    assert.deepEqual(
      { code: error.code, type: error.type, data: error.data, retryable: error.retryable, message: error.message },
      { code: 409, type: "SOLD_OUT", data: { dealId: "16", available: 2 }, retryable: false, message: "deal 16 has 2 units left" },
    );
    assert.doesNotMatch(error.stack ?? "", /\n/);
    assert.throws(() => raise(COMMON_ERRORS, "TIMEOUT", {}), { type: "TIMEOUT", retryable: true });
    assert.match(new Error("others still have theirs").stack ?? "", /\n/);
    // @ts-expect-error a refusal names a row of its table
    assert.throws(() => refusal(DEAL_ERRORS, "GROUP_FULL", { groupId: "1" }));
    // @ts-expect-error and says what its sentence needs
    refusal(DEAL_ERRORS, "SOLD_OUT", { dealId: "16" });
  });
});
