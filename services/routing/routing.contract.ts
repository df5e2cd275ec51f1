/** Internal, of every node: how nodes agree where shards live. Asked of one node at a time, by its id. */
import { action, shape } from "../../mixins/contract.ts";

const SLOTS = { city: "number", slots: { type: "array", items: "number" } } as const;

export const Routing = shape("Routing", { version: "number", yaml: "string" });

export const holdSlots = action("routing.hold", {
  summary: "Commit what is under way in these shards and let their commands wait; for so long, unless told again",
  params: { ...SLOTS, leaseMs: "number" },
  answer: undefined,
  retrySafe: true,
});
export const releaseSlots = action("routing.release", {
  summary: "Go on with these shards' commands",
  params: SLOTS,
  answer: undefined,
  retrySafe: true,
});
export const applyRouting = action("routing.apply", {
  summary: "Take a newer routing table into force",
  params: { yaml: "string" },
  answer: Routing,
  retrySafe: true,
});
export const tellRouting = action("routing.tell", {
  summary: "The routing table in force on the node that answers",
  params: {},
  answer: Routing,
  timeoutMs: 2_000,
  retrySafe: true,
});
