/** Reads the events table from where somebody was, for what passed by while nobody listened. */
import type { Database } from "../db/database.ts";
import type { Persist } from "./journal-delivery.ts";
import { pageOfEvents, replayFrom } from "./journal-store.ts";
import type { StoredEvent } from "./stored-event.ts";

/** A slot's share of one page of the table. */
const PAGE_EVENTS_MAX = 250;
/** A transaction is in the log before it can be seen in the table: by microseconds, unless its process is kept from running. */
export const SEEN_MS = 1_000;

/**
 * Gives `take` page after page of what comes behind each slot's mark, each slot's events ascending, until the table has no more (true) or `take`
 * or `persist` has had enough (false).
 */
export async function readTable(
  database: Database,
  marks: ReadonlyMap<number, string>,
  persist: Persist,
  take: (events: readonly StoredEvent[]) => Promise<boolean>,
): Promise<boolean> {
  const after = await persist(() => replayFrom(database, marks));
  if (!after) return false;
  while (after.size > 0) {
    const events = await persist(() => pageOfEvents(database, database.city, after, PAGE_EVENTS_MAX));
    if (!events || !(await take(events))) return false;
    const bySlot = Map.groupBy(events, (event) => event.slot);
    for (const slot of after.keys()) {
      const read = bySlot.get(slot) ?? [];
      const last = read.at(-1);
      if (last && read.length === PAGE_EVENTS_MAX) after.set(slot, last.id);
      else after.delete(slot);
    }
  }
  return true;
}
