import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import type { Database } from "../db/database.ts";
import { prune } from "../mixins/journal-prune.ts";
import { testKeyspaces, testServer, type TestKeyspaces, type TestServer } from "./support/databases.ts";
import { append, effectConsumer, effectsOf, makeEffects, openDatabase, startJournal, until } from "./support/journal.ts";

describe("pruning", () => {
  let server: TestServer;
  let keyspaces: TestKeyspaces;
  let user: Database;
  let sh: Database;
  const never = new AbortController().signal;

  before(async () => {
    server = await testServer();
    keyspaces = await testKeyspaces(server);
    const [userName = "", shName = ""] = keyspaces.keyspaces.databases().map(({ name }) => name);
    user = openDatabase(userName, 0, keyspaces.urlOf(userName));
    sh = openDatabase(shName, 1, keyspaces.urlOf(shName));
    await makeEffects(user);
  });
  after(async () => {
    await user.close();
    await sh.close();
    await keyspaces.drop();
    await server.stop();
  });

  const count = async (database: Database, what: "events" | "inbox"): Promise<number> => {
    const [row] = await database.query<{ rows: number }>({ name: `test/${what}`, text: `select count(*)::integer as rows from ${what}` });
    return row?.rows ?? 0;
  };
  const atTheEnd = async (): Promise<number | undefined> => {
    const text = `select count(*)::integer as slots from relay_marks m where m.event_id = (select max(e.id) from events e where e.slot = m.slot)`;
    return (await sh.query<{ slots: number }>({ name: "test/ends", text }))[0]?.slots;
  };
  const age = async (days: number): Promise<void> => {
    await sh.query({ name: "test/age", text: `update events set at = at - make_interval(days => $1)` }, [days]);
    await user.query({ name: "test/age-inbox", text: `update inbox set at = at - make_interval(days => $1)` }, [days]);
  };

  test("takes what is old and behind every mark, and what a replay then tells has no effect twice", async () => {
    const first = startJournal([sh], [effectConsumer("points", user)]);
    await append(sh, 3, 2_500);
    await append(sh, 4, 5);
    await until("everything is told", async () => (await effectsOf(user, "points")).events === 2_505);
    // The table is read beside the log at first, and the mark is where that is.
    await until("its marks are at the ends", async () => (await atTheEnd()) === 2);
    await first.stop();

    assert.deepEqual(await prune([user, sh], never), { events: 0, inbox: 0 }, "nothing is old");
    await age(31);
    // A consumer that has come as far as the 100th of the slot holds the rest.
    await sh.query({
      name: "test/slow",
      text: `insert into relay_marks (consumer, slot, event_id, replayed, epoch)
             select 'slow', 3, id, true, 0 from events where slot = 3 order by id offset 99 limit 1`,
    });
    assert.deepEqual(await prune([user, sh], never), { events: 99 + 4, inbox: 99 + 4 });
    await sh.query({ name: "test/gone", text: "delete from relay_marks where consumer = 'slow'" });
    assert.deepEqual(await prune([user, sh], never), { events: 2_400, inbox: 2_400 });
    assert.equal(await count(sh, "events"), 2, "each slot keeps the event its mark stands at");
    assert.equal(await count(user, "inbox"), 2);

    await sh.query({
      name: "test/drop",
      text: "select pg_drop_replication_slot(slot_name) from pg_replication_slots where database = current_database()",
    });
    const second = startJournal([sh], [effectConsumer("points", user)]);
    await append(sh, 3, 10);
    await until("the news is told", async () => (await effectsOf(user, "points")).events >= 2_515);
    await second.stop();
    assert.deepEqual(await effectsOf(user, "points"), { events: 2_515, distinct: 2_515 });
    assert.deepEqual(await prune([user, sh], never), { events: 1, inbox: 1 }, "the one that the mark stood at before");
  });
});
