/**
 * Lines on their way into the databases their numbers lead to: one COPY a database, fed as the lines are read and held back when a database is
 * slower, so that a million lines need as much memory as a thousand. All of them are committed, or none is.
 */
import { once } from "node:events";
import { finished } from "node:stream/promises";
import type pg from "pg";
import { from as copyFrom, type CopyStreamQuery } from "pg-copy-streams";
import type { StatementLine } from "../../domain/channel/records.ts";
import { isId, shardOf, type Shard } from "../../domain/ids.ts";
import { invariant } from "../../domain/invariant.ts";
import type { Database } from "../../db/database.ts";
import { reportClient } from "../../db/report.ts";
import { commit, type Failpoints } from "../../mixins/failpoints.ts";
import type { Platform } from "../../mixins/platform.ts";

/** Long enough for an upload over a slow line; the connection is watched meanwhile. */
const STAGE_MS = 3_600_000;
/** One write to a COPY. */
const CHUNK_BYTES = 65_536;
const COLUMNS = "statement_id, line, slot, kind, number, subject, channel_no, amount, currency, at, under_way";

/** Partitions are named by ids we minted: digits. */
const partitionOf = (statementId: string): string => {
  invariant(isId(statementId), "a statement has an id");
  return `recon_lines_${statementId}`;
};

/** The partition takes its table from everybody for an instant, so it is made by itself, before the lines. */
const makePartition = (client: pg.Client, statementId: string): Promise<unknown> =>
  client.query(`create table if not exists ${partitionOf(statementId)} partition of recon_lines for values in (${statementId})`);

export const stageClient = (database: Database): pg.Client => reportClient(database, "tuanbar-recon", STAGE_MS);

/** The lines of a statement are not needed any more; those of one that failed never were. */
export async function dropLines(platform: Platform, statementId: string): Promise<void> {
  for (const database of platform.databases.values()) {
    const client = stageClient(database);
    await client.connect();
    try {
      await client.query(`drop table if exists ${partitionOf(statementId)}`);
    } finally {
      await client.end();
    }
  }
}

/** Where numbers lead that lead nowhere of ours. */
type Route = (number: string) => { readonly database: Database; readonly slot: number; readonly isOurs: boolean };

class Copy {
  readonly client: pg.Client;
  readonly #stream: CopyStreamQuery;
  #chunk = "";

  private constructor(client: pg.Client, stream: CopyStreamQuery) {
    this.client = client;
    this.#stream = stream;
    // Its failure reaches whoever writes next, or ends it.
    stream.on("error", () => undefined);
  }

  static async open(database: Database, statementId: string): Promise<Copy> {
    const client = stageClient(database);
    await client.connect();
    try {
      await makePartition(client, statementId);
      await client.query("begin");
      return new Copy(client, client.query(copyFrom(`copy ${partitionOf(statementId)} (${COLUMNS}) from stdin`)));
    } catch (error) {
      await client.end();
      throw error;
    }
  }

  /** Undefined, or what to wait for before the next. */
  write(row: string): Promise<void> | undefined {
    this.#chunk += row;
    return this.#chunk.length < CHUNK_BYTES ? undefined : this.#flush();
  }

  async end(): Promise<void> {
    if (this.#chunk !== "") await this.#flush();
    this.#stream.end();
    await finished(this.#stream);
  }

  async #flush(): Promise<void> {
    if (this.#stream.errored) throw this.#stream.errored;
    const chunk = this.#chunk;
    this.#chunk = "";
    if (!this.#stream.write(chunk)) await once(this.#stream, "drain");
  }
}

/** What a statement's text could break a COPY with. */
const escaped = (text: string): string => text.replaceAll(/[\\\t\n\r]/g, (char) => `\\${char}`);

export class Stage {
  readonly #statementId: string;
  readonly #route: Route;
  readonly #copies: ReadonlyMap<Database, Copy>;
  readonly #failpoints: Failpoints | undefined;
  lines = 0;

  private constructor(statementId: string, route: Route, copies: ReadonlyMap<Database, Copy>, failpoints: Failpoints | undefined) {
    this.#failpoints = failpoints;
    this.#statementId = statementId;
    this.#route = route;
    this.#copies = copies;
  }

  /** In every database, also where no line will come: what of ours is missing there is looked for by the same statement. */
  static async open(platform: Platform, statementId: string, home: Shard): Promise<Stage> {
    const copies = new Map<Database, Copy>();
    try {
      for (const database of platform.databases.values()) copies.set(database, await Copy.open(database, statementId));
    } catch (error) {
      await endAll(copies.values());
      throw error;
    }
    return new Stage(statementId, routeOf(platform, home), copies, platform.failpoints);
  }

  add(line: StatementLine): Promise<void> | undefined {
    const { database, slot, isOurs } = this.#route(line.number);
    this.lines += 1;
    const { kind, number, channelNumber, amount, currency, atMs, underWay = false } = line;
    const at = new Date(atMs).toISOString();
    const row = `${this.#statementId}\t${this.lines}\t${slot}\t${kind}\t${escaped(number)}\t${isOurs ? number : "\\N"}\t${escaped(channelNumber)}\t${amount}\t${escaped(currency)}\t${at}\t${underWay}\n`;
    return this.#copies.get(database)?.write(row);
  }

  /** One database after the other: a crash between two leaves a statement that was not received, and its lines go. */
  async commit(): Promise<void> {
    try {
      for (const copy of this.#copies.values()) await copy.end();
      for (const { client } of this.#copies.values()) {
        await commit(this.#failpoints, "recon.stage", client);
        // A statement is as large as it is once: no autovacuum comes in time to tell the planner.
        await client.query(`analyze ${partitionOf(this.#statementId)}`);
      }
    } finally {
      await endAll(this.#copies.values());
    }
  }

  /** Ends the connections in the middle of it: the databases roll back. */
  abandon(): Promise<void> {
    return endAll(this.#copies.values());
  }
}

async function endAll(copies: Iterable<Copy>): Promise<void> {
  // What is under way fails, which is meant.
  await Promise.allSettled([...copies].map(({ client }) => client.end()));
}

/** By the address in a number that is an id of a city of ours; by the statement's own shard otherwise. */
function routeOf(platform: Platform, home: Shard): Route {
  const atHome = { database: platform.databaseOf(home), slot: home.slot, isOurs: false };
  return (number) => {
    if (!isId(number)) return atHome;
    const shard = shardOf(number);
    return platform.servesCity(shard.city) ? { database: platform.databaseOf(shard), slot: shard.slot, isOurs: true } : atHome;
  };
}
