/** Failpoints are named at seams; here: what a step is, and that there is no way around the seams. Struck are they in tests/cluster/failpoints*. */
import assert from "node:assert/strict";
import { EventEmitter } from "node:events";
import { globSync, readFileSync } from "node:fs";
import type { ServerResponse } from "node:http";
import { test } from "node:test";
import type { Outcome } from "../domain/channel/records.ts";
import { makeChannels } from "../mixins/channels/index.ts";
import type { Work } from "../mixins/drain.ts";
import { Failpoints, WRITES } from "../mixins/failpoints.ts";
import { WechatPay } from "./support/wechatpay.ts";

const files = globSync("{mixins,services}/**/*.ts")
  .toSorted()
  .map((path) => ({ path, text: readFileSync(path, "utf8") }));
/** `path: line` of every place where it stands, but for the files that are known, each with its reason. */
const places = (pattern: RegExp, known: Readonly<Record<string, string>> = {}): string[] =>
  files.flatMap(({ path, text }) =>
    path in known ? [] : text.split("\n").flatMap((line) => (pattern.test(line) ? [`${path}: ${line.trim()}`] : [])),
  );

test("a drain passes before its commit and after it, ahead of whatever it tells then", async () => {
  const passed: string[] = [];
  const failpoints = new Failpoints((step) => passed.push(step));
  const drain = failpoints.drain("a.b", async (work: Work, inputs: readonly string[]) => {
    work.afterCommit(() => passed.push("told"));
    passed.push("decided");
    return inputs;
  });
  const afterCommit: (() => void)[] = [];
  await drain({ afterCommit: (run: () => void) => void afterCommit.push(run) } as Work, ["x"]);
  for (const run of afterCommit) run();
  assert.deepEqual(passed, ["decided", "before drain a.b", "after drain a.b", "told"]);
  assert.deepEqual([...failpoints.steps], ["before drain a.b", "after drain a.b"]);
});

test("every call to a channel has its steps, also one that fails", async (t) => {
  const passed: string[] = [];
  const failpoints = new Failpoints((step) => passed.push(step));
  const wechat = await WechatPay.open();
  t.after(() => wechat.stop());
  const settings = { simpay: { url: "http://127.0.0.1:1", secret: "x".repeat(32) }, wechatpay: wechat.settings() };
  const channels = failpoints.channels(await makeChannels(settings, "https://tuanbar.example.test"));
  for (const [name, channel] of channels) {
    const outcome: Outcome<unknown> = await channel.query("1");
    assert.equal(outcome.kind, name === "simpay" ? "unknown" : "answered");
    assert.deepEqual(passed.splice(0), [`before call ${name}.query`, `after call ${name}.query`]);
    // What a channel has beside its calls stays as it is, and what it has is a call or known here.
    const others = Object.keys(channel).filter((key) => !failpoints.steps.has(`before call ${name}.${key}`));
    assert.deepEqual(others.toSorted(), ["name", "readStatement", "statement", "statementKinds", "verifyCallback"]);
  }
});

test("an event consumer passes before its effect and before its acknowledgement", async () => {
  const passed: string[] = [];
  const failpoints = new Failpoints((step) => passed.push(step));
  const beat = async (): Promise<void> => void passed.push("beat");
  const consumer = failpoints.consumer({ name: "c", types: "every", handle: async () => void passed.push("effect"), beat });
  await consumer.handle([]);
  await consumer.beat?.();
  assert.deepEqual(passed, ["before events c", "effect", "after events c", "beat"]);
});

test("an answer passes once it is out, unless it is a refusal", () => {
  const passed: string[] = [];
  const failpoints = new Failpoints((step) => passed.push(step));
  for (const statusCode of [201, 503]) {
    const res = Object.assign(new EventEmitter(), { statusCode }) as unknown as ServerResponse;
    failpoints.answer("POST /x", () => void passed.push("served"))({ res });
    res.emit("finish");
  }
  assert.deepEqual(passed, ["served", "after answer POST /x", "served"]);
});

test("a statement that writes is told from one that reads or locks", () => {
  for (const text of [
    "insert into a (b) values (1)",
    "\n    copy a_$1 (b) from stdin",
    "with due as (select 1 for update skip locked) update a set b = 1",
    "delete from a",
    "update a_$1 x set b = 1",
  ])
    assert.match(text, WRITES);
  for (const text of [
    "select 1 from a for update",
    "select 1 from a for no key update of a",
    "select updated from a for update skip locked",
  ])
    assert.doesNotMatch(text, WRITES);
});

test("transactions are opened by drains, and elsewhere only where other steps stand around them", () => {
  const known = {
    "mixins/drain.ts": "each drain",
    "mixins/journal-replays.ts": "events: around what it hands over",
    "services/notify/notify.service.ts": "events notify",
    "services/order-index/order-index.service.ts": "events order-index",
    "services/ops/snapshot.ts": "reads",
    "services/recon/stage.ts": "commit recon.stage",
    "services/recon/worker.ts": "commit recon.match",
  };
  const opened = /\.(transaction|addOrComplete)\(|["'`]begin\b/;
  assert.deepEqual(places(opened, known), []);
  for (const path of Object.keys(known))
    assert.ok(
      places(opened).some((place) => place.startsWith(path)),
      path,
    );
  assert.deepEqual(places(/["'`]commit["'`]/, { "mixins/failpoints.ts": "both forms of it" }), []);
});

test("events are published and acknowledged in one place", () => {
  const known = { "mixins/jetstream.ts": "before|after publish events, before|after acknowledge" };
  assert.deepEqual(places(/\.ack(Ack)?\(|\.jetstream\(\)\.publish\(|new EventStreams\(/, known), []);
});

test("databases and channels are reached by what a node was put together from", () => {
  assert.deepEqual(places(/new (pg\.)?(Pool|Client|Database)\(/), []);
  const known = { "services/ops/snapshot.ts": "reads", "services/recon/stage.ts": "commit recon.stage, commit recon.match" };
  assert.deepEqual(places(/\breportClient\(/, known), []);
  assert.deepEqual(places(/(?<!function )\b(simpay|wechatPay)Channel\(/, { "mixins/channels/index.ts": "handed to the platform" }), []);
  // A bank inside this process, which remembers nothing: there is no other side to lose.
  assert.deepEqual(places(/(?<!function )\bofferPayoutChannel\((?!this\.broker, TEST_BANK)/), []);
});
