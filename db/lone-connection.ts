/** One connection outside of the pool, for what ends with its session: an advisory lock. */
import pg from "pg";
import { LIMITS } from "../domain/limits.ts";
import type { Database, Queryable, Statement } from "./database.ts";

const CONNECT_MS = 5_000;
/** The server ends a session that is silent for so long: a process that was halted, or whose machine is gone, does not keep its lock. */
export const LONE_IDLE_MS_MAX = 10_000;
/** A server that does not answer at all is left; one that does has ended the statement before. */
const ANSWER_MS = LIMITS.statementMs + 2_000;
/** A server that does not say goodbye is left after this. */
const CLOSE_MS = 2_000;

export class LoneConnection implements Queryable {
  readonly #client: pg.Client;
  #closing: Promise<void> | undefined;

  private constructor(client: pg.Client) {
    this.#client = client;
    // A connection that breaks fails its next statement; the event that comes with it would end the process if nobody listened.
    client.on("error", () => undefined);
  }

  /** Must then say something every LONE_IDLE_MS_MAX. */
  static async open(database: Database, name: string): Promise<LoneConnection> {
    const connection = new LoneConnection(
      new pg.Client({
        connectionString: database.url,
        application_name: name,
        options: `-c timezone=UTC -c jit=off -c statement_timeout=${LIMITS.statementMs} -c lock_timeout=${LIMITS.lockWaitMs} -c idle_session_timeout=${LONE_IDLE_MS_MAX}`,
        keepAlive: true,
        connectionTimeoutMillis: CONNECT_MS,
        query_timeout: ANSWER_MS,
      }),
    );
    try {
      await connection.#client.connect();
    } catch (error) {
      await connection.close();
      throw error;
    }
    return connection;
  }

  async query<Row extends object>(statement: Statement, values: readonly unknown[] = []): Promise<Row[]> {
    return (await this.#client.query<Row & pg.QueryResultRow>({ ...statement, values: [...values] })).rows;
  }

  /**
   * Two statements as one message, which PostgreSQL runs as one transaction: it has ended that before we hear of it, so a lock lasts for microseconds
   * however busy we are. Rows of the second. Such a message cannot be prepared.
   */
  async both<Row extends object>(first: Statement, second: Statement): Promise<Row[]> {
    const answers: unknown = await this.#client.query(`${first.text}; ${second.text}`);
    return (answers as readonly [pg.QueryResult, pg.QueryResult<Row & pg.QueryResultRow>])[1].rows;
  }

  close(): Promise<void> {
    return (this.#closing ??= this.#close());
  }

  async #close(): Promise<void> {
    const { stream } = (this.#client as unknown as { readonly connection: { readonly stream: { destroy(): void } } }).connection;
    const patience = setTimeout(() => stream.destroy(), CLOSE_MS);
    await this.#client.end().catch(() => undefined);
    clearTimeout(patience);
  }
}
