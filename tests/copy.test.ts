/** Rows that are only added, by COPY within a pipeline: what goes in comes out, and what fails leaves nothing behind and nothing out of step. */
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import fc from "fast-check";
import { Database, sqlState, type Statement } from "../db/database.ts";
import type { CopyValue } from "../db/copy.ts";
import { testKeyspaces, testServer, type TestKeyspaces, type TestServer } from "./support/databases.ts";

const sql = (text: string): Statement => ({ name: "", text });

describe("copy", () => {
  let server: TestServer;
  let keyspaces: TestKeyspaces;
  let city: Database;
  before(async () => {
    server = await testServer();
    keyspaces = await testKeyspaces(server);
    const name = keyspaces.keyspaces.byCode("sh")!.databases[0]!;
    city = new Database({ name, city: 1, slots: [], url: keyspaces.urlOf(name), onError: () => undefined });
    await city.query(sql("create table copied (n integer primary key, text text, big bigint, yes boolean, at timestamptz, bytes bytea)"));
  });
  after(async () => {
    await city.close();
    await keyspaces.drop();
    await server.stop();
  });
  const INTO = sql("copy copied (n, text, big, yes, at, bytes) from stdin");
  const count = async (): Promise<number> =>
    (await city.query<{ count: number }>(sql("select count(*)::integer as count from copied")))[0]?.count ?? NaN;

  test("brings every value as it is, whatever characters are in it", () =>
    fc.assert(
      fc.asyncProperty(
        fc.array(
          fc.record({
            text: fc.option(fc.oneof(fc.string({ unit: "binary" }), fc.constantFrom("\\N", "\\.", "\\", "\t", "\r\n", "NULL", "")), {
              nil: null,
            }),
            big: fc.option(fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }), { nil: undefined }),
            yes: fc.boolean(),
            at: fc.date({ min: new Date(0), max: new Date("2100-01-01"), noInvalidDate: true }),
            bytes: fc.uint8Array({ maxLength: 20 }),
          }),
          { maxLength: 50 },
        ),
        async (rows) => {
          // PostgreSQL's texts hold no NUL, and the gateway lets none in.
          const sent = rows.map((row) => ({
            ...row,
            text: row.text?.replaceAll("\0", "") ?? null,
            hex: Buffer.from(row.bytes).toString("hex"),
          }));
          const values = sent.map(({ text, big, yes, at, hex }, n): CopyValue[] => [n, text, big, yes, at, `\\x${hex}`]);
          const back = await city.transaction(async (tx) => {
            const [, read] = await Promise.all([
              tx.copy(INTO, 0, values),
              tx.query<{ text: string | null; big: string | null; yes: boolean; at: Date; hex: string }>(
                sql("select text, big::text as big, yes, at, encode(bytes, 'hex') as hex from copied order by n"),
              ),
            ]);
            await tx.query(sql("delete from copied"));
            return read;
          });
          assert.deepEqual(
            back,
            sent.map(({ text, big, yes, at, hex }) => ({ text, big: big === undefined ? null : String(big), yes, at, hex })),
          );
        },
      ),
      { numRuns: 100 },
    ));

  test("of a row that is refused fails with the constraint's error, and the transaction leaves nothing", async () => {
    const copy = city.transaction((tx) => Promise.all([tx.copy(INTO, 0, [[1], [2]].map(padded)), tx.copy(INTO, 0, [[2]].map(padded))]));
    await assert.rejects(copy, (error) => sqlState(error) === "23505");
    assert.equal(await count(), 0);
  });

  test("behind a statement that failed is dropped, and the connection is in step again afterwards", async () => {
    const one = new Database({ name: city.name, city: 1, slots: [], url: city.url, onError: () => undefined, lanes: 1 });
    const inLane = <R>(work: Parameters<typeof one.transaction<R>>[0]): Promise<R> => one.transaction(work, { slot: 3 });
    for (let round = 0; round < 20; round++) {
      const failed = inLane((tx) =>
        Promise.all([tx.query(sql("select 1 / 0")), tx.copy(INTO, 0, [padded([round])]), tx.query(sql("select 'behind'"))]),
      );
      await assert.rejects(failed, (error) => sqlState(error) === "22012");
      const [, answered] = await inLane((tx) =>
        Promise.all([tx.copy(INTO, 0, [padded([100 + round])]), tx.query<{ round: number }>(sql(`select ${round} as round`))]),
      );
      assert.deepEqual(answered, [{ round }]);
    }
    assert.equal(await count(), 20);
    await one.close();
  });

  test("of nothing, and of a row that is no row of the table, ends like any statement", async () => {
    const before = await count();
    await city.transaction((tx) => tx.copy(INTO, 0, []));
    await assert.rejects(
      city.transaction((tx) => tx.copy(INTO, 0, [["not a number"]])),
      (error) => sqlState(error) === "22P02",
    );
    assert.equal(await count(), before);
  });
});

const padded = ([n]: readonly number[]): CopyValue[] => [n, null, null, null, null, null];
