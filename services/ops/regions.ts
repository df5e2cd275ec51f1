/** `/ops/regions`: every node's regional policies, those of the workers above all, since they sell by them. */
import { COMMON_ERRORS } from "../../domain/common-errors.ts";
import { raise } from "../../domain/error.ts";
import { call, type Of, type Via } from "../../mixins/contract.ts";
import { nodesOffering } from "../../mixins/nodes.ts";
import { ownRegions, type RegionPolicyView } from "../probe/probe.contract.ts";

/** Asks every node; throws where one does not answer, because policies that differ from node to node are what an operator must hear of. */
export async function regionsOfNodes(via: Via, reload: boolean): Promise<Of<typeof RegionPolicyView>[]> {
  const nodes = await nodesOffering(via, ownRegions.name);
  const answers = await Promise.allSettled(nodes.map((nodeID) => call(via, ownRegions, { reload }, { nodeID })));
  const silent = nodes.filter((_, index) => answers[index]?.status === "rejected");
  if (silent.length > 0) return raise(COMMON_ERRORS, "UNAVAILABLE", { what: `node ${silent.join(", ")}`, retryAfterSeconds: 2 });
  return answers.flatMap((answer) => (answer.status === "fulfilled" ? answer.value : []));
}
