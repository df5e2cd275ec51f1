import { shardOf } from "../../domain/ids.ts";
import { DIFFERENCE_STATES, LINE_KINDS, RECON_CLASSES } from "../../domain/recon/difference.ts";
import { OUTCOMES } from "../../domain/recon/suspense.ts";
import { action, shape } from "../../mixins/contract.ts";
import { PAGE } from "../../mixins/page.ts";
import { rawRoute } from "../../mixins/raw-routes.ts";
import { dueAction } from "../../mixins/sweep.ts";

const CHANNEL = { type: "string", pattern: /^[a-z]{2,32}$/ } as const;
const classes = { type: "enum", values: RECON_CLASSES } as const;
const amount = { type: "number", integer: true } as const;

export const Difference = shape("ReconDifference", {
  id: "id",
  class: classes,
  kind: { type: "enum", values: LINE_KINDS },
  /** Our number, as the channel has it; what it leads to, `/ops/trace` tells. */
  number: "string",
  channelNumber: { type: "string", optional: true },
  /** Fen; absent: nothing there. */
  ours: { ...amount, optional: true },
  theirs: { ...amount, optional: true },
  currency: "string",
  ourStatus: { type: "string", optional: true },
  /** By how much the channel has more, or less, than our books would say; it lies in suspense until the difference is explained. */
  suspended: amount,
  owner: { type: "enum", values: ["payments", "finance", "channel", "nobody"] },
  /** Who looks into it, where somebody was named. */
  assignee: { type: "string", optional: true },
  status: { type: "enum", values: DIFFERENCE_STATES },
  /** What explained it, or what the person noted who decided it. */
  why: { type: "string", optional: true },
  /** What the channel said when it was last asked. */
  answer: { type: "string", optional: true },
  ageSeconds: "number",
  createdAt: "time",
});
export const ReconCount = shape("ReconCount", { class: classes, count: "number", amount });
export const STATEMENT_STATES = ["RECEIVING", "RECEIVED", "MATCHED", "DONE", "FAILED"] as const;
export const ReconStatement = shape("ReconStatement", {
  id: "id",
  channel: "string",
  source: { type: "enum", values: ["STATEMENT", "QUERY"] },
  day: "string",
  status: { type: "enum", values: STATEMENT_STATES },
  lines: "number",
  /** All seven classes, once it is matched. */
  counts: { type: "array", items: ReconCount },
  error: { type: "string", optional: true },
  createdAt: "time",
  endedAt: { type: "time", optional: true },
  differences: { type: "array", items: Difference },
  nextCursor: { type: "cursor", nullable: true, optional: true },
});
export const Accepted = shape("ReconAccepted", { id: "id" });

export const receiveStatement = rawRoute("recon.receive", {
  summary: "A channel's statement of a day (Chinese time), as the channel wrote it, gzipped or not; matched once all of it is here",
  takes: "text/csv",
  mediaType: "application/json",
  query: { channel: CHANNEL, date: { type: "string", pattern: /^20\d\d-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])$/ } },
  errors: ["CHANNEL_UNKNOWN", "STATEMENT_UNREADABLE", "UNSUPPORTED_MEDIA_TYPE", "UNAVAILABLE"],
  rest: { method: "POST", path: "/recon/statements", who: "admin", status: 202, tag: "Money" },
});
export const showReport = rawRoute("recon.report", {
  summary: "What came of a statement, as a page to read",
  mediaType: "text/html",
  errors: ["STATEMENT_NOT_FOUND"],
  rest: { method: "GET", path: "/recon/statements/{id}/report", who: "admin", status: 200, tag: "Money" },
});
export const getStatement = action("recon.statement", {
  summary: "What came of a statement: how many lines of each class, and the differences, each with what it is and whose it is to explain",
  params: { id: "id", class: { ...classes, optional: true }, ...PAGE },
  answer: ReconStatement,
  errors: ["STATEMENT_NOT_FOUND"],
  rest: { method: "GET", path: "/recon/statements/{id}", who: "admin", status: 200, tag: "Money" },
  address: (params) => shardOf(params.id),
});
export const queryRecent = action("recon.query", {
  summary: "Ask a channel, number by number, for what we say moved there in the last hours, and match its answers like a statement",
  params: { channel: CHANNEL, hours: { type: "number", integer: true, min: 1, max: 24 } },
  answer: Accepted,
  errors: ["CHANNEL_UNKNOWN"],
  rest: {
    method: "POST",
    path: "/recon/queries",
    who: "admin",
    status: 202,
    tag: "Money",
    example: { channel: "simpay", hours: 2 },
  },
});
export const repairDifference = action("recon.repair", {
  summary: "Ask the channel about a difference: explained when it says what our books say, and what was in suspense for it goes back",
  params: { id: "id" },
  answer: Difference,
  errors: ["DIFFERENCE_NOT_FOUND", "CHANNEL_UNKNOWN"],
  timeoutMs: 30_000,
  retrySafe: true,
  rest: { method: "POST", path: "/recon/differences/{id}/repair", who: "admin", status: 200, tag: "Money" },
  address: (params) => shardOf(params.id),
});

const WAITING = { method: "POST", who: "admin", status: 200, tag: "Operating" } as const;
export const assignSuspense = action("recon.assign", {
  summary: "Say who looks into money in suspense, of a payment that differs or of an open difference; the last who was named does",
  params: { id: "id", assignee: { type: "string", min: 1, max: 64 } },
  answer: shape("SuspenseAssignment", { id: "id", assignee: "string" }),
  errors: ["SUSPENSE_NOT_FOUND"],
  retrySafe: true,
  rest: { ...WAITING, path: "/ops/suspense/{id}/assign", example: { assignee: "li.na" } },
  address: (params) => shardOf(params.id),
});
export const resolveSuspense = action("recon.resolve", {
  summary:
    "Decide, once, what becomes of money in suspense that nothing explains: of a payment's it is given back by its channel or written off, a difference's is written off once the channel was asked",
  params: { id: "id", outcome: { type: "enum", values: OUTCOMES }, note: { type: "string", min: 1, max: 500 } },
  answer: shape("SuspenseResolution", {
    id: "id",
    outcome: { type: "enum", values: OUTCOMES },
    /** What left suspense: above zero what was too much there, below zero what was missing; in the small unit of the currency. */
    amount,
    currency: "string",
    note: "string",
    at: "time",
    refundId: { type: "id", optional: true },
  }),
  errors: ["SUSPENSE_NOT_FOUND", "SUSPENSE_OVER", "DIFFERENCE_NOT_ASKED", "NOT_TO_GIVE_BACK"],
  rest: {
    ...WAITING,
    path: "/ops/suspense/{id}/resolve",
    key: "required",
    example: { outcome: "WRITTEN_OFF", note: "a cent that nobody asks for" },
  },
  address: (params) => shardOf(params.id),
});

/** Internal: differences of one shard go to suspense, or come back from it. */
export const bookDifferences = dueAction("recon.book", "Book differences to suspense, and explained ones back");
