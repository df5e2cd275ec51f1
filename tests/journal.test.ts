import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once as happened } from "node:events";
import { after, before, describe, test } from "node:test";
import { fileURLToPath } from "node:url";
import type { Database } from "../db/database.ts";
import type { EventConsumer } from "../mixins/journal.ts";
import { testKeyspaces, testServer, type TestKeyspaces, type TestServer } from "./support/databases.ts";
import { append, effectConsumer, effectsOf, makeEffects, openDatabase, startJournal, stopJournals, until } from "./support/journal.ts";

describe("the journal", () => {
  let server: TestServer;
  let keyspaces: TestKeyspaces;
  let user: Database;
  let sh: Database;
  let hz: Database;
  const opened: Database[] = [];
  /** Events in `sh` so far: every new consumer hears of all of them. */
  let told = 0;

  const open = (name: string, city: number): Database => {
    const database = openDatabase(name, city, keyspaces.urlOf(name));
    opened.push(database);
    return database;
  };
  const tell = async (slot: number, count: number, from?: number): Promise<void> => {
    await append(sh, slot, count, from);
    told += count;
  };
  const endRelayConnection = (database: Database) =>
    database.query({
      name: "test/terminate",
      text: `select pg_terminate_backend(active_pid) from pg_replication_slots where database = current_database() and active_pid is not null`,
    });

  /** Whoever comes next hears of nothing again: what was told from the table may be in the log, too, and a relay that is stopped before it has read it leaves it. */
  const confirmed = async (): Promise<void> => {
    const [now] = await sh.query<{ log: string }>({ name: "test/log", text: "select pg_current_wal_insert_lsn()::text as log" });
    const text = "select bool_and(confirmed_flush_lsn >= $1::pg_lsn) as yes from pg_replication_slots where database = current_database()";
    await until("the log is confirmed", async () => {
      const [slot] = await sh.query<{ yes: boolean }>({ name: "test/confirmed", text }, [now?.log]);
      return slot?.yes === true;
    });
  };

  before(async () => {
    server = await testServer();
    keyspaces = await testKeyspaces(server);
    const [userName = "", shName = "", hzName = ""] = keyspaces.keyspaces.databases().map(({ name }) => name);
    user = open(userName, 0);
    sh = open(shName, 1);
    hz = open(hzName, 3);
    await makeEffects(user);
  });
  after(async () => {
    await stopJournals();
    for (const database of opened) await database.close();
    await keyspaces.drop();
    await server.stop();
  });

  test("tells what happened before the first start and after it, once in effect and in order per shard", async () => {
    await tell(3, 700);
    await append(hz, 3, 5);
    const order = new Map<string, number[]>();
    const { journal } = startJournal(
      [sh, hz],
      [
        effectConsumer("first", user, (batch) => {
          for (const event of batch) order.set(event.source, [...(order.get(event.source) ?? []), event.data.quantity]);
        }),
      ],
    );
    await until("the history is told", async () => (await effectsOf(user, "first")).events >= 705);
    await tell(3, 300, 701);
    await tell(4, 10);
    await until("the news is told", async () => (await effectsOf(user, "first")).events >= 1_015);
    await journal.stop();
    assert.deepEqual(await effectsOf(user, "first"), { events: 1_015, distinct: 1_015 });
    assert.deepEqual([...order.keys()].sort(), ["1/3", "1/4", "3/3"]);
    assert.deepEqual(
      order.get("1/3"),
      Array.from({ length: 1_000 }, (_, index) => index + 1),
    );
  });

  test("carries an event's fields and parses its data", async () => {
    const seen: unknown[] = [];
    const fields: EventConsumer<"order.created"> = {
      name: "fields",
      types: ["order.created"],
      handle: async (batch) =>
        void seen.push(
          ...batch.map(({ source, type, subject, actor, requestId, idemKey, at, data }) => ({
            source,
            type,
            subject,
            actor,
            requestId,
            idemKey,
            fresh: new Date(at).getTime() > 0,
            amount: data.amount,
          })),
        ),
    };
    const { journal } = startJournal([sh], [fields]);
    // From the table and from the log: both look the same.
    await until("the history is told", () => seen.length >= told);
    await tell(5, 1);
    await until("the news is told", () => seen.length >= told);
    await journal.stop();
    const expected = {
      source: "1/5",
      type: "order.created",
      subject: "1000",
      actor: undefined,
      requestId: "request",
      idemKey: "团购 key",
      fresh: true,
      amount: 9_900,
    };
    assert.deepEqual(seen.at(-1), expected);
    assert.deepEqual(seen[0], { ...expected, source: "1/3" });
  });

  test("an event comes again when the connection dies between effect and acknowledgement, and has its effect once", async () => {
    let deliveries = 0;
    let cut = false;
    const { journal } = startJournal(
      [sh],
      [
        effectConsumer("cut", user, async (batch) => {
          deliveries += batch.length;
          if (cut || batch.every((event) => event.slot !== 6)) return;
          cut = true;
          await endRelayConnection(sh);
        }),
      ],
    );
    await until("the history is told", async () => (await effectsOf(user, "cut")).events >= told);
    await tell(6, 50);
    // The batch that was cut off may have been a part of the 50: what had been read by then.
    await until("it comes again", async () => deliveries > told && (await effectsOf(user, "cut")).events >= told);
    await journal.stop();
    assert.deepEqual(await effectsOf(user, "cut"), { events: told, distinct: told });
  });

  test("an event whose process was killed between effect and acknowledgement has its effect once", async () => {
    const child = spawn(process.execPath, [fileURLToPath(new URL("./support/journal-child.ts", import.meta.url)), sh.url, user.url], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    await happened(child.stdout, "data");
    const before = await effectsOf(user, "killed");
    assert.ok(before.events > 0);
    child.kill("SIGKILL");
    await happened(child, "exit");
    await tell(7, 20);
    let deliveries = 0;
    const { journal } = startJournal([sh], [effectConsumer("killed", user, (batch) => void (deliveries += batch.length))]);
    await until("everything is told", async () => (await effectsOf(user, "killed")).events >= told);
    await until("what the dead one had done comes again", () => deliveries >= told);
    await journal.stop();
    assert.deepEqual(await effectsOf(user, "killed"), { events: told, distinct: told });
  });

  test("a poisoned event is tried five times and parked; the rest goes on, and other consumers do not notice", async () => {
    let tries = 0;
    const picky: EventConsumer<"order.created"> = {
      name: "picky",
      types: ["order.created"],
      async handle(batch) {
        if (batch.some((event) => event.slot === 8 && event.data.quantity === 42)) {
          if (batch.length === 1) tries++;
          throw new Error("42 is \0 too much");
        }
        await effectConsumer("picky", user).handle(batch);
      },
    };
    const { journal, log, metrics } = startJournal([sh], [picky, effectConsumer("other", user)]);
    await until("the history is told", async () => (await effectsOf(user, "picky")).events >= told);
    await tell(8, 100);
    await until("all but one are told", async () => (await effectsOf(user, "picky")).events >= told - 1);
    await tell(8, 10, 200);
    await until("the news is told", async () => (await effectsOf(user, "picky")).events >= told - 1);
    await until("others hear all", async () => (await effectsOf(user, "other")).events >= told);
    await journal.stop();
    assert.equal(tries, 5);
    assert.deepEqual(await effectsOf(user, "picky"), { events: told - 1, distinct: told - 1 });
    const parked = await sh.query<{
      consumer: string;
      source: string;
      error: string;
      attempts: number;
      event: { data: { quantity: number } };
    }>({
      name: "test/parked",
      text: "select consumer, source, error, attempts, event from parked_events",
    });
    assert.deepEqual(
      parked.map(({ consumer, source, attempts, event }) => [consumer, source, attempts, event.data.quantity]),
      [["picky", "1/8", 5, 42]],
    );
    assert.match(parked[0]?.error ?? "", /42 is {2}too much/);
    assert.equal(log.filter((line) => line.startsWith("error: alarm: event order.created")).length, 1);
    assert.match(await metrics.registry.metrics(), /tuanbar_events_total\{consumer="picky",outcome="parked"\} 1/);
  });

  test("of two relays on one database one reads, and the other takes over", async () => {
    const [one, two] = [startJournal([sh], [effectConsumer("pair", user)]), startJournal([sh], [effectConsumer("pair", user)])];
    const states = (): string[] => [one, two].map(({ journal }) => journal.relays[0]?.state ?? "").sort();
    await until("one reads", () => states().join() === "reading,standing by");
    await until("the history is told", async () => (await effectsOf(user, "pair")).events >= told);
    const [active, waiting] = two.journal.relays[0]?.state === "standing by" ? [one, two] : [two, one];
    await tell(9, 5);
    await active.journal.stop();
    await tell(9, 5, 6);
    await until("the other reads", () => waiting.journal.relays[0]?.state === "reading");
    await until("everything is told", async () => (await effectsOf(user, "pair")).events >= told);
    await waiting.journal.stop();
    assert.deepEqual(await effectsOf(user, "pair"), { events: told, distinct: told });
  });

  test("what happened while there was no replication slot is read from the table, from where each consumer was", async () => {
    let deliveries = 0;
    const consumer = effectConsumer("gap", user, (batch) => void (deliveries += batch.length));
    const first = startJournal([sh], [consumer]);
    await until("the history is told", async () => (await effectsOf(user, "gap")).events >= told);
    await first.journal.stop();
    // Only what may have been under way around the mark, a minute before it, is read again.
    await sh.query({
      name: "test/age",
      text: "update events e set at = at - interval '1 hour' where id < (select max(id) from events n where n.slot = e.slot)",
    });
    await sh.query({
      name: "test/drop",
      text: "select pg_drop_replication_slot(slot_name) from pg_replication_slots where database = current_database()",
    });
    await tell(10, 40);
    deliveries = 0;
    const second = startJournal([sh], [consumer]);
    await until("the gap is told", async () => (await effectsOf(user, "gap")).events >= told);
    await tell(10, 40, 41);
    await until("the news is told", async () => (await effectsOf(user, "gap")).events >= told);
    await second.journal.stop();
    assert.deepEqual(await effectsOf(user, "gap"), { events: told, distinct: told });
    assert.ok(deliveries < 80 + 80 + 16, `${deliveries} deliveries: the whole history is not told again`);
  });

  test("a consumer that was away hears what happened meanwhile", async () => {
    const away = effectConsumer("away", user);
    const first = startJournal([sh], [away]);
    await until("the history is told", async () => (await effectsOf(user, "away")).events >= told);
    await first.journal.stop();
    const second = startJournal([sh], [effectConsumer("present", user)]);
    await tell(11, 30);
    await until("who is there is told", async () => (await effectsOf(user, "present")).events >= told);
    await confirmed();
    await second.journal.stop();
    const third = startJournal([sh], [away, effectConsumer("present", user)]);
    await until("it hears everything", async () => (await effectsOf(user, "away")).events >= told);
    await third.journal.stop();
    assert.deepEqual(await effectsOf(user, "away"), { events: told, distinct: told });
  });

  test("a consumer that is stuck makes the relay stop reading, not fill the memory, and 20,000 events drain when it is free", async (t) => {
    let free = (): void => undefined;
    const stuck = new Promise<void>((resolve) => (free = resolve));
    let handled = 0;
    const slow: EventConsumer<"order.created"> = {
      name: "slow",
      types: ["order.created"],
      handle: async (batch) => {
        handled += batch.length;
        if (handled > told) await stuck;
      },
    };
    const before = told;
    const { journal } = startJournal([sh], [slow]);
    await until("the history is told", () => handled >= before);
    for (let slot = 0; slot < 16; slot++) await append(sh, slot, 1_250);
    const relay = journal.relays[0];
    await until("the window is full", () => (relay?.waiting ?? 0) >= 5_000);
    await new Promise((resolve) => setTimeout(resolve, 500));
    const waiting = relay?.waiting ?? 0;
    const startedMs = performance.now();
    free();
    await until("everything is told", () => handled >= before + 20_000);
    const ms = performance.now() - startedMs;
    t.diagnostic(`20,000 events, ${waiting} of them read ahead, in ${Math.round(ms)} ms: ${Math.round(20_000 / (ms / 1_000))}/s`);
    assert.ok(waiting < 6_000, `${waiting} events in memory`);
    assert.equal(handled, before + 20_000);
    told += 20_000;
    await journal.stop();
  });

  test("a long history does not hold up what others hear meanwhile, and leaves no gap behind it", async () => {
    await tell(3, 4_000);
    let present = 0;
    const others: EventConsumer<"order.created"> = {
      name: "slow",
      types: ["order.created"],
      handle: async (batch) => void (present += batch.length),
    };
    const late = effectConsumer("late", user, () => new Promise((resolve) => setTimeout(resolve, 10)));
    const { journal } = startJournal([sh], [others, late]);
    await until("it reads", () => journal.relays[0]?.state === "reading");
    for (let round = 0; round < 20; round++) await tell(13, 50);
    await until("the others hear the news", () => present >= 5_000);
    await until("it hears everything", async () => (await effectsOf(user, "late")).events >= told);
    await tell(13, 5);
    await until("it hears the news", async () => (await effectsOf(user, "late")).events >= told);
    await journal.stop();
    assert.deepEqual(await effectsOf(user, "late"), { events: told, distinct: told });
  });

  test("the replication slot does not hold log that other databases write", async () => {
    const { journal } = startJournal([hz], [effectConsumer("first", user)]);
    await until("it reads", () => journal.relays[0]?.state === "reading");
    await tell(12, 1_000);
    const [{ now } = { now: "" }] = await sh.query<{ now: string }>({ name: "test/now", text: "select pg_current_wal_lsn()::text as now" });
    await until("it is confirmed up to now", async () => {
      const [row] = await hz.query<{ passed: boolean }>(
        {
          name: "test/passed",
          text: "select confirmed_flush_lsn >= $1::pg_lsn as passed from pg_replication_slots where database = current_database()",
        },
        [now],
      );
      return row?.passed ?? false;
    });
    await journal.stop();
  });
});
