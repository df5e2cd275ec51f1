/** `/ops/shards`: where each shard lives, which node its calls go to, and what waits there. */
import { SLOT_COUNT, shardKey } from "../../domain/ids.ts";
import type { Database, Statement } from "../../db/database.ts";
import { displayName, type Keyspace } from "../../db/keyspaces.ts";
import { SLOT_OF_PARTITION, SLOT_PARTITIONS } from "../../db/move-fence.ts";
import type { Of, Via } from "../../mixins/contract.ts";
import type { Platform } from "../../mixins/platform.ts";
import { ownerOf } from "../../mixins/slot-strategy.ts";
import { nodesOffering } from "../../mixins/nodes.ts";
import { allMailboxes } from "./nodes.ts";
import type { NodeMailboxView, ShardView } from "./ops.contract.ts";

/** One action of each kind of keyspace stands for all: a node serves a shard or it does not. */
const ACTION_OF = { city: "order.place", user: "wallet.try" } as const;

type View = Of<typeof ShardView>;

export async function viewShards(via: Via, platform: Platform, withSizes: boolean): Promise<View[]> {
  const [owners, mailboxes, sizes] = await Promise.all([
    ownersOf(via),
    gatherMailboxes(via),
    withSizes ? gatherSizes(platform) : new Map<string, Size>(),
  ]);
  const held = new Set(platform.held().map(shardKey));
  return platform.keyspaces.all.flatMap((keyspace) =>
    Array.from({ length: SLOT_COUNT }, (_, slot): View => {
      const shard = { city: keyspace.id, slot };
      const owner = ownerOf(shard, owners[keyspace.kind]);
      const box = mailboxes.get(`${owner} ${shardKey(shard)}`);
      const size = sizes.get(shardKey(shard));
      return {
        city: keyspace.code,
        slot,
        owner: owner ?? "",
        depth: box?.depth ?? 0,
        batchSize: box?.batchSize ?? 0,
        database: displayName(keyspace.databases[slot] ?? ""),
        moving: held.has(shardKey(shard)),
        ...(size === undefined ? {} : size),
      };
    }),
  );
}

async function ownersOf(via: Via): Promise<Record<Keyspace["kind"], string[]>> {
  const [city, user] = await Promise.all([nodesOffering(via, ACTION_OF.city), nodesOffering(via, ACTION_OF.user)]);
  return { city, user };
}

interface Size {
  readonly rows: number;
  readonly bytes: number;
}

/** PostgreSQL's own count of rows, which autovacuum keeps: counting them would read everything. */
const SIZES: Statement = {
  name: "ops/shard-sizes",
  text: `
    select ${SLOT_OF_PARTITION} as slot, sum(pg_total_relation_size(c.oid))::float8 as bytes,
           sum(coalesce(nullif(pg_stat_get_live_tuples(c.oid), 0), greatest(c.reltuples::bigint, 0)))::float8 as rows
      from ${SLOT_PARTITIONS}
     group by 1`,
};

async function gatherSizes(platform: Platform): Promise<Map<string, Size>> {
  const ofDatabase = async (database: Database): Promise<(readonly [string, Size])[]> =>
    (await database.query<Size & { slot: number }>(SIZES))
      .filter(({ slot }) => database.slots.includes(slot))
      .map(({ slot, rows, bytes }) => [shardKey({ city: database.city, slot }), { rows, bytes }]);
  return new Map((await Promise.all([...platform.databases.values()].map(ofDatabase))).flat());
}

/** Own boxes of every node, by node and shard. */
const gatherMailboxes = async (via: Via): Promise<Map<string, Of<typeof NodeMailboxView>>> =>
  new Map((await allMailboxes(via)).map((box) => [`${box.node} ${shardKey(box)}`, box]));
