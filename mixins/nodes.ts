/** Which nodes there are for what, as the registry of the node that asks sees them now. */
import type { ServiceBroker } from "moleculer";
import type { Via } from "./contract.ts";

interface ActionListed {
  readonly name: string;
  readonly endpoints?: readonly { readonly nodeID: string }[];
}

/** The nodes that offer an action, and can be reached. */
export async function nodesOffering(via: Via, action: string): Promise<string[]> {
  const actions = await (via as Pick<ServiceBroker, "call">).call<ActionListed[], object>("$node.actions", {
    withEndpoints: true,
    onlyAvailable: true,
  });
  return actions.find(({ name }) => name === action)?.endpoints?.map(({ nodeID }) => nodeID) ?? [];
}
