import { shardOf } from "../../domain/ids.ts";
import { action, shape } from "../../mixins/contract.ts";
import { dueAction } from "../../mixins/sweep.ts";

export const VOUCHER_STATES = ["ISSUED", "REDEEMED", "SETTLED", "REFUNDING", "REFUNDED", "EXPIRED"] as const;
export const Voucher = shape("Voucher", {
  code: "string",
  status: { type: "enum", values: VOUCHER_STATES },
  validUntil: "time",
  redeemedAt: { type: "time", optional: true },
});
export const Redemption = shape("Redemption", { orderId: "id", dealId: "id", status: { type: "enum", values: ["REDEEMED"] } });
export const Reversal = shape("Reversal", { orderId: "id", dealId: "id", status: { type: "enum", values: ["ISSUED"] } });
const CODE = { type: "string", pattern: /^[0-9]{12,20}$/ } as const;

export const listVouchers = action("voucher.ofOrder", {
  summary: "An order's vouchers, one a unit",
  params: { id: "id" },
  answer: { type: "array", items: Voucher },
  errors: ["ORDER_NOT_FOUND"],
  rest: { method: "GET", path: "/orders/{id}/vouchers", who: "consumer", status: 200, tag: "Buying" },
  address: (params) => shardOf(params.id),
});
export const redeemVoucher = action("voucher.redeem", {
  summary: "Redeem a voucher at its bar, once",
  params: { code: CODE },
  answer: Redemption,
  errors: ["VOUCHER_NOT_FOUND", "VOUCHER_STATE"],
  rest: {
    method: "POST",
    path: "/vouchers/redeem",
    who: "merchant",
    status: 200,
    key: "required",
    tag: "Buying",
    example: { code: "{voucherCode}" },
  },
  address: (_params, caller) => (caller?.merchantId === undefined ? undefined : shardOf(caller.merchantId)),
});
export const reverseVoucher = action("voucher.reverse", {
  summary: "Take a redemption by mistake back: within 60 minutes, before it is settled",
  params: { code: CODE },
  answer: Reversal,
  errors: ["VOUCHER_NOT_FOUND", "VOUCHER_STATE", "REVERSAL_TOO_LATE"],
  rest: {
    method: "POST",
    path: "/vouchers/reverse",
    who: "merchant",
    status: 200,
    key: "required",
    tag: "Buying",
    example: { code: "{voucherCode}" },
  },
});

/** Internal: vouchers of one shard that were not used in time are refunded or forfeited; others are left alone. */
export const lapseVouchers = dueAction("voucher.lapse", "Expire vouchers that were not used in time");
