import { createHash } from "node:crypto";
import { LRUCache } from "lru-cache";
import { Strategies, type Context, type Endpoint } from "moleculer";
import type { Shard } from "../domain/ids.ts";

/** A hash takes 2 µs and a call asks for several; a hundred cities on ten nodes are 16,000 of them. */
const weights = new LRUCache<string, number>({ max: 20_000 });

function weight({ city, slot }: Shard, node: string): number {
  const key = `${city}/${slot}\0${node}`;
  const known = weights.get(key);
  if (known !== undefined) return known;
  const made = createHash("sha256").update(key).digest().readUInt32BE(0);
  weights.set(key, made);
  return made;
}

const isWhole = (address: Partial<Shard>): address is Shard => address.city !== undefined && address.slot !== undefined;

/** The node a shard's calls go to, of those that offer them; undefined where none does. */
export const ownerOf = (shard: Shard, nodes: readonly string[]): string | undefined =>
  nodes.toSorted((a, b) => weight(shard, b) - weight(shard, a))[0];

/**
 * Rendezvous hashing: a shard's calls go to the node with the highest weight for it, so when a node joins only the shards it wins move there
 * (Moleculer's own Shard ring moved half of them). The address comes in the headers of the call; a call without one goes to any node.
 */
export class SlotStrategy extends Strategies.Base {
  override select(list: Endpoint[], ctx?: Context): Endpoint {
    const address = (ctx?.headers ?? {}) as Partial<Shard>;
    if (!isWhole(address)) return list[Math.floor(Math.random() * list.length)] as Endpoint;
    return list.reduce((best, endpoint) => (weight(address, endpoint.node.id) > weight(address, best.node.id) ? endpoint : best));
  }
}
