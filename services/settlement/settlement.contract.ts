import type { ServiceBroker } from "moleculer";
import { shardOf, type Shard } from "../../domain/ids.ts";
import { action, shape } from "../../mixins/contract.ts";
import { list, PAGE } from "../../mixins/page.ts";
import { dueAction } from "../../mixins/sweep.ts";

export const SETTLEMENT_STATES = ["INIT", "PROCESSING", "SUCCESS", "FAILED"] as const;
export const PAYOUT_STATES = ["REQUESTED", "PROCESSING", "UNKNOWN", "SUCCEEDED", "FAILED", "RETURNED"] as const;
/** `payable` may be below zero, after a clawback. */
export const Balance = shape("MerchantBalance", {
  escrow: "number",
  payable: "number",
  paidOut: "number",
  currency: { type: "enum", values: ["CNY"] },
});
export const Settlement = shape("Settlement", {
  id: "id",
  orderId: "id",
  voucherCode: "string",
  gross: "fen",
  commission: "number",
  net: "number",
  status: { type: "enum", values: SETTLEMENT_STATES },
  at: "time",
});
export const Payout = shape("Payout", { id: "id", status: { type: "enum", values: PAYOUT_STATES } });

export const merchantBalance = action("settlement.balance", {
  summary: "What a merchant's vouchers hold in escrow, what it is owed, and what it was paid",
  params: { id: "id" },
  answer: Balance,
  errors: ["MERCHANT_NOT_FOUND"],
  rest: { method: "GET", path: "/merchants/{id}/balance", who: "user", status: 200, tag: "Money" },
  address: (params) => shardOf(params.id),
});
export const listSettlements = action("settlement.list", {
  summary: "A merchant's settlements, one a redeemed voucher, newest first",
  params: { id: "id", ...PAGE },
  answer: list("SettlementList", Settlement),
  errors: ["MERCHANT_NOT_FOUND"],
  rest: { method: "GET", path: "/merchants/{id}/settlements", who: "user", status: 200, tag: "Money" },
  address: (params) => shardOf(params.id),
});
export const requestPayout = action("settlement.payout", {
  summary: "Pay out to the merchant's bank, from what it is owed",
  params: { id: "id", amount: "fen" },
  answer: Payout,
  errors: ["MERCHANT_NOT_FOUND", "INSUFFICIENT_FUNDS", "CHANNEL_UNKNOWN"],
  rest: {
    method: "POST",
    path: "/merchants/{id}/payouts",
    who: "merchant",
    status: 202,
    key: "required",
    tag: "Money",
    example: { amount: 100 },
  },
  address: (params) => shardOf(params.id),
});

/** Heard by the settlement service of one node: payouts of a shard are waiting. May be lost; the sweep looks every second. */
export const PAYOUTS_REQUESTED = "payouts.requested";
export const payoutsRequested = (broker: ServiceBroker, shard: Shard): void => void broker.emit(PAYOUTS_REQUESTED, shard);

/** Internal: due settlements of one shard are claimed and settled; what somebody else holds is left to him. */
export const settleVouchers = dueAction("settlement.settle", "Settle redeemed vouchers");

/** Internal: payouts of one shard go as far as their channel lets them. */
export const advancePayouts = dueAction("settlement.payOut", "Pay out, and ask what came of it");

/** Internal: what a channel says of a payout unasked, by callback or statement. Answers the state the payout is in then. */
export const hearPayout = action("settlement.hearPayout", {
  summary: "Take a channel's word on a payout",
  params: {
    id: "id",
    channel: "string",
    status: { type: "enum", values: ["PROCESSING", "SUCCEEDED", "FAILED", "RETURNED", "ABSENT"] },
    amount: { type: "string", optional: true },
    currency: { type: "string", optional: true },
    channelNo: { type: "string", optional: true },
    callbackId: { type: "id", optional: true },
  },
  answer: shape("PayoutHeard", { known: "boolean", status: { type: "enum", values: PAYOUT_STATES, optional: true } }),
  retrySafe: true,
  address: (params) => shardOf(params.id),
});
