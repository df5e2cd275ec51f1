import { action, shape } from "../../mixins/contract.ts";

export const Check = shape("Check", { name: "string", ok: "boolean", violations: "number", detail: "string" });
export const Verification = shape("Verification", { ok: "boolean", checkedAt: "time", checks: { type: "array", items: Check } });
export const ShardView = shape("Shard", {
  city: "string",
  slot: "number",
  owner: "string",
  depth: "number",
  batchSize: "number",
  database: "string",
});
export const verify = action("ops.verify", {
  summary: "Every invariant of stock, orders, groups, vouchers, payments, ledgers and the closed loop",
  params: {},
  answer: Verification,
  timeoutMs: 120_000,
  rest: { method: "GET", path: "/ops/verify", who: "admin", status: 200, tag: "Operating" },
});
export const listShards = action("ops.shards", {
  summary: "Shards, their owners and mailboxes",
  params: {},
  answer: shape("ShardList", { items: { type: "array", items: ShardView } }),
  rest: { method: "GET", path: "/ops/shards", who: "admin", status: 200, tag: "Operating" },
});
