/**
 * Events and marks of the inbox do not pile up for ever: what is older than `LIMITS.eventsKeptDays` and behind the mark of every event consumer goes,
 * a thousand rows of a slot at a time. An event that a mark stands at stays, since that is where a replay would begin.
 *
 * A mark of the inbox must outlive its event: without it a replay would do the effect again. So the inbox is swept only behind events that are gone.
 */
import type { Logger } from "moleculer";
import { LIMITS } from "../domain/limits.ts";
import { shardKey } from "../domain/ids.ts";
import type { Database, Queryable, Statement } from "../db/database.ts";
import { isPassing, rest } from "./journal-delivery.ts";

const EVERY_MS = 60 * 60_000;
/** Of one statement and slot: some milliseconds. Between two the databases have a rest, so that the buyers notice nothing. */
const ROWS_MAX = 1_000;
const REST_MS = 100;

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

const remove = async (tx: Queryable, statement: Statement, [first, second, ...others]: readonly unknown[]): Promise<number> => {
  const [row] = await tx.query<{ rows: number }>(statement, [first, second, ROWS_MAX, LIMITS.eventsKeptDays, ...others]);
  return row?.rows ?? 0;
};

/** One pass over all databases: first their events, then the inboxes, of which each has marks for events of every database. */
export async function prune(databases: readonly Database[], stopping: AbortSignal): Promise<{ events: number; inbox: number }> {
  const pruned = { events: 0, inbox: 0 };
  const sweep = async (what: keyof typeof pruned, work: () => Promise<number>): Promise<void> => {
    let rows: number;
    do {
      rows = await work();
      pruned[what] += rows;
      if (rows > 0) await rest(REST_MS, stopping);
    } while (rows > 0 && !stopping.aborted);
  };
  const behind: Behind[] = [];
  for (const database of databases) {
    const marks = await database.query<{ slot: number; behind: string; consumers: string[] }>(BEHIND, [database.slots]);
    await sweep("events", () => remove(database, EVENTS, [marks.map((m) => m.slot), marks.map((m) => m.behind)]));
    for (const { slot, behind: eventId, consumers } of marks) {
      const source = shardKey({ city: database.city, slot });
      behind.push(...consumers.map((consumer) => ({ consumer, source, eventId })));
    }
  }
  // Told to stop in the middle of the events, their marks may still be needed.
  if (stopping.aborted) return pruned;
  const keys = [behind.map((b) => b.consumer), behind.map((b) => b.source), behind.map((b) => b.eventId)];
  for (const database of databases) await sweep("inbox", () => remove(database, INBOX, keys));
  return pruned;
}

export class Pruner {
  readonly #databases: () => Iterable<Database>;
  readonly #logger: Logger;
  readonly #stopping = new AbortController();
  #running: Promise<void> | undefined;

  constructor(databases: () => Iterable<Database>, logger: Logger) {
    this.#databases = databases;
    this.#logger = logger;
  }

  /** Once an hour, beginning an hour after the start: several nodes doing it at once only find less to do. */
  start(): void {
    this.#running ??= this.#run();
  }

  async stop(): Promise<void> {
    this.#stopping.abort();
    await this.#running;
  }

  async #run(): Promise<void> {
    const { signal } = this.#stopping;
    for (;;) {
      await rest(EVERY_MS, signal);
      if (signal.aborted) return;
      try {
        const { events, inbox } = await prune([...this.#databases()], signal);
        if (events + inbox > 0) this.#logger.info(`${events} events and ${inbox} marks of the inbox were old enough to go`);
      } catch (error) {
        if (!isPassing(error)) this.#logger.warn({ err: error }, "old events could not be pruned; trying again in an hour");
      }
    }
  }
}
