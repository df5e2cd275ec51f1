/**
 * Real databases for tests. `npm test` starts one embedded PostgreSQL for all files and tells where in TEST_POSTGRES; a file run alone starts
 * its own. Each caller gets its own keyspaces, copied from migrated templates: a copy takes a tenth of the time of running the migrations.
 */
import { randomBytes } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import pg from "pg";
import { startEmbeddedPostgres } from "../../db/embedded.ts";
import { parseKeyspaces, type Keyspaces } from "../../db/keyspaces.ts";
import { migrate, type KeyspaceKind } from "../../db/migrate.ts";

/** A PostgreSQL server for tests: `urlOf(database)`, as the embedded one gives it. */
export interface TestServer {
  readonly urlOf: (database: string) => string;
  readonly stop: () => Promise<void>;
}

export async function testServer(): Promise<TestServer> {
  const shared = process.env["TEST_POSTGRES"];
  if (shared !== undefined)
    return {
      urlOf: (database) => shared.replace(encodeURIComponent("{database}"), encodeURIComponent(database)),
      stop: () => Promise.resolve(),
    };
  const dataDir = mkdtempSync(join(tmpdir(), "tuanbar-test-"));
  const postgres = await startEmbeddedPostgres({ dataDir, throwaway: true, log: () => undefined });
  return {
    urlOf: (database) => postgres.url(database),
    async stop() {
      await postgres.stop();
      rmSync(dataDir, { recursive: true, force: true });
    },
  };
}

export async function admin<R>(server: TestServer, work: (client: pg.Client) => Promise<R>, database = "postgres"): Promise<R> {
  const client = new pg.Client({ connectionString: server.urlOf(database) });
  await client.connect();
  try {
    return await work(client);
  } finally {
    await client.end();
  }
}

/** The template every test database of a kind is copied from, made by whoever comes first. */
async function template(server: TestServer, kind: KeyspaceKind): Promise<string> {
  const name = `template_${kind}`;
  await admin(server, async (client) => {
    await client.query("select pg_advisory_lock(815)");
    const { rows } = await client.query("select 1 from pg_database where datname = $1", [name]);
    if (rows.length > 0) return;
    await client.query(`create database ${name}_making`);
    await migrate(server.urlOf(`${name}_making`), { kind, id: kind === "user" ? 0 : 1, code: kind }, name);
    await admin(server, (made) => made.query("delete from keyspace"), `${name}_making`);
    await client.query(`alter database ${name}_making rename to ${name}`);
  });
  return name;
}

export interface TestKeyspaces {
  readonly keyspaces: Keyspaces;
  readonly urlOf: (database: string) => string;
  readonly drop: () => Promise<void>;
}

/** The keyspaces user, sh, and hz split over two databases: the smallest set that has every shape. */
const EVERY_SHAPE = (mark: string): string => `
    keyspaces:
      user: { id: 0, name: users, databases: { user_${mark}: 0-15 } }
      sh: { id: 1, name: 上海 Shanghai, region: cn-sh, databases: { sh_${mark}: 0-15 } }
      hz: { id: 3, name: 杭州 Hangzhou, region: cn-hz, databases: { hz_a_${mark}: 0-7, hz_b_${mark}: 8-15 } }`;

/** `routing` is a routing table whose databases have the mark in their names. */
export async function testKeyspaces(server: TestServer, routing = EVERY_SHAPE): Promise<TestKeyspaces> {
  const mark = randomBytes(4).toString("hex");
  const keyspaces = parseKeyspaces(routing(mark));
  for (const { name, keyspace } of keyspaces.databases()) {
    const from = await template(server, keyspace.kind);
    await admin(server, async (client) => {
      // Copying a template needs it to itself; the lock keeps test files from each other's way.
      await client.query("select pg_advisory_lock(816)");
      await client.query(`create database ${name} template ${from} strategy file_copy`);
    });
    await migrate(server.urlOf(name), keyspace, name);
  }
  return {
    keyspaces,
    urlOf: (database) => (URL.canParse(database) ? database : server.urlOf(database)),
    async drop() {
      for (const { name } of keyspaces.databases())
        await admin(server, (client) => client.query(`drop database if exists ${name} with (force)`));
    },
  };
}
