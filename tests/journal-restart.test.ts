import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import type { Database } from "../db/database.ts";
import { startEmbeddedPostgres, type EmbeddedPostgres } from "../db/embedded.ts";
import { migrate } from "../db/migrate.ts";
import { append, effectConsumer, effectsOf, makeEffects, openDatabase, startJournal, stopJournals, until } from "./support/journal.ts";

/** A PostgreSQL of its own: these tests end it, and make it forget log that somebody still needs. */
describe("the journal on a PostgreSQL in trouble", () => {
  let dataDir: string;
  let postgres: EmbeddedPostgres;
  let sh: Database;
  let user: Database;
  let told = 0;
  const tell = async (slot: number, count: number): Promise<void> => {
    await append(sh, slot, count);
    told += count;
  };
  const settled = async (name: string) => (await effectsOf(user, name).catch(() => ({ events: 0 }))).events >= told;

  before(async () => {
    dataDir = mkdtempSync(join(tmpdir(), "tuanbar-journal-"));
    postgres = await startEmbeddedPostgres({ dataDir, log: () => undefined });
    await postgres.ensureDatabases(["sh", "effects"]);
    await migrate(postgres.url("sh"), { kind: "city", id: 1, code: "sh" }, "sh");
    await migrate(postgres.url("effects"), { kind: "user", id: 0, code: "user" }, "effects");
    sh = openDatabase("sh", 1, postgres.url("sh"));
    user = openDatabase("effects", 0, postgres.url("effects"));
    await makeEffects(user);
  });
  after(async () => {
    await stopJournals();
    await sh.close();
    await user.close();
    await postgres.stop();
    rmSync(dataDir, { recursive: true, force: true });
  });

  for (const signal of ["SIGINT", "SIGKILL"] as const) {
    test(`goes on after PostgreSQL was ended by ${signal} with events under way`, async (t) => {
      let hold = true;
      // Nothing can be confirmed while the server wants to go: a fast shutdown must not wait for what cannot come.
      const { journal } = startJournal(
        [sh],
        [
          effectConsumer(signal, user),
          {
            name: "away",
            types: ["order.created"],
            handle: () =>
              hold
                ? user.query({ name: "test/alive", text: "select 1" }).then(() => Promise.reject(new Error("not yet")))
                : Promise.resolve(),
          },
        ],
      );
      await tell(1, 100);
      await until("it has begun", () => settled(signal));
      const { pid } = postgres;
      const startedMs = performance.now();
      process.kill(pid, signal);
      await until("PostgreSQL runs again", () => postgres.pid !== pid);
      hold = false;
      await until("it can be written to", () =>
        tell(2, 100).then(
          () => true,
          () => false,
        ),
      );
      t.diagnostic(`written to again after ${Math.round(performance.now() - startedMs)} ms`);
      await until("everything is told", () => settled(signal));
      await journal.stop();
      assert.deepEqual(await effectsOf(user, signal), { events: told, distinct: told });
    });
  }

  for (const signal of ["SIGINT", "SIGKILL"] as const) {
    test(`goes on after PostgreSQL was ended by ${signal} while the relay dozed`, async (t) => {
      const name = `asleep ${signal}`;
      const { journal, log } = startJournal([sh], [effectConsumer(name, user)]);
      t.after(() => journal.stop());
      await tell(1, 10);
      await until("everything is told", () => settled(name));
      await until("it dozes", () => journal.relays[0]?.state === "dozing");
      const { pid } = postgres;
      process.kill(pid, signal);
      await until("PostgreSQL runs again", () => postgres.pid !== pid);
      await until("it can be written to", () =>
        tell(2, 10).then(
          () => true,
          () => false,
        ),
      );
      await until("everything is told", () => settled(name), 10_000);
      assert.deepEqual(await effectsOf(user, name), { events: told, distinct: told });
      assert.ok(log.some((line) => line.startsWith("warn: the relay of sh: ")));
    });
  }

  test("reads the table when PostgreSQL has given the replication slot up", async () => {
    const first = startJournal([sh], [effectConsumer("lost", user)]);
    await until("the history is told", () => settled("lost"));
    await first.journal.stop();
    // 65 segments of 16 MB, each closed with next to nothing in it: more than max_slot_wal_keep_size, 1 GB.
    for (let segment = 0; segment < 66; segment++) {
      await sh.query({ name: "test/switch", text: "select pg_logical_emit_message(false, 'test', 'x'), pg_switch_wal()" });
    }
    await tell(3, 50);
    await sh.query({ name: "test/checkpoint", text: "checkpoint" });
    const [{ status } = { status: "" }] = await sh.query<{ status: string }>({
      name: "test/status",
      text: "select wal_status as status from pg_replication_slots",
    });
    assert.equal(status, "lost");
    const second = startJournal([sh], [effectConsumer("lost", user)]);
    await tell(3, 50);
    await until("everything is told", () => settled("lost"));
    await second.journal.stop();
    assert.deepEqual(await effectsOf(user, "lost"), { events: told, distinct: told });
    assert.ok(second.log.some((line) => line.startsWith("error: alarm: the replication slot")));
  });

  test("hands an event over when its transaction can be read, not when the log tells of it", async (t) => {
    const readable: boolean[] = [];
    const { journal } = startJournal(
      [sh],
      [
        {
          name: "reader",
          types: ["order.created"],
          async handle(batch) {
            const ids = batch.map(({ id }) => id);
            const [row] = await sh.query<{ found: number }>(
              { name: "test/found", text: "select count(*)::integer as found from events where id = any($1)" },
              [ids],
            );
            readable.push(row?.found === ids.length);
          },
        },
      ],
    );
    t.after(() => journal.stop());
    await tell(4, 10);
    await until("it has begun", () => readable.length > 0);
    await new Promise((resolve) => setTimeout(resolve, 500));
    const before = readable.length;
    // A standby that never answers: commits are in the log and decoded from there, but nobody sees them yet. Without one that is so for microseconds.
    const standby = async (name: string): Promise<void> => {
      await sh.query({ name: `test/standby-${name}`, text: `alter system set synchronous_standby_names = '${name}'` });
      await sh.query({ name: "test/reload", text: "select pg_reload_conf()" });
    };
    await standby("nobody");
    t.after(() => standby(""));
    await new Promise((resolve) => setTimeout(resolve, 200));
    const told = tell(4, 10);
    await new Promise((resolve) => setTimeout(resolve, 500));
    assert.equal(readable.length, before, "nothing is handed over");
    await standby("");
    await told;
    await until("it is handed over", () => readable.length > before);
    assert.ok(readable.every(Boolean));
  });
});
