/** The result of all migrations, checked in: a review of a migration reads the difference in `db/schema/`. UPDATE_SNAPSHOTS=1 rewrites it. */
import assert from "node:assert/strict";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { after, before, describe, test } from "node:test";
import { migrationsOf } from "../db/migrate.ts";
import { dumpSchema } from "../scripts/dump-schema.ts";
import { admin, testKeyspaces, testServer, type TestKeyspaces, type TestServer } from "./support/databases.ts";

describe("the dumped schema", () => {
  let server: TestServer;
  let keyspaces: TestKeyspaces;
  before(async () => {
    server = await testServer();
    keyspaces = await testKeyspaces(server);
  });
  after(async () => {
    await keyspaces.drop();
    await server.stop();
  });
  const databaseOf = (code: string): string => keyspaces.keyspaces.byCode(code)!.databases[0]!;

  for (const [kind, code] of [
    ["user", "user"],
    ["city", "sh"],
  ] as const) {
    test(`of a ${kind} keyspace is what the migrations make`, async () => {
      const file = new URL(`../db/schema/${kind}.sql`, import.meta.url);
      const last = migrationsOf(kind).at(-1)?.name;
      const head = `-- A ${kind} keyspace after ${last}. For reading: the migrations make it, tests/schema.test.ts compares it.\n\n`;
      const schema = head + (await admin(server, dumpSchema, databaseOf(code)));
      if (process.env["UPDATE_SNAPSHOTS"] === "1") {
        mkdirSync(new URL(".", file), { recursive: true });
        writeFileSync(file, schema);
      }
      assert.equal(existsSync(file) ? readFileSync(file, "utf8") : "", schema, "run it with UPDATE_SNAPSHOTS=1 and read the difference");
    });
  }
  test("names a partition that is not like the others", async () => {
    const schema = await admin(
      server,
      async (client) => {
        await client.query("begin");
        await client.query("drop table vouchers_07; create index odd on seats_03 (user_id)");
        return dumpSchema(client);
      },
      databaseOf("sh"),
    );
    assert.match(
      schema,
      /-- partition: vouchers_06 FOR VALUES IN \('6'\) with \(fillfactor=80\), 4 of 4 indexes\n-- partition: vouchers_08 /,
    );
    assert.match(schema, /-- partition: seats_03 FOR VALUES IN \('3'\) with \(fillfactor=50\), 3 of 2 indexes\n/);
    assert.match(schema, /-- partitions: orders_00 to orders_15, one a slot with \(fillfactor=50\)\n/);
  });
});
