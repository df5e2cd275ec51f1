/**
 * Events and marks of the inbox that are older than `LIMITS.eventsKeptDays` and behind the mark of every event consumer go. An event that a mark
 * stands at stays, since that is where a replay would begin.
 *
 * A mark of the inbox must outlive its event: without it a replay would do the effect again. So the inbox is swept only behind events that are gone.
 */
import { LIMITS } from "../domain/limits.ts";
import { shardKey } from "../domain/ids.ts";
import type { Queryable, Statement } from "../db/database.ts";
import { PRUNED_ROWS_MAX, remove, removeAll, type Prune } from "./prune.ts";

const BEHIND: Statement = {
  name: "prune/behind",
  text: `
    select slot, min(event_id)::text as behind, array_agg(consumer) as consumers from relay_marks where slot = any($1) group by slot`,
};
const EVENTS: Statement = {
  name: "prune/events",
  text: `
    with gone as (
      delete from events e
       using unnest($1::smallint[], $2::bigint[]) as k(slot, behind)
       cross join lateral (
             select slot, id, at from events where slot = k.slot and id < k.behind order by id limit $3) o
       where e.slot = o.slot and e.id = o.id and o.at < now() - make_interval(days => $4)
      returning 1)
    select count(*)::integer as rows from gone`,
};
const INBOX: Statement = {
  name: "prune/inbox",
  text: `
    with gone as (
      delete from inbox i
       using unnest($1::text[], $2::text[], $5::bigint[]) as k(consumer, source, behind)
       cross join lateral (
             select consumer, source, event_id, at from inbox
              where consumer = k.consumer and source = k.source and event_id < k.behind order by event_id limit $3) o
       where i.consumer = o.consumer and i.source = o.source and i.event_id = o.event_id and o.at < now() - make_interval(days => $4)
      returning 1)
    select count(*)::integer as rows from gone`,
};

/** Of one event consumer and one shard: events with smaller ids are behind the marks of all event consumers. */
interface Behind {
  readonly consumer: string;
  readonly source: string;
  readonly eventId: string;
}

const removeBehind = (tx: Queryable, statement: Statement, [first, second, ...others]: readonly unknown[]): Promise<number> =>
  remove(tx, statement, [first, second, PRUNED_ROWS_MAX, LIMITS.eventsKeptDays, ...others]);

/** First the events, then the inboxes, of which each has marks for events of every database. */
export const pruneEvents: Prune = async (databases, stopping) => {
  const pruned = { events: 0, "marks of the inbox": 0 };
  const behind: Behind[] = [];
  for (const database of databases) {
    const marks = await database.query<{ slot: number; behind: string; consumers: string[] }>(BEHIND, [database.slots]);
    const keys = [marks.map((m) => m.slot), marks.map((m) => m.behind)];
    pruned.events += await removeAll(() => removeBehind(database, EVENTS, keys), stopping);
    for (const { slot, behind: eventId, consumers } of marks) {
      const source = shardKey({ city: database.city, slot });
      behind.push(...consumers.map((consumer) => ({ consumer, source, eventId })));
    }
  }
  // Told to stop in the middle of the events, their marks may still be needed.
  if (stopping.aborted) return pruned;
  const keys = [behind.map((b) => b.consumer), behind.map((b) => b.source), behind.map((b) => b.eventId)];
  for (const database of databases) pruned["marks of the inbox"] += await removeAll(() => removeBehind(database, INBOX, keys), stopping);
  return pruned;
};
