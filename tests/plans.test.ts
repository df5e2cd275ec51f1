/**
 * Every statement of the hot paths, EXPLAINed and run against tables of a million rows a partition, in the sessions the platform uses: no
 * sequential scan, and no plan whose work grows with the table. Three times, because what PostgreSQL knows of a table is often out of date:
 * with the statistics of a table that had ten rows when it was last looked at, with those of the million, and with 20,000 rows in a partition
 * as the migrations made it, which nobody has looked at yet.
 *
 * The statements are found, not listed: the constants of type `Statement` in every module, handed out by a loader hook. Their parameters get
 * values by type; what the type does not tell stands in `VALUES`.
 */
import assert from "node:assert/strict";
import { globSync, readFileSync } from "node:fs";
import { registerHooks } from "node:module";
import { after, before, describe, test } from "node:test";
import pg from "pg";
import { migrate } from "../db/migrate.ts";
import { Database, inSlot, sqlState, type Queryable, type Statement } from "../db/database.ts";
import { admin, testServer, type TestServer } from "./support/databases.ts";

/** Partitions that are filled: one of a million rows, and one as it is in the first seconds of its first sale. */
const LARGE = { slot: 5, rows: 1_000_000 };
const YOUNG = { slot: 6, rows: 20_000 };
/** One in which nothing has happened yet. */
const EMPTY = { slot: 7, rows: 0 };
type Part = typeof LARGE;
/** Keys in every array parameter. */
const KEYS = 40;
/** Where a statement is told how many rows are wanted. */
const LIMIT = 20;
/** Rows looked at and pages touched by a statement over 40 keys: 12 and 40 a key. The smallest index of a million rows has 2,700 pages. */
const ROWS_MAX = 500;
const PAGES_MAX = 1_600;

// -- what is tested --------------------------------------------------------------------------------------------------------

const MODULES = globSync(["services/**/*.ts", "mixins/*.ts"]).toSorted();
/** Reports and look-ups that read whole tables on purpose, and statements of other kinds. */
const EXEMPT: Readonly<Record<string, string>> = {
  "ledger/broken-chain": "verifies every transfer",
  "ledger/wrong-accounts": "verifies every account",
  "drain/open": "no table",
  "drain/mint": "no table",
  "merchant/mint": "no table",
  "ops/shard-sizes": "PostgreSQL's own catalogue, when a person asks",
  "ops/oldest-unfinished": "reads all that is unfinished, once a scrape",
  "payment/open-since": "reads all that is unfinished, once an hour",
  "ops/attention": "reads all that is unfinished, when a person asks",
  "notify/turn": "no table",
};
const isExempt = ({ name, text }: Statement): boolean =>
  // Rows that are only added have no plan.
  /^\s*copy\b/.test(text) ||
  // Recon's are of a worker and of persons, over what is open; its joins of whole statements are not in this form at all.
  name in EXEMPT ||
  name.startsWith("recon/") ||
  name.startsWith("search/") ||
  name.startsWith("relay/") ||
  name.startsWith("journal/");

const DECLARED = /^(?:export )?const (\w+): (?:Readonly<)?[^=\n]*\bStatement\b[^=\n]* =/gm;

/** Hands out the statements of a module, also those it keeps to itself. */
registerHooks({
  load(url, context, nextLoad) {
    const loaded = nextLoad(url, context);
    if (!/\/(services|mixins)\/.*\.ts$/.test(url) || loaded.source === null || loaded.source === undefined) return loaded;
    const source = typeof loaded.source === "string" ? loaded.source : Buffer.from(loaded.source as Uint8Array).toString();
    const names = [...source.matchAll(DECLARED)]
      .map(([, name]) => name)
      .filter((name) => name !== undefined && !new RegExp(`const ${name}: [^=\\n]*=>`).test(source));
    return { ...loaded, source: `${source}\nexport const STATEMENTS_FOR_TESTS = [${names.join(", ")}];` };
  },
});

const isStatement = (value: unknown): value is Statement =>
  typeof value === "object" && value !== null && "name" in value && "text" in value;

async function statementsOf(file: string): Promise<Statement[]> {
  const loaded = (await import(`../${file}`)) as { STATEMENTS_FOR_TESTS?: readonly unknown[] };
  return (loaded.STATEMENTS_FOR_TESTS ?? [])
    .flatMap((value) => (isStatement(value) ? [value] : Object.values(value as object)))
    .filter(isStatement);
}

// -- what it is tested on --------------------------------------------------------------------------------------------------

/** Half of the rows belong to one deal, one bar, one account in transit: that is what a stampede looks like. */
const HOT = "case when i % 2 = 0 then 1 else i end";
/** A text that is different in every row, and hexadecimal: some statements decode theirs. Made once a row, for all columns; so is the time `t`. */
const KEY = "k";
const keyOf = (i: number): string => `ab${10_000_000 + i}`;
/** Columns whose type does not tell what is in them; `i` counts from 1 to a million. */
const COLUMNS: Readonly<Record<string, string>> = {
  "accounts.credits_posted": "1000",
  "accounts.overdrawn": "0",
  "deals.sale_ends_at": "null",
  "deals.words": "''::tsvector",
  "groups.size": "3",
  // One payment in a hundred is under way, and none of the first ten; a merchant is OPENING for one request.
  "merchants.state": "case when i % 100000 = 0 then 'OPENING' else 'OPEN' end",
  "payments.state": "case when i % 100 = 0 then 'TRYING' when i % 100 = 1 then 'CANCELLED' else 'CONFIRMED' end",
  "payments.channel": "'wallet'",
  "payments.surplus": "false",
  "refunds.channel": "'wallet'",
  "refunds.surplus": "false",
  "payouts.watched": "false",
  "channel_callbacks.channel": "'simpay'",
  "channel_callbacks.callback_id": KEY,
  "channel_callbacks.about": "'charge'",
  "channel_callbacks.news": "'{}'::json",
  "channel_callbacks.state": "case when i % 100 = 0 then 'KEPT' when i % 100000 = 1 then 'FAILED' else 'DONE' end",
  "refunds.state": "case when i % 100 = 0 then 'PROCESSING' else 'SUCCEEDED' end",
  "refunds.commission": "0",
  "settlements.gross": "1",
  "settlements.commission": "0",
  "settlements.state": "case when i % 100 = 0 then 'PROCESSING' else 'SUCCESS' end",
  "payouts.state": "case when i % 100 = 0 then 'PROCESSING' else 'SUCCEEDED' end",
  "orders.discount": "0",
  "orders.region": "'cn-sh'",
  "orders.region_version": "'1.0.0'",
  "refresh_tokens.token_hash": `decode(${KEY}, 'hex')`,
  "seats.group_id": "i / 3",
  "stock.deal_id": "i",
  "stock.total": "10",
  "transfers.credit_account": "case when i % 2 = 0 then 'ab10000001' else 'cc' || i end",
  "transfers.code": "'pay'",
  "transfers.pending_id": "case when i % 3 = 0 then i end",
  "tcc_barriers.xid": "i / 3",
  "tcc_barriers.branch": "'wallet'",
  "vouchers.code": "(1000000000000000 + i)::text",
  "notifications.user_id": HOT,
  "order_index.user_id": HOT,
  "quotas.scope": HOT,
  "quotas.cap": "null",
};

interface Column {
  readonly name: string;
  readonly type: string;
  /** The texts its CHECK allows. */
  readonly among: string[] | null;
}

function expressionOf(table: string, slot: number, { name, type, among }: Column): string {
  const known = COLUMNS[`${table}.${name}`];
  if (known !== undefined) return known;
  if (name === "slot") return String(slot);
  if (among) return `(array['${among.join("','")}'])[1 + i % ${among.length}]`;
  if (name === "merchant_id" || name === "deal_id") return HOT;
  // Twenty are due, whatever is due: a sweep finds something, and little.
  if (/^(expires_at|next_attempt_at|deadline|valid_until|due_at)$/.test(name))
    return `to_timestamp(${Math.floor(Date.now() / 1_000)} + (i - 20) * 60)`;
  // Money and counts are small, everything else of that type is an id.
  if (type === "bigint") return /(price|amount|_posted|_pending)$/.test(name) ? "1" : "i";
  const byType: Readonly<Record<string, string>> = {
    integer: "1",
    smallint: "0",
    text: KEY,
    boolean: "true",
    json: "'[]'",
    bytea: "'\\x00'::bytea",
    "text[]": "array['consumer']",
    "timestamp with time zone": "t",
  };
  return byType[type] ?? assert.fail(`say in COLUMNS what ${table}.${name} ${type} holds`);
}

interface Table {
  readonly name: string;
  readonly columns: readonly Column[];
}

const PARTITIONED = `
  select c.relname as name,
         (select json_agg(json_build_object('name', a.attname, 'type', format_type(a.atttypid, a.atttypmod),
                   'among', (select regexp_split_to_array(substring(pg_get_constraintdef(k.oid) from 'ARRAY\\[''(.*)''::text\\]'), '''::text, ''')
                               from pg_constraint k where k.conrelid = c.oid and k.contype = 'c' and k.conkey = array[a.attnum]
                                and pg_get_constraintdef(k.oid) like '%ARRAY[%')) order by a.attnum)
            from pg_attribute a where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and a.attgenerated = '') as columns
    from pg_class c where c.relkind = 'p' and c.relname not like 'recon%' order by c.relname`;

const partitionOf = (table: string, { slot }: Part): string => `${table}_0${slot}`;

const insertInto = (partition: string, { name: table, columns }: Table, slot: number, from: number, to: number): string =>
  `insert into ${partition} (${columns.map(({ name }) => name).join(", ")}) overriding system value
   select ${columns.map((column) => expressionOf(table, slot, column)).join(", ")}
     from (select i, 'ab' || (10000000 + i) as k, to_timestamp(1600000000 + i) as t
             from (select generate_series(${from}::bigint, ${to}) as i) numbers offset 0) n`;

/**
 * A new partition, filled before it has indexes and built as a whole: five times as fast as row by row. Unlogged: nobody needs it after a
 * crash. The autovacuum would ANALYZE it in the middle of a test.
 */
async function fillLarge(client: pg.Client, table: Table): Promise<void> {
  const partition = partitionOf(table.name, LARGE);
  await client.query(`
    drop table ${partition};
    create unlogged table ${partition} (like ${table.name} including defaults including constraints including generated) with (autovacuum_enabled = off);
    ${insertInto(partition, table, LARGE.slot, 1, 10)}; analyze ${partition};
    ${insertInto(partition, table, LARGE.slot, 11, LARGE.rows)};
    alter table ${table.name} attach partition ${partition} for values in (${LARGE.slot});`);
  // As that ANALYZE left it; building an index has counted anew.
  await client.query("update pg_class set reltuples = 10, relpages = 1 where oid = $1::regclass", [partition]);
}

async function fillYoung(client: pg.Client, table: Table): Promise<void> {
  const partition = partitionOf(table.name, YOUNG);
  await client.query(`alter table ${partition} set (autovacuum_enabled = off); ${insertInto(partition, table, YOUNG.slot, 1, YOUNG.rows)}`);
}

// -- values and plans ------------------------------------------------------------------------------------------------------

const of = <T>(value: T): T[] => Array<T>(KEYS).fill(value);

/** Parameters a type does not tell, by statement and number. */
const VALUES: Readonly<Record<string, Readonly<Record<number, unknown>>>> = {
  "group/change": { 6: of("OPEN"), 7: of("OPEN"), 3: of(0), 4: of(0), 5: of(0) },
  "group/move-seats": { 4: "HELD", 5: "RELEASED" },
  "ledger/book": { 3: of(0), 4: of(0), 5: of(0), 6: of(0) },
  "ledger/book-payables": { 3: of(0), 4: of(0), 5: of(0), 6: of(0), 10: of(0) },
  "order/move": { 3: "PENDING_PAYMENT", 4: "PAID" },
  "order/quotas-of": { 3: Array.from({ length: KEYS }, (_, key) => `{${key * 500 + 1},${key * 500 + 2}}`) },
  "payment/decide": { 4: of("CANCELLING") },
  "refund/move": { 3: "REQUESTED", 5: "PROCESSING" },
  "stock/change": { 4: of(0), 5: of(0), 6: of(0) },
  "tcc/enter": { 2: "wallet", 3: "cancel" },
  "tcc/leave": { 2: "wallet" },
  "payout/move": { 4: of("PROCESSING"), 5: of("SUCCEEDED") },
  "settlement/finish": { 5: of("SUCCESS") },
  "voucher/log-redemptions": { 3: "REDEEM" },
  "voucher/move": { 4: "ISSUED", 5: "REFUNDING" },
  "voucher/orders-of": { 2: Array.from({ length: KEYS }, (_, key) => String(1_000_000_000_000_001 + key * 500)) },
};

/** The hot one, any other, and a hot one of whom little is wanted. */
const VARIANTS = [
  { id: 1, later: 1, text: keyOf(1) },
  { id: 700_001, later: 700_001, text: keyOf(700_001) },
  { id: 1, later: 900_000, text: keyOf(1) },
];

function valueOf(type: string, index: number, { slot, rows }: Part, variant: (typeof VARIANTS)[number]): unknown {
  const keys = Array.from({ length: KEYS }, (_, key) => 1 + key * Math.floor(rows / KEYS));
  const one: Readonly<Record<string, unknown>> = {
    smallint: slot,
    integer: 10,
    "double precision": 10,
    bigint: index <= 1 ? variant.id : variant.later,
    text: variant.text,
    boolean: true,
    json: "[]",
    bytea: Buffer.alloc(32),
    "timestamp with time zone": new Date(),
    "smallint[]": index === 0 ? [slot] : keys.map(() => 0),
    "integer[]": keys.map(() => 1),
    "bigint[]": keys,
    "text[]": keys.map(keyOf),
    "boolean[]": keys.map(() => false),
    "json[]": keys.map(() => "{}"),
    "bytea[]": keys.map(() => Buffer.alloc(32)),
    "timestamp with time zone[]": keys.map(() => new Date()),
  };
  return type in one ? one[type] : assert.fail(`no value for ${type}`);
}

interface Node {
  readonly "Node Type": string;
  readonly "Relation Name"?: string;
  readonly "Index Name"?: string;
  readonly "Index Cond"?: string;
  readonly "Actual Rows"?: number;
  readonly "Actual Loops"?: number;
  readonly "Rows Removed by Filter"?: number;
  readonly "Rows Removed by Index Recheck"?: number;
  readonly "Shared Hit Blocks"?: number;
  readonly "Shared Read Blocks"?: number;
  readonly Plans?: readonly Node[];
}
const nodesOf = (node: Node): Node[] => [node, ...(node.Plans ?? []).flatMap(nodesOf)];

/** By more than the slot: an index that is entered with nothing else is read from end to end. */
const isLookUp = (node: Node): boolean =>
  node["Node Type"] === "Tid Scan" ||
  node["Node Type"] === "Bitmap Heap Scan" ||
  / (=|<|>|<=|>=) /.test((node["Index Cond"] ?? "").replaceAll(/\bslot = /g, ""));

/** What is wrong with a plan, and with what it did where it was run; empty where nothing is. */
function faultsOf(root: Node): string[] {
  const scans = nodesOf(root).filter(
    (node) => node["Node Type"].includes("Scan") && (node["Relation Name"] ?? node["Index Name"] ?? "").match(/_\d\d/),
  );
  // Where it was run, what it read tells; else how it would enter its indexes.
  const faults = scans
    .filter((node) => node["Node Type"] === "Seq Scan" || (node["Actual Loops"] === undefined && !isLookUp(node)))
    .map((node) => `${node["Node Type"]} of ${node["Relation Name"] ?? node["Index Name"]} by ${node["Index Cond"] ?? "nothing"}`);
  const rows = scans.reduce(
    (sum, node) =>
      sum +
      ((node["Actual Rows"] ?? 0) + (node["Rows Removed by Filter"] ?? 0) + (node["Rows Removed by Index Recheck"] ?? 0)) *
        (node["Actual Loops"] ?? 0),
    0,
  );
  const pages = (root["Shared Hit Blocks"] ?? 0) + (root["Shared Read Blocks"] ?? 0);
  if (rows > ROWS_MAX) faults.push(`${rows} rows looked at`);
  if (pages > PAGES_MAX) faults.push(`${pages} pages touched`);
  return faults;
}

class RollBack extends Error {}

describe("statements on tables of a million rows", () => {
  const name = `plans_${process.pid}`;
  let server: TestServer;
  let database: Database;
  let tables: readonly Table[];
  const statements: Statement[] = [];
  const types = new Map<string, string[]>();

  before(async () => {
    server = await testServer();
    await admin(server, (client) => client.query(`create database ${name}`));
    await migrate(server.urlOf(name), { kind: "city", id: 1, code: "sh" }, name);
    tables = await admin(
      server,
      async (client) => {
        // The user keyspace's tables beside the city's: the shared ones have to be filled only once.
        const sqlOf = (file: string): string => readFileSync(file, "utf8").replaceAll(/^--.*\n/gm, "");
        // What both kinds have alike is there already.
        const there = new Set(globSync("db/migrations/city/*.sql").map(sqlOf));
        for (const sql of globSync("db/migrations/user/*.sql").toSorted().map(sqlOf)) if (!there.has(sql)) await client.query(sql);
        return (await client.query<Table>(PARTITIONED)).rows;
      },
      name,
    );
    // One table after the other on each of two connections: one for each core.
    const waiting = tables.toSorted((a, b) => b.columns.length - a.columns.length);
    const worker = () =>
      admin(
        server,
        async (client) => {
          await client.query(
            "set synchronous_commit = off; set maintenance_work_mem = '128MB'; set max_parallel_maintenance_workers = 0; set jit = off",
          );
          for (let table = waiting.shift(); table; table = waiting.shift()) {
            await fillLarge(client, table);
            await fillYoung(client, table);
          }
        },
        name,
      );
    await Promise.all([worker(), worker()]);
    database = new Database({ name, city: 1, slots: [], url: server.urlOf(name), onError: () => undefined });
    for (const file of MODULES) statements.push(...(await statementsOf(file)).filter((statement) => !isExempt(statement)));
    await admin(
      server,
      async (client) => {
        for (const { name: key, text } of statements) {
          await client.query(`prepare one as ${inSlot({ name: key, text }, [LARGE.slot]).text}`);
          const { rows } = await client.query<{ types: string[] }>(
            "select array(select format_type(t, null) from unnest(parameter_types::oid[]) t) as types from pg_prepared_statements",
          );
          types.set(key, rows[0]!.types);
          await client.query("deallocate one");
        }
      },
      name,
    );
  });
  after(async () => {
    await database.close();
    await admin(server, (client) => client.query(`drop database ${name} with (force)`));
    await server.stop();
  });

  test("all of them are found", () => {
    const written = MODULES.flatMap((file) =>
      [...readFileSync(file, "utf8").matchAll(/\bname: "([a-z-]+\/[a-z-]+)"(?!,\s*text:\s*`\s*copy\b)/g)].map(([, found]) => found ?? ""),
    );
    const found = new Set(statements.map((statement) => statement.name));
    assert.deepEqual(
      written.filter((one) => !found.has(one) && !isExempt({ name: one, text: "" }) && !/^(gateway|ops|verify)\//.test(one)),
      [],
    );
    assert.equal(found.size, statements.length, "one statement, one name");
    assert.ok(found.size > 60);
  });

  /** The plan a statement gets, run where its made-up values let it run. */
  async function planOf(statement: Statement, values: readonly unknown[]): Promise<Node> {
    const explain = async (tx: Queryable, how: string): Promise<Node> => {
      const [row] = await tx.query<{ "QUERY PLAN": [{ Plan: Node }] }>(
        { name: "", text: `explain (${how}, format json) ${inSlot(statement, values).text}` },
        values,
      );
      return row!["QUERY PLAN"][0].Plan;
    };
    let plan: Node | undefined;
    try {
      await database.transaction(async (tx) => {
        plan = await explain(tx, "analyze, buffers, timing off");
        throw new RollBack();
      });
    } catch (error) {
      // A made-up row is refused by a key or a CHECK; how the statement would find its rows is to be seen all the same.
      if (!(error instanceof RollBack)) {
        const refused = /^(23|21000)/.test(sqlState(error) ?? "") && /insert into/.test(statement.text);
        if (!refused) throw new Error(`${String(error)}: say in VALUES what it is given`, { cause: error });
        plan = await explain(database, "costs off");
      }
    }
    return plan ?? assert.fail(statement.name);
  }

  async function check(part: Part): Promise<void> {
    const wrong: string[] = [];
    for (const statement of statements) {
      const known = VALUES[statement.name] ?? {};
      for (const variant of VARIANTS) {
        const limit = Number(/\blimit \$(\d+)/.exec(statement.text)?.[1]);
        const values = types
          .get(statement.name)!
          .map((type, index) =>
            index + 1 === limit ? LIMIT : index + 1 in known ? known[index + 1] : valueOf(type, index, part, variant),
          );
        const faults = await planOf(statement, values).then(faultsOf, (error: Error) => [error.message]);
        if (faults.length > 0) wrong.push(`${statement.name} (${variant.id}, ${variant.later}): ${faults.join("; ")}`);
      }
    }
    assert.deepEqual(wrong, []);
  }

  /** How the plan that is kept for all values to come enters its indexes. */
  async function keptLookUps(statement: Statement, part: Part): Promise<string[]> {
    const bare = (text: string): Statement => ({ name: "", text });
    const nulls = types.get(statement.name)!.map(() => "null");
    return database.transaction(async (tx) => {
      await tx.query(bare("set local plan_cache_mode = force_generic_plan"));
      await tx.query(bare(`prepare kept as ${inSlot(statement, [part.slot]).text}`));
      const [row] = await tx.query<{ "QUERY PLAN": [{ Plan: Node }] }>(bare(`explain (format json) execute kept(${nulls.join(", ")})`));
      await tx.query(bare("deallocate kept"));
      // With a bitmap or without one, by the same index.
      return nodesOf(row!["QUERY PLAN"][0].Plan)
        .flatMap((node) =>
          node["Index Cond"] !== undefined
            ? [node["Index Cond"].replaceAll(/_\d\d\b/g, "")]
            : node["Node Type"] === "Seq Scan"
              ? ["nothing"]
              : [],
        )
        .toSorted();
    });
  }

  test("look up what they need, though PostgreSQL believes the table small", () => check(LARGE));
  test("look up what they need, though PostgreSQL has not looked at the table yet", () => check(YOUNG));
  test("look up what they need when PostgreSQL knows the table", async () => {
    const analyze = (some: readonly Table[]) =>
      // A third of the usual sample: the same plans, seconds earlier.
      admin(
        server,
        (client) =>
          client.query(`set default_statistics_target = 30; analyze ${some.map((table) => partitionOf(table.name, LARGE)).join(", ")}`),
        name,
      );
    await Promise.all([analyze(tables.filter((_, index) => index % 2 === 0)), analyze(tables.filter((_, index) => index % 2 === 1))]);
    await check(LARGE);
  });

  test("keep a plan that was made while the table was empty only where it is the plan for a million rows", async () => {
    const direct = statements.filter(({ text }) => text.includes("_$1"));
    assert.ok(direct.length > 60);
    const differing: unknown[] = [];
    for (const statement of direct) {
      const [empty, large] = [await keptLookUps(statement, EMPTY), await keptLookUps(statement, LARGE)];
      if (empty.join() !== large.join()) differing.push({ name: statement.name, empty, large });
    }
    assert.deepEqual(differing, []);
  });
});
