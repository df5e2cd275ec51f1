/**
 * Copying slots to another database while they are sold from: a publication of their partitions at the source, a subscription at the target.
 * PostgreSQL copies each partition from a snapshot, catches up from the write-ahead log, goes on by itself after any crash, and needs no memory of
 * ours: see docs/decisions/0008-moving-slots.md. What is not partitioned by slot is a few rows, copied here while nobody writes them.
 */
import { createHash } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import pg from "pg";
import { SLOT_COUNT } from "../domain/ids.ts";
import { emptySlots, inTransaction, partitionsOf } from "./move-fence.ts";

/** Both ends of a move, each a connection of its own to one database. */
export interface Ends {
  readonly source: pg.Client;
  readonly sourceUrl: string;
  readonly target: pg.Client;
  readonly city: number;
  readonly slots: readonly number[];
  /** Of the publication, the subscription and its replication slot: the same whenever the same move is repeated. */
  readonly name: string;
}

/** Short enough for PostgreSQL, and different for every move that two databases of one server may have. */
export function moveName(city: number, slots: readonly number[], from: string, to: string): string {
  const mask = slots.reduce((bits, slot) => bits | (1 << slot), 0);
  const hash = createHash("sha256").update(`${from}\0${to}`).digest("hex").slice(0, 12);
  return `tuanbar_move_${city}_${mask.toString(16).padStart(SLOT_COUNT / 4, "0")}_${hash}`;
}

const LOCK_MS = 2_000;
const CONNECT_MS = 5_000;
/** Values are compared as text, so both ends must write them in one way. */
const SESSION = `-c timezone=UTC -c datestyle=ISO -c intervalstyle=postgres -c bytea_output=hex -c extra_float_digits=1 -c lock_timeout=${LOCK_MS} -c jit=off`;

export async function connectForMove(url: string): Promise<pg.Client> {
  const client = new pg.Client({
    connectionString: url,
    application_name: "tuanbar-move",
    options: SESSION,
    connectionTimeoutMillis: CONNECT_MS,
    keepAlive: true,
  });
  // A connection that breaks fails its query; the event that comes with it would end the process if nobody listened.
  client.on("error", () => undefined);
  await client.connect();
  return client;
}

/** Makes the database where there is none yet. */
export async function ensureDatabase(url: string): Promise<void> {
  const client = new pg.Client({ connectionString: url, connectionTimeoutMillis: CONNECT_MS });
  client.on("error", () => undefined);
  try {
    await client.connect();
    await client.end();
  } catch (error) {
    if (!(error instanceof pg.DatabaseError) || error.code !== "3D000") throw error;
    const place = new URL(url);
    const name = decodeURIComponent(place.pathname.slice(1));
    place.pathname = "/postgres";
    const server = new pg.Client({ connectionString: place.toString(), connectionTimeoutMillis: CONNECT_MS });
    await server.connect();
    try {
      await server.query(`create database ${pg.escapeIdentifier(name)}`);
    } finally {
      await server.end();
    }
  }
}

const hasRow = async (client: pg.Client, text: string, values: readonly unknown[]): Promise<boolean> =>
  (await client.query(text, [...values])).rows.length > 0;

/** Begins the copy, or finds the one that an earlier try began. */
export async function beginCopy(ends: Ends): Promise<void> {
  const { source, target, sourceUrl, name } = ends;
  const partitions = await partitionsOf(source, ends.slots);
  const quoted = pg.escapeIdentifier(name);
  const subscribed = await hasRow(target, "select from pg_subscription where subname = $1", [name]);
  const readable = await hasRow(source, "select from pg_replication_slots where slot_name = $1 and wal_status <> 'lost'", [name]);
  if (subscribed && readable) return;
  await endCopy(ends);
  await emptySlots(target, ends.slots, ends.city);
  await source.query(
    `create publication ${quoted} for table ${partitions.map((part) => `public.${part.name}`).join(", ")} with (publish = 'insert, update, delete')`,
  );
  // Not left to CREATE SUBSCRIPTION, which waits for itself for ever when both databases are on one server.
  await source.query("select pg_create_logical_replication_slot($1, 'pgoutput')", [name]);
  await target.query(
    `create subscription ${quoted} connection ${pg.escapeLiteral(sourceUrl)} publication ${quoted}
       with (create_slot = false, slot_name = ${pg.escapeLiteral(name)}, synchronous_commit = 'on')`,
  );
}

export interface CopyProgress {
  readonly ready: number;
  readonly tables: number;
  /** Tries that failed; PostgreSQL repeats them, and its log says why. */
  readonly errors: number;
}

/** How many partitions are copied and caught up. */
export async function copyProgress({ target, name }: Ends): Promise<CopyProgress> {
  const { rows } = await target.query<CopyProgress>(
    `select count(*) filter (where r.srsubstate = 'r')::integer as ready, count(*)::integer as tables,
            coalesce((select (apply_error_count + sync_error_count)::integer from pg_stat_subscription_stats where subname = $1), 0) as errors
       from pg_subscription s join pg_subscription_rel r on r.srsubid = s.oid where s.subname = $1`,
    [name],
  );
  return rows[0] ?? { ready: 0, tables: 0, errors: 0 };
}

/** The end of the source's log. */
export async function logEnd({ source }: Ends): Promise<string> {
  const { rows } = await source.query<{ at: string }>("select pg_current_wal_insert_lsn()::text as at");
  return rows[0]?.at ?? "0/0";
}

/** True when the target has, on its disk, everything the source wrote before `at`. */
export const isCaughtUp = ({ source, name }: Ends, at: string): Promise<boolean> =>
  hasRow(source, "select from pg_replication_slots where slot_name = $1 and confirmed_flush_lsn >= $2::pg_lsn", [name, at]);

/** Ends the copy for good, however far it came. */
export async function endCopy({ source, target, name }: Ends): Promise<void> {
  const quoted = pg.escapeIdentifier(name);
  const { rows } = await target.query<{ oid: string }>("select oid::text as oid from pg_subscription where subname = $1", [name]);
  const oid = rows[0]?.oid;
  if (oid !== undefined) {
    await target.query(`alter subscription ${quoted} disable`);
    await target.query(`alter subscription ${quoted} set (slot_name = none)`);
    await endWorkers(target, oid);
    // Before the subscription: dropping that waits for the replication slots of tables under way, and whoever makes one waits for every transaction that
    // writes on its server, so also for the dropping. PostgreSQL sees no deadlock between two connections and a process that one waits for.
    await dropReplicationSlots(source, `pg\\_${oid}\\_sync\\_%`);
  }
  await dropReplicationSlots(source, name.replaceAll("_", "\\_"));
  if (oid !== undefined) await target.query(`drop subscription ${quoted}`);
  await source.query(`drop publication if exists ${quoted}`);
}

const ENDING_TRIES = 100;
const ENDING_LOOK_MS = 100;

/** Tries until it is over; `complaint` is what is said when it does not end. */
async function untilOver(isOver: () => Promise<boolean>, complaint: string): Promise<void> {
  for (let tries = 1; !(await isOver()); tries++) {
    if (tries === ENDING_TRIES) throw new Error(complaint);
    await sleep(ENDING_LOOK_MS);
  }
}

/** Whoever sends from one, or is about to make it, has its name. It sends to nobody any more, but would not notice while it waits for a transaction. */
const dropReplicationSlots = (source: pg.Client, like: string): Promise<void> =>
  untilOver(async () => {
    const sending = await hasRow(
      source,
      `select pg_terminate_backend(pid) from pg_stat_activity
        where backend_type = 'walsender' and datname = current_database() and application_name like $1`,
      [like],
    );
    await source.query(
      `select pg_drop_replication_slot(slot_name) from pg_replication_slots
        where slot_name like $1 and database = current_database() and active_pid is null`,
      [like],
    );
    const left = await hasRow(source, "select from pg_replication_slots where slot_name like $1 and database = current_database()", [like]);
    return !sending && !left;
  }, `replication slots like ${like} are still in use`);

/** No worker of a disabled subscription starts again. */
const endWorkers = (target: pg.Client, subscription: string): Promise<void> =>
  untilOver(
    async () =>
      !(await hasRow(target, "select pg_terminate_backend(pid) from pg_stat_subscription where subid = $1::oid and pid is not null", [
        subscription,
      ])),
    "the workers that copy do not end",
  );

/** What is not partitioned by slot: heads of chains, marks of relays, parked events, the inbox. While the slots are fenced. */
export async function copyRest(ends: Ends): Promise<void> {
  const { source, target, slots, city } = ends;
  const sources = slots.map((slot) => `${city}/${slot}`);
  const read = async (text: string, values: readonly unknown[]): Promise<string> =>
    (await source.query<{ rows: string }>(`select coalesce(json_agg(r), '[]')::text as rows from (${text}) r`, [...values])).rows[0]
      ?.rows ?? "[]";
  const heads = await read("select * from chain_heads where slot = any($1)", [slots]);
  // Of every event consumer that is known: one without a mark has handled nothing of the slot yet.
  const marks = await read(
    `select c.consumer, s.slot, coalesce(m.event_id, 0) as event_id from (select distinct consumer from relay_marks) c
      cross join unnest($1::smallint[]) s(slot) left join relay_marks m on m.consumer = c.consumer and m.slot = s.slot`,
    [slots],
  );
  const parked = await read("select * from parked_events where source = any($1)", [sources]);
  const inbox = await read("select * from inbox", []);
  await inTransaction(target, async () => {
    await target.query(
      `insert into chain_heads select * from json_populate_recordset(null::chain_heads, $1)
           on conflict (slot) do update set seq = excluded.seq, hash = excluded.hash`,
      [heads],
    );
    // Not replayed: the relay that serves the slots next reads the table from the mark on; arrived: so do those who listen to streams. The epoch is
    // nobody's, so nobody moves the mark before.
    await target.query(
      `insert into relay_marks (consumer, slot, event_id, replayed, epoch, arrived)
       select consumer, slot, event_id, false, 0, true from json_populate_recordset(null::relay_marks, $1)
           on conflict (consumer, slot) do update set event_id = excluded.event_id, replayed = false, epoch = 0, arrived = true`,
      [marks],
    );
    for (const [table, rows] of [
      ["parked_events", parked],
      ["inbox", inbox],
    ] as const) {
      await target.query(`insert into ${table} select * from json_populate_recordset(null::${table}, $1) on conflict do nothing`, [rows]);
    }
  });
}

/** Room for what the target hands out between reading its own count and setting it. */
const AHEAD = 1_000;

export interface SequenceValue {
  readonly name: string;
  readonly last: string;
}

/**
 * Whatever the target counts out from now on is new to the slots that have come. Returns where the source stood: it counts on for its other
 * slots, but nothing beyond that is of these, since they are fenced.
 */
export async function pullSequencesAhead({ source, target }: Ends): Promise<SequenceValue[]> {
  const { rows } = await source.query<SequenceValue>(
    "select sequencename as name, last_value::text as last from pg_sequences where schemaname = 'public' and last_value is not null",
  );
  // As mint_ids does: nobody mints between the look and the step.
  await target.query("select pg_advisory_lock(7431, 1)");
  try {
    for (const { name, last } of rows) {
      await target.query(
        `select setval(format('public.%I', sequencename)::regclass, $2::bigint + $3)
           from pg_sequences where schemaname = 'public' and sequencename = $1 and coalesce(last_value, 0) < $2::bigint`,
        [name, last, AHEAD],
      );
    }
  } finally {
    await target.query("select pg_advisory_unlock(7431, 1)");
  }
  return rows;
}
