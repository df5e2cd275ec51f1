import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once as happened } from "node:events";
import { after, before, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import type { Database } from "../../db/database.ts";
import type { OrderId, UserId } from "../../domain/ids.ts";
import { appendEvents } from "../../mixins/events.ts";
import { EventStreams, streamName } from "../../mixins/jetstream.ts";
import { Publisher } from "../../mixins/jetstream-publisher.ts";
import type { EventConsumer } from "../../mixins/journal.ts";
import { askReplay, listLetters } from "../../mixins/journal-parked.ts";
import { storedEvent } from "../../mixins/stored-event.ts";
import { makeNode, type Node, type ServiceName } from "../../moleculer.config.ts";
import { testKeyspaces, testServer, type TestKeyspaces, type TestServer } from "../support/databases.ts";
import { append, effectConsumer, effectsOf, makeEffects, natsAt, openDatabase, startJournal, until } from "../support/journal.ts";
import { asksOfStreams, assertTold, expressions } from "../support/watching.ts";
import { TestNats } from "../support/nats.ts";

describe("events over NATS JetStream", () => {
  let server: TestServer;
  let keyspaces: TestKeyspaces;
  let nats: TestNats;
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
  const hasAll = (consumer: string) => async (): Promise<boolean> => (await effectsOf(user, consumer)).events >= told;
  const onceEach = async (consumer: string): Promise<void> => {
    assert.deepEqual(await effectsOf(user, consumer), { events: told, distinct: told });
  };
  /** Which quantities of a shard a consumer was told, in the order of the first time. */
  const recorder = () => {
    const told = new Map<string, Set<number>>();
    return {
      told,
      write: (batch: readonly { source: string; data: { quantity: number } }[]): void => {
        for (const { source, data } of batch) told.set(source, (told.get(source) ?? new Set()).add(data.quantity));
      },
    };
  };
  const upTo = (count: number): number[] => Array.from({ length: count }, (_, index) => index + 1);

  before(async () => {
    server = await testServer();
    keyspaces = await testKeyspaces(server);
    nats = await TestNats.start();
    const [userName = "", shName = "", hzName = ""] = keyspaces.keyspaces.databases().map(({ name }) => name);
    user = open(userName, 0);
    sh = open(shName, 1);
    hz = open(hzName, 3);
    await makeEffects(user);
  });
  after(async () => {
    await nats.stop();
    for (const database of opened) await database.close();
    await keyspaces.drop();
    await server.stop();
  });

  test("what happened before the first start and after it is told once in effect, in order per shard, from every database", async () => {
    await tell(3, 700);
    await append(hz, 3, 5);
    const record = recorder();
    const running = startJournal([sh, hz], [effectConsumer("first", user, record.write)], nats);
    await until("the history is told", async () => (await effectsOf(user, "first")).events >= 705);
    await tell(3, 300, 701);
    await tell(4, 10);
    await until("the news is told", async () => (await effectsOf(user, "first")).events >= 1_015);
    await running.stop();
    assert.deepEqual(await effectsOf(user, "first"), { events: 1_015, distinct: 1_015 });
    assert.deepEqual([...record.told.keys()].sort(), ["1/3", "1/4", "3/3"]);
    assert.deepEqual([...(record.told.get("1/3") ?? [])], upTo(1_000));
  });

  test("a consumer killed between effect and acknowledgement has its effect once, and its batch goes to another node", async () => {
    const child = spawn(
      process.execPath,
      [fileURLToPath(new URL("../support/journal-child.ts", import.meta.url)), sh.url, user.url, nats.url],
      { stdio: ["ignore", "pipe", "inherit"] },
    );
    await happened(child.stdout, "data");
    child.kill("SIGKILL");
    await happened(child, "exit");
    assert.ok((await effectsOf(user, "killed")).events > 0);
    await append(sh, 7, 20);
    told += 20;
    let deliveries = 0;
    const running = startJournal([sh], [effectConsumer("killed", user, (batch) => void (deliveries += batch.length))], nats);
    await until("everything is told", hasAll("killed"), 30_000);
    await until("what the dead one had done came again", () => deliveries >= told);
    await running.stop();
    await onceEach("killed");
    assert.match(await running.metrics.registry.metrics(), /tuanbar_events_redelivered_total\{consumer="killed"\} [1-9]/);
  });

  test("two nodes share a consumer's work, keep the order of each shard, and one goes on when the other leaves", async () => {
    const record = recorder();
    const shares = [0, 0];
    const node = (index: number) =>
      startJournal(
        [sh],
        [
          effectConsumer("shared", user, (batch) => {
            shares[index] = (shares[index] ?? 0) + batch.length;
            record.write(batch);
          }),
        ],
        { url: nats.url, part: "listens" },
      );
    const publishing = startJournal([sh], [], { url: nats.url, part: "publishes" });
    const [one, two] = [node(0), node(1)];
    await until("the history is told", hasAll("shared"));
    for (let from = 1; from < 600; from += 20) {
      await tell(9, 20, from);
      await sleep(20);
    }
    await until("the news is told", hasAll("shared"));
    assert.ok(
      shares.every((share) => share > 0),
      `both have done something: ${shares.join()}`,
    );
    await one.stop();
    await tell(9, 20, 601);
    await until("the other goes on", hasAll("shared"));
    await two.stop();
    await publishing.stop();
    await onceEach("shared");
    assert.deepEqual([...(record.told.get("1/9") ?? [])], upTo(620));
  });

  test("batches that come again, since a database was away, do not disturb the order of a shard", async () => {
    const record = recorder();
    let away = 0;
    const moody: EventConsumer<"order.created"> = {
      name: "moody",
      types: ["order.created"],
      async handle(batch) {
        if (batch.some((event) => event.slot === 10) && ++away % 3 !== 0) {
          await openDatabase("nowhere", 0, "postgresql://127.0.0.1:1/nowhere").query({ name: "test/one", text: "select 1" });
        }
        record.write(batch);
        await effectConsumer("moody", user).handle(batch);
      },
    };
    const nodes = [startJournal([sh], [moody], nats), startJournal([sh], [moody], { url: nats.url, part: "listens" })];
    for (let from = 1; from <= 200; from += 10) await tell(10, 10, from);
    await until("everything is told", hasAll("moody"), 30_000);
    for (const node of nodes) await node.stop();
    await onceEach("moody");
    assert.ok(away >= 3, "it was away");
    assert.deepEqual([...(record.told.get("1/10") ?? [])], upTo(200));
  });

  test("a poisoned event is tried five times and parked, the rest goes on, and its replay has its effect once", async () => {
    let tries = 0;
    let cured = false;
    const picky: EventConsumer<"order.created"> = {
      name: "picky",
      types: ["order.created"],
      async handle(batch) {
        if (!cured && batch.some((event) => event.slot === 8 && event.data.quantity === 42)) {
          if (batch.length === 1) tries++;
          throw new Error("42 is too much");
        }
        await effectConsumer("picky", user).handle(batch);
      },
    };
    const running = startJournal([sh], [picky], nats);
    await until("the history is told", hasAll("picky"));
    await tell(8, 100);
    await until("all but one are told", async () => (await effectsOf(user, "picky")).events === told - 1);
    await until("it is parked", async () => (await listLetters(sh, { consumer: "", source: "", eventId: "0" }, "picky", 9)).length === 1);
    assert.equal(tries, 5);
    const [letter] = await listLetters(sh, { consumer: "", source: "", eventId: "0" }, "picky", 9);
    assert.ok(letter);
    assert.match(letter.error, /42 is too much/);
    await askReplay(sh, letter);
    await until("it fails again", () => running.log.some((line) => line.includes("failed again")));
    cured = true;
    await askReplay(sh, letter);
    await until("it is told as well", hasAll("picky"));
    await until(
      "it is no letter any more",
      async () => (await listLetters(sh, { consumer: "", source: "", eventId: "0" }, "picky", 9)).length === 0,
    );
    await running.stop();
    await onceEach("picky");
    assert.ok(running.log.some((line) => line.startsWith("error: alarm: event order.created")));
  });

  test("while NATS is away under load events wait in the database, and afterwards they are told by themselves", async (t) => {
    const running = startJournal([sh], [effectConsumer("outage", user)], nats);
    await until("the history is told", hasAll("outage"));
    await nats.kill();
    const startedMs = performance.now();
    for (let round = 0; round < 40; round++) {
      await tell(11, 50);
      await sleep(100);
    }
    await until("there is an alarm", () => running.log.some((line) => line.startsWith("error: alarm: the events of")));
    t.diagnostic(`${40 * 50} events written in ${Math.round(performance.now() - startedMs)} ms without NATS`);
    await nats.start();
    const backMs = performance.now();
    await until("everything is told", hasAll("outage"), 30_000);
    t.diagnostic(`told ${Math.round(performance.now() - backMs)} ms after NATS was back`);
    await running.stop();
    await onceEach("outage");
    assert.ok(running.log.some((line) => line.includes("travel by NATS again")));
  });

  test("JetStream's files are lost with events in them that nobody was told: they are told from the table", async () => {
    const first = startJournal([sh], [effectConsumer("robbed", user)], nats);
    await until("the history is told", hasAll("robbed"));
    await first.stop();
    const publishing = startJournal([sh], [], { url: nats.url, part: "publishes" });
    await tell(12, 400);
    await untilConfirmed(sh);
    await publishing.stop();
    await nats.kill();
    nats.loseFiles();
    await nats.start();
    const second = startJournal([sh], [effectConsumer("robbed", user)], nats);
    await until("everything is told", hasAll("robbed"), 30_000);
    await tell(12, 10, 401);
    await until("the news is told", hasAll("robbed"));
    await second.stop();
    await onceEach("robbed");
  });

  test("a stream deleted or emptied under a running node is noticed by itself", async () => {
    const running = startJournal([sh], [effectConsumer("deleted", user)], nats);
    await until("the history is told", hasAll("deleted"));
    await nats.ask(async (connection) => (await connection.jetstreamManager()).streams.delete(streamName(sh)));
    await tell(13, 30);
    await until("what happens now is told", hasAll("deleted"), 30_000);
    await running.stop();
    const publishing = startJournal([sh], [], { url: nats.url, part: "publishes" });
    await tell(13, 30, 31);
    await untilConfirmed(sh);
    // Its beats go on.
    await until("the relay dozes", () => publishing.journal.relays[0]?.state === "dozing");
    await nats.ask(async (connection) => (await connection.jetstreamManager()).streams.purge(streamName(sh)));
    const listening = startJournal([sh], [effectConsumer("deleted", user)], { url: nats.url, part: "listens" });
    await until("what was emptied out is told", hasAll("deleted"), 30_000);
    await listening.stop();
    await publishing.stop();
    await onceEach("deleted");
  });

  test("the services' own consumers listen on a node without a journal service", async (t) => {
    const nodes: Node[] = [];
    const node = (services: readonly ServiceName[]): Promise<Node> =>
      makeNode({
        nodeID: `events-${services.join("-")}`,
        keyspaces: keyspaces.keyspaces,
        urlOf: keyspaces.urlOf,
        services,
        trade: { orderTtlSeconds: 900, reversalMinutes: 60, settlementDelayMinutes: 60 },
        logLevel: "fatal",
        nats: natsAt(nats.url),
      });
    for (const services of [["journal"], ["order", "order-index"]] as const) {
      const started = await node(services);
      nodes.push(started);
      t.after(() => started.stop());
    }
    // Its consumer lives in slot 0 of the users' database.
    await sh.transaction((tx) =>
      appendEvents(tx, { city: 1, slot: 14 }, [
        {
          type: "order.created",
          subject: "77",
          data: {
            orderId: "77" as OrderId,
            consumerId: "4096" as UserId,
            merchantId: "1" as never,
            dealId: "1" as never,
            quantity: 1,
            amount: 1,
          },
        },
      ]),
    );
    told += 1;
    await until("the order is indexed", async () => {
      const rows = await user.query({
        name: "test/index",
        text: "select 1 from order_index where slot = 0 and user_id = 4096 and order_id = 77",
      });
      return rows.length === 1;
    });
    const metrics = await nodes[1]?.platform.metrics.registry.metrics();
    assert.match(metrics ?? "", /tuanbar_stream_waiting_batches\{consumer="order-index",database="sh_[0-9a-f]+"\} \d/);
    assert.match(metrics ?? "", /tuanbar_stream_behind_seconds\{consumer="order-index",database="sh_[0-9a-f]+"\} \d/);
    const asked = [...expressions].filter(([, expression]) => asksOfStreams(expression));
    assert.ok(asked.length > 0, "there is an alert on streams");
    for (const [where, expression] of asked) assertTold(metrics ?? "", where, expression);
  });

  test("a batch that is published twice is one message", async () => {
    const streams = new EventStreams(natsAt(nats.url), "test", { info() {}, warn() {}, error() {} } as never);
    const rows = await sh.query<{ id: string }>({ name: "test/some", text: "select id from events where slot = 3 order by id limit 3" });
    const batch = rows.map(({ id }) =>
      storedEvent(1, {
        slot: 3,
        id,
        type: "order.created",
        subject: "1",
        actor: null,
        request_id: null,
        idem_key: null,
        data: "{}",
        at: "2026-01-01",
      }),
    );
    const before = (await streams.stream(sh)).state.last_seq;
    const silent = { info() {}, warn() {}, error() {} } as never;
    await new Publisher(sh, streams, silent).handle(batch);
    await new Publisher(sh, streams, silent).handle(batch);
    assert.equal((await streams.stream(sh)).state.last_seq, before + 1);
    await streams.close();
  });

  test("a stream and a consumer that are set up otherwise are corrected", async () => {
    const log: string[] = [];
    const note = (line: string): void => void log.push(line);
    const streams = new EventStreams(natsAt(nats.url), "test", { info: note, warn: note } as never);
    await streams.consumer(sh, "corrected");
    await nats.ask(async (connection) => {
      const manager = await connection.jetstreamManager();
      await manager.streams.update(streamName(sh), { max_bytes: 1_000_000 });
      await manager.consumers.update(streamName(sh), "corrected", { max_ack_pending: 7 });
    });
    await streams.consumer(sh, "corrected");
    await streams.consumer(sh, "corrected");
    const [stream, consumer] = await nats.ask(async (connection) => {
      const manager = await connection.jetstreamManager();
      return [await manager.streams.info(streamName(sh)), await manager.consumers.info(streamName(sh), "corrected")] as const;
    });
    await streams.close();
    assert.equal(stream.config.max_bytes, 256 * 2 ** 20);
    assert.equal(consumer.config.max_ack_pending, 1);
    assert.equal(log.filter((line) => line.includes("corrected")).length, 2);
  });
});

/** Until PostgreSQL keeps nothing of what was written so far for the database's relay: it is in the stream. */
async function untilConfirmed(database: Database): Promise<void> {
  const [{ now } = { now: "" }] = await database.query<{ now: string }>({
    name: "test/now",
    text: "select pg_current_wal_lsn()::text as now",
  });
  await until("the events are in the stream and confirmed", async () => {
    const [row] = await database.query<{ passed: boolean }>(
      {
        name: "test/passed",
        text: "select confirmed_flush_lsn >= $1::pg_lsn as passed from pg_replication_slots where database = current_database()",
      },
      [now],
    );
    return row?.passed ?? false;
  });
}
