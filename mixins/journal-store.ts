/** SQL of the journal: replication slots, dozing, marks, the events table as a reader sees it, the inbox. Parked events: `journal-parked.ts`. */
import { type Queryable, sqlState, type Statement } from "../db/database.ts";
import type { LoneConnection } from "../db/lone-connection.ts";
import type { EventRow } from "../db/replication.ts";
import { type StoredEvent, storedEvent } from "./stored-event.ts";

/** The server's names for replication slots are cluster-wide, and short of characters. */
const IDENTITY: Statement = {
  name: "journal/identity",
  text: `
    select 'tuanbar_events_' || left(regexp_replace(lower(name), '[^a-z0-9_]', '_', 'g'), 32)
           || case when name ~ '^[a-z0-9_]{1,32}$' then '' else '_' || left(md5(name), 8) end as slot_name
      from (select current_database()::text) as d(name)`,
};
export async function replicationSlotName(tx: Queryable): Promise<string> {
  const [row] = await tx.query<{ slot_name: string }>(IDENTITY);
  return row?.slot_name ?? "";
}

/** Of the database: held by the relay that dozes. (7431, 1) is `mint_ids`'. */
const DOZE_LOCK = "7431, 2";
const LOOK: Statement = {
  name: "journal/look",
  text: `
    select s.slot_name is not null as made, s.wal_status, coalesce(s.active, false) or not pg_try_advisory_xact_lock(${DOZE_LOCK}) as busy
      from (select 1) as one left join pg_replication_slots s on s.slot_name = $1 and s.database = current_database()`,
};
/**
 * `busy`: somebody reads it, or dozes beside it, and it may be missing for a moment. `lost`: the server has thrown away log that was not read yet; such a
 * slot is good for nothing but dropping.
 */
export async function lookAtReplicationSlot(tx: Queryable, name: string): Promise<"missing" | "lost" | "busy" | "free"> {
  const [row] = await tx.query<{ made: boolean; wal_status: string | null; busy: boolean }>(LOOK, [name]);
  if (row?.busy) return "busy";
  if (!row?.made) return "missing";
  return row.wal_status === "lost" ? "lost" : "free";
}

const DROP: Statement = { name: "journal/drop-slot", text: `select pg_drop_replication_slot($1)` };
export const dropReplicationSlot = (tx: Queryable, name: string): Promise<object[]> => tx.query(DROP, [name]);

const CREATE: Statement = { name: "journal/create-slot", text: `select pg_create_logical_replication_slot($1, 'pgoutput')` };
export const createReplicationSlot = (tx: Queryable, name: string): Promise<object[]> => tx.query(CREATE, [name]);

const TAKE_DOZE_LOCK: Statement = { name: "journal/take-doze-lock", text: `select pg_try_advisory_lock(${DOZE_LOCK}) as taken` };
/** True when nobody else has it. It lasts as long as the connection. */
export async function takeDozeLock(connection: LoneConnection): Promise<boolean> {
  const [row] = await connection.query<{ taken: boolean }>(TAKE_DOZE_LOCK);
  return row?.taken ?? false;
}

/** A sequence that was never used stands at 1 as one that was used once does. */
const LAST_ID = `(last_value - (not is_called)::integer)::text`;
const LAST: Statement = { name: "journal/last", text: `select ${LAST_ID} as id from events_id_seq` };
/** The last id given to an event, be it committed, under way or rolled back. */
export async function lastEventId(tx: Queryable): Promise<string | undefined> {
  const [row] = await tx.query<{ id: string }>(LAST);
  return row?.id;
}

/** Events with ids up to `lastId` are in the log before `position`, or will never be. */
export interface Cut {
  readonly position: bigint;
  readonly lastId: string;
}

/**
 * Whoever appends goes through the parent and has it locked from before its first id is given until its commit is in the log. (Not so the copy
 * of a slot that moves here, which writes into partitions: but it takes no ids, and its events are told from where they happened.)
 */
const LOCK: Statement = { name: "journal/lock", text: `lock table only events in share mode nowait` };
/** Of what is written, not of what is flushed: a commit that does not wait for the disk gives its lock back before it is there. */
const CUT: Statement = {
  name: "journal/cut",
  text: `select (pg_current_wal_insert_lsn() - '0/0')::text as position, ${LAST_ID} as id from events_id_seq`,
};
/** LOCK_NOT_AVAILABLE: somebody has. */
export const LOCKED = "55P03";
/** Undefined where somebody is appending. */
export async function takeCut(connection: LoneConnection): Promise<Cut | undefined> {
  try {
    const [row] = await connection.both<{ position: string; id: string }>(LOCK, CUT);
    return row && { position: BigInt(row.position), lastId: row.id };
  } catch (error) {
    if (sqlState(error) === LOCKED) return undefined;
    throw error;
  }
}

const ADVANCE: Statement = { name: "journal/advance", text: `select pg_replication_slot_advance($1, '0/0'::pg_lsn + $2::numeric)` };
/** The log before `position` holds nothing for us. PostgreSQL reads up to there, and goes no farther than what is flushed. */
export const advanceReplicationSlot = (tx: Queryable, name: string, position: bigint): Promise<object[]> =>
  tx.query(ADVANCE, [name, position.toString()]);

const RESTS: Statement = {
  name: "journal/rests",
  text: `
    select from pg_replication_slots
     where slot_name = $1 and database = current_database() and not active and pg_current_wal_insert_lsn() - confirmed_flush_lsn <= $2`,
};
/** Whether it is there, nobody reads it, and no more than so much log is kept for it. */
export const slotRests = async (tx: Queryable, name: string, bytesMax: number): Promise<boolean> =>
  (await tx.query(RESTS, [name, bytesMax])).length > 0;

const BEGIN_ANEW: Statement = { name: "journal/begin-anew", text: `select pg_create_logical_replication_slot($1, 'pgoutput', true)` };
const COPY: Statement = { name: "journal/copy-slot", text: `select pg_copy_logical_replication_slot($1, $2, false)` };
/**
 * A replication slot that begins here, in the place of one that began earlier: nothing is read, where moving the old one on reads all that was logged since.
 * Whatever is committed from here on is told by it; that nothing was committed before, `lastId` tells: the last event that was handled is still the last
 * that was given an id. False where it is not; then the old one stays. The new one is the session's own until that is known, so a crash leaves the
 * old one, or none. Behind an error nothing is left of it: PostgreSQL drops temporary slots with the first.
 *
 * It waits for the transactions of the whole server that are under way: throws LOCK_NOT_AVAILABLE where one lasts (`lock_timeout`).
 */
export async function renewReplicationSlot(session: LoneConnection, name: string, lastId: string): Promise<boolean> {
  const next = `${name}_next`;
  await session.query(BEGIN_ANEW, [next]);
  const isQuiet = (await lastEventId(session)) === lastId;
  if (isQuiet) {
    await session.query(DROP, [name]);
    await session.query(COPY, [next, name]);
  }
  await session.query(DROP, [next]);
  return isQuiet;
}

const DISTRUST: Statement = { name: "journal/distrust", text: `update relay_marks set replayed = false where replayed` };
/** From now on every consumer reads the table before the log. Written before a new replication slot is made, so that a crash between cannot hide the gap. */
export const distrustMarks = (tx: Queryable): Promise<object[]> => tx.query(DISTRUST);

export interface Mark {
  readonly consumer: string;
  readonly slot: number;
  readonly eventId: string;
  readonly replayed: boolean;
}

const MEET: Statement = {
  name: "journal/meet",
  text: `insert into relay_marks (consumer, slot, event_id, replayed, epoch) select c, s, 0, false, 0 from unnest($1::text[]) c, unnest($2::smallint[]) s on conflict do nothing`,
};
const TAKE: Statement = {
  name: "journal/take",
  text: `
    update relay_marks set epoch = (select max(epoch) + 1 from relay_marks), replayed = replayed and consumer = any($1) and slot = any($2)
    returning consumer, slot, event_id, replayed, epoch`,
};
/**
 * A relay takes over. A consumer that is new begins at the first event there is; one that is not here will have missed what passes now, so it
 * will read the table when it is back. So will a relay that knows of slots which this one does not know to be served here.
 */
export async function takeMarks(
  tx: Queryable,
  consumers: readonly string[],
  slots: readonly number[],
): Promise<{ epoch: number; marks: Mark[] }> {
  await tx.query(MEET, [consumers, slots]);
  const rows = await tx.query<{ consumer: string; slot: number; event_id: string; replayed: boolean; epoch: number }>(TAKE, [
    consumers,
    slots,
  ]);
  const marks = rows.map((row): Mark => ({ consumer: row.consumer, slot: row.slot, eventId: row.event_id, replayed: row.replayed }));
  return { epoch: rows[0]?.epoch ?? 0, marks: marks.filter((mark) => consumers.includes(mark.consumer)) };
}

const SAVE: Statement = {
  name: "journal/save",
  text: `
    update relay_marks m set event_id = v.event_id, replayed = v.replayed
      from unnest($2::text[], $3::smallint[], $4::bigint[], $5::boolean[]) as v(consumer, slot, event_id, replayed)
     where m.consumer = v.consumer and m.slot = v.slot and m.epoch = $1`,
};
export async function saveMarks(tx: Queryable, epoch: number, marks: readonly Mark[]): Promise<void> {
  await tx.query(SAVE, [
    epoch,
    marks.map((m) => m.consumer),
    marks.map((m) => m.slot),
    marks.map((m) => m.eventId),
    marks.map((m) => m.replayed),
  ]);
}

/**
 * Ids are given when a row is written, not when it is committed, so an event that was never delivered may have a smaller id than a mark. A
 * transaction of ours ends within seconds (limits of statement, lock and idleness); a minute before the mark nothing can be open any more.
 */
const BACK = "60 seconds";
const REPLAY_FROM: Statement = {
  name: "journal/replay-from",
  text: `
    select k.slot, coalesce((
             select e.id from events e
              where e.slot = k.slot and e.id <= k.mark and e.at < (select m.at - interval '${BACK}' from events m where m.slot = k.slot and m.id = k.mark)
              order by e.id desc limit 1), 0) as after
      from unnest($1::smallint[], $2::bigint[]) as k(slot, mark)`,
};
/** The id after which reading the table misses nothing, for each slot's mark. A mark whose event is gone gives 0: everything. */
export async function replayFrom(tx: Queryable, marks: ReadonlyMap<number, string>): Promise<Map<number, string>> {
  const rows = await tx.query<{ slot: number; after: string }>(REPLAY_FROM, [[...marks.keys()], [...marks.values()]]);
  return new Map(rows.map((row) => [row.slot, row.after]));
}

const PAGE: Statement = {
  name: "journal/page",
  text: `
    select e.* from unnest($1::smallint[], $2::bigint[]) as k(slot, after)
     cross join lateral (
           select slot, id, type, subject, actor, request_id, idem_key, data::text as data, at::text as at
             from events where slot = k.slot and id > k.after order by id limit $3) e`,
};
/** The next events of each slot after an id, at most `limit` a slot, ascending within it. */
export async function pageOfEvents(tx: Queryable, city: number, after: ReadonlyMap<number, string>, limit: number): Promise<StoredEvent[]> {
  const rows = await tx.query<EventRow>(PAGE, [[...after.keys()], [...after.values()], limit]);
  return rows.map((row) => storedEvent(city, row));
}

/** The log has a transaction's number without its epoch: that of the number next to the snapshot's is meant. */
const VISIBLE: Statement = {
  name: "journal/visible",
  text: `
    select coalesce(bool_and(pg_visible_in_snapshot((short + (((next - short + 2147483648) >> 32) << 32))::text::xid8, now)), true) as visible
      from (select pg_current_snapshot() as now) as s,
           lateral (select pg_snapshot_xmax(now)::text::bigint as next) as n,
           unnest($1::bigint[]) as short`,
};
/** Whether everybody reads what these committed transactions, numbered as in the log, have written. */
export async function areVisible(tx: Queryable, transactions: readonly number[]): Promise<boolean> {
  const [row] = await tx.query<{ visible: boolean }>(VISIBLE, [transactions]);
  return row?.visible ?? false;
}

const HEALTH: Statement = {
  name: "journal/health",
  text: `
    select coalesce(pg_current_wal_lsn() - s.confirmed_flush_lsn, 0)::float8 as lag_bytes, (select count(*)::integer from parked_events) as parked
      from (select 1) as one left join pg_replication_slots s on s.slot_name = $1`,
};
/** How many bytes of log the server keeps for the relay, and how many events lie parked. */
export async function journalHealth(tx: Queryable, name: string): Promise<{ lagBytes: number; parked: number }> {
  const [row] = await tx.query<{ lag_bytes: number; parked: number }>(HEALTH, [name]);
  return { lagBytes: row?.lag_bytes ?? 0, parked: row?.parked ?? 0 };
}

const ONCE: Statement = {
  name: "journal/once",
  text: `
    insert into inbox (consumer, source, event_id) select $1, source, event_id from unnest($2::text[], $3::bigint[]) as e(source, event_id)
        on conflict do nothing returning source, event_id`,
};
/**
 * The inbox, for effects that have no natural key of their own: marks the events as seen by the consumer and returns those it had not seen
 * before. `tx` is the transaction of the effect, so that both happen or neither.
 */
export async function once<E extends StoredEvent>(tx: Queryable, consumer: string, events: readonly E[]): Promise<E[]> {
  const rows = await tx.query<{ source: string; event_id: string }>(ONCE, [
    consumer,
    events.map((event) => event.source),
    events.map((event) => event.id),
  ]);
  const fresh = new Set(rows.map((row) => `${row.source} ${row.event_id}`));
  // A batch may hold an event twice; its first is the one that counts.
  return events.filter((event) => fresh.delete(`${event.source} ${event.id}`));
}
