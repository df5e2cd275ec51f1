/**
 * One database: its pool, its transactions, and what an error of PostgreSQL means. All SQL goes through here as named statements, prepared
 * once a connection; values are parameters, never part of the text.
 */
import pg from "pg";
import { invariant } from "../domain/invariant.ts";
import { LIMITS } from "../domain/limits.ts";

/** One statement has one name and one text: the name is how PostgreSQL finds its prepared plan. */
export interface Statement {
  readonly name: string;
  readonly text: string;
}

/** What stores are given: something that runs statements, inside a transaction or not. */
export interface Queryable {
  query<Row extends object>(statement: Statement, values?: readonly unknown[]): Promise<Row[]>;
}

/** The connection died, or the server refused one: nothing is known of what was under way; try later. */
export class DatabaseUnavailable extends Error {
  override readonly name = "DatabaseUnavailable";
}

/**
 * These connections run short statements by key and nothing else, so scans and hashes of whole tables are priced out, and every execution is
 * planned for the table as it is then (0.3 ms; a batch pays it once). A kept plan is one made while the table was empty: it took the wrong
 * index of two that looked equally cheap, and 256 look-ups cost 257 ms instead of 2.
 * For a set of keys that is still not enough: from a slot it believes small PostgreSQL reads all of it (an index on `slot` does it) rather
 * than look keys up: 2,300 ms for 256 keys among 20,000 rows. So statements over sets of keys are written as
 *     from unnest($2, …) as k(…) cross join lateral (select … from t where slot = $1 and key = k.key offset 0 | for update) r
 * which can only be a loop of index look-ups, and updates find their rows the same way and meet them by `ctid`.
 */
const SESSION =
  `-c plan_cache_mode=force_custom_plan -c enable_seqscan=off -c enable_hashjoin=off -c enable_mergejoin=off -c enable_material=off ` +
  `-c jit=off -c timezone=UTC -c lock_timeout=${LIMITS.lockWaitMs} -c statement_timeout=${LIMITS.statementMs} ` +
  `-c idle_in_transaction_session_timeout=${LIMITS.requestMs}`;

/** Four drains at once keep two cores busy with one database; more only queue inside PostgreSQL, where nobody can shed them. */
const CONNECTIONS_MAX = 6;

export class Database implements Queryable {
  readonly name: string;
  readonly city: number;
  readonly slots: readonly number[];
  readonly url: string;
  readonly #pool: pg.Pool;

  constructor(options: { name: string; city: number; slots: readonly number[]; url: string; onError: (error: Error) => void }) {
    this.name = options.name;
    this.city = options.city;
    this.slots = options.slots;
    this.url = options.url;
    this.#pool = new pg.Pool({
      connectionString: options.url,
      application_name: "tuanbar",
      options: SESSION,
      max: CONNECTIONS_MAX,
      idleTimeoutMillis: 30_000,
      connectionTimeoutMillis: 3_000,
      keepAlive: true,
      pipeline: true,
    } as pg.PoolConfig);
    this.#pool.on("error", options.onError);
  }

  /** Connections: made, idle, and callers that wait for one. */
  get connections(): { total: number; idle: number; waiting: number } {
    return { total: this.#pool.totalCount, idle: this.#pool.idleCount, waiting: this.#pool.waitingCount };
  }

  async query<Row extends object>(statement: Statement, values: readonly unknown[] = []): Promise<Row[]> {
    const client = await this.#connect();
    try {
      const rows = (await client.query<Row & pg.QueryResultRow>({ ...statement, values: values as unknown[] })).rows;
      client.release();
      return rows;
    } catch (error) {
      client.release(isConnectionLoss(error));
      throw isConnectionLoss(error) ? unavailable(this.name, error) : error;
    }
  }

  /**
   * Runs `work` between BEGIN and COMMIT. An error before COMMIT rolls back and is thrown. When COMMIT itself fails with the connection,
   * the outcome is unknown: the transaction's id is then looked up on a fresh connection until the server says committed or aborted, or
   * `deadlineMs` has passed.
   */
  async transaction<R>(work: (tx: Transaction) => Promise<R>, deadlineMs: number = LIMITS.statementMs): Promise<R> {
    const client = await this.#connect();
    const tx = new Transaction(client);
    let result: R;
    try {
      const begun = client.query("begin");
      begun.catch(() => undefined); // its failure reaches the caller through the first statement behind it
      result = await work(tx);
      await begun;
    } catch (error) {
      const lost = isConnectionLoss(error);
      if (!lost) {
        await client.query("rollback").then(
          () => client.release(),
          (rollbackError: unknown) => client.release(rollbackError instanceof Error ? rollbackError : true),
        );
      } else client.release(true);
      throw lost ? unavailable(this.name, error) : error;
    }
    try {
      const { command } = await client.query("commit");
      client.release();
      invariant(command === "COMMIT", "a transaction without an error commits");
      return result;
    } catch (error) {
      client.release(true);
      if (!isConnectionLoss(error)) throw error;
      if (await this.#committed(tx.xid, deadlineMs)) return result;
      throw unavailable(this.name, error);
    }
  }

  /** Asks what became of a transaction whose COMMIT had no answer. Throws DatabaseUnavailable when nobody can say in time. */
  async #committed(xid: string | undefined, deadlineMs: number): Promise<boolean> {
    if (xid === undefined) return false;
    const until = performance.now() + deadlineMs;
    for (;;) {
      try {
        const [row] = await this.query<{ status: string | null }>({ name: "database/xact-status", text: "select pg_xact_status($1::xid8) as status" }, [xid]);
        if (row?.status === "committed") return true;
        if (row?.status === "aborted") return false;
      } catch (error) {
        if (!(error instanceof DatabaseUnavailable)) throw error;
      }
      if (performance.now() > until) throw new DatabaseUnavailable(`${this.name}: the outcome of transaction ${xid} is not known yet`);
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }

  async #connect(): Promise<pg.PoolClient> {
    try {
      return await this.#pool.connect();
    } catch (error) {
      throw unavailable(this.name, error);
    }
  }

  async close(): Promise<void> {
    await this.#pool.end();
  }
}

export class Transaction implements Queryable {
  readonly #client: pg.PoolClient;
  /** The transaction's id, once `identify` has asked for it: what an unknown COMMIT is resolved by. */
  xid: string | undefined;

  constructor(client: pg.PoolClient) {
    this.#client = client;
  }

  async query<Row extends object>(statement: Statement, values: readonly unknown[] = []): Promise<Row[]> {
    return (await this.#client.query<Row & pg.QueryResultRow>({ ...statement, values: values as unknown[] })).rows;
  }
}

/** SQLSTATE of an error of PostgreSQL; undefined for any other. */
export const sqlState = (error: unknown): string | undefined =>
  error instanceof pg.DatabaseError ? error.code : undefined;

/** Two transactions in each other's way (deadlock, serialization, a row somebody else holds too long): the same work may succeed at once. */
export const isContention = (error: unknown): boolean => ["40001", "40P01", "55P03"].includes(sqlState(error) ?? "");

/** A constraint said no. */
export const isConstraint = (error: unknown): boolean => sqlState(error)?.startsWith("23") ?? false;

/** 57P0x: the server goes away or comes up; 08: the connection broke; 53300: no connection free; else what sockets and `pg` itself say. */
function isConnectionLoss(error: unknown): boolean {
  const state = sqlState(error);
  if (state !== undefined) return /^(57P0[1-5]|08|53300)/.test(state);
  if (!(error instanceof Error)) return false;
  const code = (error as NodeJS.ErrnoException).code ?? "";
  return (
    ["ECONNREFUSED", "ECONNRESET", "EPIPE", "ENOENT", "ETIMEDOUT", "EAI_AGAIN", "ENOTFOUND"].includes(code) ||
    /connection (terminated|error)|not queryable|timeout exceeded when trying to connect|Client has encountered/i.test(error.message)
  );
}

const unavailable = (name: string, cause: unknown): DatabaseUnavailable =>
  cause instanceof DatabaseUnavailable ? cause : new DatabaseUnavailable(`database ${name}: ${cause instanceof Error ? cause.message : String(cause)}`, { cause });
