import { createHash } from "node:crypto";
import { Strategies, type Context, type Endpoint } from "moleculer";

const weight = (city: unknown, slot: unknown, node: string): number => createHash("sha256").update(`${city}/${slot}\0${node}`).digest().readUInt32BE(0);

/**
 * Rendezvous hashing: a shard's calls go to the node with the highest weight for it, so when a node joins only the shards it wins move there
 * (Moleculer's own Shard ring moved half of them). The address comes in the headers of the call; a call without one goes to any node.
 */
export class SlotStrategy extends Strategies.Base {
  override select(list: Endpoint[], ctx?: Context): Endpoint {
    const { city, slot } = (ctx?.headers ?? {}) as { city?: unknown; slot?: unknown };
    const [only] = list;
    if (only && (list.length === 1 || slot === undefined)) return list[Math.floor(Math.random() * list.length)] ?? only;
    return list.reduce((best, endpoint) => (weight(city, slot, endpoint.node.id) > weight(city, slot, best.node.id) ? endpoint : best));
  }
}
