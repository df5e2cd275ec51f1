import { shardOf } from "../../domain/ids.ts";
import { LIMITS } from "../../domain/limits.ts";
import { action, shape } from "../../mixins/contract.ts";
import { list } from "../../mixins/page.ts";

export const Tier = shape("Tier", {
  size: { type: "number", integer: true, min: LIMITS.groupSizeMin, max: LIMITS.groupSizeMax },
  price: "fen",
});
export const Stock = shape("Stock", { total: "number", available: "number", held: "number", sold: "number" });
export const Deal = shape("Deal", {
  id: "id",
  merchantId: "id",
  merchantName: "string",
  city: "string",
  title: "string",
  description: "string",
  price: "fen",
  tiers: { type: "array", items: Tier },
  perUserLimit: { type: "number", optional: true },
  groupTtlMinutes: "number",
  autoFillBps: { type: "number", optional: true },
  saleStartsAt: { type: "time", optional: true },
  saleEndsAt: { type: "time", optional: true },
  voucherValidDays: "number",
  refundAnytime: "boolean",
  refundExpired: "boolean",
  status: { type: "enum", values: ["DRAFT", "ON_SALE", "PAUSED", "CLOSED"] },
  stock: Stock,
  createdAt: "time",
});
/** A group as the deal's page lists it: the leader's name is masked. */
export const OpenGroup = shape("OpenGroup", {
  id: "id",
  size: "number",
  taken: "number",
  missing: "number",
  deadline: "time",
  leader: "string",
});
export const City = shape("City", { code: "string", name: "string" });

const merchants = { who: "merchant", status: 200, tag: "Merchants and deals", method: "POST" } as const;

export const createDeal = action("deal.create", {
  summary: "Draft a deal; tiers: strictly larger size, not dearer, none dearer than the price",
  params: {
    title: { type: "string", min: 1, max: 100, trim: true },
    description: { type: "string", max: 2_000, optional: true },
    price: "fen",
    tiers: { type: "array", items: Tier, max: 20 },
    stock: { type: "number", integer: true, min: 1, max: 10_000_000 },
    perUserLimit: { type: "number", integer: true, min: 1, max: 10_000, optional: true },
    groupTtlMinutes: { type: "number", integer: true, min: 1, max: 43_200, optional: true },
    autoFillBps: { type: "number", integer: true, min: 1, max: 10_000, optional: true },
    saleStartsAt: { type: "time", optional: true },
    saleEndsAt: { type: "time", optional: true },
    voucherValidDays: { type: "number", integer: true, min: 1, max: 3_650, optional: true },
    refundAnytime: { type: "boolean", optional: true },
    refundExpired: { type: "boolean", optional: true },
  },
  answer: Deal,
  rest: {
    ...merchants,
    path: "/deals",
    status: 201,
    key: "required",
    example: { title: "两杯精酿 IPA", price: 1990, tiers: [{ size: 3, price: 1590 }], stock: 100, perUserLimit: 5, groupTtlMinutes: 60 },
  },
  address: (_params, caller) => (caller?.merchantId === undefined ? undefined : shardOf(caller.merchantId)),
});
const move = <const N extends string>(name: N, verb: string, summary: string) =>
  action(name, {
    summary,
    params: { id: "id" },
    answer: Deal,
    errors: ["DEAL_NOT_FOUND", "DEAL_STATE"],
    retrySafe: true,
    rest: { ...merchants, path: `/deals/{id}/${verb}` },
    address: (params) => shardOf(params.id),
  });
export const publishDeal = move("deal.publish", "publish", "Put a deal on sale");
export const pauseDeal = move("deal.pause", "pause", "Pause its sale");
export const closeDeal = move("deal.close", "close", "End its sale for good");
export const restockDeal = action("stock.restock", {
  summary: "Add stock, or take unsold stock back with a negative quantity",
  params: { id: "id", quantity: { type: "number", integer: true, min: -10_000_000, max: 10_000_000, notEqual: 0 } },
  answer: Stock,
  errors: ["DEAL_NOT_FOUND", "STOCK_TOO_LOW"],
  rest: { ...merchants, path: "/deals/{id}/restock", key: "required", example: { quantity: 50 } },
  address: (params) => shardOf(params.id),
});
const anyone = { method: "GET", who: "anyone", status: 200, tag: "Merchants and deals" } as const;
export const getDeal = action("deal.get", {
  summary: "A deal with its stock",
  params: { id: "id" },
  answer: Deal,
  errors: ["DEAL_NOT_FOUND"],
  rest: { ...anyone, path: "/deals/{id}" },
  address: (params) => shardOf(params.id),
});
export const listOpenGroups = action("group.listOpen", {
  summary: "A deal's open groups",
  params: { id: "id" },
  answer: list("OpenGroupList", OpenGroup),
  errors: ["DEAL_NOT_FOUND"],
  rest: { ...anyone, path: "/deals/{id}/groups" },
  address: (params) => shardOf(params.id),
});
export const listCities = action("deal.cities", {
  summary: "Cities that are served",
  params: {},
  answer: { type: "array", items: City },
  rest: { ...anyone, path: "/cities" },
});
