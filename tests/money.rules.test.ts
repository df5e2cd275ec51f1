/** The rules of the money as functions: splits, refunds by unit, lapses, settling and payouts, by property and against a small model. */
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import fc from "fast-check";
import { DomainError } from "../domain/error.ts";
import type {
  DealId,
  GroupId,
  MerchantId,
  OrderId,
  PaymentId,
  PayoutId,
  RefundId,
  SettlementId,
  TransferId,
  UserId,
  VoucherId,
} from "../domain/ids.ts";
import { CHAIN_START, EMPTY, postTransfers, type Balance, type TransferRequest } from "../domain/ledger.ts";
import { fen, share, sum } from "../domain/money.ts";
import type { OrderRow } from "../domain/order/place.ts";
import { decidePayouts, requestTransfer, type PayoutRow } from "../domain/payout/decide.ts";
import { PAYOUT, type PayoutEvent, type PayoutState } from "../domain/payout/state.ts";
import { decideRequests, type UnitRefund } from "../domain/refund/request.ts";
import { decideSettling, transfersOf, type SettlementRow } from "../domain/settlement/decide.ts";
import { settleAt, split } from "../domain/settlement/split.ts";
import { arrows } from "../domain/transition.ts";
import { decideLapse } from "../domain/voucher/lapse.ts";
import { isOver } from "../domain/voucher/over.ts";
import { decideRedeem, type VoucherRow } from "../domain/voucher/redeem.ts";
import { decideReverse } from "../domain/voucher/reverse.ts";
import type { VoucherState } from "../domain/voucher/state.ts";

const NOW = new Date("2026-01-31T18:00:00Z");
const MINUTE = 60_000;
const bps = fc.integer({ min: 0, max: 10_000 });

/** An order of some units, and its vouchers in the states given. */
function orderOf(amount: number, states: readonly VoucherState[]): { order: OrderRow; vouchers: VoucherRow[] } {
  const ids = { id: "16" as OrderId, dealId: "32" as DealId, merchantId: "48" as MerchantId, consumerId: "64" as UserId };
  const order: OrderRow = {
    ...ids,
    groupId: undefined as GroupId | undefined,
    bucket: 0,
    quantity: states.length,
    unitPrice: fen(amount),
    discount: fen(0),
    amount: fen(amount),
    region: "default",
    regionVersion: "1.0.0",
    discountBps: 0,
    commissionBps: 600,
    voucherValidDays: 90,
    state: "CONFIRMED",
    idemKey: "",
    bodyHash: "",
    createdAt: NOW,
    expiresAt: NOW,
    paidAt: NOW,
  };
  const amounts = share(order.amount, new Array<bigint>(states.length).fill(1n));
  const vouchers = states.map((state, index): VoucherRow => ({
    id: String(index + 1) as VoucherId,
    orderId: ids.id,
    dealId: ids.dealId,
    merchantId: ids.merchantId,
    consumerId: ids.consumerId,
    unit: index + 1,
    amount: amounts[index] ?? fen(0),
    code: `code ${index}`,
    state,
    validUntil: new Date(NOW.getTime() + MINUTE),
    redeemedAt: state === "REDEEMED" || state === "SETTLED" ? NOW : undefined,
    refundId: undefined,
  }));
  return { order, vouchers };
}

describe("splitting a used unit", () => {
  it("gives both parts exactly: ours half up, the rest the merchant's", () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 1_000_000_000 }), bps, (gross, rate) => {
        const { commission, net } = split(fen(gross), rate);
        assert.equal(commission + net, BigInt(gross));
        const off = commission * 10_000n - BigInt(gross) * BigInt(rate);
        assert.ok(off > -5_000n && off <= 5_000n);
        const transfers = transfersOf(settlementOf(gross, rate));
        assert.equal(sum(transfers.map(({ amount }) => amount)), BigInt(gross));
        assert.ok(transfers.every(({ amount, debit }) => amount > 0n && debit === "escrow:48"));
      }),
    );
  });
  it("falls due after the reversal window and the delay", () => {
    assert.equal(settleAt(NOW, { reversalMinutes: 60, settlementDelayMinutes: 5 }).toISOString(), "2026-01-31T19:05:00.000Z");
  });
});

const settlementOf = (gross: number, rate: number, of: Partial<SettlementRow> = {}): SettlementRow => ({
  id: "80" as SettlementId,
  voucherId: "1" as VoucherId,
  orderId: "16" as OrderId,
  merchantId: "48" as MerchantId,
  gross: fen(gross),
  commission: split(fen(gross), rate).commission,
  state: "PROCESSING",
  attempt: 2,
  ...of,
});

describe("settling", () => {
  it("is done by the attempt that holds it, of what is redeemed, once; anything else moves nothing", () => {
    const row = settlementOf(1_001, 600);
    const claim = (attempt: number) => ({ id: row.id, voucherId: row.voucherId, attempt });
    const decide = (attempts: readonly number[], of: Partial<SettlementRow>, state: VoucherState | undefined) =>
      decideSettling(attempts.map(claim), new Map([[row.id, { ...row, ...of }]]), new Map(state ? [[row.voucherId, { state }]] : []));
    assert.equal(decide([2, 2], {}, "REDEEMED").settled.length, 1);
    assert.deepEqual(decide([1, 3], {}, "REDEEMED"), { settled: [], failed: [] });
    for (const state of ["INIT", "SUCCESS", "FAILED"] as const)
      assert.deepEqual(decide([2], { state }, "REDEEMED"), { settled: [], failed: [] });
    assert.deepEqual(
      decide([2], {}, "ISSUED").failed.map(({ reason }) => reason),
      ["VOUCHER_ISSUED"],
    );
    assert.deepEqual(
      decide([2], {}, undefined).failed.map(({ reason }) => reason),
      ["VOUCHER_MISSING"],
    );
  });
});

describe("refunds of units", () => {
  const ask = (amount: number, states: readonly VoucherState[], quantities: readonly (number | undefined)[]) => {
    const { order, vouchers } = orderOf(amount, states);
    let made = 0;
    const commissions = new Map(vouchers.map(({ id, amount: gross }) => [id, split(gross, 600).commission]));
    return {
      order,
      vouchers,
      commissions,
      ...decideRequests(
        {
          orders: new Map([[order.id, order]]),
          vouchers,
          terms: new Map([[order.dealId, { refundAnytime: true, refundExpired: true }]]),
          captures: new Map([[order.id, { id: "96" as PaymentId }]]),
          commissions,
        },
        quantities.map((quantity) => ({ orderId: order.id, consumerId: order.consumerId, quantity, note: undefined })),
        { now: NOW, nextId: () => String(++made) as RefundId },
      ),
    };
  };
  const state = fc.constantFrom<VoucherState>("ISSUED", "REDEEMED", "SETTLED", "REFUNDING", "REFUNDED", "EXPIRED");

  it("take every unit at most once, at its own price, whatever is asked; used ones only when no unused one is there", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1_000, max: 1_000_000 }),
        fc.array(state, { minLength: 1, maxLength: 9 }),
        fc.array(fc.option(fc.integer({ min: 1, max: 10 }), { nil: undefined }), { minLength: 1, maxLength: 6 }),
        (amount, states, quantities) => {
          const { vouchers, refunds, outcomes, commissions, completed } = ask(amount, states, quantities);
          const taken = refunds.flatMap((refund) => refund.vouchers);
          assert.equal(new Set(taken).size, taken.length);
          const byId = new Map(vouchers.map((voucher) => [voucher.id, voucher]));
          for (const refund of refunds) {
            const units = refund.vouchers.map((id) => byId.get(id)!);
            assert.equal(refund.amount, sum(units.map((unit) => unit.amount)));
            assert.ok(units.every((unit) => unit.state === (refund.used ? "SETTLED" : "ISSUED")));
            assert.equal(refund.commission, refund.used ? sum(units.map(({ id }) => commissions.get(id)!)) : 0n);
            assert.equal(refund.used, refund.approveBy !== undefined);
          }
          assert.ok(sum(refunds.map((refund) => refund.amount)) <= BigInt(amount));
          const unused = states.filter((one) => one === "ISSUED").length;
          const first = outcomes[0];
          const wanted = quantities[0];
          if (unused > 0 && (wanted ?? unused) <= unused) assert.equal((first as UnitRefund).quantity, wanted ?? unused);
          else if (unused > 0) assert.equal((first as DomainError).type, "NOT_REFUNDABLE");
          const after = vouchers.map((voucher): VoucherState => {
            const refund = refunds.find((one) => one.vouchers.includes(voucher.id));
            return refund && !refund.used ? "REFUNDING" : voucher.state;
          });
          assert.equal(completed.length > 0, refunds.length > 0 && isOver(after));
        },
      ),
    );
  });
  it("wait for the merchant for a day when the units were used", () => {
    const [refund] = ask(2_002, ["SETTLED", "SETTLED"], [1]).refunds;
    assert.deepEqual([refund?.used, refund?.amount, refund?.commission], [true, 1_001n, 60n]);
    assert.equal(refund?.approveBy?.toISOString(), "2026-02-01T18:00:00.000Z");
  });
});

describe("the life of an order's vouchers", () => {
  it("is COMPLETED exactly when nothing is left to use and something was, whatever is redeemed, reversed and lapses", () => {
    const step = fc.record({
      what: fc.constantFrom("redeem", "reverse", "lapse"),
      unit: fc.nat(4),
      minutes: fc.integer({ min: 0, max: 40 }),
    });
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 5 }), fc.boolean(), fc.array(step, { maxLength: 20 }), (quantity, refundExpired, steps) => {
        let { vouchers } = orderOf(5_000, new Array<VoucherState>(quantity).fill("ISSUED"));
        vouchers = vouchers.map((voucher) => ({ ...voucher, validUntil: new Date(NOW.getTime() + 120 * MINUTE) }));
        let completed = false;
        let now = NOW;
        for (const { what, unit, minutes } of steps) {
          now = new Date(now.getTime() + minutes * MINUTE);
          const code = `code ${unit}`;
          const command = { code, merchantId: "48" as MerchantId };
          const before = vouchers.find((voucher) => voucher.code === code);
          if (what === "redeem") {
            const { writes, outcomes } = decideRedeem({ vouchers }, [command], now);
            assert.equal(!(outcomes[0] instanceof DomainError), before?.state === "ISSUED" && before.validUntil > now);
            vouchers = vouchers.map((voucher) => writes.redeemed.find(({ id }) => id === voucher.id) ?? voucher);
            completed ||= writes.completed.length > 0;
          } else if (what === "reverse") {
            const settlements = new Map(vouchers.map(({ id }) => [id, "INIT" as const]));
            const { writes, outcomes } = decideReverse({ vouchers, settlements }, [command], { now, reversalMinutes: 60 });
            const inTime = before?.redeemedAt !== undefined && now.getTime() - before.redeemedAt.getTime() < 60 * MINUTE;
            assert.equal(!(outcomes[0] instanceof DomainError), before?.state === "REDEEMED" && inTime);
            vouchers = vouchers.map((voucher) => writes.reversed.find(({ id }) => id === voucher.id) ?? voucher);
            if (writes.reopened.length > 0) completed = false;
          } else {
            const [lapse] = decideLapse(vouchers, new Map([["32" as DealId, { refundExpired }]]), now);
            const to: VoucherState = refundExpired ? "REFUNDING" : "EXPIRED";
            assert.equal(
              lapse !== undefined,
              vouchers.some((voucher) => voucher.state === "ISSUED" && voucher.validUntil <= now),
            );
            vouchers = vouchers.map((voucher) =>
              lapse?.vouchers.some(({ id }) => id === voucher.id) ? { ...voucher, state: to } : voucher,
            );
            completed ||= lapse?.completes ?? false;
          }
          assert.equal(completed, isOver(vouchers.map((voucher) => voucher.state)));
        }
      }),
    );
  });
});

describe("payouts", () => {
  const row: PayoutRow = {
    id: "112" as PayoutId,
    merchantId: "48" as MerchantId,
    channel: "bank",
    amount: fen(500),
    state: "REQUESTED",
    requestedBy: "64" as UserId,
  };
  it("leave every fen in exactly one place, whatever is said of them, how often and in which order", () => {
    const word = fc.constantFrom<PayoutEvent>("call", "lose", "pay", "refuse", "return");
    fc.assert(
      fc.property(fc.array(fc.array(word, { maxLength: 4 }), { maxLength: 6 }), (batches) => {
        const booked: TransferRequest[] = [requestTransfer(row)];
        let state: PayoutState = row.state;
        for (const batch of batches) {
          const words = batch.map((event) => ({ id: row.id, event, reason: undefined }));
          for (const move of decidePayouts(words, new Map([[row.id, { ...row, state }]]))) {
            assert.ok(arrows(PAYOUT).some(([from, to]) => from === state && to === move.to));
            state = move.to;
            booked.push(...move.transfers);
          }
        }
        const at = (account: string) =>
          booked.reduce(
            (total, { debit, credit, amount }) => total + (credit === account ? amount : 0n) - (debit === account ? amount : 0n),
            0n,
          );
        const where =
          state === "SUCCEEDED" ? "payout:bank" : state === "FAILED" || state === "RETURNED" ? "payable:48" : "payout_in_transit";
        // What was there at first is gone from it, unless it came back.
        assert.equal(at("payable:48"), where === "payable:48" ? 0n : -500n);
        for (const account of ["payout:bank", "payout_in_transit"]) assert.equal(at(account), account === where ? 500n : 0n);
      }),
    );
  });
});

describe("the floor of a payable", () => {
  const book = (balance: Balance, requests: readonly TransferRequest[]) =>
    postTransfers(
      {
        slot: 0,
        at: NOW,
        head: CHAIN_START,
        balances: new Map([["payable:48", balance], ...["a", "b"].map((account) => [account, EMPTY] as const)]),
        recorded: [],
        ids: requests.map((_, index) => String(index + 1) as TransferId),
      },
      requests,
    );
  it("gives way to clawbacks and to nothing else, and the overdraft is exactly what was not there", () => {
    const move = fc.record({ what: fc.constantFrom("settle", "payout", "clawback"), amount: fc.integer({ min: 1, max: 100 }) });
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 200 }), fc.array(move, { maxLength: 12 }), (start, moves) => {
        const requests = moves.map(({ what, amount }, index): TransferRequest => ({
          kind: "post",
          code: what as TransferRequest["code"],
          businessKey: String(index),
          amount: fen(amount),
          ...(what === "settle" ? { debit: "a", credit: "payable:48" } : { debit: "payable:48", credit: "b" }),
        }));
        const { outcomes, changes, overdrawn } = book({ ...EMPTY, creditsPosted: BigInt(start) }, requests);
        let left = start;
        let taken = 0;
        for (const [index, { what, amount }] of moves.entries()) {
          const fits = what !== "payout" || amount <= left;
          assert.equal(outcomes[index]?.ok, fits);
          if (!fits) continue;
          if (what === "clawback") taken += Math.max(0, Math.min(amount, amount - left));
          left += what === "settle" ? amount : -amount;
        }
        const change = changes.get("payable:48") ?? EMPTY;
        assert.equal(BigInt(start) + change.creditsPosted - change.debitsPosted, BigInt(left));
        assert.equal(overdrawn.get("payable:48") ?? 0n, BigInt(taken));
        // What the database keeps of it is what is still missing.
        assert.ok(taken >= Math.max(0, -left));
      }),
    );
  });
});
