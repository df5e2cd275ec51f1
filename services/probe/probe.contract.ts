import { action, shape } from "../../mixins/contract.ts";

export const MailboxView = shape("Mailbox", { city: "number", slot: "number", depth: "number", batchSize: "number" });
/** Internal, asked of one node at a time: what waits in its own mailboxes. */
export const listMailboxes = action("probe.mailboxes", {
  summary: "Mailboxes of the node that answers",
  params: {},
  answer: { type: "array", items: MailboxView },
  timeoutMs: 2_000,
  retrySafe: true,
});
