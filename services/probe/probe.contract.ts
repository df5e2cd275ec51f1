import { action, shape } from "../../mixins/contract.ts";

/** What a drained node still has: it answers for itself, and follows the slots that move. */
export const STAYING: ReadonlySet<string> = new Set(["$node", "probe", "routing"]);
/** Internal, asked of one node at a time. */
export const leave = action("probe.leave", {
  summary: "The node that answers begins to leave: it takes nothing more, finishes what it has, and offers nothing then",
  params: {},
  answer: undefined,
  retrySafe: true,
});

export const MailboxView = shape("Mailbox", { city: "number", slot: "number", depth: "number", batchSize: "number" });
/** Internal, asked of one node at a time: what waits in its own mailboxes. */
export const listMailboxes = action("probe.mailboxes", {
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
/** Internal, asked of one node at a time: its own policies, loaded anew or as they are. */
export const ownRegions = action("probe.regions", {
  summary: "Regional policies of the node that answers",
  params: { reload: "boolean" },
  answer: { type: "array", items: RegionPolicyView },
  timeoutMs: 50_000,
  retrySafe: true,
});
