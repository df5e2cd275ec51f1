/** `/ops/shards`: where each shard lives, which node its calls go to, and what waits there. */
import { SLOT_COUNT, shardKey, type Shard } from "../../domain/ids.ts";
import type { Keyspace } from "../../db/keyspaces.ts";
import { call, type Of, type Via } from "../../mixins/contract.ts";
import type { Platform } from "../../mixins/platform.ts";
import { ownerOf } from "../../mixins/slot-strategy.ts";
import { listMailboxes, type MailboxView } from "../probe/probe.contract.ts";
import type { ShardView } from "./ops.contract.ts";

/** One action of each kind of keyspace stands for all: a node serves a shard or it does not. */
const ACTION_OF = { city: "order.place", user: "wallet.try" } as const;

interface ActionListed {
  readonly name: string;
  readonly endpoints?: readonly { readonly nodeID: string }[];
}

const listActions = (via: Via): Promise<ActionListed[]> =>
  via.call<ActionListed[], object>("$node.actions", { withEndpoints: true, onlyAvailable: true });
const endpointsOf = (actions: readonly ActionListed[], name: string): string[] =>
  actions.find((action) => action.name === name)?.endpoints?.map(({ nodeID }) => nodeID) ?? [];

/** The nodes that offer an action. */
export const nodesOf = async (via: Via, name: string): Promise<string[]> => endpointsOf(await listActions(via), name);

export async function viewShards(via: Via, platform: Platform): Promise<Of<typeof ShardView>[]> {
  const actions = await listActions(via);
  const nodesOf = (name: string): string[] => endpointsOf(actions, name);
  const mailboxes = await gatherMailboxes(via, nodesOf(listMailboxes.name));
  return platform.keyspaces.all.flatMap((keyspace) =>
    Array.from({ length: SLOT_COUNT }, (_, slot) =>
      viewShard(platform, keyspace, { city: keyspace.id, slot }, nodesOf(ACTION_OF[keyspace.kind]), mailboxes),
    ),
  );
}

/** Own boxes of every node, by node and shard. A node that does not answer within its 2 s is shown without them, not waited for. */
async function gatherMailboxes(via: Via, nodes: readonly string[]): Promise<Map<string, Of<typeof MailboxView>>> {
  const answers = await Promise.allSettled(nodes.map((nodeID) => call(via, listMailboxes, {}, { nodeID })));
  return new Map(
    answers.flatMap((answer, index) =>
      answer.status === "fulfilled" ? answer.value.map((box) => [`${nodes[index]} ${shardKey(box)}`, box] as const) : [],
    ),
  );
}

function viewShard(
  platform: Platform,
  keyspace: Keyspace,
  shard: Shard,
  nodes: readonly string[],
  mailboxes: ReadonlyMap<string, Of<typeof MailboxView>>,
): Of<typeof ShardView> {
  const owner = ownerOf(shard, nodes);
  const box = mailboxes.get(`${owner} ${shardKey(shard)}`);
  return {
    city: keyspace.code,
    slot: shard.slot,
    owner: owner ?? "",
    depth: box?.depth ?? 0,
    batchSize: box?.batchSize ?? 0,
    // By the name it is shown under: in the routing table it may be a URL, with a password in it.
    database: platform.databaseOf(shard).name,
  };
}
