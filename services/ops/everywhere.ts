/** What a move asks of every node that can be reached: to hold the slots' mailboxes, to route anew, to go on. A node that cannot be reached is fenced off. */
import type { Logger, ServiceBroker } from "moleculer";
import type { Keyspaces } from "../../db/keyspaces.ts";
import { call } from "../../mixins/contract.ts";
import { nodesOffering } from "../../mixins/nodes.ts";
import { applyRouting, holdSlots, releaseSlots } from "../routing/routing.contract.ts";

/** A mover that dies leaves the slots held for so long. */
const LEASE_MS = 10_000;
const RENEW_MS = 3_000;
const ROUTE_TRIES = 10;
const ROUTE_AGAIN_MS = 1_000;

export class Everywhere {
  readonly #broker: ServiceBroker;
  readonly #shards: { readonly city: number; readonly slots: number[] };
  readonly #logger: Logger;
  #renewing: NodeJS.Timeout | undefined;
  #renewal: Promise<void> = Promise.resolve();
  #heldSince: number | undefined;
  /** How long the slots were held. */
  heldMs: number | undefined;

  constructor(broker: ServiceBroker, city: number, slots: readonly number[], logger: Logger) {
    this.#broker = broker;
    this.#shards = { city, slots: [...slots] };
    this.#logger = logger;
  }

  /** Resolves when every node has committed what was under way. One that does not answer writes on, until the fence stands. */
  async hold(): Promise<void> {
    this.#heldSince ??= performance.now();
    this.#renewing ??= setInterval(() => void (this.#renewal = this.#holdOnce()), RENEW_MS);
    await this.#holdOnce();
  }

  async release(): Promise<void> {
    this.letGo();
    // A renewal that arrived behind the release would hold the slots for another lease.
    await this.#renewal;
    if (this.#heldSince !== undefined) this.heldMs = Math.round(performance.now() - this.#heldSince);
    await this.#each("release", (nodeID) => call(this.#broker, releaseSlots, this.#shards, { nodeID }));
  }

  /** Renews the leases no longer. */
  letGo(): void {
    clearInterval(this.#renewing);
    this.#renewing = undefined;
  }

  /** Rejects when a node that is there has not taken the table over: it would look for the slots where they are not. */
  async route(keyspaces: Keyspaces): Promise<void> {
    const { version, yaml } = keyspaces;
    // This node first: what is asked of it from here on is asked of the right database.
    await call(this.#broker, applyRouting, { yaml }, { nodeID: this.#broker.nodeID });
    for (let tries = 1; ; tries++) {
      const answers = await this.#each("route", (nodeID) => call(this.#broker, applyRouting, { yaml }, { nodeID }));
      const behind = answers.filter(({ value }) => value === undefined || value.version < version).map(({ nodeID }) => nodeID);
      if (behind.length === 0) return;
      if (tries === ROUTE_TRIES) throw new Error(`${behind.join(", ")} did not take the routing table over`);
      await new Promise((resolve) => setTimeout(resolve, ROUTE_AGAIN_MS));
    }
  }

  async #holdOnce(): Promise<void> {
    await this.#each("hold", (nodeID) => call(this.#broker, holdSlots, { ...this.#shards, leaseMs: LEASE_MS }, { nodeID }));
  }

  async #each<R>(what: string, ask: (nodeID: string) => Promise<R>): Promise<{ nodeID: string; value: R | undefined }[]> {
    const nodes = await nodesOffering(this.#broker, applyRouting.name);
    return Promise.all(
      nodes.map(async (nodeID) => {
        try {
          return { nodeID, value: await ask(nodeID) };
        } catch (error) {
          this.#logger.warn(`a move could not ask ${nodeID} to ${what}: ${error instanceof Error ? error.message : String(error)}`);
          return { nodeID, value: undefined };
        }
      }),
    );
  }
}
