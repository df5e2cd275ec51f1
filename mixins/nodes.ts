/** Which nodes there are for what, as the registry of the node that asks sees them now. */
import type { ServiceBroker } from "moleculer";
import type { Via } from "./contract.ts";

interface ActionListed {
  readonly name: string;
  readonly endpoints?: readonly { readonly nodeID: string }[];
}

/** By the name of each action, the nodes that offer it and can be reached. */
export async function nodesByAction(via: Via): Promise<Map<string, string[]>> {
  const actions = await (via as Pick<ServiceBroker, "call">).call<ActionListed[], object>("$node.actions", {
    withEndpoints: true,
    onlyAvailable: true,
  });
  return new Map(actions.map(({ name, endpoints = [] }) => [name, endpoints.map(({ nodeID }) => nodeID)]));
}

/** The nodes that offer an action, and can be reached. */
export const nodesOffering = async (via: Via, action: string): Promise<string[]> => (await nodesByAction(via)).get(action) ?? [];
