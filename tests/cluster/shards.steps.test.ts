/** Moving slots from one database to another: killed in each of its steps, taken back, refused, and what a node with an old routing table can do. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { randomUUID } from "node:crypto";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import { Database } from "../../db/database.ts";
import { migrate } from "../../db/migrate.ts";
import { beginCopy, connectForMove, endCopy, moveName } from "../../db/move-copy.ts";
import { fenceSlots, makeMovingSchema } from "../../db/move-fence.ts";
import { newestKeyspaces } from "../../db/routing.ts";
import { SLOT_COUNT } from "../../domain/ids.ts";
import { makeNode, type Node } from "../../moleculer.config.ts";
import { STEPS } from "../../services/ops/move-steps.ts";
import { abortMove, lastMove, listMoves, listShards, moveSlots, verify } from "../../services/ops/ops.contract.ts";
import { admin as withClient, testKeyspaces, testServer, type TestKeyspaces, type TestServer } from "../support/databases.ts";
import { append, makeEffects, effectConsumer, effectsOf } from "../support/journal.ts";
import { call, type Contract, type Fields, type Infer } from "../../mixins/contract.ts";
import { journalOf } from "../../mixins/journal.ts";
import { nodesOffering } from "../../mixins/nodes.ts";
import { ADMIN } from "../support/market.ts";
import { TestNats } from "../support/nats.ts";
import { callAs } from "../support/node.ts";
import { refused } from "../support/shop.ts";
import { until } from "../support/until.ts";
import { everythingIn, World } from "../support/world.ts";

const HZ = 3;
const SLOT = 9;

describe("moving slots", () => {
  const folder = mkdtempSync(join(tmpdir(), "tuanbar-shards-"));
  let server: TestServer;
  let keyspaces: TestKeyspaces;
  let configured = "";
  const made: string[] = [];
  before(async () => {
    server = await testServer();
    keyspaces = await testKeyspaces(server);
    configured = join(folder, "configured.yaml");
    writeFileSync(configured, keyspaces.keyspaces.yaml);
    const world = new World(keyspaces);
    for (let slot = 8; slot < SLOT_COUNT; slot++) everythingIn(world, { city: HZ, slot });
    await world.write();
  });
  after(async () => {
    for (const name of made) await withClient(server, (client) => client.query(`drop database if exists ${name} with (force)`));
    await keyspaces.drop();
    await server.stop();
    rmSync(folder, { recursive: true, force: true });
  });

  const urlOf = (database: string): string => (URL.canParse(database) ? database : server.urlOf(database));
  const inForce = () => newestKeyspaces(keyspaces.keyspaces, urlOf);
  const placeOf = async (slot: number): Promise<string> => (await inForce()).byCode("hz")?.databases[slot] ?? "";
  const newDatabase = (): string => {
    const name = `hz_${randomUUID().slice(0, 8)}`;
    made.push(name);
    return name;
  };

  const child = (told: { action?: "move" | "abort"; slots?: string; to: string; dieAt?: string; dieAfterMs?: number }) =>
    new Promise<{ signal: string | null; output: string }>((resolve) => {
      const { action = "move", slots = String(SLOT), to, ...die } = told;
      const document = { configured, template: server.urlOf("DATABASE"), action, wish: { city: "hz", slots, to }, ...die };
      const process_ = spawn(process.execPath, ["tests/support/mover-child.ts", JSON.stringify(document)], {
        cwd: new URL("../..", import.meta.url),
      });
      let output = "";
      for (const stream of [process_.stdout, process_.stderr])
        stream.on("data", (chunk: Buffer) => void (output += chunk.toString("utf8")));
      process_.once("exit", (_code, signal) => resolve({ signal, output }));
    });

  const rowsOf = (database: string, slot: number): Promise<number> =>
    withClient(
      server,
      async (client) => {
        const tables = ["merchants", "deals", "orders", "payments", "transfers", "events", "accounts", "vouchers"];
        const text = tables.map((table) => `select count(*) as n from ${table} where slot = ${slot}`).join(" union all ");
        return Number((await client.query<{ n: string }>(`select sum(n) as n from (${text}) c`)).rows[0]?.n);
      },
      database,
    );

  /** True where PostgreSQL lets a write of the slot in. */
  const takesWrites = (database: string, slot: number): Promise<boolean> =>
    withClient(
      server,
      async (client) => {
        await client.query("begin");
        try {
          await client.query("insert into quotas (slot, scope, user_id, used) values ($1, 1, 1, 0)", [slot]);
          return true;
        } catch (error) {
          // Killed before it was migrated, it has no tables yet.
          assert.match((error as { code?: string }).code ?? "", /^(TBMOV|42P01)$/);
          return false;
        } finally {
          await client.query("rollback");
        }
      },
      database,
    );

  const leftovers = (database: string): Promise<number> =>
    withClient(
      server,
      async (client) => {
        const { rows } = await client.query<{ n: string }>(
          `select (select count(*) from pg_subscription where subname like 'tuanbar_move%' and subdbid = (select oid from pg_database where datname = current_database()))
              + (select count(*) from pg_publication where pubname like 'tuanbar_move%')
              + (select count(*) from pg_replication_slots where database = current_database() and slot_name not like 'tuanbar_events%') as n`,
        );
        return Number(rows[0]?.n);
      },
      database,
    );

  it("killed at every step in turn, at its beginning or within it, it is repeated and ends right", { timeout: 240_000 }, async () => {
    const [from, to] = [await placeOf(SLOT), newDatabase()];
    const rows = await rowsOf(from, SLOT);
    assert.ok(rows > 20, `there is something to move: ${rows} rows`);
    for (const [index, { name }] of STEPS.entries()) {
      const killed = await child({ to, dieAt: name, ...(index % 2 === 0 ? {} : { dieAfterMs: 3 }) });
      assert.equal(killed.signal, "SIGKILL", `${name}: ${killed.output}`);
      const writable = [await takesWrites(from, SLOT), await takesWrites(to, SLOT)].filter(Boolean);
      assert.ok(writable.length <= 1, `killed at ${name}: at most one of the two takes writes`);
    }
    const ended = await child({ to });
    assert.match(ended.output, /"state":"done"/, ended.output);
    assert.equal(await placeOf(SLOT), to);
    assert.deepEqual([await takesWrites(from, SLOT), await takesWrites(to, SLOT)], [false, true]);
    assert.deepEqual([await rowsOf(from, SLOT), await rowsOf(to, SLOT)], [0, rows]);
    assert.deepEqual([await leftovers(from), await leftovers(to)], [0, 0]);
    assert.match((await child({ to })).output, /"state":"done".*there already/, "once more does nothing");
  });

  it("is taken back before its decision, and not behind it", { timeout: 240_000 }, async () => {
    const from = await placeOf(SLOT);
    const rows = await rowsOf(from, SLOT);
    const to = newDatabase();
    assert.equal((await child({ to, dieAt: "compare", dieAfterMs: 1 })).signal, "SIGKILL");
    assert.match((await child({ to, action: "abort" })).output, /"state":"done"/);
    assert.equal(await placeOf(SLOT), from);
    assert.deepEqual([await takesWrites(from, SLOT), await takesWrites(to, SLOT)], [true, false]);
    assert.deepEqual([await rowsOf(from, SLOT), await rowsOf(to, SLOT)], [rows, 0]);
    assert.deepEqual([await leftovers(from), await leftovers(to)], [0, 0]);
    assert.equal((await child({ to, dieAt: "route" })).signal, "SIGKILL");
    assert.match((await child({ to, action: "abort" })).output, /the move is decided/);
    assert.match((await child({ to })).output, /"state":"done"/);
    assert.equal(await rowsOf(to, SLOT), rows);
  });

  // A worker that begins with a partition waits for every transaction that writes on its server, and does not notice that nobody waits for it.
  it("is taken back while PostgreSQL waits for somebody else's transaction", { timeout: 60_000 }, async (t) => {
    const slot = 12;
    const [from, to] = [await placeOf(slot), newDatabase()];
    const hz = keyspaces.keyspaces.byCode("hz");
    assert.ok(hz);
    await withClient(server, (client) => client.query(`create database ${to}`));
    await migrate(server.urlOf(to), hz, to);
    const [source, target, writer] = [
      await connectForMove(server.urlOf(from)),
      await connectForMove(server.urlOf(to)),
      await connectForMove(server.urlOf("postgres")),
    ];
    const ends = { source, sourceUrl: server.urlOf(from), target, city: HZ, slots: [slot], name: moveName(HZ, [slot], from, to) };
    const query = source.query.bind(source) as (text: string, values?: unknown[]) => Promise<unknown>;
    t.mock.method(source, "query", async (text: string, values?: unknown[]) => {
      const result = await query(text, values);
      if (text.includes("pg_create_logical_replication_slot")) await writer.query("begin; select pg_current_xact_id()");
      return result;
    });
    const waits = "select from pg_stat_activity where backend_type = 'walsender' and wait_event = 'transactionid'";
    try {
      await makeMovingSchema(target);
      await fenceSlots(target, [slot], "receiving", from);
      await beginCopy(ends);
      await until(async () => (await target.query(waits)).rows.length > 0);
      await endCopy(ends);
      assert.deepEqual([await leftovers(from), await leftovers(to)], [0, 0]);
    } finally {
      await Promise.all([writer.end(), source.end(), target.end()]);
    }
  });

  describe("of a running node", () => {
    /** A node as it starts. */
    const start = async (name: string, more: Pick<Parameters<typeof makeNode>[0], "nats"> = {}): Promise<Node> =>
      makeNode({
        ...more,
        nodeID: `${name}-${randomUUID().slice(0, 8)}`,
        keyspaces: await inForce(),
        urlOf,
        services: ["ops"],
        trade: { orderTtlSeconds: 900, reversalMinutes: 60, settlementDelayMinutes: 60 },
        logLevel: process.env["LOG_LEVEL"] ?? "fatal",
      });
    const newestMove = async (node: Node) => (await callAs(node, listMoves, {}, ADMIN)).items[0];
    const moved = async (node: Node, slots: string, to: string) => {
      await callAs(node, moveSlots, { city: "hz", slots, to }, ADMIN);
      await until(async () => (await newestMove(node))?.state !== "running", 60_000);
      const ended = await newestMove(node);
      assert.equal(ended?.state, "done", ended?.detail);
    };

    it(
      "routes anew without a restart, carries events over, and refuses a node that believes in the old table",
      { timeout: 240_000 },
      async (t) => {
        const slot = 14;
        const from = await placeOf(slot);
        const to = newDatabase();
        const effects = new Database({
          name: "effects",
          city: 0,
          slots: [0],
          url: server.urlOf(keyspaces.keyspaces.byCode("user")?.databases[0] ?? ""),
          onError: () => undefined,
        });
        await makeEffects(effects);
        const node = await start("fresh");
        const stale = new Database({ name: "stale", city: HZ, slots: [slot], url: server.urlOf(from), onError: () => undefined });
        const journal = journalOf(node.broker);
        let slow = true;
        let over = false;
        journal.subscribe(effectConsumer("moving", effects, () => (slow ? new Promise((resolve) => setTimeout(resolve, 100)) : undefined)));
        journal.start(() => node.platform.databases.values(), node.platform.metrics, node.broker.getLogger("journal"));
        try {
          const before = await eventsOf(from, slot);
          let appended = 0;
          const writing = (async () => {
            while (!over) {
              try {
                await append(node.platform.databaseOf({ city: HZ, slot }), slot, 3);
                appended += 3;
              } catch (error) {
                assert.ok(refused("SHARD_MOVING")(error), String(error));
              }
              await new Promise((resolve) => setTimeout(resolve, 5));
            }
          })();
          const checking = verifiedWhile(node, () => over);
          await moved(node, String(slot), to);
          over = true;
          await writing;
          await checking;
          slow = false;
          assert.equal(node.platform.databaseOf({ city: HZ, slot }).name, to);
          assert.equal(await eventsOf(to, slot), before + appended);
          await until(async () => (await effectsOf(effects, "moving")).distinct >= appended, 30_000);
          const done = await effectsOf(effects, "moving");
          assert.equal(done.events, done.distinct, "each event has its effect once");
          t.diagnostic(`${appended} events meanwhile, ${(await newestMove(node))?.heldMs} ms held`);

          // The node that was away: it reads nothing and writes nothing there.
          await assert.rejects(append(stale, slot, 1), refused("SHARD_MOVING"));
          const map = (await callAs(node, listShards, { sizes: true }, ADMIN)).items.find(
            (shard) => shard.city === "hz" && shard.slot === slot,
          );
          assert.equal(map?.database, to);
          assert.ok((map?.bytes ?? 0) > 0 && map?.moving === false);
        } finally {
          over = true;
          await journal.stop();
          await node.stop();
          await stale.close();
          await effects.close();
        }
      },
    );

    it("is taken back by whichever node is asked, and goes on when another move is", { timeout: 240_000 }, async () => {
      const slot = 13;
      const [from, to] = [await placeOf(slot), newDatabase()];
      const nats = await TestNats.start();
      const nodes: Node[] = [];
      try {
        for (const name of ["moves", "asked"]) nodes.push(await start(name, { nats: { servers: [new URL(nats.url).host] } }));
        const [moves, asked] = nodes as [Node, Node];
        const at = <N extends string, P extends Fields, A>(contract: Contract<N, P, A>, { broker }: Node, params: Infer<P>) =>
          call(moves.broker, contract, params, { nodeID: broker.nodeID, meta: { caller: ADMIN } });
        await until(async () => (await nodesOffering(moves.broker, moveSlots.name)).length === 2);
        const wish = { city: "hz", slots: String(slot), to };
        await at(moveSlots, moves, wish);
        await until(async () => (await at(lastMove, moves, {}))[0]?.step === "copy");
        for (const other of [
          { ...wish, to: newDatabase() },
          { ...wish, slots: "12" },
        ])
          await assert.rejects(at(abortMove, asked, other), refused("MOVE_IN_PROGRESS"));
        assert.equal((await at(lastMove, moves, {}))[0]?.state, "running");
        await at(abortMove, asked, wish);
        await until(async () => (await at(lastMove, asked, {}))[0]?.state === "done", 60_000);
        const [ended] = await at(lastMove, moves, {});
        assert.deepEqual([ended?.state, ended?.detail], ["failed", "it is taken back"]);
        assert.equal(await placeOf(slot), from);
        assert.deepEqual([await takesWrites(from, slot), await takesWrites(to, slot)], [true, false]);
        assert.deepEqual([await leftovers(from), await leftovers(to)], [0, 0]);
      } finally {
        for (const node of nodes) await node.stop();
        await nats.stop();
      }
    });

    it("holds the commands of a slot that was left fenced, until the move is taken back", { timeout: 120_000 }, async () => {
      const slot = 15;
      const shard = { city: HZ, slot };
      const to = newDatabase();
      assert.equal((await child({ to, slots: String(slot), dieAt: "compare" })).signal, "SIGKILL");
      const node = await start("restarted");
      try {
        assert.deepEqual(node.platform.held(), [shard]);
        assert.deepEqual(node.platform.openSlots(node.platform.databaseOf(shard)).includes(slot), false);
        await assert.rejects(node.platform.post(shard, "nothing", {}), refused("SHARD_MOVING"));
        await callAs(node, abortMove, { city: "hz", slots: String(slot), to }, ADMIN);
        await until(async () => node.platform.held().length === 0);
        await until(async () => (await newestMove(node))?.state === "done");
        assert.equal(node.platform.databaseOf(shard).name, await placeOf(slot));
      } finally {
        await node.stop();
      }
    });
  });

  const eventsOf = (database: string, slot: number): Promise<number> =>
    withClient(
      server,
      async (client) => Number((await client.query<{ n: string }>("select count(*) as n from events where slot = $1", [slot])).rows[0]?.n),
      database,
    );

  /** Whatever is copied, and not cleared away yet, no check counts a slot twice. */
  async function verifiedWhile(node: Node, isOver: () => boolean): Promise<void> {
    do {
      const { checks } = await callAs(node, verify, {}, ADMIN);
      // The events of this test are of no order, the index of orders is fed by a consumer that does not run here, and nobody finishes payments.
      const ofOthers = ["events.order-index", "orders.created-event", "payments.finished", "ledger.promises"];
      const failing = checks.filter(({ ok, name }) => !ok && !ofOthers.includes(name));
      assert.deepEqual(failing, []);
    } while (!isOver());
  }
});
