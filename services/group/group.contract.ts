import { shardOf } from "../../domain/ids.ts";
import { action, shape } from "../../mixins/contract.ts";
import { dueAction } from "../../mixins/sweep.ts";

export const Group = shape("Group", {
  id: "id",
  dealId: "id",
  size: "number",
  taken: "number",
  held: "number",
  /** Seats the merchant's auto-fill took; they are nobody's. */
  filled: "number",
  status: { type: "enum", values: ["OPEN", "CLOSING", "FORMED", "FAILED"] },
  deadline: { type: "time", optional: true },
  members: { type: "array", items: "string" },
});
/** A PENDING group is not visible: GROUP_NOT_FOUND. Names are masked. */
export const getGroup = action("group.get", {
  summary: "A group and its members",
  params: { id: "id" },
  answer: Group,
  errors: ["GROUP_NOT_FOUND"],
  rest: { method: "GET", path: "/groups/{id}", who: "anyone", status: 200, tag: "Buying" },
  address: (params) => shardOf(params.id),
});

/** Internal: takes due groups of one shard a step further; those not due are left alone. */
export const closeGroups = dueAction("group.close", "Close groups whose deadline has passed");
