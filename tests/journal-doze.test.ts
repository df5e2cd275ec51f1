import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import pg from "pg";
import type { Database } from "../db/database.ts";
import { LoneConnection } from "../db/lone-connection.ts";
import { ReplicationStream } from "../db/replication.ts";
import type { RelayState } from "../mixins/journal-relay.ts";
import {
  advanceReplicationSlot,
  createReplicationSlot,
  type Cut,
  dropReplicationSlot,
  lastEventId,
  lookAtReplicationSlot,
  renewReplicationSlot,
  takeCut,
} from "../mixins/journal-store.ts";
import { testKeyspaces, testServer, type TestKeyspaces, type TestServer } from "./support/databases.ts";
import {
  append,
  effectConsumer,
  effectsOf,
  makeEffects,
  openDatabase,
  type RunningJournal,
  startJournal,
  stopJournals,
  until,
} from "./support/journal.ts";

/** An event of a dozing relay's database is told within a poll, a connection, and what of the log is to be read: some 0.3 s on an idle machine. */
const SOON_MS = 3_000;

describe("a relay whose database is quiet", () => {
  let server: TestServer;
  let keyspaces: TestKeyspaces;
  let user: Database;
  let sh: Database;
  let other: Database;
  let told = 0;

  const tell = async (slot: number, count: number): Promise<void> => {
    await append(sh, slot, count);
    told += count;
  };
  const stateOf = ({ journal }: RunningJournal): RelayState | undefined => journal.relays[0]?.state;
  const dozes = (running: RunningJournal) => until("it dozes", () => stateOf(running) === "dozing");
  const isTold = (name: string, patienceMs?: number) =>
    until("everything is told", async () => (await effectsOf(user, name)).events >= told, patienceMs);
  const slot = async (): Promise<{ name: string; active: boolean; passed: (position: string) => Promise<boolean> }> => {
    const [row] = await sh.query<{ name: string; active: boolean; at: string }>({
      name: "test/slot",
      text: `select slot_name as name, active from pg_replication_slots where database = current_database() and slot_name like 'tuanbar_events_%'`,
    });
    assert.ok(row);
    const passed = async (position: string): Promise<boolean> => {
      const rows = await sh.query(
        { name: "test/passed", text: "select from pg_replication_slots where slot_name = $1 and confirmed_flush_lsn >= $2::pg_lsn" },
        [row.name, position],
      );
      return rows.length > 0;
    };
    return { ...row, passed };
  };
  /** Another database of the server writes more than is left for who wakes to read; where the log ends then. */
  const busy = async (): Promise<string> => {
    const text = "select pg_logical_emit_message(false, 'test', repeat('x', 40 * 1024 * 1024))::text as end";
    const [row] = await other.query<{ end: string }>({ name: "test/busy", text });
    return row?.end ?? "";
  };
  /** Somebody who appends and takes his time, longer than any drain may. */
  const writer = async (): Promise<pg.Client> => {
    const client = new pg.Client({ connectionString: sh.url });
    await client.connect();
    return client;
  };
  const insert = (client: pg.Client, inSlot: number, quantity: number): Promise<string> =>
    client
      .query<{ id: string }>("insert into events (slot, type, subject, data) values ($1, 'order.created', 1000, $2) returning id", [
        inSlot,
        JSON.stringify({ quantity }),
      ])
      .then(({ rows }) => rows[0]?.id ?? "");

  before(async () => {
    server = await testServer();
    keyspaces = await testKeyspaces(server);
    const [userName = "", shName = "", otherName = ""] = keyspaces.keyspaces.databases().map(({ name }) => name);
    user = openDatabase(userName, 0, keyspaces.urlOf(userName));
    sh = openDatabase(shName, 1, keyspaces.urlOf(shName));
    other = openDatabase(otherName, 3, keyspaces.urlOf(otherName));
    await makeEffects(user);
  });
  after(async () => {
    await stopJournals();
    for (const database of [user, sh, other]) await database.close();
    await keyspaces.drop();
    await server.stop();
  });

  test("lets go of its slot, which follows the log of others, and tells what happens then", async (t) => {
    let beats = 0;
    const running = startJournal([sh], [{ ...effectConsumer("quiet", user), beat: () => Promise.resolve(void beats++) }]);
    t.after(() => running.stop());
    await tell(1, 10);
    await isTold("quiet");
    await dozes(running);
    await until("nobody reads the slot", async () => !(await slot()).active);
    const beatsBefore = beats;
    const { passed } = await slot();
    const position = await busy();
    await until("the slot has followed", () => passed(position));
    await until("who wants beats is given them", () => beats > beatsBefore);
    assert.equal(stateOf(running), "dozing");
    const startedMs = performance.now();
    await tell(1, 10);
    await isTold("quiet", SOON_MS);
    t.diagnostic(`told ${Math.round(performance.now() - startedMs)} ms after it happened`);
    assert.equal(stateOf(running), "reading");
    assert.deepEqual(await effectsOf(user, "quiet"), { events: told, distinct: told });
    assert.deepEqual(running.log, []);
  });

  test("has its slot follow also while somebody's transaction lasts, in whatever database of the server", async (t) => {
    const running = startJournal([sh], [effectConsumer("patient", user)]);
    const client = new pg.Client({ connectionString: other.url });
    await client.connect();
    t.after(() => Promise.all([running.stop(), client.end()]));
    await isTold("patient");
    await dozes(running);
    const { passed } = await slot();
    await client.query("begin");
    await client.query("select pg_current_xact_id()");
    const position = await busy();
    await until("the slot has followed", () => passed(position));
    assert.equal(stateOf(running), "dozing");
    await tell(1, 5);
    await isTold("patient", SOON_MS);
    await client.query("commit");
    assert.deepEqual(await effectsOf(user, "patient"), { events: told, distinct: told });
    assert.deepEqual(running.log, []);
  });

  test("does not doze while somebody has appended and not committed, and tells that", async (t) => {
    const running = startJournal([sh], [effectConsumer("open", user)]);
    const client = await writer();
    t.after(() => Promise.all([running.stop(), client.end()]));
    await isTold("open");
    await client.query("begin");
    await insert(client, 2, 1);
    await sleep(9_000);
    assert.equal(stateOf(running), "reading");
    await client.query("commit");
    told += 1;
    await isTold("open", SOON_MS);
    // The same when it dozes already: the id wakes it, and nothing lets it doze again before the end.
    await dozes(running);
    await client.query("begin");
    await insert(client, 2, 2);
    await until("it reads", () => stateOf(running) === "reading");
    await sleep(9_000);
    assert.equal(stateOf(running), "reading");
    await client.query("commit");
    told += 1;
    await isTold("open", SOON_MS);
  });

  test("is woken by an append that is rolled back, and dozes again", async (t) => {
    const running = startJournal([sh], [effectConsumer("rolled back", user)]);
    const client = await writer();
    t.after(() => Promise.all([running.stop(), client.end()]));
    await dozes(running);
    await client.query("begin");
    await insert(client, 3, 1);
    await client.query("rollback");
    await until("it reads", () => stateOf(running) === "reading");
    await dozes(running);
    await tell(3, 1);
    await isTold("rolled back", SOON_MS);
    assert.deepEqual(await effectsOf(user, "rolled back"), { events: told, distinct: told });
  });

  test("does not doze while an event consumer reads the table", async (t) => {
    await tell(4, 2_500);
    const running = startJournal([sh], [effectConsumer("slow", user, () => sleep(400))]);
    t.after(() => running.stop());
    await until("it reads", () => stateOf(running) === "reading");
    await until("everything is told", async () => {
      const { events } = await effectsOf(user, "slow");
      assert.ok(events === told || stateOf(running) === "reading");
      return events >= told;
    });
    await dozes(running);
  });

  test("leaves others standing by, ends at once when it is stopped, and another takes over", async (t) => {
    const [one, two] = [startJournal([sh], [effectConsumer("pair", user)]), startJournal([sh], [effectConsumer("pair", user)])];
    t.after(() => Promise.all([one.stop(), two.stop()]));
    await until("one stands by", () => [one, two].some((running) => stateOf(running) === "standing by"));
    const [first, second] = stateOf(two) === "standing by" ? [one, two] : [two, one];
    await dozes(first);
    for (let look = 0; look < 60; look++) {
      assert.equal(stateOf(second), "standing by");
      await sleep(50);
    }
    await tell(5, 5);
    await isTold("pair", SOON_MS);
    assert.equal(stateOf(first), "reading");
    await dozes(first);
    const startedMs = performance.now();
    await first.stop();
    assert.ok(performance.now() - startedMs < 500, "it stops at once");
    await until("the other reads", () => stateOf(second) === "reading");
    await tell(5, 5);
    await isTold("pair", SOON_MS);
    assert.deepEqual(await effectsOf(user, "pair"), { events: told, distinct: told });
  });

  test("makes the slot anew that was dropped meanwhile, and stands by where somebody else has taken it", async (t) => {
    const running = startJournal([sh], [effectConsumer("dropped", user)]);
    t.after(() => running.stop());
    await isTold("dropped");
    await dozes(running);
    const { name } = await slot();
    await dropReplicationSlot(sh, name);
    await until("it is noticed", () => stateOf(running) !== "dozing");
    await tell(6, 5);
    await isTold("dropped");
    await dozes(running);
    // As a relay of before there were dozes would: it does not know of the lock.
    const stream = await ReplicationStream.open(sh.url, name, "events", {
      wants: () => true,
      row: () => undefined,
      commit: () => undefined,
      idle: () => undefined,
    });
    await until("it stands by", () => stateOf(running) === "standing by");
    const session = await LoneConnection.open(sh, "tuanbar-test");
    t.after(() => session.close());
    // What it has heard: that somebody reads it, not that something of its own is gone.
    await assert.rejects(renewReplicationSlot(session, name, (await lastEventId(sh)) ?? ""), { code: "55006" });
    await tell(6, 5);
    await stream.close();
    await isTold("dropped");
    assert.deepEqual(await effectsOf(user, "dropped"), { events: told, distinct: told });
  });

  test("has nothing to read behind a cut: of 600 transactions at random, under way at any cut, none is lost or out of order, nor where a renewal is killed", async (t) => {
    const [name, WRITERS, TRANSACTIONS] = ["test_cuts", 3, 200];
    const connection = await LoneConnection.open(sh, "tuanbar-test");
    await createReplicationSlot(sh, name);
    t.after(async () => {
      await connection.close();
      await dropReplicationSlot(sh, name);
    });
    const committed: string[][] = [];
    const read: string[][] = [];
    const before = await lastEventId(sh);
    let [cuts, advances, renewals, kills, gaps] = [0, 0, 0, 0, 0];
    let following = true;
    /** Until nothing was given between two cuts: on a slow machine reading takes so long that it would not come about by itself. */
    const quiet = async (): Promise<void> => {
      const soFar = advances + renewals;
      while (following && advances + renewals === soFar) await sleep(1);
    };
    const write = async (at: number): Promise<void> => {
      const client = await writer();
      const mine = (committed[at] ??= []);
      for (let round = 0; round < TRANSACTIONS; round++) {
        await client.query("begin");
        if (round % 3 === 0) await quiet();
        const ids: string[] = [];
        for (let count = Math.random() * 3; count > 0; count--) ids.push(await insert(client, at, round));
        await sleep(Math.random() * 20);
        const isCommitted = Math.random() < 0.8;
        await client.query(isCommitted ? "commit" : "rollback");
        if (isCommitted) mine.push(...ids);
        await sleep(Math.random() * 60);
      }
      await client.end();
    };
    const readUpTo = async (position: bigint): Promise<void> => {
      let arrived = (_end: bigint): void => undefined;
      const there = new Promise<void>((resolve) => (arrived = (end) => (end >= position ? resolve() : undefined)));
      const stream = await ReplicationStream.open(sh.url, name, "events", {
        wants: () => true,
        row: (row) => void (read[row.slot] ??= []).push(row.id),
        commit: arrived,
        idle: arrived,
      });
      stream.resume();
      await there;
      stream.confirm(position);
      await stream.close();
    };
    /** Leaves the old slot, or the new one; or none, and then a relay makes one and reads the table. */
    const killRenewal = async ({ lastId }: Cut): Promise<void> => {
      const session = await LoneConnection.open(sh, "tuanbar-test-killed");
      const renewing = renewReplicationSlot(session, name, lastId).catch(() => undefined);
      await sleep(Math.random() * 15);
      const text = "select pg_terminate_backend(pid, 5000) from pg_stat_activity where application_name = 'tuanbar-test-killed'";
      await sh.query({ name: "test/kill", text });
      await renewing;
      await session.close();
      kills++;
      if ((await lookAtReplicationSlot(sh, name)) !== "missing") return;
      gaps++;
      await createReplicationSlot(sh, name);
      const rows = await sh.query<{ slot: number; id: string }>(
        { name: "test/table", text: "select slot, id from events where slot < $1 and id > $2 order by id" },
        [WRITERS, before],
      );
      for (const at of committed.keys()) read[at] = rows.flatMap((row) => (row.slot === at ? [row.id] : []));
    };
    // What a relay does, without its pauses: reads up to a cut; as long as no id is given, only makes the slot anew, or moves it to the next cut.
    let last: Cut | undefined;
    const follow = async (): Promise<void> => {
      if (last && Math.random() < 0.1) return killRenewal(last);
      if (last && Math.random() < 0.5) {
        if (await renewReplicationSlot(connection, name, last.lastId)) renewals++;
        return;
      }
      const cut = await takeCut(connection);
      if (!cut) return;
      cuts++;
      if (cut.lastId === last?.lastId) {
        await advanceReplicationSlot(connection, name, cut.position);
        advances++;
      } else await readUpTo(cut.position);
      last = cut;
    };
    let writing = true;
    const written = Promise.all(Array.from({ length: WRITERS }, (_, at) => write(at))).finally(() => (writing = false));
    try {
      while (writing) {
        await follow();
        await sleep(Math.random() * 5);
      }
    } finally {
      following = false;
      await written;
    }
    const end = await takeCut(connection);
    assert.ok(end);
    await readUpTo(end.position);
    t.diagnostic(
      `${cuts} cuts, ${advances} of them without a new id; ${renewals} renewals, ${kills} killed, ${gaps} of them in the gap; ${committed.flat().length} events`,
    );
    assert.ok(advances + renewals > 50 && advances > 15 && renewals > 15 && kills > 5);
    // What comes behind the position that was read up to may come again.
    assert.deepEqual(
      read.map((ids) => [...new Set(ids)]),
      committed,
    );
  });
});
