/** Calls under way: their deadlines, and what a node that stops waits for. */
import assert from "node:assert/strict";
import { test, type TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { Errors, ServiceBroker, type BrokerOptions, type Context, type Middleware, type ServiceSchema } from "moleculer";
import { underWay } from "../mixins/under-way.ts";

/** How long a stop waits: far longer than anything here takes, so that a slow machine does not look like a stop that waits for its end. */
const STOP_MS = 10_000;
const SLOW_MS = 300;

/** A broker with one service, `bar`, which is stopped behind the test. */
async function open(
  t: TestContext,
  bar: Omit<ServiceSchema, "name">,
  {
    stopMs = STOP_MS,
    within = [],
    on = {},
  }: { readonly stopMs?: number; readonly within?: readonly Middleware[]; readonly on?: BrokerOptions } = {},
): Promise<ServiceBroker> {
  const broker = new ServiceBroker({
    ...on,
    logger: false,
    internalMiddlewares: false,
    requestTimeout: 5_000,
    tracking: { shutdownTimeout: stopMs },
    middlewares: ["ActionHook", "Validator", ...within, underWay],
  });
  broker.createService({ name: "bar", ...bar });
  await broker.start();
  t.after(() => broker.stop());
  return broker;
}

const elapsed = async (work: Promise<unknown>): Promise<number> => {
  const startedMs = performance.now();
  await work;
  return performance.now() - startedMs;
};

test("a call is answered, or rejected with its handler's own error", async (t) => {
  const refusal = new Error("no seats");
  const broker = await open(t, { actions: { serve: () => Promise.resolve("beer"), refuse: () => Promise.reject(refusal) } });
  assert.equal(await broker.call("bar.serve"), "beer");
  await assert.rejects(broker.call("bar.refuse"), (error) => error === refusal);
});

test("what a handler throws that is no error is one for its caller", async (t) => {
  const broker = await open(t, { actions: { refuse: () => Promise.reject("no seats") } }); // eslint-disable-line prefer-promise-reject-errors
  await assert.rejects(broker.call("bar.refuse"), { name: "MoleculerError", message: "no seats" });
});

test("a call that takes too long is rejected at its deadline: the caller's, else the action's, else the broker's", async (t) => {
  const slow = (): Promise<void> => sleep(SLOW_MS);
  const broker = await open(t, { actions: { slow, brief: { handler: slow, timeout: 40 } } });
  const tooLong = (action: string) => (error: unknown) =>
    error instanceof Errors.RequestTimeoutError && (error.data as { action: string }).action === action;
  await assert.rejects(broker.call("bar.slow", {}, { timeout: 40 }), tooLong("bar.slow"));
  await assert.rejects(broker.call("bar.brief"), tooLong("bar.brief"));
  await broker.call("bar.brief", {}, { timeout: 2_000 });
  await broker.call("bar.slow");
});

test("what a handler says behind its deadline is nobody's, and no fault of the process", async (t) => {
  const said = Promise.withResolvers<void>();
  const broker = await open(t, {
    actions: {
      async late(): Promise<never> {
        await sleep(60);
        said.resolve();
        throw new Error("too late to matter");
      },
    },
  });
  await assert.rejects(broker.call("bar.late", {}, { timeout: 20 }), Errors.RequestTimeoutError);
  await said.promise;
  await sleep(10); // an unhandled rejection would end this test file
});

test("nothing is kept of a call to another node that has taken too long", async (t) => {
  const asking = await open(t, {}, { on: { nodeID: "asking", transporter: "Fake" } });
  const answering = new ServiceBroker({ nodeID: "answering", transporter: "Fake", logger: false });
  t.after(() => answering.stop());
  answering.createService({ name: "kitchen", actions: { never: () => new Promise(() => undefined) } });
  await answering.start();
  await asking.waitForServices("kitchen", 5_000, 10);
  await assert.rejects(asking.call("kitchen.never", {}, { timeout: 40 }), Errors.RequestTimeoutError);
  assert.equal(asking.transit?.pendingRequests.size, 0);
});

test("a call within a call has what is left of its time", async (t) => {
  let leftMs = Infinity;
  const broker = await open(t, {
    actions: {
      async outer(ctx: Context): Promise<unknown> {
        await sleep(100);
        return ctx.call("bar.inner");
      },
      inner: (ctx: Context) => Promise.resolve((leftMs = ctx.options.timeout ?? Infinity)),
    },
  });
  await broker.call("bar.outer", {}, { timeout: 1_000 });
  assert.ok(leftMs > 0 && leftMs <= 905, `${leftMs} ms`);
});

test("a node that stops waits for calls and events under way, and no longer", async (t) => {
  for (const begin of [
    (broker: ServiceBroker): Promise<unknown> => broker.call("bar.slow"),
    (broker: ServiceBroker): Promise<unknown> => Promise.resolve(void broker.emit("ordered")),
  ]) {
    let done = 0;
    const slow = async (): Promise<void> => {
      await sleep(120);
      done++;
    };
    const broker = await open(t, { actions: { slow }, events: { ordered: slow } });
    const called = begin(broker);
    await sleep(10);
    const tookMs = await elapsed(broker.stop());
    await called;
    assert.equal(done, 1, "it was waited for");
    assert.ok(tookMs >= 100 && tookMs < STOP_MS, `${tookMs} ms`);
  }
});

test("a node with nothing under way stops at once", async (t) => {
  const broker = await open(t, { actions: { serve: () => Promise.resolve("beer"), refuse: () => Promise.reject(new Error("no")) } });
  await Promise.all(Array.from({ length: 50 }, () => broker.call("bar.serve")));
  await Promise.allSettled(Array.from({ length: 50 }, () => broker.call("bar.refuse")));
  await Promise.allSettled(Array.from({ length: 50 }, () => broker.call("bar.nowhere")));
  assert.ok((await elapsed(broker.stop())) < STOP_MS / 2);
});

test("a call that is over for its caller is not waited for, one that never ends is waited for so long", async (t) => {
  const never = (): Promise<never> => new Promise(() => undefined);
  const timedOut = await open(t, { actions: { never } });
  await assert.rejects(timedOut.call("bar.never", {}, { timeout: 20 }), Errors.RequestTimeoutError);
  assert.ok((await elapsed(timedOut.stop())) < STOP_MS / 2);

  const hung = await open(t, { actions: { never } }, { stopMs: SLOW_MS });
  hung.call("bar.never", {}, { timeout: 0 }).catch(() => undefined);
  await sleep(10);
  const tookMs = await elapsed(hung.stop());
  assert.ok(tookMs >= SLOW_MS - 5 && tookMs < STOP_MS / 2, `${tookMs} ms`);
});

test("what is refused or throws before its handler has begun is over", async (t) => {
  const throws = (): never => {
    throw new Error("out of order");
  };
  const serve = (): Promise<string> => Promise.resolve("beer");
  const refusing = await open(t, { actions: { strict: { params: { n: "number" }, handler: serve } } });
  await assert.rejects(refusing.call("bar.strict", { n: "x" }), Errors.ValidationError);
  assert.ok((await elapsed(refusing.stop())) < STOP_MS / 2);

  const throwing = await open(t, { actions: { serve } }, { within: [{ name: "Throws", localAction: () => throws }] });
  await assert.rejects(throwing.call("bar.serve"), { message: "out of order" });
  await assert.rejects(throwing.call("bar.serve", {}, { timeout: 0 }), { message: "out of order" });
  assert.ok((await elapsed(throwing.stop())) < STOP_MS / 2);
});
