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
  /** Its commands wait or are refused, while its data go to another database. */
  moving: "boolean",
  /** Rows and bytes of its partitions, where sizes were asked for. */
  rows: "number|optional",
  bytes: "number|optional",
});
export const verify = action("ops.verify", {
  summary: "Every invariant of stock, orders, groups, vouchers, payments, ledgers and the closed loop",
  params: {},
  answer: Verification,
  timeoutMs: 120_000,
  rest: { method: "GET", path: "/ops/verify", who: "admin", status: 200, tag: "Operating" },
});
export const listShards = action("ops.shards", {
  summary: "Shards, their databases, owners, mailboxes and, if asked, sizes",
  params: { sizes: { type: "boolean", convert: true, optional: true } },
  answer: shape("ShardList", { items: { type: "array", items: ShardView } }),
  rest: { method: "GET", path: "/ops/shards", who: "admin", status: 200, tag: "Operating" },
});

export const MoveView = shape("Move", {
  city: "string",
  slots: "string",
  from: "string",
  to: "string",
  action: { type: "enum", values: ["move", "abort"] },
  state: { type: "enum", values: ["running", "done", "failed"] },
  step: "string",
  detail: "string",
  startedAt: "time",
  /** How long its commands waited: from holding the mailboxes to letting them go on. */
  heldMs: "number|optional",
});
const MOVE = {
  city: { type: "string", max: 32 },
  /** `8-15`, `3`, `0-3,7` */
  slots: { type: "string", max: 40 },
  /** A database of the embedded PostgreSQL by its name, or a URL. */
  to: { type: "string", max: 500 },
} as const;
const MOVE_EXAMPLE = { city: "hz", slots: "15", to: "hz_c" };
const MOVE_ERRORS = ["MOVE_IN_PROGRESS", "MOVE_REFUSED", "CITY_NOT_FOUND"] as const;

export const moveSlots = action("ops.moveShards", {
  summary: "Move slots of a city to another database, or go on with a move that was interrupted",
  params: MOVE,
  answer: MoveView,
  errors: MOVE_ERRORS,
  timeoutMs: 60_000,
  rest: { method: "POST", path: "/ops/shards/move", who: "admin", status: 202, tag: "Operating", example: MOVE_EXAMPLE },
});
export const abortMove = action("ops.abortMove", {
  summary: "Take back a move that is not decided yet",
  params: MOVE,
  answer: MoveView,
  errors: MOVE_ERRORS,
  timeoutMs: 60_000,
  rest: { method: "POST", path: "/ops/shards/move/abort", who: "admin", status: 202, tag: "Operating", example: MOVE_EXAMPLE },
});
const MoveList = { type: "array", items: MoveView } as const;
export const listMoves = action("ops.moves", {
  summary: "The last move of each node, the newest first",
  params: {},
  answer: shape("MoveList", { items: MoveList }),
  rest: { method: "GET", path: "/ops/shards/moves", who: "admin", status: 200, tag: "Operating" },
});
/** Internal, asked of one node at a time. */
export const lastMove = action("ops.lastMove", {
  summary: "The last move of the node that answers, if any",
  params: {},
  answer: MoveList,
  timeoutMs: 2_000,
  retrySafe: true,
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
