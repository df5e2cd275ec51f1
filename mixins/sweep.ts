/**
 * A sweep: every second, what is due in the slots that are this node's is looked up and handed to their shard's action in batches. One sweep at a
 * time, all databases side by side: what is due in one does not wait for another's. One that cannot be reached is tried again at the next. Whose a
 * slot is, is where its calls go: each slot is swept by one node and acted on there. While nodes come and go two may sweep one slot, or none for a
 * moment: acting twice on one row does nothing.
 */
import { setTimeout as sleep } from "node:timers/promises";
import type { Service, ServiceBroker } from "moleculer";
import type { Id, Shard } from "../domain/ids.ts";
import type { Database, Queryable } from "../db/database.ts";
import { action, call } from "./contract.ts";
import { platformOf } from "./platform.ts";
import { ownerOf } from "./slot-strategy.ts";

export interface Sweep {
  stop(): Promise<void>;
}

/** One look-up's size; while it comes back full, the sweep goes on at once. */
const ROWS_MAX = 1_000;
const EVERY_MS = 1_000;

/** An internal action that acts on due rows of one shard; acting twice on a row does nothing. */
export const dueAction = <const N extends string>(name: N, summary: string) =>
  action(name, {
    summary,
    params: { city: "number", slot: "number", ids: { type: "array", items: "id" } },
    answer: undefined,
    retrySafe: true,
    address: (params): Shard => ({ city: params.city, slot: params.slot }),
  });
type DueContract = ReturnType<typeof dueAction<string>>;

export function sweep(
  service: Service<{}>,
  what: string,
  due: { find: (tx: Queryable, slots: readonly number[], limit: number) => Promise<{ slot: number; id: string }[]>; act: DueContract },
): Sweep {
  const stopping = new AbortController();
  const platform = platformOf(service.broker);
  /** True where there is more. */
  const once = async (database: Database): Promise<boolean> => {
    const slots = ownSlots(service.broker, due.act.name, database.city, platform.openSlots(database));
    if (slots.length === 0) return false;
    const rows = await due.find(database.sweeping, slots, ROWS_MAX);
    const bySlot = Map.groupBy(rows, (row) => row.slot);
    await Promise.all(
      [...bySlot].map(([slot, some]) => call(service.broker, due.act, { city: database.city, slot, ids: some.map((row) => row.id as Id) })),
    );
    return rows.length === ROWS_MAX;
  };
  const all = async (database: Database): Promise<void> => {
    try {
      let more = true;
      while (more && !stopping.signal.aborted) more = await once(database);
    } catch (error) {
      service.logger.warn(`sweeping ${what}: ${error instanceof Error ? error.message : String(error)}`);
    }
  };
  const pause = (ms: number): Promise<void> => sleep(ms, undefined, { signal: stopping.signal }).catch(() => undefined);
  const run = async (): Promise<void> => {
    // Each at a moment of its own: they look one after the other (`Database.sweeping`).
    await pause(Math.random() * EVERY_MS);
    while (!stopping.signal.aborted) {
      await Promise.all([...platform.databases.values()].filter(({ city }) => platform.servesCity(city)).map(all));
      await pause(EVERY_MS);
    }
  };
  const running = run();
  return {
    async stop() {
      stopping.abort();
      await running;
    },
  };
}

/** Those of the slots whose calls of `action` come here; all of them while nobody offers it yet, this node included. */
function ownSlots(broker: ServiceBroker, action: string, city: number, slots: readonly number[]): readonly number[] {
  const offering = broker.registry.getActionEndpoints(action)?.endpoints.flatMap((one) => (one.isAvailable ? [one.id] : [])) ?? [];
  return offering.length === 0 ? slots : slots.filter((slot) => ownerOf({ city, slot }, offering) === broker.nodeID);
}
