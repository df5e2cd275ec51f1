/**
 * What is asked of a connection in one turn: answered together, and wrong together. And rows that are only added, by COPY within it: what goes in comes
 * out, and what fails leaves nothing behind and nothing out of step. On a real PostgreSQL.
 */
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import fc from "fast-check";
import { Database, sqlState, type Statement, type Transaction } from "../db/database.ts";
import type { CopyValue } from "../db/copy.ts";
import { testKeyspaces, testServer, type TestKeyspaces, type TestServer } from "./support/databases.ts";

let server: TestServer;
let keyspaces: TestKeyspaces;
let city: Database;
before(async () => {
  server = await testServer();
  keyspaces = await testKeyspaces(server);
  const name = keyspaces.keyspaces.byCode("sh")!.databases[0]!;
  city = new Database({ name, city: 1, slots: [], url: keyspaces.urlOf(name), onError: () => undefined, lanes: 1 });
  await city.query(sql("create table kept (n integer primary key, text text)"));
  await city.query(sql("create table copied (n integer primary key, text text, big bigint, yes boolean, at timestamptz, bytes bytea)"));
});
after(async () => {
  await city.close();
  await keyspaces.drop();
  await server.stop();
});

const sql = (text: string): Statement => ({ name: "", text });
let names = 0;
/** A statement that no connection knows. */
const fresh = (text: string): Statement => ({ name: `burst/${++names}`, text });
const one = (n: number): Statement => fresh(`select ${n} as n`);
const fails = (): Statement => fresh("select 1 / $1::integer as n");
const stateOf = (error: unknown): string | undefined => sqlState(error);
const drain = <R>(work: (tx: Transaction) => Promise<R>): Promise<R> => city.transaction(work, { slot: 0 });

describe("a burst", () => {
  test("gives each statement its own rows, in the order of asking, with those that return none, rows of a COPY and counts between them", async () => {
    const text = fc.string({ unit: "binary" }).filter((some) => !some.includes("\0"));
    const add = fresh("copy kept (n, text) from stdin");
    const read = fresh("select n, text from kept order by n");
    const forget = fresh("delete from kept");
    await fc.assert(
      fc.asyncProperty(fc.array(text, { maxLength: 5 }), async (texts) => {
        const rows = texts.map((some, n) => ({ n, text: some }));
        const answers = await drain((tx) =>
          Promise.all([
            tx.query(read),
            tx.copy(
              add,
              0,
              rows.map((row) => [row.n, row.text]),
            ),
            tx.query(read),
            tx.change(forget, []),
            tx.query(read),
          ]),
        );
        assert.deepEqual(answers, [[], undefined, rows, rows.length, []]);
      }),
      { numRuns: 30 },
    );
  });

  test("is over with the first error, which all behind it are given; what came before it has its answer", async () => {
    const answers = await drain(async (tx) => {
      const settled = await Promise.allSettled([
        tx.query(one(1)),
        tx.query(fails(), [0]),
        tx.query(one(2)),
        tx.copy(fresh("copy kept (n) from stdin"), 0, [[1]]),
      ]);
      throw Object.assign(new Error("seen"), { settled });
    }).catch((error: { settled: PromiseSettledResult<unknown>[] }) => error.settled);
    assert.deepEqual(
      answers.map((answer) => (answer.status === "fulfilled" ? answer.value : stateOf(answer.reason))),
      [[{ n: 1 }], "22012", "22012", "22012"],
    );
    assert.deepEqual(await city.query(fresh("select n from kept")), []);
  });

  test("in a transaction that has failed is told why it failed", async () => {
    const failed = drain(async (tx) => {
      await tx.query(fails(), [0]).catch(() => undefined);
      await tx.query(one(1));
    });
    await assert.rejects(failed, (error) => stateOf(error) === "22012");
  });

  test("can ask again for what was behind an error when nobody knew it yet", async () => {
    const [wrong, never] = [fails(), one(3)];
    await assert.rejects(drain((tx) => Promise.all([tx.query(wrong, [0]), tx.query(never)])));
    assert.deepEqual(await drain((tx) => Promise.all([tx.query(wrong, [1]), tx.query(never)])), [[{ n: 1 }], [{ n: 3 }]]);
  });

  test("may be sent behind a COMMIT with statements that the burst before it brought, whether that fails or not", async () => {
    for (const divisor of [1, 0]) {
      const [shared, behind] = [one(4), one(5)];
      const asked = [
        drain((tx) => Promise.all([tx.query(fails(), [divisor]), tx.query(shared), tx.query(behind)])),
        drain((tx) => Promise.all([tx.query(behind), tx.query(shared)])),
      ];
      const [first, second] = await Promise.allSettled(asked);
      assert.equal(first?.status, divisor === 1 ? "fulfilled" : "rejected");
      assert.deepEqual(second, { status: "fulfilled", value: [[{ n: 5 }], [{ n: 4 }]] });
    }
  });

  test("does not take one name for two statements", async () => {
    const { name } = one(6);
    assert.deepEqual(await city.query({ name, text: "select 6 as n" }), [{ n: 6 }]);
    const other = drain(async (tx) => {
      await tx.query({ name, text: "select 6 as n" });
      await tx.query({ name, text: "select 7 as n" });
    });
    await assert.rejects(other, /is the name of two statements/);
  });

  test("sends nothing behind the end of its transaction", async () => {
    let late: Promise<unknown> | undefined;
    const ended = drain((tx) => {
      late = tx.query(fresh("insert into kept values (1) returning n"));
      late.catch(() => undefined);
      return Promise.reject(new Error("given up"));
    });
    await assert.rejects(ended, /given up/);
    await assert.rejects(late ?? Promise.resolve());
    assert.deepEqual(await city.query(fresh("select n from kept")), []);
  });

  test("a value that is none is its asker's, and nothing of it is sent", async () => {
    await assert.rejects(city.query(fresh("select $1::timestamptz as at"), [new Date(NaN)]), RangeError);
    assert.deepEqual(await drain((tx) => tx.query(one(8))), [{ n: 8 }]);
  });

  test("values arrive as they were sent", async () => {
    const at = new Date("2026-11-29T12:00:00.123Z");
    const text =
      "select $1::bigint as big, $2::boolean as yes, $3::timestamptz as at, $4::jsonb as json, $5::bytea as bytes, $6::text as none, $7::text[] as list";
    const [row] = await city.query(fresh(text), [
      2n ** 60n,
      true,
      at,
      { a: ['"', null] },
      Buffer.from([0, 255]),
      undefined,
      ["a", null, '"\\', "团购"],
    ]);
    const want = {
      big: String(2n ** 60n),
      yes: true,
      at,
      json: { a: ['"', null] },
      bytes: Buffer.from([0, 255]),
      none: null,
      list: ["a", null, '"\\', "团购"],
    };
    assert.deepEqual(row, want);
  });
});

describe("copy", () => {
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
          const values = sent.map(({ text, big, yes, at, hex }, n): CopyValue[] => [n, text, big, yes, at, { hex }]);
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

  test("of more than a buffer takes, several at once and again and again, arrives whole", async () => {
    await city.query(sql("delete from copied"));
    const wide = "团购，一起买更便宜 ".repeat(40);
    for (let round = 0; round < 3; round++) {
      const back = await drain(async (tx) => {
        const parts = Array.from({ length: 6 }, (_, part) =>
          Array.from({ length: 10 ** (part % 4) }, (_row, n): CopyValue[] => [
            part * 10_000 + n,
            `${part} ${n} ${wide}`,
            n,
            null,
            null,
            null,
          ]),
        );
        await Promise.all(parts.map((rows) => tx.copy(INTO, 0, rows)));
        const wrong = sql(
          `select n from copied where text is distinct from n / 10000 || ' ' || n % 10000 || ' ' || '${wide}' or big <> n % 10000`,
        );
        const [[found], differ] = await Promise.all([tx.query(sql("select count(*)::integer as n from copied")), tx.query(wrong)]);
        await tx.query(sql("delete from copied"));
        return { found, differ, sent: parts.flat().length };
      });
      assert.deepEqual(back, { found: { n: back.sent }, differ: [], sent: 1_122 });
    }
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
