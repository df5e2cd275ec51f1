/**
 * Where the routing table in force is kept: in the databases it is about. A move writes the table it makes into both of its databases, so whoever
 * has any older table finds the newer one in the databases that his own names, and from there on the next. A file would have to be on every
 * node's disk, and Kubernetes mounts the configured one read-only.
 */
import pg from "pg";
import { parseKeyspaces, type Keyspaces } from "./keyspaces.ts";

const CONNECT_MS = 5_000;
/** SQLSTATE of a database that does not exist: one that gave all its slots away may be dropped. */
const NO_SUCH_DATABASE = "3D000";

/** The newest table there is, beginning with the one that is known. */
export async function newestKeyspaces(known: Keyspaces, urlOf: (database: string) => string): Promise<Keyspaces> {
  const asked = new Set<string>();
  let newest = known;
  for (;;) {
    const names = newest.databases().flatMap(({ name }) => (asked.has(name) ? [] : [name]));
    if (names.length === 0) return newest;
    for (const name of names) asked.add(name);
    const tables = await Promise.all(names.map((name) => keptIn(urlOf(name))));
    for (const table of tables) if (table && table.version > newest.version) newest = table;
  }
}

/** The first user database's advisory lock: of two moves that end at once, one after the other makes the next table. */
const ROUTING_LOCK = 0x726f7574;
const TURN_MS = 60_000;

/** Runs `work` while nobody else makes a routing table. */
export async function inTurn<R>(url: string, work: () => Promise<R>): Promise<R> {
  const client = await connected(url);
  try {
    await client.query(`set lock_timeout = ${TURN_MS}`);
    await client.query("select pg_advisory_lock($1)", [ROUTING_LOCK]);
    return await work();
  } finally {
    await client.end();
  }
}

/** `client` is of a database that takes part in a move (`move-fence.ts` has made the table). A newer one is not overwritten. */
export async function keepKeyspaces(client: pg.Client, { version, yaml }: Keyspaces): Promise<void> {
  await client.query(
    `insert into moving.routing as r (version, yaml) values ($1, $2)
         on conflict (one) do update set version = excluded.version, yaml = excluded.yaml, at = now() where r.version < excluded.version`,
    [version, yaml],
  );
}

async function keptIn(url: string): Promise<Keyspaces | undefined> {
  let client: pg.Client;
  try {
    client = await connected(url);
  } catch (error) {
    if (error instanceof pg.DatabaseError && error.code === NO_SUCH_DATABASE) return undefined;
    throw error;
  }
  try {
    const { rows: found } = await client.query<{ has: boolean }>("select to_regclass('moving.routing') is not null as has");
    if (!found[0]?.has) return undefined;
    const { rows } = await client.query<{ yaml: string }>("select yaml from moving.routing");
    return rows[0] && parseKeyspaces(rows[0].yaml);
  } finally {
    await client.end();
  }
}

async function connected(url: string): Promise<pg.Client> {
  const client = new pg.Client({ connectionString: url, application_name: "tuanbar-routing", connectionTimeoutMillis: CONNECT_MS });
  // A connection that breaks fails its query; the event that comes with it would end the process if nobody listened.
  client.on("error", () => undefined);
  await client.connect();
  return client;
}
