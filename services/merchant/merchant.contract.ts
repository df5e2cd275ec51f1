import { shardOf } from "../../domain/ids.ts";
import { action, shape } from "../../mixins/contract.ts";
import { USERNAME } from "../user/user.contract.ts";

export const Merchant = shape("Merchant", { id: "id", name: "string", city: "string" });
export const MerchantAccount = shape("MerchantAccount", {
  id: "id",
  name: "string",
  city: "string",
  commissionBps: "number",
  ownerUsername: "string",
});

export const createMerchant = action("merchant.create", {
  summary: "Open a merchant for an existing user",
  params: {
    name: { type: "string", min: 1, max: 100, trim: true },
    city: { type: "string", min: 1, max: 16 },
    commissionBps: { type: "number", integer: true, min: 0, max: 10_000 },
    ownerUsername: USERNAME,
  },
  answer: MerchantAccount,
  errors: ["CITY_NOT_FOUND", "USER_NOT_FOUND", "ALREADY_A_MERCHANT"],
  rest: {
    method: "POST",
    path: "/merchants",
    who: "admin",
    status: 201,
    key: "required",
    tag: "Merchants and deals",
    example: { name: "弄堂与麦 Craft Bar", city: "sh", commissionBps: 600, ownerUsername: "xiaolan" },
  },
});
export const getMerchant = action("merchant.get", {
  summary: "A merchant's public part",
  params: { id: "id" },
  answer: Merchant,
  errors: ["MERCHANT_NOT_FOUND"],
  rest: { method: "GET", path: "/merchants/{id}", who: "anyone", status: 200, tag: "Merchants and deals" },
  address: (params) => shardOf(params.id),
});
