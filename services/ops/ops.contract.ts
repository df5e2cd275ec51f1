import { action, shape } from "../../mixins/contract.ts";
import { list, PAGE } from "../../mixins/page.ts";
import { RegionPolicyView } from "../probe/probe.contract.ts";

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

/** One thing that happened. `data` is the row as it stands, under the names its table has, or what changed. */
export const TraceEntry = shape("TraceEntry", {
  at: "time",
  keyspace: "string",
  slot: "number",
  kind: "string",
  id: "string",
  what: "string",
  data: "any",
});
export const Trace = shape("Trace", {
  id: "string",
  /** What the number given is the number of. */
  kind: "string",
  orderId: { type: "id", optional: true },
  entries: { type: "array", items: TraceEntry },
});
/** An id, a voucher's 16 digits, or a channel's number: letters among its digits, or 24 digits and more, so that it is never taken for an id. */
const ANY_NUMBER = { type: "string", pattern: /^([1-9]\d{0,18}|\d{16}|\d{24,64}|(?=\d*[A-Za-z])[A-Za-z0-9][A-Za-z0-9-]{5,63})$/ } as const;
export const traceNumber = action("ops.trace", {
  summary: "Everything that ever happened to an order, voucher, payment, refund, settlement, payout, top-up, transfer or channel number",
  params: { id: ANY_NUMBER },
  answer: Trace,
  errors: ["TRACE_NOT_FOUND"],
  timeoutMs: 60_000,
  rest: { method: "GET", path: "/ops/trace/{id}", who: "admin", status: 200, tag: "Operating" },
});

const amount = { type: "number", integer: true } as const;
export const AccountEntry = shape("AccountEntry", {
  id: "id",
  seq: "number",
  at: "time",
  code: "string",
  businessKey: "string",
  orderId: { type: "id", optional: true },
  /** The other side. */
  account: "string",
  /** Fen that came, or, below zero, went. */
  amount,
  /** What the account then held. */
  balance: amount,
});
export const AccountStatement = shape("AccountStatement", {
  account: "string",
  city: "string",
  slot: "number",
  to: "time",
  /** What it held at `from`, and at `to`: credits less debits, posted. */
  opening: amount,
  closing: amount,
  /** At `to`: promised by it, and to it, and neither kept nor given up by then. */
  promisedOut: amount,
  promisedIn: amount,
  items: { type: "array", items: AccountEntry },
  nextCursor: { type: "cursor", nullable: true, optional: true },
});
export const stateAccount = action("ops.accountStatement", {
  summary: "What an account held at a time, and what moved in and out of it since another",
  params: {
    account: { type: "string", pattern: /^[a-z_]{1,32}(:[A-Za-z0-9_]{1,32})?$/ },
    city: { type: "string", pattern: /^[a-z]{2,16}$/ },
    slot: { type: "number", integer: true, min: 0, max: 15, convert: true },
    from: { type: "time", optional: true },
    to: { type: "time", optional: true },
    ...PAGE,
  },
  answer: AccountStatement,
  errors: ["CITY_NOT_FOUND", "ACCOUNT_NOT_FOUND"],
  timeoutMs: 60_000,
  rest: { method: "GET", path: "/ops/account-statement", who: "admin", status: 200, tag: "Operating" },
});

export const NodeMailboxView = shape("NodeMailbox", {
  node: "string",
  city: "number",
  slot: "number",
  depth: "number",
  batchSize: "number",
});
/** Internal: the console's. */
export const listAllMailboxes = action("ops.mailboxes", {
  summary: "What waits in the mailboxes of every node",
  params: {},
  answer: { type: "array", items: NodeMailboxView },
  retrySafe: true,
});
/** Internal: the console's. */
export const drainNode = action("ops.drain", {
  summary: "Let a node finish what it has and serve nothing more; refused where it alone serves something",
  params: { node: { type: "string", min: 1, max: 64 } },
  answer: { type: "array", items: "string" },
  errors: ["NODE_NOT_FOUND", "NODE_NEEDED"],
  retrySafe: true,
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
/** Internal, asked of one node at a time. */
export const interruptMove = action("ops.interruptMove", {
  summary: "End this move, if the node that answers is at it and it is not decided yet",
  params: MOVE,
  answer: undefined,
  errors: MOVE_ERRORS,
  timeoutMs: 50_000,
  retrySafe: true,
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

export const DeadLetter = shape("DeadLetter", {
  id: "string",
  consumer: "string",
  /** The shard it is of, `city/slot`; with the event's id its name everywhere. */
  source: "string",
  eventId: "string",
  type: "string",
  event: "any",
  error: "string",
  attempts: "number",
  parkedAt: "time",
  replaying: "boolean",
});
/** Event consumer, city, slot, event. */
const LETTER_ID = { type: "string", pattern: /^[a-z][a-z0-9-]{0,62}\.\d{1,3}\.\d{1,2}\.\d{1,18}$/ } as const;
const admins = { method: "POST", who: "admin", tag: "Operating" } as const;
export const listDeadLetters = action("ops.deadLetters", {
  summary: "Events that an event consumer could not digest, with their errors",
  params: { ...PAGE, consumer: { type: "string", optional: true, max: 63 } },
  answer: list("DeadLetterList", DeadLetter),
  errors: ["VALIDATION_ERROR"],
  rest: { ...admins, method: "GET", path: "/ops/dead-letters", status: 200 },
});
export const replayDeadLetter = action("ops.replayDeadLetter", {
  summary: "Hand an event to its event consumer again; within seconds it is gone from the list, or there with its new error",
  params: { id: LETTER_ID },
  answer: DeadLetter,
  errors: ["DEAD_LETTER_NOT_FOUND"],
  retrySafe: true,
  rest: { ...admins, path: "/ops/dead-letters/{id}/replay", status: 202 },
});
export const dropDeadLetter = action("ops.dropDeadLetter", {
  summary: "Give an event up for its event consumer; the answer is the last that is seen of it",
  params: { id: LETTER_ID },
  answer: DeadLetter,
  errors: ["DEAD_LETTER_NOT_FOUND"],
  rest: { ...admins, path: "/ops/dead-letters/{id}/drop", status: 200 },
});

/**
 * What waits for a person. PAYMENT: other money than was asked for, in suspense; DIFFERENCE: what a channel's statement says and nothing explains; REFUND: its channel will not pay it out; SETTLEMENT: its voucher is not
 * redeemed. And payments, refunds and payouts that were tried `LIMITS.attemptsMax` times: they are tried on, but somebody should know.
 */
export const Attention = shape("Attention", {
  kind: { type: "enum", values: ["PAYMENT", "DIFFERENCE", "REFUND", "PAYOUT", "SETTLEMENT", "CALLBACK"] },
  id: "id",
  city: "string",
  channel: { type: "string", optional: true },
  orderId: { type: "id", optional: true },
  why: "string",
  /** Who looks into it, where it is in suspense and somebody was named. */
  assignee: { type: "string", optional: true },
  since: "time",
});
export const listAttention = action("ops.attention", {
  summary: "Payments, differences, refunds, payouts, settlements and callbacks that wait for a person, oldest first",
  params: { ...PAGE },
  answer: list("AttentionList", Attention),
  errors: ["VALIDATION_ERROR"],
  rest: { ...admins, method: "GET", path: "/ops/attention", status: 200 },
});
export const retryAttention = action("ops.retry", {
  summary: "Try a payment, refund or payout again now that would be tried again later, or a settlement that failed",
  params: { id: "id" },
  answer: shape("Retry", { retrying: "boolean" }),
  errors: ["DEAD_LETTER_NOT_FOUND"],
  retrySafe: true,
  rest: { ...admins, path: "/ops/attention/{id}/retry", status: 202 },
});
export const replayCallback = action("ops.replayCallback", {
  summary: "Work a callback off again that could not be; within seconds it is gone from the list, or there with its new error",
  params: { id: "id" },
  answer: shape("CallbackReplay", { replaying: "boolean" }),
  errors: ["DEAD_LETTER_NOT_FOUND"],
  retrySafe: true,
  rest: { ...admins, path: "/ops/callbacks/{id}/replay", status: 202 },
});
/** Of nobody's number, or unreadable for good: without this it would be listed, and the invariants broken, for ever. */
export const resolveCallback = action("ops.resolveCallback", {
  summary: "Say that there is nothing to work off in a callback that waits for a person; it is kept as resolved, and by whom",
  params: { id: "id" },
  answer: shape("CallbackResolution", { resolved: "boolean" }),
  errors: ["DEAD_LETTER_NOT_FOUND"],
  rest: { ...admins, path: "/ops/callbacks/{id}/resolve", status: 200 },
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
