/** Paying by a channel outside, over HTTP from the order to the refund, and every way in which the channel misbehaves. */
import assert from "node:assert/strict";
import { after, afterEach, before, describe, it } from "node:test";
import { sign } from "../simpay/signature.ts";
import { ChannelShop } from "./support/channel-shop.ts";
import { makeDeal } from "./support/deals.ts";
import { eventually } from "./support/shop.ts";
import { SECRET } from "./support/simpay.ts";
import { userId } from "./support/deals.ts";

let town: ChannelShop;
before(async () => {
  town = await ChannelShop.open();
});
afterEach(() => town.strike());
after(() => town.close());

describe("paying by simpay", () => {
  it("answers 202 with a pay page; paid there, the order is confirmed with its vouchers, and everything adds up", async () => {
    const order = await town.charged({ quantity: 2 });
    assert.equal(await town.status(order), "PENDING_PAYMENT");
    const again = await town.pay(order);
    assert.deepEqual([again.status, again.body], [202, { orderId: order.id, paymentId: order.paymentId, status: "PROCESSING", payUrl: order.payUrl }]);
    await town.simpay.pay(order.payUrl);
    await town.becomes(order, /^CONFIRMED$/);
    const paid = await town.pay(order);
    assert.deepEqual([paid.status, paid.body], [200, { orderId: order.id, paymentId: order.paymentId, status: "CONFIRMED" }]);
    const { body } = await town.ask("GET", `/orders/${order.id}/vouchers`, order.user);
    assert.equal((body as unknown as unknown[]).length, 2);
    await town.shop.addsUp();
  });
});
void sign;
void SECRET;
void userId;
void makeDeal;
void eventually;
