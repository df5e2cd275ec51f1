/**
 * One database, seen at one instant: `repeatable read, read only` transactions that share a snapshot, on connections of their own
 * (`db/report.ts`).
 */
import pg from "pg";
import { COMMON_ERRORS } from "../../domain/common-errors.ts";
import { refusal, type DomainError } from "../../domain/error.ts";
import { invariant } from "../../domain/invariant.ts";
import type { Database } from "../../db/database.ts";
import { reportClient } from "../../db/report.ts";

/** One statement of a report. Two of them fit into the 120 s of `ops.verify`, and none came near it: see docs/invariants.md. */
const STATEMENT_MS = 60_000;

/** Connections that see one instant of one database: two statements at once keep two cores busy, also when all orders are in one city. */
const READERS = 2;

export class Snapshot {
  readonly database: Database;
  /** What it served at that instant. */
  readonly slots: readonly number[];
  /** The database's clock at the instant that is seen. */
  readonly at: Date;
  readonly #readers: readonly pg.Client[];
  readonly #idle: pg.Client[];
  readonly #waiting: ((reader: pg.Client) => void)[] = [];

  private constructor(database: Database, slots: readonly number[], readers: readonly pg.Client[], at: Date) {
    this.database = database;
    this.slots = slots;
    this.#readers = readers;
    this.#idle = [...readers];
    this.at = at;
  }

  static async open(database: Database): Promise<Snapshot> {
    const { slots } = database;
    const readers = Array.from({ length: READERS }, () => newReader(database));
    const [first, ...others] = readers;
    try {
      await Promise.all(readers.map((reader) => reader.connect()));
      await Promise.all(readers.map((reader) => hideOtherSlots(reader, slots)));
      await Promise.all(readers.map((reader) => reader.query("begin isolation level repeatable read, read only")));
      const exported = await first?.query<{ at: Date; id: string }>("select now() as at, pg_export_snapshot() as id");
      const seen = exported?.rows[0];
      invariant(seen !== undefined, "a select without from gives a row");
      // An id of PostgreSQL's own making, such as 00000004-0000001B-1; it cannot be a parameter here.
      await Promise.all(others.map((reader) => reader.query(`set transaction snapshot ${pg.escapeLiteral(seen.id)}`)));
      return new Snapshot(database, slots, readers, seen.at);
    } catch (error) {
      await endAll(readers);
      throw unreachable(database, error);
    }
  }

  async query<Row extends pg.QueryResultRow>(text: string, values: readonly unknown[] = []): Promise<Row[]> {
    const reader = this.#idle.pop() ?? (await new Promise<pg.Client>((resolve) => this.#waiting.push(resolve)));
    try {
      return (await reader.query<Row>(text, [...values])).rows;
    } catch (error) {
      // A statement that is wrong is our fault and says so; a server that went away, or was too slow, is reported as what it is.
      if (error instanceof pg.DatabaseError && !/^(57|08|53)/.test(error.code ?? "")) throw error;
      throw unreachable(this.database, error);
    } finally {
      const next = this.#waiting.shift();
      if (next) next(reader);
      else this.#idle.push(reader);
    }
  }

  /** Ends the connections, whatever runs on them. */
  close(): Promise<void> {
    return endAll(this.#readers);
  }
}

const newReader = (database: Database): pg.Client => reportClient(database, "tuanbar-verify", STATEMENT_MS);
/**
 * A database that was part of a move may hold slots it does not serve: not cleared away yet, or half copied. Views of the served slots stand
 * before such tables for this session, so that no statement of a report has to think of it.
 */
async function hideOtherSlots(reader: pg.Client, slots: readonly number[]): Promise<void> {
  const { rows } = await reader.query<{ name: string }>(
    `select c.relname as name from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attname = 'slot'
      where to_regclass('moving.slots') is not null and c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition`,
  );
  const views = rows.map(
    ({ name }) =>
      `create temp view ${name} as select * from public.${name} where slot in (${slots.length > 0 ? slots.map(Number).join(", ") : "null"})`,
  );
  if (views.length > 0) await reader.query(views.join(";"));
}

const endAll = async (readers: readonly pg.Client[]): Promise<void> => void (await Promise.all(readers.map((reader) => reader.end())));

function unreachable(database: Database, error: unknown): DomainError {
  const reason = error instanceof Error ? error.message : String(error);
  return refusal(COMMON_ERRORS, "UNAVAILABLE", { what: `database ${database.name} (${reason})`, retryAfterSeconds: 5 });
}
