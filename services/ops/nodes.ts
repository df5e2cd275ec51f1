/** What operators ask of nodes one by one: their mailboxes, and to leave. */
import { raise } from "../../domain/error.ts";
import { OPS_ERRORS } from "../../domain/ops/errors.ts";
import { call, type Of, type Via } from "../../mixins/contract.ts";
import { nodesByAction, nodesOffering } from "../../mixins/nodes.ts";
import { leave, listMailboxes, type MailboxView, STAYING } from "../probe/probe.contract.ts";
import type { NodeMailboxView } from "./ops.contract.ts";

/** A node that does not answer within its 2 s is left out, not waited for. */
export async function allMailboxes(via: Via): Promise<Of<typeof NodeMailboxView>[]> {
  const nodes = await nodesOffering(via, listMailboxes.name);
  const answers = await Promise.allSettled(nodes.map((nodeID) => call(via, listMailboxes, {}, { nodeID })));
  return answers.flatMap((answer, index) =>
    answer.status === "fulfilled" ? answer.value.map((box: Of<typeof MailboxView>) => ({ node: nodes[index] ?? "", ...box })) : [],
  );
}

/** Answers with the services that the node gives up. What it alone has would be missing, so then it stays. */
export async function drain(via: Via, node: string): Promise<string[]> {
  const byAction = await nodesByAction(via);
  const nodes = byAction.get(leave.name) ?? [];
  if (!nodes.includes(node)) return raise(OPS_ERRORS, "NODE_NOT_FOUND", { node, nodes: nodes.join(", ") });
  const services = new Set<string>();
  for (const [action, offering] of byAction) {
    const service = action.slice(0, action.indexOf("."));
    if (!offering.includes(node) || STAYING.has(service)) continue;
    if (offering.length === 1) return raise(OPS_ERRORS, "NODE_NEEDED", { node, what: service });
    services.add(service);
  }
  await call(via, leave, {}, { nodeID: node });
  return [...services];
}
