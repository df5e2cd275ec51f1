/**
 * Who is there: Moleculer's own discovery with a sharper eye. Its check runs once a timeout on whole seconds, so a timeout of 3 s found a dead
 * node after up to 7 s; this one looks four times a second and finds it within 3.3 s. And a node that comes back under its old name before
 * anybody missed it is noticed as a new one, also one whose connection to the bus was another: otherwise calls to its dead self, or whose answers
 * were lost with the connection, would wait for their timeout.
 */
import { Discoverers } from "moleculer";
import type { NodeMetadata } from "./cluster.ts";

/** Of the transporter; Moleculer moves it by up to half a second, so that nodes do not beat in step. */
export const HEARTBEAT_SECONDS = 1;
/** Two beats may be lost. */
const SILENT_MS_MAX = 3_000;
const LOOK_MS = 250;

export class Discoverer extends Discoverers.Local {
  readonly #heardMs = new Map<string, number>();
  #lookedMs = 0;

  override startHeartbeatTimers(): void {
    super.startHeartbeatTimers();
    clearInterval(this.checkNodesTimer);
    this.#lookedMs = performance.now();
    this.checkNodesTimer = setInterval(() => this.checkRemoteNodes(), LOOK_MS).unref();
  }

  override heartbeatReceived(nodeID: string, payload: Record<string, unknown>): void {
    this.#heardMs.set(nodeID, performance.now());
    super.heartbeatReceived(nodeID, payload);
  }

  override processRemoteNodeInfo(nodeID: string, payload: Record<string, unknown>): ReturnType<Discoverers.Base["processRemoteNodeInfo"]> {
    this.#heardMs.set(nodeID, performance.now());
    const known = this.registry.nodes.get(nodeID);
    if (known?.available === true && !isSame(known, payload)) this.registry.nodes.disconnected(nodeID, true);
    return super.processRemoteNodeInfo(nodeID, payload);
  }

  override checkRemoteNodes(): void {
    const nowMs = performance.now();
    // Whoever did not run (a stopped process, a starved core) heard nobody: that time is not held against the others.
    const asleepMs = Math.max(0, nowMs - this.#lookedMs - 2 * LOOK_MS);
    this.#lookedMs = nowMs;
    for (const node of this.registry.nodes.toArray()) {
      if (node.local || !node.available) continue;
      const heardMs = (this.#heardMs.get(node.id) ?? nowMs) + asleepMs;
      this.#heardMs.set(node.id, heardMs);
      if (nowMs - heardMs <= SILENT_MS_MAX) continue;
      this.logger.warn(`node ${node.id} has been silent for ${Math.round(nowMs - heardMs)} ms: its calls go elsewhere`);
      this.#heardMs.delete(node.id);
      this.registry.nodes.disconnected(node.id, true);
    }
  }
}

/** Calls that were sent to the one may be answered by the other. */
const isSame = (known: Told, told: Told): boolean =>
  known.instanceID === told.instanceID && known.metadata?.connection === told.metadata?.connection;
interface Told {
  readonly instanceID?: string | null;
  readonly metadata?: Partial<NodeMetadata> | null;
}
