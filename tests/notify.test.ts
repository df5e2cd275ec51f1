import assert from "node:assert/strict";
import { createServer, get, type IncomingMessage, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { after, before, describe, test } from "node:test";
import { DomainError } from "../domain/error.ts";
import type { EventData } from "../domain/events.ts";
import type { DealId, GroupId, MerchantId, OrderId, UserId } from "../domain/ids.ts";
import { noticesOf, TELLING_TYPES } from "../domain/notify/notices.ts";
import { appendEvents, type NewEvent } from "../mixins/events.ts";
import { journalOf } from "../mixins/journal.ts";
import { rawHandlerOf } from "../mixins/raw-routes.ts";
import { findIndexedOrders } from "../services/order/order-index.store.ts";
import { streamEvents } from "../services/notify/notify.contract.ts";
import { addNotifications, completeNotifications, type NewNotification } from "../services/notify/notify.store.ts";
import { until } from "./support/journal.ts";
import { caller, testNode, type TestNode } from "./support/node.ts";

/** Users of slots 5, 6 and 7 (city 0), a merchant of slot 2 in city 1. */
const [ANNA, BEN, CLEO] = ["4101", "4102", "4103"].map((n) => String(Number(n) * 4096 + Number(n.at(-1)) + 4) as UserId) as [
  UserId,
  UserId,
  UserId,
];
const MERCHANT = String(7 * 4096 + 16 + 2) as MerchantId;
const [DEAL, GROUP] = [MERCHANT as string as DealId, MERCHANT as string as GroupId];
const orderId = (n: number): OrderId => String((1_000 + n) * 4096 + 16 + 2) as OrderId;

const facts = (n: number, consumerId: UserId): EventData["order.created"] => ({
  orderId: orderId(n),
  consumerId,
  merchantId: MERCHANT,
  dealId: DEAL,
  quantity: 1,
  amount: 9_900,
});
const paid = (n: number, consumerId: UserId): NewEvent => ({
  type: "order.moved",
  subject: orderId(n),
  data: { ...facts(n, consumerId), from: "PENDING_PAYMENT", to: "PAID" },
});

test("people concerned are told, once each, and of nothing else", () => {
  assert.deepEqual(
    noticesOf("group.failed", { groupId: GROUP, dealId: DEAL, members: [ANNA, BEN, ANNA] }).map(({ userId, kind }) => [userId, kind]),
    [
      [ANNA, "group.failed"],
      [BEN, "group.failed"],
    ],
  );
  const moved = (to: "PAID" | "COMPLETED") => noticesOf("order.moved", { ...facts(1, ANNA), from: "CONFIRMED", to });
  assert.deepEqual(moved("COMPLETED"), []);
  assert.deepEqual(moved("PAID"), [
    { userId: ANNA, kind: "order.paid", data: { orderId: orderId(1), dealId: DEAL, quantity: 1, amount: 9_900 } },
  ]);
  assert.ok(!(TELLING_TYPES as readonly string[]).includes("order.created"));
});

describe("notifications", () => {
  let node: TestNode;
  let server: Server;
  let base: string;
  const sockets = new Set<IncomingMessage>();

  /** What the gateway does: who is asking, and a refusal before the first byte as a status. */
  before(async () => {
    node = await testNode(["notify", "order", "order-index", "journal"], {
      notify: { heartbeatMs: 300, ageMs: 5_000, streamsPerUserMax: 3 },
    });
    // A stream below lives for 5 s, and a new replication slot waits for the transactions of all test files.
    await until("events are read", () => journalOf(node.node.broker).relays.every((relay) => relay.isInCharge));
    server = createServer((req, res) => {
      const handler = rawHandlerOf(node.node.broker, streamEvents);
      const as = caller(String(req.headers["x-user"]));
      const body = (): Promise<Buffer> => Promise.resolve(Buffer.alloc(0));
      const send = (): never => assert.fail("a stream is no whole answer");
      Promise.resolve(handler?.({ caller: as, requestId: "test", query: {}, pathValues: [], body, req, send, res })).catch(
        (error: unknown) => {
          res.writeHead(error instanceof DomainError ? error.code : 500).end();
        },
      );
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    base = `http://127.0.0.1:${(server.address() as AddressInfo).port}/events/stream`;
  });
  after(async () => {
    for (const socket of sockets) socket.destroy();
    server.close();
    await node.stop();
  });

  const tell = (events: readonly NewEvent[]) =>
    node.node.platform.databaseOf({ city: 1, slot: 2 }).transaction((tx) => appendEvents(tx, { city: 1, slot: 2 }, events));
  const users = () => node.node.platform.databaseOf({ city: 0, slot: 5 });
  const streams = async (): Promise<number> =>
    Number(/^tuanbar_event_streams (\d+)$/m.exec(await node.node.platform.metrics.registry.metrics())?.[1]);

  interface Reading {
    readonly status: number;
    readonly response: IncomingMessage;
    text: string;
    ended: boolean;
    events(): { id: string; kind: string; data: Record<string, unknown> }[];
  }
  const read = (userId: string, lastEventId?: string): Promise<Reading> =>
    new Promise((resolve, reject) => {
      const request = get(
        base,
        { agent: false, headers: { "x-user": userId, ...(lastEventId === undefined ? {} : { "last-event-id": lastEventId }) } },
        (response) => {
          sockets.add(response);
          const reading: Reading = {
            status: response.statusCode ?? 0,
            response,
            text: "",
            ended: false,
            events: () =>
              [...reading.text.matchAll(/^data: (.*)$/gm)].map(
                (match) => JSON.parse(match[1] ?? "") as { id: string; kind: string; data: Record<string, unknown> },
              ),
          };
          response.setEncoding("utf8").on("data", (text: string) => (reading.text += text));
          response.once("close", () => (reading.ended = true)).on("error", () => undefined);
          resolve(reading);
        },
      );
      request.on("error", reject);
    });

  test("a stream tells its user, and nobody else, what happens, with ids that resume it", async () => {
    const [anna, ben] = await Promise.all([read(ANNA), read(BEN)]);
    await until("both are open", async () => (await streams()) === 2);
    await tell([
      paid(1, ANNA),
      paid(2, BEN),
      { type: "group.formed", subject: GROUP, data: { groupId: GROUP, dealId: DEAL, members: [ANNA, CLEO], filled: 0 } },
    ]);
    await until("Anna is told twice", () => anna.events().length === 2);
    await until("Ben is told once", () => ben.events().length === 1);
    assert.deepEqual(
      anna.events().map(({ kind }) => kind),
      ["order.paid", "group.formed"],
    );
    assert.deepEqual(ben.events()[0]?.data, { orderId: orderId(2), dealId: DEAL, quantity: 1, amount: 9_900 });
    assert.match(anna.text, /^id: \d+\nevent: order\.paid\ndata: \{/m);
    assert.equal(anna.response.headers["content-type"], "text/event-stream; charset=utf-8");
    const [first] = anna.events();
    const again = await read(ANNA, first?.id);
    await until("the second comes again", () => again.events().length === 1);
    assert.equal(again.events()[0]?.kind, "group.formed");
    const all = await read(CLEO, "0");
    await until("what happened before comes", () => all.events().length === 1);
    for (const { response } of [anna, ben, again, all]) response.destroy();
    await until("nothing is left of them", async () => (await streams()) === 0);
  });

  test("a resumed stream gives hundreds of rows in order, none twice", async () => {
    await tell(Array.from({ length: 420 }, (_, n) => paid(1_000 + n, CLEO)));
    const [{ from } = { from: "" }] = await users().query<{ from: string }>(
      { name: "test/from", text: "select min(id) as from from notifications where user_id = $1" },
      [CLEO],
    );
    const cleo = await read(CLEO, from);
    await until("all have come", () => cleo.events().length >= 420);
    assert.deepEqual(
      cleo.events().map(({ data }) => data["orderId"]),
      Array.from({ length: 420 }, (_, n) => orderId(1_000 + n)),
    );
    cleo.response.destroy();
  });

  test("the same event twice makes one row, and one order in the index", async () => {
    const before = await users().query({ name: "test/rows", text: "select 1 from notifications" });
    const created: NewEvent = { type: "order.created", subject: orderId(9), data: facts(9, ANNA) };
    await tell([created, created, { ...created, subject: orderId(10), data: facts(10, ANNA) }]);
    await until(
      "the index has both",
      async () => (await findIndexedOrders(users(), { city: 0, slot: 5 }, ANNA, "9223372036854775807", 10)).length === 2,
    );
    assert.deepEqual(await findIndexedOrders(users(), { city: 0, slot: 5 }, ANNA, "9223372036854775807", 10), [orderId(10), orderId(9)]);
    const platform = node.node.platform.databaseOf({ city: 1, slot: 2 });
    await platform.query({
      name: "test/cut",
      text: "select pg_terminate_backend(active_pid) from pg_replication_slots where database = current_database()",
    });
    await tell([paid(11, ANNA)]);
    await until(
      "it goes on",
      async () => (await users().query({ name: "test/rows", text: "select 1 from notifications" })).length === before.length + 1,
    );
  });

  test("of a batch that is told again only what is missing is added, and only those whom it is for are nudged", async () => {
    const notice = (userId: UserId, eventId: string): NewNotification => ({
      ...{ userId, eventId, source: "told again", kind: "order.paid", data: {}, at: "2026-11-29T00:00:00Z" },
    });
    const add = (some: NewNotification[]): Promise<string[]> =>
      users().addOrComplete(
        (tx) => addNotifications(tx, some),
        (tx) => completeNotifications(tx, some),
      );
    assert.deepEqual(await add([notice(ANNA, "1"), notice(BEN, "1")]), [ANNA, BEN]);
    assert.deepEqual(await add([notice(ANNA, "1"), notice(BEN, "1"), notice(CLEO, "1"), notice(BEN, "2")]), [CLEO, BEN]);
    assert.deepEqual(await add([notice(CLEO, "1")]), []);
    const rows = await users().query({ name: "test/told-again", text: "select 1 from notifications where source = 'told again'" });
    assert.equal(rows.length, 4);
  });

  test("one user has so many streams and no more, and a made-up Last-Event-ID is refused", async () => {
    const open = await Promise.all([read(BEN), read(BEN), read(BEN), read(BEN), read(BEN)]);
    assert.deepEqual(
      open.map(({ status }) => status).toSorted((a, b) => a - b),
      [200, 200, 200, 429, 429],
    );
    for (const made of ["x", "-1", "99999999999999999999", "1 or 1=1"]) assert.equal((await read(ANNA, made)).status, 400);
    for (const { response } of open) response.destroy();
    await until("nothing is left of them", async () => (await streams()) === 0);
    assert.equal((await read(BEN)).status, 200);
  });

  test("a stream shows that it lives, ends when its token would, and one that is not read is cut", async () => {
    const idle = await read(ANNA);
    await until("a heartbeat", () => idle.text.includes(":\n\n"));
    const slow = await read(CLEO, "0");
    slow.response.pause();
    slow.response.socket.pause();
    // 18 MB: more than the kernel takes for us.
    const data = { paymentId: "1" as never, orderId: orderId(1), consumerId: CLEO, reason: "长".repeat(20_000) };
    for (let round = 0; round < 6; round++)
      await tell(Array.from({ length: 50 }, () => ({ type: "payment.cancelled", subject: orderId(1), data }) as const));
    await until("nothing is left of them", async () => (await streams()) === 0, 60_000);
    slow.response.socket.resume();
    slow.response.resume();
    await until("both have ended", () => idle.ended && slow.ended);
    assert.equal(idle.response.complete, true, "it was told to come back");
    assert.equal(slow.response.complete, false, "it was cut");
  });

  test("streams end when the node stops, and nothing keeps the process", async () => {
    const anna = await read(ANNA);
    assert.equal(anna.status, 200);
    await node.node.broker.stop();
    await until("it ended", () => anna.ended);
    assert.equal((await read(ANNA).catch(() => ({ status: 0 }))).status, 503);
  });
});
