import assert from "node:assert/strict";
import { after, before, beforeEach, describe, test } from "node:test";
import { DomainError } from "../domain/error.ts";
import type { Database } from "../db/database.ts";
import { dropDeadLetter, listDeadLetters, replayDeadLetter } from "../services/ops/ops.contract.ts";
import { callAs, testNode, type TestNode } from "./support/node.ts";
import { ADMIN } from "./support/market.ts";
import { until } from "./support/until.ts";

const UNKNOWN = (error: unknown): boolean => error instanceof DomainError && error.type === "DEAD_LETTER_NOT_FOUND";

describe("dead letters", () => {
  let at: TestNode;
  let city: Database;
  let users: Database;

  before(async () => {
    at = await testNode(["order", "order-index", "journal", "ops"]);
    city = at.node.platform.databaseOf({ city: 1, slot: 3 });
    users = at.node.platform.databaseOf({ city: 0, slot: 0 });
  });
  after(() => at.stop());
  beforeEach(async () => {
    for (const database of at.node.platform.databases.values())
      await database.query({ name: "test/clear", text: "delete from parked_events" });
  });

  const park = (database: Database, source: string, eventId: number, data: object, consumer = "order-index") =>
    database.query(
      {
        name: "test/park",
        text: "insert into parked_events (consumer, source, event_id, event, error, attempts) values ($1, $2, $3, $4, 'it said no', 5)",
      },
      [consumer, source, eventId, JSON.stringify({ type: "order.created", subject: "1000", data, at: "2026-01-01 00:00:00+00" })],
    );
  const list = (params: { limit?: number; cursor?: string; consumer?: string } = {}) => callAs(at.node, listDeadLetters, params, ADMIN);
  const indexed = async (orderId: string): Promise<number> => {
    const [row] = await users.query<{ rows: number }>(
      { name: "test/indexed", text: "select count(*)::integer as rows from order_index where order_id = $1" },
      [orderId],
    );
    return row?.rows ?? 0;
  };

  test("are listed page by page over all databases, and by consumer", async () => {
    const hz = at.node.platform.databaseOf({ city: 3, slot: 9 });
    for (let event = 1; event <= 3; event++) await park(city, "1/3", event, {});
    await park(hz, "3/9", 10, {});
    await park(city, "1/3", 7, {}, "notify");
    const seen: string[] = [];
    let cursor: string | undefined;
    do {
      const { items, nextCursor } = await list({ limit: 2, ...(cursor === undefined ? {} : { cursor }) });
      seen.push(...items.map((item) => item.id));
      cursor = nextCursor;
    } while (cursor !== undefined);
    assert.deepEqual(seen, ["notify.1.3.7", "order-index.1.3.1", "order-index.1.3.2", "order-index.1.3.3", "order-index.3.9.10"]);
    const { items } = await list({ consumer: "notify" });
    assert.equal(items.length, 1);
    const [{ event, parkedAt, ...rest } = { event: {}, parkedAt: "" }] = items;
    assert.ok(Date.parse(parkedAt) > 0);
    assert.equal((event as { subject: string }).subject, "1000");
    assert.deepEqual(rest, {
      id: "notify.1.3.7",
      consumer: "notify",
      source: "1/3",
      eventId: "7",
      type: "order.created",
      error: "it said no",
      attempts: 5,
      replaying: false,
    });
  });

  test("one that is replayed is handled by its consumer, once, and is gone", async () => {
    await park(city, "1/3", 1, { orderId: "9001", consumerId: "4096" });
    const asked = await callAs(at.node, replayDeadLetter, { id: "order-index.1.3.1" }, ADMIN);
    assert.equal(asked.replaying, true);
    await until(async () => (await list()).items.length === 0);
    assert.equal(await indexed("9001"), 1);
    await assert.rejects(callAs(at.node, replayDeadLetter, { id: "order-index.1.3.1" }, ADMIN), UNKNOWN);
    // The same again, as after a node that died before it could delete the letter.
    await park(city, "1/3", 1, { orderId: "9001", consumerId: "4096" });
    await callAs(at.node, replayDeadLetter, { id: "order-index.1.3.1" }, ADMIN);
    await until(async () => (await list()).items.length === 0);
    assert.equal(await indexed("9001"), 1);
  });

  test("one that fails again lies there with its new error, and keeps nobody else", async () => {
    // A consumer of a city that is not served cannot be indexed.
    await park(city, "1/3", 1, { orderId: "9002", consumerId: String(200 * 16) });
    await park(city, "1/3", 2, { orderId: "9003", consumerId: "4096" });
    for (const id of ["order-index.1.3.1", "order-index.1.3.2"]) await callAs(at.node, replayDeadLetter, { id }, ADMIN);
    await until(async () => (await list()).items.every((item) => !item.replaying));
    const { items } = await list();
    assert.deepEqual(
      items.map(({ id, attempts, replaying }) => ({ id, attempts, replaying })),
      [{ id: "order-index.1.3.1", attempts: 6, replaying: false }],
    );
    assert.match(items[0]?.error ?? "", /no city 200 is served/);
    assert.equal(await indexed("9003"), 1);
  });

  test("one of a consumer that is nowhere waits until the consumer is back", async () => {
    await park(city, "1/3", 1, {}, "retired");
    await callAs(at.node, replayDeadLetter, { id: "retired.1.3.1" }, ADMIN);
    await new Promise((resolve) => setTimeout(resolve, 1_500));
    assert.deepEqual(
      (await list()).items.map(({ id, replaying }) => ({ id, replaying })),
      [{ id: "retired.1.3.1", replaying: true }],
    );
  });

  test("one that is dropped is shown for the last time", async () => {
    await park(city, "1/3", 1, { orderId: "9004", consumerId: "4096" });
    const dropped = await callAs(at.node, dropDeadLetter, { id: "order-index.1.3.1" }, ADMIN);
    assert.deepEqual((dropped.event as { data: object }).data, { orderId: "9004", consumerId: "4096" });
    await assert.rejects(callAs(at.node, dropDeadLetter, { id: "order-index.1.3.1" }, ADMIN), UNKNOWN);
    assert.equal(await indexed("9004"), 0);
  });

  for (const id of ["order-index.9.3.1", "order-index.1.77.1", "order-index.1.3.999999999999999999", "nobody.1.3.1"]) {
    test(`there is no ${id}`, () => assert.rejects(callAs(at.node, replayDeadLetter, { id }, ADMIN), UNKNOWN));
  }
});
