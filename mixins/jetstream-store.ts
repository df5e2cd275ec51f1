/** SQL of events that travel by NATS: how far each event consumer is in a database's stream, and in its table. */
import type { Queryable, Statement } from "../db/database.ts";

/** A message of a stream, by its number in a chain. */
export interface Position {
  readonly chain: string;
  readonly seq: number;
}

const FIND: Statement = { name: "jetstream/find", text: `select chain, seq::float8 as seq from stream_positions where consumer = $1` };
export async function findPosition(tx: Queryable, consumer: string): Promise<Position | undefined> {
  const [row] = await tx.query<Position>(FIND, [consumer]);
  return row;
}

const SAVE: Statement = {
  name: "jetstream/save",
  text: `
    with moved as (
      insert into relay_marks (consumer, slot, event_id, replayed, epoch)
      select $1, slot, event_id, false, 0 from unnest($4::smallint[], $5::bigint[]) as m(slot, event_id) order by slot
          on conflict (consumer, slot) do update set event_id = excluded.event_id)
    insert into stream_positions as p (consumer, chain, seq) values ($1, $2, $3)
        on conflict (consumer) do update set chain = excluded.chain, seq = excluded.seq, at = now()
     where p.chain <> excluded.chain or p.seq < excluded.seq`,
};
/**
 * With the marks of what was handled up to there, in one transaction. Within a chain the position only goes forward: a node that was slow does not
 * undo what another has done since.
 */
export async function savePosition(tx: Queryable, consumer: string, { chain, seq }: Position, marks = NO_MARKS): Promise<void> {
  await tx.query(SAVE, [consumer, chain, seq, [...marks.keys()], [...marks.values()]]);
}
const NO_MARKS: ReadonlyMap<number, string> = new Map();

const MARKS: Statement = {
  name: "jetstream/marks",
  text: `select s as slot, coalesce(m.event_id, 0) as event_id
           from unnest($2::smallint[]) as s cross join lateral (select max(event_id) as event_id from relay_marks where consumer = $1 and slot = s) m`,
};
/** By slot; 0 where it has heard of nothing. */
export async function findMarks(tx: Queryable, consumer: string, slots: readonly number[]): Promise<Map<number, string>> {
  const rows = await tx.query<{ slot: number; event_id: string }>(MARKS, [consumer, slots]);
  return new Map(rows.map((row) => [row.slot, row.event_id]));
}

const ARRIVED: Statement = {
  name: "jetstream/arrived",
  text: `select slot, event_id from relay_marks where consumer = $1 and slot = any($2) and arrived`,
};
/** Marks of slots that have come from another database: what lies behind them was told there, or was not. */
export async function findArrived(tx: Queryable, consumer: string, slots: readonly number[]): Promise<Map<number, string>> {
  const rows = await tx.query<{ slot: number; event_id: string }>(ARRIVED, [consumer, slots]);
  return new Map(rows.map((row) => [row.slot, row.event_id]));
}

const SETTLED: Statement = {
  name: "jetstream/settled",
  text: `update relay_marks set arrived = false where consumer = $1 and slot = any($2) and arrived`,
};
/** What lay behind the marks of these slots is handled. */
export const settleArrived = (tx: Queryable, consumer: string, slots: readonly number[]): Promise<object[]> =>
  tx.query(SETTLED, [consumer, slots]);

const MOVE: Statement = {
  name: "jetstream/move-marks",
  text: `
    insert into relay_marks (consumer, slot, event_id, replayed, epoch)
    select $1, slot, event_id, false, 0 from unnest($2::smallint[], $3::bigint[]) as m(slot, event_id) order by slot
        on conflict (consumer, slot) do update set event_id = excluded.event_id`,
};
/** `replayed` is for relays without NATS, who do not know what passed by here: back to them, a consumer reads the table from its marks. */
export async function moveMarks(tx: Queryable, consumer: string, marks: ReadonlyMap<number, string>): Promise<void> {
  if (marks.size > 0) await tx.query(MOVE, [consumer, [...marks.keys()], [...marks.values()]]);
}
