/**
 * The databases of an embedded server, those that are missing made. A city's migrations take three seconds of a core, a copy of a database that
 * has just had them a third of one: of several new ones of a kind the first is migrated, the others are its copies.
 */
import pg from "pg";
import type { EmbeddedPostgres } from "./embedded.ts";
import { migrate, type KeyspaceKind } from "./migrate.ts";

/** One that is killed half-way leaves databases without an owner, or none: whoever calls migrates them all, and that gives each its own. */
export async function makeDatabases(
  postgres: EmbeddedPostgres,
  databases: readonly {
    readonly name: string;
    readonly keyspace: { readonly kind: KeyspaceKind; readonly id: number; readonly code: string };
  }[],
): Promise<void> {
  const make = async ([first, ...others]: typeof databases): Promise<void> => {
    if (first === undefined) return;
    const names = others.map(({ name }) => name);
    const isNew = (await postgres.ensureDatabases([first.name])).length > 0;
    if (isNew && names.length > 0) await makeTemplate(postgres.url(first.name), first);
    await postgres.ensureDatabases(names, isNew ? first.name : undefined);
  };
  await Promise.all([...Map.groupBy(databases, ({ keyspace }) => keyspace.kind).values()].map(make));
}

/** Migrated, and nobody's: a copy would otherwise say that it belongs to the first one's keyspace. */
async function makeTemplate(url: string, { name, keyspace }: Parameters<typeof makeDatabases>[1][number]): Promise<void> {
  await migrate(url, keyspace, name);
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    await client.query("delete from keyspace");
  } finally {
    await client.end();
  }
}
