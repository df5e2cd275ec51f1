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

export const MailboxView = shape("Mailbox", { city: "number", slot: "number", depth: "number", batchSize: "number" });
/** Internal, asked of one node at a time: what waits in its own mailboxes. */
export const listMailboxes = action("ops.mailboxes", {
  summary: "Mailboxes of the node that answers",
  params: {},
  answer: { type: "array", items: MailboxView },
  timeoutMs: 2_000,
  retrySafe: true,
});

export const RegionPolicyView = shape("RegionPolicy", {
  node: "string",
  region: "string",
  version: "string",
  /** FALLBACK: it fails, and the default policy stands in. REFUSED: it was not loaded, what was there before goes on. */
  state: { type: "enum", values: ["ACTIVE", "FALLBACK", "REFUSED"] },
  detail: "string",
});
const RegionList = shape("RegionList", { items: { type: "array", items: RegionPolicyView } });
export const listRegions = action("ops.regions", {
  summary: "Regional policies, as each node has them",
  params: {},
  answer: RegionList,
  rest: { method: "GET", path: "/ops/regions", who: "admin", status: 200, tag: "Operating" },
});
export const reloadRegions = action("ops.reloadRegions", {
  summary: "Load the regional policies anew, on every node",
  params: {},
  answer: RegionList,
  errors: ["UNAVAILABLE"],
  timeoutMs: 60_000,
  retrySafe: true,
  rest: { method: "POST", path: "/ops/regions/reload", who: "admin", status: 200, tag: "Operating" },
});
/** Internal, asked of one node at a time: its own policies, loaded anew or as they are. */
export const ownRegions = action("ops.ownRegions", {
  summary: "Regional policies of the node that answers",
  params: { reload: "boolean" },
  answer: { type: "array", items: RegionPolicyView },
  timeoutMs: 50_000,
  retrySafe: true,
});
