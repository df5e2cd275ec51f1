/** What is in the database, read straight from it by SQL: the second opinion on everything the server acknowledged. */
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import pg from "pg";
import { runningPostgres } from "../db/embedded.ts";
import { loadKeyspaces, type Keyspaces } from "../db/keyspaces.ts";
import { shardOf, USER_CITY } from "../domain/ids.ts";

const IDS_AT_ONCE = 10_000;
/** Where the databases of a data directory are. */
interface Databases {
  readonly keyspaces: Keyspaces;
  readonly configOf: (database: string) => pg.ClientConfig;
  /** A database of each server, for what is asked of servers. */
  readonly servers: readonly string[];
}

function embedded(dataDir: string): Databases {
  const running = runningPostgres(dataDir);
  if (!running) throw new Error(`no PostgreSQL runs on ${dataDir}`);
  return {
    keyspaces: loadKeyspaces(fileURLToPath(new URL("../keyspaces.yaml", import.meta.url))),
    configOf: (database) => ({ connectionString: running.url(database) }),
    servers: ["postgres"],
  };
}

/** Those of a cluster on this machine, whose routing table names them by URL. */
function ofCluster(dataDir: string): Databases {
  const keyspaces = loadKeyspaces(join(dataDir, "keyspaces.yaml"));
  const urls = keyspaces.databases().map(({ name }) => name);
  const serverOf = (url: string): string => new URL(url).searchParams.get("host") ?? new URL(url).host;
  return {
    keyspaces,
    configOf: (connectionString) => ({ connectionString }),
    servers: [...Map.groupBy(urls, serverOf).values()].flatMap(([first]) => (first === undefined ? [] : [first])),
  };
}

export class Evidence {
  readonly #clients = new Map<string, Promise<pg.Client>>();
  readonly #databases: Databases;

  constructor(dataDir: string, of: "npm start" | "npm run cluster" = "npm start") {
    this.#databases = of === "npm start" ? embedded(dataDir) : ofCluster(dataDir);
  }

  async query<Row extends pg.QueryResultRow>(database: string, text: string, values: unknown[] = []): Promise<Row[]> {
    const client = this.#clients.get(database) ?? this.#connect(database);
    this.#clients.set(database, client);
    return (await (await client).query<Row>(text, values)).rows;
  }

  async #connect(database: string): Promise<pg.Client> {
    // Every city's seeding writes to the users' database: pipelined, one connection takes the statements of several at once.
    const client = new pg.Client({ ...this.#databases.configOf(database), pipeline: true });
    // A server that went away fails the statement under way, which tells; without a listener Node would end the process as well.
    client.on("error", () => undefined);
    await client.connect();
    return client;
  }

  /** The database a deal lives in. */
  of(id: string): string {
    const database = this.#databases.keyspaces.databaseOf(shardOf(id));
    if (database === undefined) throw new Error(`no database serves the shard of ${id}`);
    return database;
  }

  /** The users' database. */
  get users(): string {
    return this.#databases.keyspaces.databaseOf({ city: USER_CITY, slot: 0 }) ?? "";
  }

  /** Every city database. */
  get cities(): readonly string[] {
    return this.#databases.keyspaces.databases().flatMap(({ name, keyspace }) => (keyspace.kind === "city" ? [name] : []));
  }

  /** How many of these orders are there. */
  orders(ids: readonly string[]): Promise<number> {
    return this.#count(ids, "select count(*) as n from orders where id = any($1)");
  }

  /** How many of these orders have lived a whole life: confirmed, in a formed group, with a voucher for the unit. */
  lives(ids: readonly string[]): Promise<number> {
    return this.#count(
      ids,
      `select count(*) as n from orders o join groups g on g.slot = o.slot and g.id = o.group_id
        where o.id = any($1) and o.state = 'CONFIRMED' and g.state = 'FORMED' and
              o.quantity = (select count(*) from vouchers v where v.slot = o.slot and v.order_id = o.id and v.state = 'ISSUED')`,
    );
  }

  /** All orders of these deals, whoever knows of them. */
  async ordersOf(deals: readonly string[]): Promise<number> {
    return this.#count(deals, "select count(*) as n from orders where deal_id = any($1)");
  }

  async #count(ids: readonly string[], text: string): Promise<number> {
    let sum = 0;
    for (const [database, some] of Map.groupBy(ids, (id) => this.of(id))) {
      for (let at = 0; at < some.length; at += IDS_AT_ONCE) {
        const [row] = await this.query<{ n: string }>(database, text, [some.slice(at, at + IDS_AT_ONCE)]);
        sum += Number(row?.n ?? 0);
      }
    }
    return sum;
  }

  /** Lays a deal's stock anew into so many buckets, evenly; for a comparison that needs its own number of them. Nothing may be sold yet. */
  async spreadStock(dealId: string, buckets: number): Promise<void> {
    const database = this.of(dealId);
    const { slot } = shardOf(dealId);
    await this.query(
      database,
      `with old as (delete from stock where slot = $1 and deal_id = $2 returning total), flows as (delete from stock_flows where slot = $1 and deal_id = $2),
            fresh as (select b::smallint as bucket, (n.total / $3 + (b < n.total % $3)::integer)::integer as total
                        from generate_series(0, $3 - 1) b, (select sum(total)::bigint as total from old) n),
            laid as (insert into stock (slot, deal_id, bucket, total) select $1, $2, bucket, total from fresh)
       insert into stock_flows (slot, deal_id, bucket, total, held, sold, cause) select $1, $2, bucket, total, 0, 0, 'created' from fresh`,
      [slot, dealId, buckets],
    );
  }

  /** Server settings, as the running server has them. */
  async settings(names: readonly string[]): Promise<Record<string, string>> {
    const [server = ""] = this.#databases.servers;
    const rows = await this.query<{ name: string; setting: string; unit: string | null }>(
      server,
      "select name, setting, unit from pg_settings where name = any($1) order by name",
      [names],
    );
    return Object.fromEntries(rows.map(({ name, setting, unit }) => [name, unit ? `${setting} ${unit}` : setting]));
  }

  /** Bytes of log that event consumers have not taken yet, over all databases; of a slot that nobody reads the relay dozes, and has handled everything. */
  async eventLagBytes(): Promise<number> {
    return Math.max(
      ...(await this.#ofServers(
        "select coalesce(max(pg_wal_lsn_diff(pg_current_wal_flush_lsn(), confirmed_flush_lsn)), 0)::bigint as n from pg_replication_slots where active",
      )),
    );
  }

  async walBytes(): Promise<bigint> {
    const bytes = await this.#ofServers("select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint as n");
    return BigInt(bytes.reduce((sum, n) => sum + n, 0));
  }

  async checkpoint(): Promise<void> {
    for (const server of this.#databases.servers) await this.query(server, "checkpoint");
  }

  #ofServers(text: string): Promise<number[]> {
    const ask = async (server: string): Promise<number> => Number((await this.query<{ n: string | null }>(server, text))[0]?.n ?? 0);
    return Promise.all(this.#databases.servers.map(ask));
  }

  async close(): Promise<void> {
    for (const client of this.#clients.values()) await (await client).end();
  }
}
