/**
 * The fence: what keeps a slot from being written in two databases. It stands inside PostgreSQL, as a trigger on the slot's partitions, so that a
 * node which still believes in an old routing table cannot write there either. A row of `moving.slots` says why.
 *
 * Made by the move itself and by no migration: a database that was never part of a move has neither the schema nor the triggers, and pays nothing.
 * The subscription that copies the slot writes through: its sessions replicate, and for them such triggers do not fire.
 */
import type pg from "pg";
import { FENCED, isContention, type Queryable, type Statement } from "./database.ts";

/** Where it leaves: `leaving` (still served), `fenced`, `moved`. Where it goes: `receiving` (fenced), `opened` (served; clearing up is left). */
export type SlotState = "leaving" | "fenced" | "moved" | "receiving" | "opened";

export interface SlotMark {
  readonly slot: number;
  readonly state: SlotState;
  /** The other database, as the routing table names it. */
  readonly peer: string;
}

/** One slot's part of a partitioned table. */
export interface Partition {
  readonly table: string;
  readonly slot: number;
  readonly name: string;
}

const SCHEMA = `
  create schema if not exists moving;
  create table if not exists moving.slots (
    slot smallint primary key,
    state text not null check (state in ('leaving', 'fenced', 'moved', 'receiving', 'opened')),
    peer text not null,
    at timestamptz not null default now()
  );
  create table if not exists moving.routing (
    one boolean primary key default true check (one),
    version bigint not null,
    yaml text not null,
    at timestamptz not null default now()
  );
  create or replace function moving.refuse() returns trigger language plpgsql as $$
  begin
    raise exception '% is not served by this database', tg_table_name using errcode = '${FENCED}';
  end $$`;

const TRIES = 10;

export async function makeMovingSchema(client: pg.Client): Promise<void> {
  // Two that make it at once would fail on the catalogue's keys.
  await inTransaction(client, async () => {
    await client.query("select pg_advisory_xact_lock(7433, 1)");
    await client.query(SCHEMA);
  });
}

const HAS_MARKS: Statement = { name: "move/has-marks", text: `select to_regclass('moving.slots') is not null as has` };
const FENCED_SLOTS: Statement = {
  name: "move/fenced",
  text: `select slot from moving.slots where state in ('fenced', 'moved', 'receiving')`,
};

/** The slots whose writes this database refuses. */
export async function fencedSlots(database: Queryable): Promise<number[]> {
  const [marks] = await database.query<{ has: boolean }>(HAS_MARKS);
  return marks?.has ? (await database.query<{ slot: number }>(FENCED_SLOTS)).map(({ slot }) => slot) : [];
}

/** What is known of the slots; nothing where no slot ever moved. */
export async function readMarks(client: pg.Client, slots: readonly number[]): Promise<SlotMark[]> {
  const { rows: marks } = await client.query<{ has: boolean }>(HAS_MARKS.text);
  if (!marks[0]?.has) return [];
  const { rows } = await client.query<SlotMark>("select slot, state, peer from moving.slots where slot = any($1) order by slot", [slots]);
  return rows;
}

export async function markSlots(client: pg.Client, slots: readonly number[], state: SlotState, peer: string): Promise<void> {
  await client.query(
    `insert into moving.slots (slot, state, peer) select slot, $2, $3 from unnest($1::smallint[]) slot
         on conflict (slot) do update set state = excluded.state, peer = excluded.peer, at = now()`,
    [slots, state, peer],
  );
}

export async function forgetSlots(client: pg.Client, slots: readonly number[]): Promise<void> {
  await client.query("delete from moving.slots where slot = any($1)", [slots]);
}

/** Partitions by slot, `c` of `p`, whatever tables the migrations have made; a statement's lines under reconciliation are divided otherwise. */
export const SLOT_PARTITIONS = `pg_inherits i join pg_class c on c.oid = i.inhrelid join pg_class p on p.oid = i.inhparent
      and p.relkind = 'p' and c.relkind = 'r' and p.relnamespace = 'public'::regnamespace and pg_get_partkeydef(p.oid) = 'LIST (slot)'`;
/** The two digits a partition's name ends with. */
export const SLOT_OF_PARTITION = "right(c.relname, 2)::integer";

/** Every partition of the slots. */
export async function partitionsOf(client: pg.Client, slots: readonly number[]): Promise<Partition[]> {
  const { rows } = await client.query<Partition>(
    `select p.relname as table, ${SLOT_OF_PARTITION} as slot, c.relname as name
       from ${SLOT_PARTITIONS}
      where ${SLOT_OF_PARTITION} = any($1)
      order by c.relname`,
    [slots],
  );
  return rows;
}

/**
 * From the moment it returns, no transaction writes to the slots: making a trigger waits for those that have, and those that come find it. Readers
 * are not held up. Writers that hold one table and wait for the next may be in its way: it gives up and tries again.
 */
export async function fenceSlots(
  client: pg.Client,
  slots: readonly number[],
  state: "fenced" | "receiving" | "moved",
  peer: string,
): Promise<void> {
  const partitions = await partitionsOf(client, slots);
  const triggers = partitions.map(
    ({ name }) =>
      `create or replace trigger moving_fence before insert or update or delete on public.${name} for each row execute function moving.refuse()`,
  );
  await withoutContention(() =>
    inTransaction(client, async () => {
      await client.query(triggers.join(";"));
      await markSlots(client, slots, state, peer);
    }),
  );
}

/**
 * Lets writes in again, where the slots stand in one of these states, and then in `to` (undefined: nothing is known of a move any more). Anything
 * else means that somebody else has gone on with them meanwhile, and that they may be served elsewhere.
 */
export async function unfenceSlots(
  client: pg.Client,
  slots: readonly number[],
  from: readonly SlotState[],
  to: SlotState | undefined,
): Promise<void> {
  const partitions = await partitionsOf(client, slots);
  await withoutContention(() =>
    inTransaction(client, async () => {
      await expectMarks(client, slots, from);
      await client.query(partitions.map(({ name }) => `drop trigger if exists moving_fence on public.${name}`).join(";"));
      if (to === undefined) await forgetSlots(client, slots);
      else await client.query("update moving.slots set state = $2, at = now() where slot = any($1)", [slots, to]);
    }),
  );
}

/** The decision: from here on the slots are the other database's. */
export const decideMove = (client: pg.Client, slots: readonly number[]): Promise<void> =>
  inTransaction(client, async () => {
    await expectMarks(client, slots, ["fenced"]);
    await client.query("update moving.slots set state = 'moved', at = now() where slot = any($1)", [slots]);
  });

async function expectMarks(client: pg.Client, slots: readonly number[], states: readonly SlotState[]): Promise<void> {
  const { rows } = await client.query<SlotMark>("select slot, state, peer from moving.slots where slot = any($1) for update", [slots]);
  const wrong = slots.filter((slot) => !states.includes(rows.find((row) => row.slot === slot)?.state ?? "opened"));
  if (rows.length < slots.length || wrong.length > 0)
    throw new Error(`slots ${slots.join(", ")} are not all ${states.join(" or ")} any more`);
}

/** Empties partitions, but only while they are fenced: what is served here is never touched. */
export async function emptySlots(client: pg.Client, slots: readonly number[], city: number): Promise<void> {
  const partitions = await partitionsOf(client, slots);
  await withoutContention(() =>
    inTransaction(client, async () => {
      await expectMarks(client, slots, ["moved", "receiving"]);
      await client.query(`truncate ${partitions.map(({ name }) => `public.${name}`).join(", ")}`);
      await client.query("update chain_heads set seq = 0, hash = decode(repeat('00', 32), 'hex') where slot = any($1)", [slots]);
      await client.query("delete from relay_marks where slot = any($1)", [slots]);
      await client.query("delete from parked_events where source = any($1)", [slots.map((slot) => `${city}/${slot}`)]);
    }),
  );
}

export async function inTransaction<R>(client: pg.Client, work: () => Promise<R>): Promise<R> {
  await client.query("begin");
  try {
    const result = await work();
    await client.query("commit");
    return result;
  } catch (error) {
    await client.query("rollback");
    throw error;
  }
}

async function withoutContention(work: () => Promise<void>): Promise<void> {
  for (let tries = 1; ; tries++) {
    try {
      return await work();
    } catch (error) {
      if (!isContention(error) || tries === TRIES) throw error;
    }
  }
}
