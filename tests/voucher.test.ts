import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { randomBytes } from "node:crypto";
import fc from "fast-check";
import type { DealId, Id, MerchantId, OrderId, UserId, VoucherId } from "../domain/ids.ts";
import { fen } from "../domain/money.ts";
import { CODE_CHANCE_BYTES, codeOf, issueVouchers } from "../domain/voucher/issue.ts";
import { decideRedeem, type VoucherRow } from "../domain/voucher/redeem.ts";
import { getOrder } from "../services/order/order.contract.ts";
import { redeemVoucher } from "../services/voucher/voucher.contract.ts";
import { makeDeal } from "./support/deals.ts";
import { callAs, caller } from "./support/node.ts";
import { refused, Shop, tally } from "./support/shop.ts";

const NOW = new Date("2026-01-31T18:00:00Z");

describe("vouchers, as functions", () => {
  it("are one a unit, worth together what was paid, none worth two fen more than another", () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 99 }), fc.integer({ min: 99, max: 1_000_000 }), (quantity, amount) => {
        const order = {
          id: "1" as OrderId,
          dealId: "2" as DealId,
          merchantId: "3" as MerchantId,
          consumerId: "4" as UserId,
          quantity,
          amount: fen(amount),
          voucherValidDays: 90,
        };
        const ids = Array.from({ length: quantity }, (_, index) => String(index) as VoucherId);
        const vouchers = issueVouchers([order], { slot: 7, now: NOW, ids, chance: randomBytes(quantity * CODE_CHANCE_BYTES) });
        assert.deepEqual(
          vouchers.map(({ unit }) => unit),
          Array.from({ length: quantity }, (_, index) => index + 1),
        );
        assert.equal(
          vouchers.reduce((total, voucher) => total + voucher.amount, 0n),
          BigInt(amount),
        );
        const amounts = vouchers.map((voucher) => Number(voucher.amount));
        assert.ok(Math.max(...amounts) - Math.min(...amounts) <= 1);
        assert.ok(vouchers.every(({ code }) => /^[0-9]{14}07$/.test(code)));
        assert.equal(vouchers[0]?.validUntil.toISOString(), "2026-05-01T18:00:00.000Z");
      }),
    );
  });
  it("have codes of 14 drawn digits and the slot, whatever is drawn", () => {
    assert.equal(codeOf(Buffer.alloc(8), 3), "0000000000000003");
    assert.equal(codeOf(Buffer.alloc(8, 0xff), 15), "4407370955161515");
  });
  it("are redeemed by their merchant, in date, once; the last one completes the order", () => {
    const voucher = (code: string, of: Partial<VoucherRow> = {}): VoucherRow => ({
      id: code as VoucherId,
      orderId: "1" as OrderId,
      dealId: "2" as DealId,
      merchantId: "3" as MerchantId,
      consumerId: "4" as UserId,
      unit: 1,
      amount: fen(1_000),
      code,
      state: "ISSUED",
      redeemedAt: undefined,
      refundId: undefined,
      validUntil: new Date(NOW.getTime() + 1),
      ...of,
    });
    const vouchers = [
      voucher("a"),
      voucher("b"),
      voucher("old", { orderId: "5" as OrderId, validUntil: NOW }),
      voucher("gone", { orderId: "6" as OrderId, state: "REFUNDED" }),
    ];
    const mine = (code: string) => ({ code, merchantId: "3" as MerchantId });
    const { outcomes, writes } = decideRedeem(
      { vouchers },
      [mine("a"), mine("a"), { code: "b", merchantId: "9" as MerchantId }, mine("none"), mine("old"), mine("gone"), mine("b")],
      NOW,
    );
    assert.deepEqual(
      outcomes.map((outcome) => (outcome instanceof Error ? `${outcome.type} ${JSON.stringify(outcome.data)}` : outcome.state)),
      [
        "REDEEMED",
        'VOUCHER_STATE {"state":"REDEEMED"}',
        "VOUCHER_NOT_FOUND {}",
        "VOUCHER_NOT_FOUND {}",
        'VOUCHER_STATE {"state":"EXPIRED"}',
        'VOUCHER_STATE {"state":"REFUNDED"}',
        "REDEEMED",
      ],
    );
    assert.deepEqual([writes.redeemed.map(({ code }) => code), writes.completed], [["a", "b"], ["1"]]);
  });
});

describe("vouchers at the bar", () => {
  let shop: Shop;
  before(async () => {
    shop = await Shop.open();
  });
  after(() => shop.close());

  const bought = async (quantity: number) => {
    const deal = await makeDeal(shop.test, { stock: 200, price: 1_000 });
    const user = await shop.person(99_000);
    const order = await shop.order(deal, user, { quantity });
    await shop.pay(order, user);
    const codes = (await shop.vouchers(order, user)).map(({ code }) => code);
    const status = async () => (await callAs(shop.test.node, getOrder, { id: order.id }, caller(user))).status;
    return { order, user, codes, status, merchantId: order.merchantId };
  };
  const redeem = (code: string, merchantId: Id, key?: string) =>
    callAs(shop.test.node, redeemVoucher, { code }, caller("16", ["merchant"], merchantId), key);

  it("are redeemed once, also by 20 who try at once; the last one completes the order", async () => {
    const { order, user, codes, status, merchantId } = await bought(2);
    const results = await Promise.allSettled(Array.from({ length: 20 }, () => redeem(codes[0]!, merchantId)));
    assert.deepEqual(tally(results), { ok: 1, VOUCHER_STATE: 19 });
    assert.equal(await status(), "CONFIRMED");
    assert.deepEqual(await redeem(codes[1]!, merchantId), { orderId: order.id, dealId: order.dealId, status: "REDEEMED" });
    assert.equal(await status(), "COMPLETED");
    const shown = await shop.vouchers(order, user);
    assert.ok(shown.every((voucher) => voucher.status === "REDEEMED" && voucher.redeemedAt !== undefined));
    await shop.addsUp();
  });

  it("give the same key the same answer", async () => {
    const { codes, merchantId } = await bought(1);
    const first = await redeem(codes[0]!, merchantId, "a key");
    assert.deepEqual({ ...(await redeem(codes[0]!, merchantId, "a key")) }, { ...first, replayed: true });
    await assert.rejects(
      redeem("0000000000000000", merchantId, "a key"),
      refused(codes[0]!.endsWith("00") ? "IDEMPOTENCY_KEY_REUSED" : "VOUCHER_NOT_FOUND"),
    );
  });

  it("are not found at another bar, nor out of date", async () => {
    const { codes, merchantId, order } = await bought(1);
    const other = await bought(1);
    const sameSlot = `${codes[0]!.slice(0, 14)}${other.codes[0]!.slice(14)}`;
    for (const code of [codes[0]!, sameSlot, "1234567890123456", "123456789012"])
      await assert.rejects(redeem(code, other.merchantId), refused("VOUCHER_NOT_FOUND"));
    await shop.rows(order.id, "update vouchers set valid_until = now() where slot = $1 and order_id = $2", [order.id]);
    await assert.rejects(redeem(codes[0]!, merchantId), refused("VOUCHER_STATE"));
  });

  it("are shown to their consumer only", async () => {
    const { order } = await bought(1);
    await assert.rejects(shop.vouchers(order, await shop.person()), refused("ORDER_NOT_FOUND"));
    for (const id of ["16", "4096"]) await assert.rejects(shop.vouchers({ id: id as Id }, await shop.person()), refused("ORDER_NOT_FOUND"));
  });

  it("99 of one order are redeemed at once, in one order's history", async () => {
    const { codes, status, merchantId, order } = await bought(99);
    assert.equal(new Set(codes).size, 99);
    assert.deepEqual(tally(await Promise.allSettled(codes.map((code) => redeem(code, merchantId)))), { ok: 99 });
    assert.equal(await status(), "COMPLETED");
    const moves = await shop.rows<{ to: string }>(
      order.id,
      "select data ->> 'to' as to from events where slot = $1 and subject = $2 and type = 'order.moved' order by id",
      [order.id],
    );
    assert.deepEqual(
      moves.map(({ to }) => to),
      ["PAID", "CONFIRMED", "COMPLETED"],
    );
    await shop.addsUp();
  });
});
