import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import type { Database } from "../db/database.ts";
import { pruneEvents } from "../mixins/journal-prune.ts";
import { composeId } from "../domain/ids.ts";
import { pruneRequests } from "../mixins/idempotency.ts";
import { pruneBarriers } from "../mixins/tcc.ts";
import { findOpenSince } from "../services/payment/payment.store.ts";
import { pruneCallbacks } from "../services/callback/callback.store.ts";
import { pruneNotifications } from "../services/notify/notify.store.ts";
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

  test("takes what is old and behind every mark, and what a replay then tells has no effect twice", async (t) => {
    const first = startJournal([sh], [effectConsumer("points", user)]);
    t.after(() => first.stop());
    await append(sh, 3, 2_500);
    await append(sh, 4, 5);
    await until("everything is told", async () => (await effectsOf(user, "points")).events === 2_505);
    // The table is read beside the log at first, and the mark is where that is.
    await until("its marks are at the ends", async () => (await atTheEnd()) === 2);
    await first.stop();

    assert.deepEqual(await pruneEvents([user, sh], never), { events: 0, "marks of the inbox": 0 }, "nothing is old");
    await age(31);
    // A consumer that has come as far as the 100th of the slot holds the rest.
    await sh.query({
      name: "test/slow",
      text: `insert into relay_marks (consumer, slot, event_id, replayed, epoch)
             select 'slow', 3, id, true, 0 from events where slot = 3 order by id offset 99 limit 1`,
    });
    assert.deepEqual(await pruneEvents([user, sh], never), { events: 99 + 4, "marks of the inbox": 99 + 4 });
    await sh.query({ name: "test/gone", text: "delete from relay_marks where consumer = 'slow'" });
    assert.deepEqual(await pruneEvents([user, sh], never), { events: 2_400, "marks of the inbox": 2_400 });
    assert.equal(await count(sh, "events"), 2, "each slot keeps the event its mark stands at");
    assert.equal(await count(user, "inbox"), 2);

    await sh.query({
      name: "test/drop",
      text: "select pg_drop_replication_slot(slot_name) from pg_replication_slots where database = current_database()",
    });
    const second = startJournal([sh], [effectConsumer("points", user)]);
    t.after(() => second.stop());
    await append(sh, 3, 10);
    await until("the news is told", async () => (await effectsOf(user, "points")).events >= 2_515);
    await second.stop();
    assert.deepEqual(await effectsOf(user, "points"), { events: 2_515, distinct: 2_515 });
    assert.deepEqual(await pruneEvents([user, sh], never), { events: 1, "marks of the inbox": 1 }, "the one that the mark stood at before");
  });

  test("takes notices older than three months, however many, and no others", async () => {
    await user.query({
      name: "test/notices",
      text: `insert into notifications (slot, user_id, source, event_id, kind, data, at)
             select 1 + n % 2, n % 7, '1/3', n, 'order.paid', '{}', now() - make_interval(days => case when n <= 2500 then 91 else 89 end)
               from generate_series(1, 2510) n`,
    });
    assert.deepEqual(await pruneNotifications([user, sh], never), { notifications: 2_500 });
    const left = await user.query({ name: "test/left", text: "select from notifications where at > now() - interval '90 days'" });
    assert.equal(left.length, 10);
  });

  test("takes idempotency keys older than three months, at the users and in the cities, and no others", async () => {
    for (const database of [user, sh])
      await database.query({
        name: "test/requests",
        text: `insert into requests (slot, caller, operation, idem_key, body_hash, answer, at)
               select 1 + n % 2, n % 7, 'payment.requestRefund', 'key ' || n, '\\x00', '{}', now() - make_interval(days => case when n <= 2500 then 91 else 89 end)
                 from generate_series(1, 2510) n`,
      });
    assert.deepEqual(await pruneRequests([user, sh], never), { "idempotency keys": 5_000 });
    for (const database of [user, sh]) {
      const left = await database.query({ name: "test/keys", text: "select from requests where at > now() - interval '90 days'" });
      assert.equal(left.length, 10);
    }
    assert.deepEqual(await pruneRequests([user, sh], never), { "idempotency keys": 0 });
  });

  test("takes barriers of what has ended a month ago, on both sides; what has not keeps them, however old, and so does everybody while a city is away", async () => {
    const DAY_MS = 86_400_000;
    const idOf = (days: number, n: number): string => composeId({ ms: Date.now() - days * DAY_MS, sequence: n % 1_024, city: 1, slot: 3 });
    const ended = Array.from({ length: 800 }, (_, n) => idOf(31 + (n % 5), n));
    const [paying, refunding, recent] = [idOf(40, 1_001), idOf(41, 1_002), idOf(29, 1_003)];
    for (const database of [user, sh])
      await database.query(
        {
          name: "test/barriers",
          text: `insert into tcc_barriers (slot, xid, branch, phase, by_phase)
                 select 3, xid, 'wallet', phase, phase from unnest($1::bigint[]) xid, unnest(array['try', 'confirm']) phase`,
        },
        [[...ended, paying, refunding, recent]],
      );
    await sh.query(
      {
        name: "test/open",
        text: `with p as (
                 insert into payments (slot, id, order_id, consumer_id, merchant_id, channel, amount, state, next_attempt_at, created_at)
                 select 3, id, id, 16, 1, 'wallet', 1, case when id = $2 then 'CONFIRMING' else 'CONFIRMED' end, now(), now() from unnest($1::bigint[]) id)
               insert into refunds (slot, id, order_id, payment_id, consumer_id, merchant_id, quantity, amount, reason, state, next_attempt_at, created_at)
               values (3, $3, 1, 1, 16, 1, 1, 1, 'EXPIRED', 'PROCESSING', now(), now())`,
      },
      [[...ended.slice(0, 5), paying], paying, refunding],
    );
    const prune = pruneBarriers(findOpenSince);
    const away = pruneBarriers(() => Promise.reject(new Error("away")));
    await assert.rejects(away([user, sh], never), /away/);
    assert.deepEqual(await prune([user, sh], never), { barriers: 2 * 2 * 800 });
    for (const database of [user, sh]) {
      const left = await database.query<{ xid: string; phases: number }>({
        name: "test/barriers-left",
        text: "select xid, count(*)::integer as phases from tcc_barriers group by xid order by xid",
      });
      assert.deepEqual(
        left.map(({ xid, phases }) => [xid, phases]),
        [refunding, paying, recent].map((xid) => [xid, 2]),
      );
    }
    await sh.query({ name: "test/ends-at-last", text: "update payments set state = 'CONFIRMED' where state = 'CONFIRMING'" });
    assert.deepEqual(await prune([user, sh], never), { barriers: 4 });
  });

  test("leaves between two rounds no confirm without its try", async () => {
    const ids = Array.from({ length: 700 }, (_, n) => composeId({ ms: Date.now() - 50 * 86_400_000, sequence: n, city: 1, slot: 4 }));
    await sh.query(
      {
        name: "test/more-barriers",
        text: `insert into tcc_barriers (slot, xid, branch, phase, by_phase)
               select 4, xid, 'city', phase, phase from unnest($1::bigint[]) xid, unnest(array['try', 'confirm']) phase
                where phase = 'try' or xid <> $2`,
      },
      [ids, ids[0]],
    );
    const stopping = new AbortController();
    stopping.abort();
    // One round of a thousand rows: the last of them is in the middle of a transaction.
    assert.deepEqual(await pruneBarriers(findOpenSince)([sh], stopping.signal), { barriers: 1_000 });
    const broken = await sh.query({
      name: "test/broken",
      text: `select xid from tcc_barriers group by xid, branch having bool_or(phase = 'confirm') and not bool_or(phase = 'try')`,
    });
    assert.deepEqual(broken, []);
  });

  test("takes callbacks done three months ago; what is not worked off, and what waits for a person, stays", async () => {
    await sh.query({
      name: "test/callbacks",
      text: `insert into channel_callbacks (slot, id, channel, callback_id, about, subject, body, news, state, next_attempt_at, received_at, done_at)
             select 3, n, 'simpay', 'evt_' || n, 'charge', n, '{}', '{}', state, at, at, case state when 'DONE' then at end
               from (select n, case when n <= 1200 then 'FAILED' when n <= 1210 then 'KEPT' else 'DONE' end as state,
                            now() - make_interval(days => case when n <= 4000 then 91 else 89 end) as at
                       from generate_series(1, 4010) n) c`,
    });
    assert.deepEqual(await pruneCallbacks([user, sh], never), { callbacks: 4_000 - 1_210 });
    const left = await sh.query<{ state: string; rows: number }>({
      name: "test/kept",
      text: "select state, count(*)::integer as rows from channel_callbacks group by state order by state",
    });
    assert.deepEqual(
      left.map(({ state, rows }) => [state, rows]),
      [
        ["DONE", 10],
        ["FAILED", 1_200],
        ["KEPT", 10],
      ],
    );
  });
});
