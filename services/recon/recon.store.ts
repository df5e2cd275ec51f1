/** Statements, in the user keyspace, and differences, in the shards of what they are about. */
import type { Database, Queryable, Statement } from "../../db/database.ts";
import type { Shard } from "../../domain/ids.ts";
import type { Difference, DifferenceClass, DifferenceState, LineKind } from "../../domain/recon/difference.ts";

export interface StatementRow {
  readonly id: string;
  readonly channel: string;
  readonly source: "STATEMENT" | "QUERY";
  readonly day: string;
  /** What of ours must be on it. */
  readonly from_at: Date;
  readonly to_at: Date;
  readonly state: "RECEIVING" | "RECEIVED" | "MATCHED" | "DONE" | "FAILED";
  readonly lines: number;
  readonly counts: readonly ClassCount[] | null;
  readonly error: string | null;
  readonly requested_by: string | null;
  readonly created_at: Date;
  readonly ended_at: Date | null;
}
export interface NewStatement {
  readonly channel: string;
  readonly source: StatementRow["source"];
  readonly day: string;
  readonly from: Date;
  readonly to: Date;
  readonly requestedBy: string | undefined;
}
/** `amount` is fen as text: a statement's sum may be larger than a JavaScript number is exact. */
export interface ClassCount {
  readonly class: DifferenceClass | "MATCHED";
  readonly count: number;
  readonly amount: string;
}

/** So long without a word, and whoever works on a statement is taken for dead. */
export const LEASE_SECONDS = 30;

const COLUMNS = "id, channel, source, day::text as day, from_at, to_at, state, lines, counts, error, requested_by, created_at, ended_at";
const INSERT: Statement = {
  name: "recon/insert",
  text: `
    insert into recon_statements (slot, id, channel, source, day, from_at, to_at, state, requested_by, lease_until, created_at)
    select $1::smallint, (mint_ids(0, $1::smallint, 1))[1], $2, $3, $4::date, $5, $6, 'RECEIVING', $7, now() + interval '${LEASE_SECONDS} s', now() returning ${COLUMNS}`,
};
const BY_ID: Statement = { name: "recon/by-id", text: `select ${COLUMNS} from recon_statements_$1 where slot = $1 and id = $2` };
/** A longer lease, while the work goes on: false when somebody else has taken it for abandoned. */
const RENEW: Statement = {
  name: "recon/renew",
  text: `update recon_statements_$1 set lease_until = now() + interval '${LEASE_SECONDS} s' where slot = $1 and id = $2 and unfinished`,
};
const MOVE: Statement = {
  name: "recon/move",
  text: `
    update recon_statements_$1 set state = $4, lines = coalesce($5, lines), counts = coalesce($6::json, counts), error = coalesce($7, error),
           lease_until = now(), ended_at = case when $4 in ('DONE', 'FAILED') then now() end
     where slot = $1 and id = $2 and state = $3 returning id`,
};
/** The next step of a statement whose worker is done with the last, or dead. */
const CLAIM: Statement = {
  name: "recon/claim",
  text: `
    with due as (
      select slot, ctid as row from recon_statements
       where slot = any($1) and unfinished and (lease_until <= now()) order by lease_until limit 1 for update skip locked)
    update recon_statements s set lease_until = now() + interval '${LEASE_SECONDS} s'
      from due where s.slot = due.slot and s.ctid = due.row returning ${COLUMNS.replace("id,", "s.id,")}`,
};
const RELEASE: Statement = {
  name: "recon/release",
  text: `update recon_statements_$1 set lease_until = now() where slot = $1 and id = $2 and unfinished`,
};

export async function insertStatement(db: Queryable, shard: Shard, of: NewStatement): Promise<StatementRow | undefined> {
  return (await db.query<StatementRow>(INSERT, [shard.slot, of.channel, of.source, of.day, of.from, of.to, of.requestedBy ?? null]))[0];
}
export const findStatement = async (db: Queryable, shard: Shard, id: string): Promise<StatementRow | undefined> =>
  (await db.query<StatementRow>(BY_ID, [shard.slot, id]))[0];
export const renewLease = async (db: Queryable, shard: Shard, id: string): Promise<void> => void (await db.query(RENEW, [shard.slot, id]));
export const releaseLease = async (db: Queryable, shard: Shard, id: string): Promise<void> =>
  void (await db.query(RELEASE, [shard.slot, id]));
export const claimStatement = async (db: Database): Promise<StatementRow | undefined> =>
  (await db.query<StatementRow>(CLAIM, [db.slots]))[0];

/** Guarded by the state it comes from; false: somebody else moved it. */
export async function moveStatement(
  db: Queryable,
  shard: Shard,
  move: {
    id: string;
    from: StatementRow["state"];
    to: StatementRow["state"];
    lines?: number;
    counts?: readonly ClassCount[];
    error?: string;
  },
): Promise<boolean> {
  const { id, from, to, lines = null, counts, error = null } = move;
  const moved = await db.query(MOVE, [shard.slot, id, from, to, lines, counts ? JSON.stringify(counts) : null, error]);
  return moved.length === 1;
}

export interface DifferenceRow {
  readonly id: string;
  readonly channel: string;
  readonly class: DifferenceClass;
  readonly kind: LineKind;
  readonly number: string;
  readonly channel_no: string | null;
  readonly ours: string | null;
  readonly theirs: string | null;
  readonly currency: string;
  readonly our_state: string | null;
  readonly state: DifferenceState;
  readonly booked: boolean;
  readonly why: string | null;
  readonly answer: string | null;
  /** Whoever looks into it. */
  readonly assignee: string | null;
  readonly created_at: Date;
  readonly age: number;
}
export const toDifference = (row: DifferenceRow): Difference => ({
  id: row.id,
  channel: row.channel,
  class: row.class,
  kind: row.kind,
  number: row.number,
  ours: row.ours === null ? undefined : BigInt(row.ours),
  theirs: row.theirs === null ? undefined : BigInt(row.theirs),
  currency: row.currency,
});

/** With what people have done about it. */
const DIFFERENCE = `
  d.id, channel, class, kind, number, channel_no, ours, theirs, currency, our_state, state, booked, coalesce(why, c.note) as why, answer, c.assignee, created_at,
  extract(epoch from coalesce(cleared_at, now()) - created_at)::float8 as age`;
const CASE = "left join lateral (select assignee, note from suspense_cases where slot = d.slot and id = d.id) c on true";
const OF_STATEMENT: Statement = {
  name: "recon/differences",
  text: `
    select ${DIFFERENCE} from recon_differences d ${CASE}
     where statement_id = $1 and d.id > $2 and ($3::text is null or class = $3) order by d.id limit $4`,
};
const ONE: Statement = {
  name: "recon/difference",
  text: `select ${DIFFERENCE} from recon_differences_$1 d ${CASE} where d.slot = $1 and d.id = $2`,
};
const LOCK: Statement = {
  name: "recon/lock",
  text: `select ${DIFFERENCE} from recon_differences_$1 d ${CASE} where d.slot = $1 and d.id = any($2::bigint[]) order by d.id for update of d`,
};
/** Off, and not in suspense yet; or explained, and still there. */
const TO_BOOK: Statement = {
  name: "recon/to-book",
  text: `
    select slot, id from recon_differences
     where slot = any($1) and ((state = 'OPEN' and not booked and class not in ('STATUS', 'TIMING')) or state = 'CLEARING')
     order by id limit $2`,
};
const BOOKED: Statement = {
  name: "recon/booked",
  text: `update recon_differences_$1 set booked = true where slot = $1 and id = any($2::bigint[])`,
};
const CLEARED: Statement = {
  name: "recon/cleared",
  text: `update recon_differences_$1 set state = 'CLEARED', cleared_at = $3 where slot = $1 and id = any($2::bigint[])`,
};
const RESOLVED: Statement = {
  name: "recon/resolved",
  text: `
    update recon_differences_$1 set state = 'RESOLVED', booked = true, cleared_at = $3
     where slot = $1 and id = any($2::bigint[]) and state = 'OPEN'`,
};
const ANSWERED: Statement = {
  name: "recon/answered",
  text: `
    update recon_differences_$1
       set asked_at = now(), answer = $3, state = case when $4::text is null then state else 'CLEARING' end, why = coalesce($4, why), cleared_by = $5
     where slot = $1 and id = $2 and state = 'OPEN'`,
};
/** A day has passed and no statement had them: they are asked for. */
const LATE: Statement = {
  name: "recon/late",
  text: `
    select slot, id from recon_differences
     where slot = any($1) and state = 'OPEN' and class = 'TIMING' and created_at < now() - interval '1 day'
       and (asked_at is null or asked_at < now() - interval '1 hour')
     order by id limit 100`,
};

export const differencesOf = (
  db: Queryable,
  of: { statementId: string; after: string; class: string | undefined; limit: number },
): Promise<DifferenceRow[]> => db.query<DifferenceRow>(OF_STATEMENT, [of.statementId, of.after, of.class ?? null, of.limit]);
export const findDifference = async (db: Queryable, shard: Shard, id: string): Promise<DifferenceRow | undefined> =>
  (await db.query<DifferenceRow>(ONE, [shard.slot, id]))[0];
export const lockDifferences = (tx: Queryable, shard: Shard, ids: readonly string[]): Promise<DifferenceRow[]> =>
  tx.query<DifferenceRow>(LOCK, [shard.slot, ids]);
export const findToBook = (db: Database, limit: number): Promise<{ slot: number; id: string }[]> =>
  db.query<{ slot: number; id: string }>(TO_BOOK, [db.slots, limit]);
export const findLate = (db: Database): Promise<{ slot: number; id: string }[]> => db.query<{ slot: number; id: string }>(LATE, [db.slots]);
export const markBooked = async (tx: Queryable, shard: Shard, ids: readonly string[]): Promise<void> => {
  if (ids.length > 0) await tx.query(BOOKED, [shard.slot, ids]);
};
export const markCleared = async (tx: Queryable, shard: Shard, ids: readonly string[], now: Date): Promise<void> => {
  if (ids.length > 0) await tx.query(CLEARED, [shard.slot, ids, now]);
};
/** Locked ones a person has decided, of which what is off has gone to suspense and out of it again. */
export const markResolved = async (tx: Queryable, shard: Shard, ids: readonly string[], now: Date): Promise<void> => {
  await tx.query(RESOLVED, [shard.slot, ids, now]);
};
/** What the channel said; with `why`, it is explained. */
export const noteAnswer = async (
  db: Queryable,
  shard: Shard,
  of: { id: string; answer: string; why: string | undefined; by: string | undefined },
): Promise<void> => void (await db.query(ANSWERED, [shard.slot, of.id, of.answer, of.why ?? null, of.by ?? null]));

/** What the books have under a number now; undefined: nothing. Only a city's books have any. */
const IN_BOOKS: Statement = {
  name: "recon/in-books",
  text: `select amount from transfers_$1 where slot = $1 and code = any($2) and business_key = $3 and state = 'POSTED'`,
};
const CODES: Readonly<Record<LineKind, readonly string[]>> = {
  PAYMENT: ["pay", "pay-differs"],
  REFUND: ["refund-paid"],
  PAYOUT: ["payout-paid"],
  PAYOUT_RETURN: ["payout-returned"],
};
export async function bookedUnder(db: Queryable, shard: Shard, { kind, number }: Difference): Promise<bigint | undefined> {
  const [row] = await db.query<{ amount: string }>(IN_BOOKS, [shard.slot, CODES[kind], number]);
  return row && BigInt(row.amount);
}
