/**
 * One database: its pool, its transactions, and what an error of PostgreSQL means. All SQL goes through here as named statements, prepared
 * once a connection; values are parameters, never part of the text.
 */
import { availableParallelism } from "node:os";
import pg from "pg";
import { COMMON_ERRORS } from "../domain/common-errors.ts";
import { refusal } from "../domain/error.ts";
import { invariant } from "../domain/invariant.ts";
import { SLOT_COUNT } from "../domain/ids.ts";
import { LIMITS } from "../domain/limits.ts";
import { type Asked, Burst, parameter, type Parameter } from "./burst.ts";
import { copyMessages, type CopyValue } from "./copy.ts";

/**
 * One statement has one name and one text: the name is how PostgreSQL finds its prepared plan. `orders_$1` in a text is the partition of the
 * slot that the first parameter names: see `inSlot`.
 */
export interface Statement {
  readonly name: string;
  readonly text: string;
}

/** What stores are given: something that runs statements, inside a transaction or not. */
export interface Queryable {
  query<Row extends object>(statement: Statement, values?: readonly unknown[]): Promise<Row[]>;
}

/** What is written in a transaction: rows that are changed, and rows that are only added. */
export interface Writable extends Queryable {
  /** Tells how many rows it changed, by PostgreSQL's own count: a row that comes back costs this process a microsecond and a half to read. */
  change(statement: Statement, values: readonly unknown[]): Promise<number>;
  /**
   * Adds rows by `copy … from stdin`, a text whose columns are those of `rows`; into the partition of `slot` where it names one. A page of rows is one
   * record of the log and no plan is run, where an insert logs each row by itself, and every record is read by five relays: 1.9 µs each.
   */
  copy(statement: Statement, slot: number, rows: readonly (readonly CopyValue[])[]): Promise<void>;
}

/** The connection died, or the server refused one: nothing is known of what was under way; try later. */
export class DatabaseUnavailable extends Error {
  override readonly name = "DatabaseUnavailable";
}

/**
 * The statement as it is sent for the slot in its first parameter: `orders_$1` becomes `orders_07`, and the name `order/lock` `order/lock_07`.
 * PostgreSQL then plans one partition and locks one, not sixteen, and its plan holds for every execution: with the partitioned table in their
 * place the statements of a drain were planned anew for each, which was half of what a drain cost (0.3 ms each; 323 lives a second for 225).
 * The road not taken: a plan kept for the partitioned table, 16 times as large (150 MB more in 30 connections) and slower to start.
 */
export function inSlot(statement: Statement, values: readonly unknown[]): Statement {
  let made = variants.get(statement);
  if (made === undefined) variants.set(statement, (made = statement.text.search(PARTITION) < 0 ? "none" : []));
  if (made === "none") return statement;
  const slot = typeof values[0] === "number" ? values[0] : NaN;
  invariant(Number.isInteger(slot) && slot >= 0 && slot < SLOT_COUNT, `${statement.name} names its slot first`);
  const part = `_${String(slot).padStart(2, "0")}`;
  return (made[slot] ??= { name: statement.name + part, text: statement.text.replaceAll(PARTITION, part) });
}
const PARTITION = /_\$1\b/g;
/** Texts by slot, of statements that name a partition: they are constants of their modules, sixteen texts each at most. */
const variants = new WeakMap<Statement, Statement[] | "none">();

/**
 * These connections run short statements by key and nothing else, so scans and hashes of whole tables are priced out. A plan is made once and kept
 * until an ANALYZE of its table, so it must be one that is right for an empty table and a full one: `tests/plans.test.ts` compares them. PostgreSQL
 * would plan the first five executions for their values, and a sweep over sixteen partitions each time, which took longer than running it.
 * For a set of keys that is still not enough: from a slot it believes small PostgreSQL reads all of it (an index on `slot` does it) rather
 * than look keys up: 2,300 ms for 256 keys among 20,000 rows. So statements over sets of keys are written as
 *     from unnest($2, …) as k(…) cross join lateral (select … from t_$1 where slot = $1 and key = k.key offset 0 | for update) r
 * which can only be a loop of index look-ups, and updates find their rows the same way and meet them by `ctid`.
 * What is asked by key is in memory, so a page out of turn costs little more than one in turn (`random_page_cost`): at 4, a page of a merchant's orders
 * was read whole and sorted rather than by its index.
 * What else is asked of the rows is asked of `r`, behind its `offset 0` (`for update` alone keeps nothing out): a state asked of the table opens the
 * way by a partial index on that state, which looked empty in a quiet hour and was read whole for each key in a stampede (40 keys: over 8 s).
 */
const SESSION =
  `-c enable_seqscan=off -c enable_hashjoin=off -c enable_mergejoin=off -c enable_material=off -c enable_memoize=off -c random_page_cost=1.1 ` +
  `-c plan_cache_mode=force_generic_plan -c jit=off -c timezone=UTC -c lock_timeout=${LIMITS.lockWaitMs} -c statement_timeout=${LIMITS.statementMs} ` +
  `-c idle_in_transaction_session_timeout=${LIMITS.transactionIdleMs}`;

/**
 * Drains run on lanes: a lane is one connection, and slots are dealt over them. A slot's statements are planned and kept in one session, not in each
 * of a pool's (in 24 sessions they were 667 MB), and shards take turns, so that one that waits gathers a larger batch. A lane for every two cores: there
 * are several databases, and what more lanes begin only queues inside PostgreSQL, where nobody can shed it. On two cores and 1,000 deals in three
 * cities an order cost 325 µs with three lanes a database (batches of 12), 261 with two and 252 with one (batches of 19).
 */
const LANES = Math.max(1, Math.min(4, Math.floor(availableParallelism() / 2)));
/** For everything else: reads, what event consumers and background work write. */
const CONNECTIONS_MAX = LANES + 1;

/** One connection and the turns at it. */
interface Lane {
  readonly pool: pg.Pool;
  /** Resolves when whoever came last has passed the turn on. */
  last: Promise<void>;
}

function makePool(options: { url: string; onError: (error: Error) => void }, max: number): pg.Pool {
  const pool = new pg.Pool({
    connectionString: options.url,
    application_name: "tuanbar",
    options: SESSION,
    max,
    idleTimeoutMillis: 30_000,
    connectionTimeoutMillis: 3_000,
    keepAlive: true,
    pipeline: true,
  });
  // One that is on its way out may hear of the server's end before its own.
  pool.on("error", (error) => void (pool.ending || options.onError(error)));
  // The pool listens to idle connections only. One that breaks while it is used fails its queries, which is how its user learns of it; the
  // event that comes with it would end the whole process if nobody listened.
  pool.on("connect", (client) => client.on("error", () => undefined));
  return pool;
}

export class Database implements Queryable {
  readonly name: string;
  readonly city: number;
  readonly url: string;
  /**
   * For what the clock looks up in all slots: one session, one look-up at a time. Nine sweeps of sixteen partitions leave 11 MB of plans in a session that
   * has met them all, and in time every session of the pool had: 45 MB of an idle installation.
   */
  readonly sweeping: Queryable = { query: (statement, values) => this.send(this.#sweeps, statement, values) };
  readonly #pool: pg.Pool;
  readonly #sweeps: pg.Pool;
  readonly #lanes: readonly Lane[];
  #slots: readonly number[];

  constructor(options: {
    name: string;
    city: number;
    slots: readonly number[];
    url: string;
    onError: (error: Error) => void;
    lanes?: number;
  }) {
    this.name = options.name;
    this.city = options.city;
    this.#slots = options.slots;
    this.url = options.url;
    this.#pool = makePool(options, CONNECTIONS_MAX);
    this.#sweeps = makePool(options, 1);
    this.#lanes = Array.from({ length: options.lanes ?? LANES }, () => ({ pool: makePool(options, 1), last: Promise.resolve() }));
  }

  /** The slots it serves by the routing table in force. */
  get slots(): readonly number[] {
    return this.#slots;
  }

  /** The routing table has changed. */
  serve(slots: readonly number[]): void {
    this.#slots = slots;
  }

  /** Connections: made, idle, and callers that wait for one. */
  get connections(): { total: number; idle: number; waiting: number } {
    const sum = (count: (pool: pg.Pool) => number): number => this.#pools().reduce((all, pool) => all + count(pool), 0);
    return { total: sum((pool) => pool.totalCount), idle: sum((pool) => pool.idleCount), waiting: sum((pool) => pool.waitingCount) };
  }

  /**
   * Runs a drain when it is its turn at its slot's lane, in the order of asking. Waiting for the turn rather than for the connection, a mailbox takes
   * its batch when its transaction can begin: what arrives meanwhile still gets on. The turn is over when the drain passes it on, or ends.
   */
  inTurn(slot: number, run: (passOn: () => void) => Promise<void>): Promise<void> {
    const lane = this.#lane(slot);
    const passed = Promise.withResolvers<void>();
    const done = lane.last.then(() => run(passed.resolve));
    done.then(passed.resolve, passed.resolve); // how it ended is told to whoever asked for the turn
    lane.last = passed.promise;
    return done;
  }

  query<Row extends object>(statement: Statement, values?: readonly unknown[]): Promise<Row[]> {
    return this.send(this.#pool, statement, values);
  }

  /** A statement that is a transaction of its own. */
  protected async send<Row extends object>(pool: pg.Pool, statement: Statement, values: readonly unknown[] = []): Promise<Row[]> {
    const client = await this.#connect(pool);
    try {
      const { rows } = await ask<Row>((asked) => client.query(new Burst([asked])), inSlot(statement, values), values.map(parameter));
      client.release();
      return rows;
    } catch (error) {
      client.release(isConnectionLoss(error));
      throw isConnectionLoss(error) ? unavailable(this.name, error) : isFenced(error) ? moving() : error;
    }
  }

  /**
   * Runs `work` between BEGIN and COMMIT. An error before COMMIT rolls back and is thrown. When COMMIT itself fails with the connection,
   * the outcome is unknown: the transaction's id is then looked up on a fresh connection until the server says committed or aborted, or
   * `deadlineMs` has passed. `slot`: a drain's; it runs on the slot's lane. `onCommitting`: COMMIT is sent and the connection is free for the next, whose
   * statements are answered with the COMMIT in one trip.
   */
  async transaction<R>(
    work: (tx: Transaction) => Promise<R>,
    {
      slot,
      deadlineMs = LIMITS.statementMs,
      onCommitting,
    }: { readonly slot?: number; readonly deadlineMs?: number; readonly onCommitting?: (() => void) | undefined } = {},
  ): Promise<R> {
    const client = await this.#connect(slot === undefined ? this.#pool : this.#lane(slot).pool);
    const tx = new Transaction(client);
    let result: R;
    try {
      const begun = tx.query(BEGIN);
      begun.catch(() => undefined); // its failure reaches the caller through the first statement behind it
      result = await work(tx);
      await begun;
      tx.end();
    } catch (error) {
      tx.end();
      const lost = isConnectionLoss(error);
      if (!lost) {
        await client.query("rollback").then(
          () => client.release(),
          (rollbackError: unknown) => client.release(rollbackError instanceof Error ? rollbackError : true),
        );
      } else client.release(true);
      const cause = tx.causeOf(error);
      throw lost ? unavailable(this.name, error) : isFenced(cause) ? moving() : cause;
    }
    const committing = client.query("commit");
    // What the next transaction sends waits behind it on the same connection; where that breaks, both learn of it.
    client.release();
    onCommitting?.();
    const committed = await committing.then(
      ({ command }) => command === "COMMIT",
      async (error: unknown) => {
        if (!isConnectionLoss(error)) throw error;
        if (await this.#committed(tx.begun, deadlineMs)) return true;
        throw unavailable(this.name, error);
      },
    );
    // PostgreSQL answers ROLLBACK to the COMMIT of a transaction in which a statement failed: somebody swallowed its error.
    invariant(committed, "a transaction without an error commits");
    return result;
  }

  /**
   * For rows that are their own marks: nearly always none of them is there, so `add` does not look, and where a key refuses one, all are left out and
   * `complete` adds those that are missing. The look was half of what an order in the index cost.
   */
  async addOrComplete<R>(add: (tx: Transaction) => Promise<R>, complete: (tx: Transaction) => Promise<R>): Promise<R> {
    return this.transaction(add).catch((error: unknown) => {
      if (!isConstraint(error)) throw error;
      return this.transaction(complete);
    });
  }

  /**
   * Asks what became of a transaction whose COMMIT had no answer. Throws DatabaseUnavailable when nobody can say in time, or at all: a crash forgets ids
   * of which nothing was flushed, and gives them again, so an id that is committed behind a crash may be somebody else's. (An order was acknowledged
   * by it and was not there.) Whoever asked comes again with the key, which tells.
   */
  async #committed(begun: Begun | undefined, deadlineMs: number): Promise<boolean> {
    if (begun === undefined) return false;
    const { xid, atMs } = begun;
    const until = performance.now() + deadlineMs;
    for (;;) {
      try {
        const [row] = await this.query<{ status: string | null; same: boolean | null }>(XACT_STATUS, [xid, atMs]);
        if (row?.status === "committed" && row.same !== true)
          throw new DatabaseUnavailable(`${this.name}: the outcome of transaction ${xid} is not known: the server has crashed since`);
        if (row?.status === "committed") return true;
        if (row?.status === "aborted") return false;
      } catch (error) {
        // The id is still to come: nothing of the transaction was flushed.
        if (sqlState(error) === INVALID_PARAMETER) return false;
        if (!(error instanceof DatabaseUnavailable) || error.cause === undefined) throw error;
      }
      if (performance.now() > until) throw new DatabaseUnavailable(`${this.name}: the outcome of transaction ${xid} is not known yet`);
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }

  #lane(slot: number): Lane {
    const lane = this.#lanes[slot % this.#lanes.length];
    invariant(lane !== undefined, "a slot is a whole number");
    return lane;
  }

  #pools(): pg.Pool[] {
    return [this.#pool, this.#sweeps, ...this.#lanes.map(({ pool }) => pool)];
  }

  async #connect(pool: pg.Pool): Promise<pg.PoolClient> {
    try {
      return await pool.connect();
    } catch (error) {
      throw unavailable(this.name, error);
    }
  }

  async close(): Promise<void> {
    await Promise.all(this.#pools().map((pool) => pool.end()));
  }
}

/** A server's checkpointer is as old as its last start or crash; null where our role may not see it. */
const XACT_STATUS: Statement = {
  name: "database/xact-status",
  text: `
    select pg_xact_status($1::xid8) as status,
           (select backend_start < to_timestamp($2::float8 / 1000) from pg_stat_activity where backend_type = 'checkpointer') as same`,
};
const INVALID_PARAMETER = "22023";

/** A transaction's id, and when it began by the server's clock: what an unknown COMMIT is resolved by. */
export interface Begun {
  readonly xid: string;
  readonly atMs: number;
}

const BEGIN: Statement = { name: "database/begin", text: "begin" };

export class Transaction implements Writable {
  readonly #client: pg.PoolClient;
  #asked: Asked[] = [];
  /** Once a drain has asked for it. */
  begun: Begun | undefined;
  #ended = false;
  #cause: unknown;

  constructor(client: pg.PoolClient) {
    this.#client = client;
  }

  /**
   * No statement goes out any more. When one of several functions that run side by side fails, the others are still under way, and what they
   * sent behind the ROLLBACK would be committed by itself, or become part of somebody else's transaction.
   */
  end(): void {
    this.#ended = true;
  }

  async query<Row extends object>(statement: Statement, values: readonly unknown[] = []): Promise<Row[]> {
    return (await this.#ask<Row>(inSlot(statement, values), values.map(parameter))).rows;
  }

  async change(statement: Statement, values: readonly unknown[]): Promise<number> {
    return (await this.#ask(inSlot(statement, values), values.map(parameter))).changed;
  }

  async copy(statement: Statement, slot: number, rows: readonly (readonly CopyValue[])[]): Promise<void> {
    await this.#ask(inSlot(statement, [slot]), [], copyMessages(rows));
  }

  #ask<Row extends object>(statement: Statement, values: readonly Parameter[], rows?: Buffer<ArrayBuffer>): Promise<Answered<Row>> {
    if (this.#ended) throw new Error(`${statement.name} came after the end of its transaction`);
    return ask<Row>((asked) => this.#send(asked), statement, values, rows).catch((error: unknown) => this.#fail(error));
  }

  /** What is asked in one turn of the event loop leaves together: a drain sends a dozen statements in two bursts. */
  #send(asked: Asked): void {
    if (this.#asked.push(asked) > 1) return;
    process.nextTick(() => {
      const together = this.#asked;
      this.#asked = [];
      if (!this.#ended) this.#client.query(new Burst(together));
      else for (const { name, reject } of together) reject(new Error(`${name} came with the end of its transaction`));
    });
  }

  #fail(error: unknown): never {
    if (!isAborted(error)) this.#cause ??= error;
    throw error;
  }

  /** What is behind a failed statement is refused because of it, and may be heard of first. To be asked when all of them have been answered. */
  causeOf(error: unknown): unknown {
    return isAborted(error) ? (this.#cause ?? error) : error;
  }
}

interface Answered<Row> {
  readonly rows: Row[];
  readonly changed: number;
}

/** `statement` as it is sent. */
const ask = <Row extends object>(
  send: (asked: Asked) => void,
  { name, text }: Statement,
  values: readonly Parameter[],
  rows?: Buffer<ArrayBuffer>,
): Promise<Answered<Row>> =>
  new Promise((resolve, reject) => {
    send({ name, text, values, rows, resolve: (found, changed) => resolve({ rows: found as Row[], changed }), reject });
  });

/** SQLSTATE of an error of PostgreSQL; undefined for any other. */
export const sqlState = (error: unknown): string | undefined => (error instanceof pg.DatabaseError ? error.code : undefined);

/** Two transactions in each other's way (deadlock, serialization, a row somebody else holds too long): the same work may succeed at once. */
export const isContention = (error: unknown): boolean => ["40001", "40P01", "55P03"].includes(sqlState(error) ?? "");

/** The transaction has failed already. */
const isAborted = (error: unknown): boolean => sqlState(error) === "25P02";

/** A constraint said no. */
export const isConstraint = (error: unknown): boolean => sqlState(error)?.startsWith("23") ?? false;

/** SQLSTATE of a write that a fence refused: the slot is moving, or has moved, to another database (`db/move-fence.ts`). */
export const FENCED = "TBMOV";
const isFenced = (error: unknown): boolean => sqlState(error) === FENCED;
const moving = (): Error => refusal(COMMON_ERRORS, "SHARD_MOVING", { retryAfterSeconds: 1 });

/** A statement ran into `statement_timeout`: it is not its values' fault, and running it again takes as long again. */
export const isTooSlow = (error: unknown): boolean => sqlState(error) === "57014";

/**
 * 57P0x: the server goes away or comes up; 08: the connection broke; 53: no connection, memory or disk left; 25P03: our transaction was ended for
 * idling; else what sockets and `pg` itself say.
 */
function isConnectionLoss(error: unknown): boolean {
  const state = sqlState(error);
  if (state !== undefined) return /^(57P0[1-5]|08|53|25P03)/.test(state);
  if (!(error instanceof Error)) return false;
  const code = (error as NodeJS.ErrnoException).code ?? "";
  return (
    ["ECONNREFUSED", "ECONNRESET", "EPIPE", "ENOENT", "ETIMEDOUT", "EAI_AGAIN", "ENOTFOUND"].includes(code) ||
    /connection (terminated|error)|not queryable|timeout exceeded when trying to connect|Client has encountered/i.test(error.message)
  );
}

const unavailable = (name: string, cause: unknown): DatabaseUnavailable =>
  cause instanceof DatabaseUnavailable
    ? cause
    : new DatabaseUnavailable(`database ${name}: ${cause instanceof Error ? cause.message : String(cause)}`, { cause });
