/** What a node of a cluster checks of itself and of the others before it serves. */
import type { ServiceBroker } from "moleculer";
import { StartError } from "../db/start-error.ts";
import { invariant } from "../domain/invariant.ts";
import { conflictOf, type Surface } from "./surface.ts";

/** Part of what a node tells the others of itself. */
export interface NodeMetadata {
  readonly surface: Surface;
  /** Which connection to the bus it is on, counted: what was under way on another is lost. */
  connection: number;
}

/** Refuses to join nodes that would misread this one, or be misread by it: asked after they have been heard of, before any service starts. */
export function refuseConflict(broker: ServiceBroker, ours: Surface): void {
  for (const node of broker.registry.nodes.toArray()) {
    if (node.local || !node.available) continue;
    const { surface } = (node.metadata ?? {}) as Partial<NodeMetadata>;
    const conflict = surface === undefined ? "it tells nothing of its contracts" : conflictOf(ours, surface);
    if (conflict !== undefined)
      throw new StartError(`this version cannot join the cluster: its contracts do not fit those of node ${node.id} (${conflict})`);
  }
}

/**
 * The options as they are in force. Moleculer lets environment variables of plain names (NAMESPACE, SERIALIZER) and its runner's files beat a
 * configuration in silence; a node in another namespace would serve alone, one with another serializer would never be answered.
 */
export function checkLiveOptions(
  broker: ServiceBroker,
  wanted: { readonly namespace: string; readonly services: readonly string[] },
): void {
  const { options } = broker;
  invariant(options.namespace === wanted.namespace, "the node is in its own namespace");
  invariant(options.serializer === "CBOR", "bigint survives the wire");
  invariant((options.requestTimeout ?? 0) > 0, "no call waits for ever");
  invariant(options.registry?.preferLocal === false, "calls go to their shard's node");
  invariant((options.tracking?.shutdownTimeout ?? 0) > 0, "calls under way are waited for");
  const running = new Set(broker.services.map(({ name }) => name));
  const missing = wanted.services.filter((name) => !running.has(name));
  invariant(missing.length === 0, `every service asked for runs here, also ${missing.join(", ")}`);
}
