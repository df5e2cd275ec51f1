/** Calls that travel together: two nodes on a real bus, counted by a third who listens to it. */
import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { Errors, type Context, type ServiceSchema } from "moleculer";
import { connect, type NatsConnection } from "nats";
import { parseKeyspaces } from "../../db/keyspaces.ts";
import { COMMON_ERRORS } from "../../domain/common-errors.ts";
import { DomainError, raise } from "../../domain/error.ts";
import { join, split } from "../../mixins/bundles.ts";
import { action, call, handle, type CallMeta } from "../../mixins/contract.ts";
import { makeNode, type Node } from "../../moleculer.config.ts";
import { TestNats } from "../support/nats.ts";
import { until } from "../support/until.ts";

const told = (name: "stock.tell" | "stock.bigger", timeoutMs = 10_000) =>
  action(name, {
    summary: "",
    params: { n: "number", how: "string" },
    answer: "any" as const,
    timeoutMs,
    address: () => ({ city: 1, slot: 7 }),
  });
const tell = told("stock.tell");
const hasty = told("stock.tell", 300);

/** As a drain does: all that came while it was under way hear of its end in one tick. */
let drain: Promise<void> | undefined;

/** Answers, or goes wrong in the way that is asked for. */
const stock: ServiceSchema = {
  name: "stock",
  actions: {
    tell: handle(tell, async (ctx) => {
      const { n, how } = ctx.params;
      if (how === "sleep") await sleep(1_500);
      await (drain ??= sleep(50).finally(() => (drain = undefined)));
      if (how === "refuse") return raise(COMMON_ERRORS, "OVERLOADED", { retryAfterSeconds: n });
      if (how === "throw") throw new TypeError(`poison ${n}`);
      if (how === "unsendable") return { n: (): number => n };
      if (how === "big") return "x".repeat(n);
      const { meta, headers, nodeID } = ctx as Context<unknown, CallMeta, Record<string, unknown>>;
      return { n, meta, headers, from: nodeID, big: BigInt(n), at: new Date(n) };
    }),
  },
};

describe("calls of one tick to one node", () => {
  let nats: TestNats;
  let listener: NatsConnection;
  const nodes: Node[] = [];
  const seen = { requests: 0, answers: 0 };

  before(async () => {
    nats = await TestNats.start();
    listener = await connect({ servers: nats.url });
    listener.subscribe("*.REQ.>", { callback: () => void seen.requests++ });
    listener.subscribe("*.RES.>", { callback: () => void seen.answers++ });
    await listener.flush();
    await node("works", { stock });
  });
  after(async () => {
    for (const one of nodes.toReversed()) await one.stop();
    await listener.close();
    await nats.stop();
  });

  async function node(nodeID: string, replace: { stock?: ServiceSchema } = {}, batching: "on" | "off" = "on"): Promise<Node> {
    const made = await makeNode({
      nodeID,
      keyspaces: parseKeyspaces(`
        keyspaces:
          user: { id: 0, name: users, databases: { users: 0-15 } }
          sh: { id: 1, name: Shanghai, databases: { sh: 0-15 } }`),
      urlOf: () => "postgresql://127.0.0.1:1/none",
      services: replace.stock === undefined ? [] : ["stock"],
      replace,
      nats: { servers: [new URL(nats.url).host] },
      trade: { orderTtlSeconds: 900, reversalMinutes: 60, settlementDelayMinutes: 60 },
      logLevel: "fatal",
      batching,
    });
    nodes.push(made);
    await until(async () => (made.broker.registry.getActionEndpoints(tell.name)?.count() ?? 0) > 0);
    return made;
  }

  /** Outcomes, and how many messages they took both ways. */
  async function together<R>(
    calls: readonly (() => Promise<R>)[],
  ): Promise<{ outcomes: PromiseSettledResult<R>[]; messages: typeof seen }> {
    await listener.flush();
    const before = { ...seen };
    const outcomes = await Promise.allSettled(calls.map((one) => one()));
    await listener.flush();
    return { outcomes, messages: { requests: seen.requests - before.requests, answers: seen.answers - before.answers } };
  }
  const ask =
    (from: Node, how: string, n: number, meta: CallMeta = {}) =>
    (): Promise<unknown> =>
      call(from.broker, tell, { n, how }, { meta });

  it("are one message, and so are the answers; each has its own caller, request, headers and values", async () => {
    const asks = await node("asks-1");
    const metaOf = (n: number): CallMeta => ({ requestId: `request-${n}`, idempotencyKey: `key-${n}`, bodyHash: `hash-${n}` });
    const { outcomes, messages } = await together(Array.from({ length: 100 }, (_, n) => ask(asks, "answer", n, metaOf(n))));
    assert.deepEqual(messages, { requests: 1, answers: 1 });
    for (const [n, outcome] of outcomes.entries()) {
      assert.ok(outcome.status === "fulfilled");
      assert.deepEqual(outcome.value, {
        n,
        meta: metaOf(n),
        headers: { city: 1, slot: 7 },
        from: "asks-1",
        big: BigInt(n),
        at: new Date(n),
      });
    }
  });

  it("fail each for itself, with errors of their own class, and a poisonous one harms nobody beside it", async () => {
    const asks = await node("asks-2");
    const hows = ["answer", "refuse", "throw", "unsendable", "answer"];
    const calls = hows.map((how, n) => (how === "unsendable" ? () => call(asks.broker, hasty, { n, how }) : ask(asks, how, n)));
    // One that cannot be sent at all.
    const unsendable = { n: 5, how: "answer", also: () => 5 } as { n: number; how: string };
    const { outcomes } = await together([...calls, () => call(asks.broker, tell, unsendable), ask(asks, "answer", 6)]);
    const [first, refused, thrown, unanswered, fifth, unsent, last] = outcomes;
    for (const outcome of [first, fifth, last]) assert.equal(outcome?.status, "fulfilled");
    assert.ok(refused?.status === "rejected" && refused.reason instanceof DomainError);
    assert.deepEqual([refused.reason.type, refused.reason.data], ["OVERLOADED", { retryAfterSeconds: 1 }]);
    assert.ok(thrown?.status === "rejected" && /poison 2/.test(String(thrown.reason)));
    assert.equal(unanswered?.status, "rejected");
    assert.equal(unsent?.status, "rejected");
  });

  it("wait for nobody: a slow one meets its own deadline while the others have their answers", async () => {
    const asks = await node("asks-3");
    const startedMs = performance.now();
    const slow = call(asks.broker, hasty, { n: 1, how: "sleep" });
    slow.catch(() => undefined);
    await Promise.all(Array.from({ length: 20 }, (_, n) => ask(asks, "answer", n)()));
    assert.ok(performance.now() - startedMs < 1_500, "the others have their answers");
    await assert.rejects(slow, Errors.RequestTimeoutError);
  });

  it("are cut into several messages where one would be larger than the bus takes", async () => {
    const asks = await node("asks-4");
    const { outcomes, messages } = await together(Array.from({ length: 8 }, () => ask(asks, "big", 300_000)));
    assert.ok(outcomes.every(({ status }) => status === "fulfilled"));
    assert.deepEqual(messages, { requests: 1, answers: 8 });
  });

  it("are a message each from a node that was told so, and understood by one that was not, both ways", async () => {
    const asks = await node("asks-5", {}, "off");
    const { outcomes, messages } = await together(Array.from({ length: 10 }, (_, n) => ask(asks, "answer", n)));
    assert.ok(outcomes.every(({ status }) => status === "fulfilled"));
    assert.deepEqual(messages, { requests: 10, answers: 1 });
  });
});

describe("a bundle", () => {
  const parts = ["one", "", "three"].map((text) => Buffer.from(text));
  it("is taken apart into what it was made of", () => {
    assert.deepEqual([...split(join(parts))], parts);
    assert.deepEqual([...split(join(parts.slice(0, 1)))], parts.slice(0, 1));
  });
  it("that ends too early gives what is whole of it, and nothing made up", () => {
    const whole = join(parts);
    for (let length = 1; length < whole.length; length++) {
      const got = [...split(whole.subarray(0, length))];
      assert.deepEqual(got, parts.slice(0, got.length));
    }
  });
});
