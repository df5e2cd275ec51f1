/** What every shard stands on: the routing table, migrations, ids, constraints, idempotency keys. On a real PostgreSQL. */
import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import { after, before, describe, test } from "node:test";
import fc from "fast-check";
import pg from "pg";
import { Validators } from "moleculer";
import { refusal, DomainError } from "../domain/error.ts";
import { COMMON_ERRORS } from "../domain/common-errors.ts";
import { cityOf, isId, mintedAtMs, slotOf } from "../domain/ids.ts";
import { Database, inSlot, sqlState, type Statement } from "../db/database.ts";
import { KeyspacesError, parseKeyspaces } from "../db/keyspaces.ts";
import { migrate, MigrationError, migrationsOf } from "../db/migrate.ts";
import { Drainer, type DrainFunction } from "../mixins/drain.ts";
import { storedAnswers, type Keyed } from "../mixins/idempotency.ts";
import { cursorId, decodeCursor, encodeCursor, page } from "../mixins/page.ts";
import { makeValidator } from "../mixins/validator.ts";
import { admin, testKeyspaces, testServer, type TestKeyspaces, type TestServer } from "./support/databases.ts";

let server: TestServer;
let keyspaces: TestKeyspaces;
let sh: string;
before(async () => {
  server = await testServer();
  keyspaces = await testKeyspaces(server);
  sh = keyspaces.keyspaces.byCode("sh")!.databases[0]!;
});
after(async () => {
  await keyspaces.drop();
  await server.stop();
});
const open = (name: string = sh, lanes?: number): Database =>
  new Database({
    name,
    city: 1,
    slots: [],
    url: keyspaces.urlOf(name),
    onError: () => undefined,
    ...(lanes === undefined ? {} : { lanes }),
  });
const sql = (text: string): Statement => ({ name: "", text });

describe("keyspaces.yaml", () => {
  const USER = "user: { id: 0, name: users, databases: { u: 0-15 } }";
  const SH = "sh: { id: 1, name: 上海, region: cn-sh, databases: { sh: 0-15 } }";
  const of = (...entries: string[]): string => `keyspaces:\n${entries.map((entry) => `  ${entry}\n`).join("")}`;

  test("says which database serves which shard", () => {
    const parsed = parseKeyspaces(of(USER, SH, "hz: { id: 3, name: 杭州, databases: { a: 0-7, b: 8, c: 9-15 } }"));
    assert.equal(parsed.databaseOf({ city: 0, slot: 15 }), "u");
    assert.deepEqual(
      [7, 8, 9].map((slot) => parsed.databaseOf({ city: 3, slot })),
      ["a", "b", "c"],
    );
    assert.equal(parsed.databaseOf({ city: 2, slot: 0 }), undefined);
    assert.equal(parsed.databaseOf({ city: 1, slot: 16 }), undefined);
    assert.deepEqual(
      parsed.cities.map(({ code }) => code),
      ["sh", "hz"],
    );
    assert.deepEqual(
      parsed.databases().map(({ name, slots }) => [name, slots.length]),
      [
        ["u", 16],
        ["sh", 16],
        ["a", 8],
        ["b", 1],
        ["c", 7],
      ],
    );
    assert.deepEqual([parsed.byCode("hz")?.id, parsed.byId(1)?.region, parsed.byId(0)?.kind], [3, "cn-sh", "user"]);
  });
  test("is refused with the keyspace and what is wrong with it", () => {
    const table: [string, string | RegExp][] = [
      ["", "`keyspaces` is a table of keyspaces by their code"],
      ["[]", "`keyspaces` is a table of keyspaces by their code"],
      ["keyspaces: 5", "`keyspaces` is a table of keyspaces by their code"],
      ["keyspaces: { a: {", /^not YAML: /],
      [of(SH), "the keyspace `user` is missing"],
      [of(USER), "no city is listed"],
      [of(USER, SH, SH), /^not YAML: /],
      [of(USER, "sh:"), "keyspace sh: it has an id, a name and databases"],
      [of(USER, "sh: 5"), "keyspace sh: it has an id, a name and databases"],
      [of(USER, "sh: { id: 256, name: x, databases: { sh: 0-15 } }"), "keyspace sh: `id` is an integer from 0 to 255"],
      [of(USER, "sh: { id: 1.5, name: x, databases: { sh: 0-15 } }"), "keyspace sh: `id` is an integer from 0 to 255"],
      [of(USER, 'sh: { id: "1", name: x, databases: { sh: 0-15 } }'), "keyspace sh: `id` is an integer from 0 to 255"],
      [of(USER, "sh: { id: 1, databases: { sh: 0-15 } }"), "keyspace sh: `name` is missing"],
      [of(USER, "sh: { id: 1, name: x, region: 5, databases: { sh: 0-15 } }"), "keyspace sh: `region` is a text"],
      [of("user: { id: 4, name: x, databases: { u: 0-15 } }", SH), "keyspace user: the keyspace `user`, and only it, has the id 0"],
      [of(USER, "sh: { id: 0, name: x, databases: { sh: 0-15 } }"), "keyspace sh: the keyspace `user`, and only it, has the id 0"],
      [of(USER, "sh: { id: 1, name: x }"), "keyspace sh: `databases` maps each database to the slots it serves"],
      [of(USER, "sh: { id: 1, name: x, databases: [sh] }"), "keyspace sh: `databases` maps each database to the slots it serves"],
      [of(USER, "sh: { id: 1, name: x, databases: { sh: 0-14 } }"), "keyspace sh: slot 15 is served by no database"],
      [of(USER, "sh: { id: 1, name: x, databases: { a: 0-8, b: 8-15 } }"), "keyspace sh: slot 8 is served twice"],
      [of(USER, "sh: { id: 1, name: x, databases: { a: 0-16 } }"), "keyspace sh: slots `0-16` are not numbers or ranges from 0 to 15"],
      [of(USER, "sh: { id: 1, name: x, databases: { a: 15-0 } }"), "keyspace sh: slots `15-0` are not numbers or ranges from 0 to 15"],
      [of(USER, "sh: { id: 1, name: x, databases: { a: } }"), "keyspace sh: slots `null` are not numbers or ranges from 0 to 15"],
      [of(USER, SH, "bj: { id: 1, name: x, databases: { bj: 0-15 } }"), "keyspaces sh and bj have the same id 1"],
      [of(USER, SH, "bj: { id: 2, name: x, databases: { sh: 0-15 } }"), "keyspaces sh and bj share the database sh"],
    ];
    for (const [yaml, message] of table) assert.throws(() => parseKeyspaces(yaml), { name: "KeyspacesError", message }, yaml);
  });
  test("is read, or refused with a sentence, whatever is in it", () => {
    const value = fc.oneof(fc.constantFrom(0, 1, 255, 256, "x", "0-15", "0-7", "8-15", "7", null), fc.jsonValue());
    const entry = fc.record(
      { id: value, name: value, region: value, databases: fc.oneof(fc.dictionary(fc.constantFrom("a", "b", "c"), value), value) },
      { requiredKeys: [] },
    );
    const document = fc.oneof(
      fc.jsonValue(),
      fc.record({
        keyspaces: fc.oneof(fc.jsonValue(), fc.dictionary(fc.constantFrom("user", "sh", "bj", "__proto__"), fc.oneof(entry, value))),
      }),
    );
    const text = fc.oneof({ weight: 4, arbitrary: document.map((made) => JSON.stringify(made)) }, fc.string());
    fc.assert(
      fc.property(text, (yaml) => {
        try {
          for (const { databases } of parseKeyspaces(yaml).all)
            assert.ok(databases.length === 16 && databases.every((name) => typeof name === "string"));
        } catch (error) {
          assert.ok(error instanceof KeyspacesError, String(error));
        }
      }),
      { numRuns: 2_000 },
    );
  });
  test("every way to cut sixteen slots into ranges covers each slot once", () => {
    fc.assert(
      fc.property(fc.uniqueArray(fc.integer({ min: 1, max: 15 })), (cuts) => {
        const starts = [0, ...cuts.toSorted((a, b) => a - b)];
        const ranges = starts.map((start, index) => [start, (starts[index + 1] ?? 16) - 1] as const);
        const databases = ranges.map(([from, to], index) => `d${index}: ${from === to ? from : `${from}-${to}`}`).join(", ");
        const parsed = parseKeyspaces(of(USER, `sh: { id: 1, name: x, databases: { ${databases} } }`));
        for (const [index, [from, to]] of ranges.entries())
          for (let slot = from; slot <= to; slot++) assert.equal(parsed.databaseOf({ city: 1, slot }), `d${index}`);
      }),
    );
  });
});

describe("migrations", () => {
  const mark = `migrate_${process.pid}`;
  const SH = { kind: "city", id: 1, code: "sh" } as const;
  const url = (name: string): string => server.urlOf(`${mark}_${name}`);
  const create = (name: string, from = "template0") =>
    admin(server, (client) => client.query(`create database ${mark}_${name} template ${from}`));
  const change = (name: string, text: string) => admin(server, (client) => client.query(text), `${mark}_${name}`);
  after(async () => {
    for (const name of ["fresh", "copy"])
      await admin(server, (client) => client.query(`drop database if exists ${mark}_${name} with (force)`));
  });

  test("are numbered without gaps, the shared ones in every kind", () => {
    for (const kind of ["user", "city"] as const) {
      const numbers = migrationsOf(kind).map(({ number }) => number);
      assert.deepEqual(
        numbers,
        Array.from({ length: numbers.length }, (_, index) => index + 1),
      );
    }
    assert.deepEqual(migrationsOf("user")[0], migrationsOf("city")[0]);
    assert.ok(
      migrationsOf("user").every(({ name, sql: text }) => /^\d{6}-[a-z0-9-]+\.sql$/.test(name) && text.startsWith("--")),
      "and begin with what they are for",
    );
  });
  test("run once, however many nodes start at once, and not again", async () => {
    await create("fresh");
    const ran = await Promise.all(Array.from({ length: 4 }, () => migrate(url("fresh"), SH, "fresh")));
    const names = migrationsOf("city").map(({ name }) => name);
    assert.deepEqual(
      ran.filter((files) => files.length > 0),
      [names],
    );
    assert.deepEqual(await migrate(url("fresh"), SH, "fresh"), []);
  });
  test("are refused, with a sentence, where the database is not ours to touch; and nothing is changed", async () => {
    await create("copy", `${mark}_fresh`);
    const refused = (keyspace: Parameters<typeof migrate>[1], message: RegExp) =>
      assert.rejects(migrate(url("copy"), keyspace, "sh_1"), (error) => error instanceof MigrationError && message.test(error.message));
    await refused({ ...SH, id: 2, code: "bj" }, /^database sh_1 belongs to keyspace number 1, not to bj$/);
    await refused({ kind: "user", id: 0, code: "user" }, /^database sh_1 belongs to keyspace number 1, not to user$/);

    const known = migrationsOf("city").length;
    await change("copy", `insert into migrations values (${known + 1}, '000099-tomorrow.sql', 'x')`);
    await refused(
      SH,
      new RegExp(
        `^database sh_1 is at migration ${known + 1} \\(000099-tomorrow\\.sql\\), this code knows only ${known}: start a newer version$`,
      ),
    );
    await change("copy", `delete from migrations where number > ${known}`);

    await change("copy", "update migrations set checksum = 'x' where number = 2");
    await refused(SH, /^database sh_1: migration 000002-first-sale\.sql is not the file this code has$/);
    await change("copy", "delete from migrations where number > 1");
    await refused({ ...SH, id: 2, code: "bj" }, /belongs to keyspace number 1/);
    const { rows } = await admin(server, (client) => client.query("select number from migrations"), `${mark}_copy`);
    assert.deepEqual(rows, [{ number: 1 }], "a database of somebody else's is not migrated first");
  });
});

describe("mint_ids", () => {
  const mint = async (client: pg.Client, city: number, slot: number, n: number): Promise<string[]> =>
    (await client.query<{ ids: string[] }>("select mint_ids($1, $2, $3) as ids", [city, slot, n])).rows[0]!.ids;
  const use = <R>(work: (client: pg.Client) => Promise<R>) => admin(server, work, sh);
  const ascending = (ids: readonly string[]): boolean => ids.every((id, index) => index === 0 || BigInt(ids[index - 1]!) < BigInt(id));

  test("mints ids that say their address and their time, ascending", () =>
    use(async (client) => {
      for (const [city, slot] of [
        [1, 5],
        [255, 15],
        [0, 0],
      ] as const) {
        const ids = await mint(client, city, slot, 50);
        assert.equal(ids.length, 50);
        assert.ok(ids.every((id) => isId(id) && cityOf(id) === city && slotOf(id) === slot));
        assert.ok(ascending(ids));
        assert.ok(Math.abs(mintedAtMs(ids[0]!) - Date.now()) < 60_000);
      }
      assert.deepEqual(await mint(client, 1, 1, 0), []);
    }));
  test("mints no id twice, from eight connections at once, and for each connection upwards", async () => {
    const minted = await Promise.all(
      Array.from({ length: 8 }, (_, slot) =>
        use(async (client) => {
          const ids: string[] = [];
          for (let round = 0; round < 40; round++) ids.push(...(await mint(client, 1, slot, 1 + ((round * 7) % 50))));
          assert.ok(ascending(ids));
          return ids;
        }),
      ),
    );
    const all = minted.flat();
    assert.equal(new Set(all).size, all.length);
    // Not only as a whole: what stands before the address is unique too, so a slot could move to another city's number.
    assert.equal(new Set(all.map((id) => BigInt(id) >> 12n)).size, all.length);
  });
  test("counts on when more than 1,024 are minted in a millisecond, when the clock stands still and when it goes back", () =>
    use(async (client) => {
      const before = await mint(client, 1, 5, 1);
      const many = await mint(client, 1, 5, 5_000);
      const more = await mint(client, 1, 5, 2_000);
      assert.ok(ascending([...before, ...many, ...more]));
      // An hour ahead of the clock, as after the clock was put back by an hour.
      await client.query("select setval('id_clock', last_value + (3600000::bigint << 10)) from id_clock");
      const [ahead] = (await client.query<{ last_value: string }>("select last_value from id_clock")).rows;
      const later = await mint(client, 1, 5, 3);
      assert.deepEqual(
        later.map((id) => BigInt(id) >> 12n),
        [1n, 2n, 3n].map((n) => BigInt(ahead!.last_value) + n),
      );
      assert.ok(ascending([...more, ...later]));
    }));
  test("does not take ids back with a transaction", () =>
    use(async (client) => {
      await client.query("begin");
      const rolledBack = await mint(client, 1, 5, 2);
      await client.query("rollback");
      assert.ok(ascending([...rolledBack, ...(await mint(client, 1, 5, 1))]));
    }));
  test("lets others mint before its transaction ends, and after it failed in the middle", () =>
    use((first) =>
      use(async (second) => {
        await second.query("set lock_timeout = 200");
        await first.query("begin");
        await mint(first, 1, 5, 1);
        assert.equal((await mint(second, 1, 5, 1)).length, 1);
        await first.query("rollback");
        await first.query(
          "do $$ begin execute format('alter sequence id_clock maxvalue %s', (select last_value + 1000 from id_clock)); end $$",
        );
        await assert.rejects(mint(first, 1, 5, 2_000_000_000), /out of bounds/);
        await first.query("alter sequence id_clock no maxvalue");
        assert.equal((await mint(second, 1, 5, 1)).length, 1, "the lock went with the failure, not with the session");
        // Who cannot get the lock in time has not got it afterwards.
        await first.query("select pg_advisory_lock(7431, 1)");
        await assert.rejects(mint(second, 1, 5, 1), { code: "55P03" });
        await first.query("select pg_advisory_unlock(7431, 1)");
        assert.equal((await mint(first, 1, 5, 1)).length, 1);
        assert.equal((await mint(second, 1, 5, 1)).length, 1);
      }),
    ));
});

describe("the schema", () => {
  let city: Database;
  before(() => void (city = open()));
  after(() => city.close());
  const refuses = (text: string, constraint: string | RegExp) =>
    assert.rejects(
      city.query(sql(text)),
      (error) => sqlState(error)?.startsWith("23") === true && (error as pg.DatabaseError).message.match(constraint) !== null,
      text,
    );

  test("routes every row to the partition of its slot, and knows no seventeenth", async () => {
    await city.query(sql("insert into tcc_barriers select slot, 1, 'test', 'try', 'try' from generate_series(0, 15) slot"));
    const rows = await city.query<{ slot: number; partition: string }>(
      sql("select slot, tableoid::regclass::text as partition from tcc_barriers order by slot"),
    );
    assert.deepEqual(
      rows.map(({ partition }) => partition),
      Array.from({ length: 16 }, (_, slot) => `tcc_barriers_${String(slot).padStart(2, "0")}`),
    );
    await refuses("insert into tcc_barriers values (16, 1, 'test', 'try', 'try')", /no partition/);
  });
  test("sells no unit twice: held + sold never passes total, and nothing is below zero", async () => {
    await city.query(sql("insert into stock (slot, deal_id, bucket, total, held, sold) values (3, 1, 0, 10, 4, 6)"));
    await refuses("update stock set held = held + 1 where slot = 3 and deal_id = 1", "stock_not_oversold");
    await refuses("update stock set sold = sold + 1 where slot = 3 and deal_id = 1", "stock_not_oversold");
    await refuses("update stock set total = total - 1 where slot = 3 and deal_id = 1", "stock_not_oversold");
    for (const field of ["held", "sold"])
      await refuses(`update stock set total = 99, ${field} = -1 where slot = 3 and deal_id = 1`, `${field}_check`);
    await city.query(sql("update stock set held = held - 1, sold = sold + 1 where slot = 3 and deal_id = 1"));
  });
  test("lets no group have an extra member, and no user two seats", async () => {
    await city.query(
      sql(`insert into groups (slot, id, deal_id, merchant_id, size, unit_price, state, held, taken, filled, leader_id, leader_name, ttl_minutes)
           values (3, 1, 1, 1, 3, 100, 'OPEN', 1, 1, 1, 1, 'x', 60)`),
    );
    for (const field of ["held", "taken", "filled"])
      await refuses(`update groups set ${field} = ${field} + 1 where slot = 3 and id = 1`, "groups_not_overfull");
    await city.query(sql("insert into seats values (3, 1, 1, 7, 'x', 'HELD')"));
    await refuses("insert into seats values (3, 1, 2, 7, 'x', 'HELD')", "seats_");
    await city.query(sql("update seats set state = 'RELEASED' where slot = 3 and order_id = 1"));
    await city.query(sql("insert into seats values (3, 1, 2, 7, 'x', 'HELD')"));
  });
  test("counts nobody past a cap, nor below zero", async () => {
    await city.query(sql("insert into quotas values (3, 1, 1, 5, 5), (3, 2, 1, 500, null)"));
    await refuses("update quotas set used = used + 1 where slot = 3 and scope = 1", "quotas_within_cap");
    await city.query(sql("update quotas set used = used + 1 where slot = 3 and scope = 2"));
    await refuses("update quotas set used = -1 where slot = 3", "used_check");
  });
  test("keeps wallets and payables above their floor, promises included, and no column below zero", async () => {
    await city.query(sql("insert into accounts values (3, 'wallet:1', 0, 0, 0, 100, true), (3, 'cash:test', 0, 0, 0, 0, false)"));
    await refuses("update accounts set debits_posted = 60, debits_pending = 41 where slot = 3 and account = 'wallet:1'", "accounts_floor");
    await city.query(sql("update accounts set debits_posted = 60, debits_pending = 40 where slot = 3 and account = 'wallet:1'"));
    await city.query(sql("update accounts set debits_posted = 999 where slot = 3 and account = 'cash:test'"));
    for (const side of ["debits_pending", "debits_posted", "credits_pending", "credits_posted"]) {
      await refuses(`update accounts set ${side} = -1 where slot = 3 and account = 'cash:test'`, `${side}_check`);
    }
  });
  test("never changes a transfer, in the table or in a partition of it", async () => {
    await city.query(
      sql(`insert into transfers (slot, id, seq, debit_account, credit_account, amount, code, state, business_key, at, prev_hash, hash)
           values (3, 1, 1, 'a', 'b', 5, 'pay', 'POSTED', '1', now(), '', '')`),
    );
    for (const table of ["transfers", "transfers_03"]) {
      await refuses(`update ${table} set amount = 6 where slot = 3`, /append-only/);
      await refuses(`delete from ${table} where slot = 3`, /append-only/);
    }
    await refuses(
      "insert into transfers select slot, 2, 2, debit_account, credit_account, amount, code, state, business_key, pending_id, order_id, at, prev_hash, hash from transfers",
      "business_key",
    );
    await refuses(
      "insert into transfers select slot, 2, 2, 'a', 'a', amount, code, state, '2', pending_id, order_id, at, prev_hash, hash from transfers",
      "check",
    );
  });
  test("has one live payment an order, and an order's amount is its units' price", async () => {
    const payment = (id: number, state: string) =>
      `insert into payments (slot, id, order_id, consumer_id, merchant_id, channel, amount, state, next_attempt_at, created_at) values (3, ${id}, 9, 1, 1, 'wallet', 5, '${state}', now(), now())`;
    await city.query(sql(payment(1, "CANCELLED")));
    await city.query(sql(payment(2, "TRYING")));
    await refuses(payment(3, "TRYING"), "payments_");
    const order = (id: number, key: string, amount: number) =>
      `insert into orders values (3, ${id}, 1, 1, 1, null, 0, 3, 100, 10, ${amount}, 600, 90, 'PENDING_PAYMENT', '${key}', '', now(), now())`;
    await city.query(sql(order(1, "k", 290)));
    await refuses(order(2, "l", 300), "check");
    await refuses(order(2, "k", 290), "idem_key");
  });
  test("a statement that names the partition of its slot is sent to it, under a name of its own for each slot", () => {
    const find = { name: "test/find", text: "select * from orders_$1 o where o.slot = $1 and $12 in (select 1 from deals_$1)" };
    assert.deepEqual(inSlot(find, [7]), {
      name: "test/find_07",
      text: "select * from orders_07 o where o.slot = $1 and $12 in (select 1 from deals_07)",
    });
    assert.equal(inSlot(find, [15]).name, "test/find_15");
    assert.equal(inSlot(find, [7]), inSlot(find, [7]), "one text, one prepared statement");
    const any = { name: "test/any", text: "select * from orders where slot = any($1)" };
    assert.equal(inSlot(any, [[7]]), any);
    for (const wrong of [undefined, "7", -1, 16, 1.5]) assert.throws(() => inSlot(find, [wrong]), /names its slot first/);
  });

  test("lists of keys arrive as they were sent, whatever is in them", async () => {
    const LISTS = sql("select $1::text[] as texts, $2::bigint[]::text[] as numbers");
    const text = fc.oneof(fc.string(), fc.constantFrom("", "NULL", '"', "\\", "{", "}", ",", " a ", "\t", "团购"));
    await fc.assert(
      fc.asyncProperty(
        fc.array(
          fc.option(
            text.filter((t) => !t.includes("\0")),
            { freq: 20 },
          ),
        ),
        fc.array(fc.oneof(fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }).map(String), fc.integer())),
        async (texts, numbers) => {
          const [row] = await city.query<{ texts: string[]; numbers: string[] }>(LISTS, [texts, numbers]);
          assert.deepEqual(row, { texts, numbers: numbers.map(String) });
        },
      ),
      { numRuns: 200 },
    );
  });
  test("a session looks up by key, and waits for nothing for ever", async () => {
    const settings = await city.query<{ name: string; setting: string }>(
      sql(
        "select name, setting from pg_settings where name in ('enable_seqscan', 'jit', 'TimeZone', 'lock_timeout', 'plan_cache_mode', 'statement_timeout') order by name collate \"C\"",
      ),
    );
    assert.deepEqual(
      settings.map(({ name, setting }) => `${name}=${setting}`),
      [
        "TimeZone=UTC",
        "enable_seqscan=off",
        "jit=off",
        "lock_timeout=1000",
        "plan_cache_mode=force_generic_plan",
        "statement_timeout=8000",
      ],
    );
  });
});

describe("a lane", () => {
  let city: Database;
  before(() => void (city = open(sh, 3)));
  after(() => city.close());
  const pid = sql("select pg_backend_pid() as pid");
  const drainOf = async (slot: number): Promise<number> => {
    const [row] = await city.transaction((tx) => tx.query<{ pid: number }>(pid), { slot });
    return row?.pid ?? 0;
  };

  test("is one session for all drains of a slot, whoever else drains", async () => {
    const slots = Array.from({ length: 16 }, (_, slot) => slot);
    const first = await Promise.all(slots.map(drainOf));
    assert.deepEqual(await Promise.all(slots.map(drainOf)), first);
    assert.ok(new Set(first).size > 1, "not all slots wait for one session");
  });
  test("gives the turn to the next when a drain passes it on, or else when it ends", async () => {
    const seen: string[] = [];
    const end = Promise.withResolvers<void>();
    const first = city.inTurn(4, async (passOn) => {
      passOn();
      await end.promise;
      seen.push("first");
    });
    await city.inTurn(4, async () => void seen.push("second"));
    end.resolve();
    await first;
    assert.deepEqual(seen, ["second", "first"]);
  });
  test("lets drains take turns in the order of asking, and one that fails does not hold up the next", async () => {
    const seen: string[] = [];
    const inTurn = (name: string, fails = false): Promise<void> =>
      city.inTurn(4, async () => {
        seen.push(`${name} begins`);
        await sleep(5);
        seen.push(`${name} ends`);
        if (fails) throw new Error(name);
      });
    const turns = await Promise.allSettled([inTurn("first"), inTurn("second", true), inTurn("third")]);
    assert.deepEqual(
      seen,
      ["first", "second", "third"].flatMap((name) => [`${name} begins`, `${name} ends`]),
    );
    assert.deepEqual(
      turns.map(({ status }) => status),
      ["fulfilled", "rejected", "fulfilled"],
    );
  });
});

describe("stored answers", () => {
  interface Command extends Keyed {
    readonly n: number;
  }
  const SHARD = { city: 1, slot: 9 };
  let one: Database;
  let other: Database;
  let runs: number[];
  before(() => {
    one = open();
    other = open();
  });
  after(() => Promise.all([one.close(), other.close()]));

  const command = (n: number, idemKey: string | undefined, of: Partial<Command> = {}): Command => ({
    n,
    callerId: "16",
    operation: "test",
    idemKey,
    bodyHash: `0${n % 10}`,
    ...of,
  });
  /** Odd commands do something; even ones are refused. */
  const work: DrainFunction<Command, { made: number }> = async (_, commands) => {
    runs.push(...commands.map(({ n }) => n));
    return commands.map(({ n }) => (n % 2 === 1 ? { made: n } : refusal(COMMON_ERRORS, "FORBIDDEN", { need: "odd ones" })));
  };
  const run = async (commands: readonly Command[], on: Database = one, drain = work): Promise<unknown[]> => {
    const answers: unknown[] = [];
    const kinds = new Map([["k", storedAnswers(drain) as unknown as DrainFunction<unknown, unknown>]]);
    await new Drainer(on, kinds, () => undefined).drain(
      SHARD,
      commands.map((input, index) => ({
        kind: "k",
        input,
        merchantId: undefined,
        deadlineMs: Infinity,
        enqueuedMs: 0,
        settle: (answer: unknown) => void (answers[index] = answer instanceof DomainError ? answer.type : answer),
      })),
    );
    return answers;
  };

  test("are given again for the same key, and to nobody else", async () => {
    runs = [];
    assert.deepEqual(await run([command(1, "a")]), [{ made: 1 }]);
    assert.deepEqual(await run([command(1, "a")]), [{ made: 1, replayed: true }]);
    assert.deepEqual(await run([command(1, "a", { callerId: "32" })]), [{ made: 1 }], "keys belong to their caller");
    assert.deepEqual(runs, [1, 1]);
  });
  test("are not given for another request with that key", async () => {
    runs = [];
    await run([command(1, "b")]);
    assert.deepEqual(await run([command(3, "b")]), ["IDEMPOTENCY_KEY_REUSED"]);
    assert.deepEqual(runs, [1]);
  });
  test("twins in one batch are run once", async () => {
    runs = [];
    const answers = await run([command(1, "c"), command(1, "c"), command(3, "c"), command(5, "d"), command(1, "c")]);
    assert.deepEqual(answers, [
      { made: 1 },
      { made: 1, replayed: true },
      "IDEMPOTENCY_KEY_REUSED",
      { made: 5 },
      { made: 1, replayed: true },
    ]);
    assert.deepEqual(runs, [1, 5]);
  });
  test("refusals are not stored: a repeat is tried again", async () => {
    runs = [];
    assert.deepEqual(await run([command(2, "e"), command(2, "e")]), ["FORBIDDEN", "FORBIDDEN"]);
    assert.deepEqual(await run([command(2, "e")]), ["FORBIDDEN"]);
    assert.deepEqual(runs, [2, 2]);
    assert.deepEqual(await run([command(1, "e")]), [{ made: 1 }], "and the key is still free");
  });
  test("without a key nothing is stored, and every command is run", async () => {
    runs = [];
    assert.deepEqual(await run([command(1, undefined), command(1, undefined)]), [{ made: 1 }, { made: 1 }]);
    assert.deepEqual(runs, [1, 1]);
  });
  test("twins in two processes at once have one effect and one answer", async () => {
    const effect: DrainFunction<Command, { made: number }> = async (tx, commands) => {
      await tx.query(
        sql("insert into inbox (consumer, source, event_id) select 'twins', gen_random_uuid()::text, n from unnest($1::bigint[]) n"),
        [commands.map(({ n }) => n)],
      );
      // Both have looked for the key before either has written it.
      await new Promise((resolve) => setTimeout(resolve, 30));
      return commands.map(({ n }) => ({ made: n }));
    };
    const batch = [command(1, "f"), command(3, "g"), command(5, "h")];
    const [left, right] = await Promise.all([run(batch, one, effect), run(batch, other, effect)]);
    const replayed = [
      { made: 1, replayed: true },
      { made: 3, replayed: true },
      { made: 5, replayed: true },
    ];
    const first = [{ made: 1 }, { made: 3 }, { made: 5 }];
    assert.ok([left, right].some((answers) => JSON.stringify(answers) === JSON.stringify(first)));
    assert.ok([left, right].some((answers) => JSON.stringify(answers) === JSON.stringify(replayed)));
    assert.deepEqual(await one.query(sql("select event_id::integer as n from inbox where consumer = 'twins' order by 1")), [
      { n: 1 },
      { n: 3 },
      { n: 5 },
    ]);
  });
});

describe("pages", () => {
  test("a cursor is what the last row was sorted by, and comes back as it was", () => {
    fc.assert(
      fc.property(
        fc.array(fc.oneof(fc.string(), fc.integer(), fc.constant("9223372036854775807")), { minLength: 1, maxLength: 4 }),
        (keys) => {
          const cursor = encodeCursor(keys);
          assert.match(cursor, /^[A-Za-z0-9_-]+$/);
          assert.deepEqual(decodeCursor(cursor, keys.length), keys);
          assert.throws(() => decodeCursor(cursor, keys.length + 1), { type: "VALIDATION_ERROR" });
        },
      ),
    );
  });
  test("a made-up cursor is the caller's mistake, never ours", () => {
    fc.assert(
      fc.property(
        fc.oneof(
          fc.string(),
          fc.json().map((json) => Buffer.from(json).toString("base64url")),
        ),
        (cursor) => {
          try {
            const [id] = [cursorId(cursor)];
            assert.ok(isId(id));
          } catch (error) {
            assert.ok(error instanceof DomainError && error.type === "VALIDATION_ERROR");
          }
        },
      ),
    );
    assert.equal(cursorId(undefined), "9223372036854775807");
    assert.equal(cursorId(encodeCursor(["77"])), "77");
    for (const keys of [["x"], [5], ["0"], ["9223372036854775808"], ["1", "2"]])
      assert.throws(() => cursorId(encodeCursor(keys)), { type: "VALIDATION_ERROR" });
  });
  test("pages follow each other without a gap or a repeat, and the last one says so", () => {
    fc.assert(
      fc.property(fc.uniqueArray(fc.integer({ min: 1, max: 500 })), fc.integer({ min: 1, max: 20 }), (numbers, limit) => {
        const rows = numbers.toSorted((a, b) => b - a);
        const seen: number[] = [];
        let cursor: string | undefined;
        do {
          const before = BigInt(cursorId(cursor));
          const found = rows.filter((row) => BigInt(row) < before).slice(0, limit + 1);
          const { items, nextCursor } = page(
            found,
            limit,
            (row) => row,
            (row) => [String(row)],
          );
          assert.ok(items.length <= limit);
          seen.push(...items);
          cursor = nextCursor;
        } while (cursor !== undefined);
        assert.deepEqual(seen, rows);
      }),
    );
  });
});

describe("the validator's scalars", () => {
  const accepts = (type: string) => {
    const check = (makeValidator() as Validators.Fastest & { compile(schema: object): (params: object) => true | object[] }).compile({
      field: type,
    });
    return (field: unknown): boolean => check({ field }) === true;
  };
  test("an id is a decimal string of an int8, money a positive integer with a bound", () => {
    const id = accepts("id");
    for (const good of ["1", "9223372036854775807"]) assert.ok(id(good), good);
    for (const bad of ["", "0", "01", "-1", "9223372036854775808", "1 or 1=1", 5, null, undefined, {}, ["1"]])
      assert.ok(!id(bad), JSON.stringify(bad));
    const fen = accepts("fen");
    for (const good of [1, 10_000_000_000]) assert.ok(fen(good));
    for (const bad of [0, -1, 0.5, 10_000_000_001, 1e300, Number.NaN, "5", 5n, null, undefined]) assert.ok(!fen(bad), String(bad));
  });
  test("a time is one that PostgreSQL takes for the same moment", async () => {
    const time = accepts("time");
    for (const bad of [
      "",
      "2026-02-30T00:00:00Z",
      "2026-01-31T24:00:00Z",
      "2026-13-01T00:00:00Z",
      "2026-01-31",
      "2026-01-31T00:00:00",
      "2026-01-31T00:00:00+08:00",
      "0000-01-01T00:00:00Z",
      "2026-01-31T00:00:60Z",
      5,
      null,
    ]) {
      assert.ok(!time(bad), String(bad));
    }
    const two = fc.integer({ min: 0, max: 99 }).map((n) => String(n).padStart(2, "0"));
    const near = (max: number) =>
      fc.oneof({ weight: 5, arbitrary: fc.integer({ min: 0, max }).map((n) => String(n).padStart(2, "0")) }, two);
    const text = fc
      .tuple(fc.integer({ min: 0, max: 9999 }), near(12), near(31), near(24), near(60), near(60))
      .map(([year, month, day, hour, minute, second]) => `${String(year).padStart(4, "0")}-${month}-${day}T${hour}:${minute}:${second}Z`);
    const good = fc.sample(text, 3_000).filter(time);
    assert.ok(good.length > 500);
    const database = open();
    const [row] = await database.query<{ same: boolean }>(
      sql("select bool_and(extract(epoch from t::timestamptz) * 1000 = ms) as same from unnest($1::text[], $2::bigint[]) as x(t, ms)"),
      [good, good.map((one) => Date.parse(one))],
    );
    await database.close();
    assert.equal(row?.same, true);
  });
  test("a cursor is base64url", () => {
    const cursor = accepts("cursor");
    assert.ok(cursor(encodeCursor(["1"])));
    for (const bad of ["", "a b", "=", "é", "a".repeat(513), 5]) assert.ok(!cursor(bad), String(bad));
  });
});
