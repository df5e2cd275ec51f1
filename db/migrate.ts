/**
 * Brings a database's schema to where the code is: numbered files, append-only, each in one transaction, under an advisory lock so that of
 * several nodes that start at once one migrates and the others wait. A file of `shared/` is run in every kind of keyspace.
 */
import { createHash } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import pg from "pg";

export type KeyspaceKind = "user" | "city";

export interface Migration {
  readonly number: number;
  readonly name: string;
  readonly sql: string;
  /** SHA-256 of the text: a file that changed after it ran is refused. */
  readonly checksum: string;
}

/** A database this code must not touch: it is ahead, it belongs to another keyspace, or its history was rewritten. */
export class MigrationError extends Error {
  override readonly name = "MigrationError";
}

/** "tuan" in ASCII: the advisory lock every migrator of every version takes. */
const MIGRATION_LOCK = 0x7475616e;

export function migrationsOf(kind: KeyspaceKind): Migration[] {
  const files = ["shared", kind].flatMap((folder) => {
    const directory = new URL(`./migrations/${folder}/`, import.meta.url);
    return readdirSync(directory)
      .filter((name) => name.endsWith(".sql"))
      .map((name) => ({ name, sql: readFileSync(new URL(name, directory), "utf8") }));
  });
  const migrations = files.map(({ name, sql }): Migration => {
    const match = /^(\d{6})-[a-z0-9-]+\.sql$/.exec(name);
    if (!match) throw new MigrationError(`migration ${name} is not named 000000-what-it-does.sql`);
    return { number: Number(match[1]), name, sql, checksum: createHash("sha256").update(sql).digest("hex") };
  });
  migrations.sort((a, b) => a.number - b.number);
  for (const [index, migration] of migrations.entries()) {
    if (migration.number !== index + 1)
      throw new MigrationError(`${kind} migrations are numbered 1, 2, 3 …; ${migration.name} is out of place`);
  }
  return migrations;
}

/** Runs what is missing; returns the names of the files that ran. */
export async function migrate(
  url: string,
  keyspace: { kind: KeyspaceKind; id: number; code: string },
  databaseName: string,
): Promise<string[]> {
  const migrations = migrationsOf(keyspace.kind);
  const client = new pg.Client({ connectionString: url, application_name: "tuanbar-migrate" });
  // A connection that breaks fails its query; the event that comes with it would end the process if nobody listened.
  client.on("error", () => undefined);
  await client.connect();
  try {
    await client.query("select pg_advisory_lock($1)", [MIGRATION_LOCK]);
    await client.query(
      "create table if not exists migrations (number integer primary key, name text not null, checksum text not null, at timestamptz not null default now())",
    );
    const { rows } = await client.query<{ number: number; name: string; checksum: string }>(
      "select number, name, checksum from migrations order by number",
    );
    if (rows.length > 0) await ownedBy(client, keyspace, databaseName);
    const last = rows.at(-1);
    if (last && last.number > migrations.length) {
      throw new MigrationError(
        `database ${databaseName} is at migration ${last.number} (${last.name}), this code knows only ${migrations.length}: start a newer version`,
      );
    }
    for (const ran of rows) {
      const ours = migrations[ran.number - 1];
      if (ours?.checksum !== ran.checksum)
        throw new MigrationError(`database ${databaseName}: migration ${ran.name} is not the file this code has`);
    }
    const missing = migrations.slice(rows.length);
    for (const migration of missing) {
      await client.query("begin");
      await client.query(migration.sql);
      await client.query("insert into migrations (number, name, checksum) values ($1, $2, $3)", [
        migration.number,
        migration.name,
        migration.checksum,
      ]);
      await client.query("commit");
    }
    await client.query("insert into keyspace (city) values ($1) on conflict do nothing", [keyspace.id]);
    await ownedBy(client, keyspace, databaseName);
    return missing.map((migration) => migration.name);
  } finally {
    await client.end();
  }
}

/** Asked before anything is changed, too. A database without an owner is new, or a template. */
async function ownedBy(client: pg.Client, keyspace: { id: number; code: string }, databaseName: string): Promise<void> {
  const { rows } = await client.query<{ city: number }>("select city from keyspace where city <> $1", [keyspace.id]);
  if (rows[0]) throw new MigrationError(`database ${databaseName} belongs to keyspace number ${rows[0].city}, not to ${keyspace.code}`);
}
