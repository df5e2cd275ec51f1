/** Failpoints are named at seams; here: what a step is, and that there is no way around the seams. Struck are they in tests/cluster/failpoints.test.ts. */
import assert from "node:assert/strict";
import { EventEmitter } from "node:events";
import { globSync, readFileSync } from "node:fs";
import { test } from "node:test";
import type { Outcome } from "../domain/channel/records.ts";
import { makeChannels } from "../mixins/channels/index.ts";
import type { Work } from "../mixins/drain.ts";
import { Failpoints, WRITES } from "../mixins/failpoints.ts";

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

test("every call to a channel has its steps, also one that fails", async () => {
  const passed: string[] = [];
  const failpoints = new Failpoints((step) => passed.push(step));
  const channels = await makeChannels({ simpay: { url: "http://127.0.0.1:1", secret: "x".repeat(32) } }, "http://127.0.0.1:2");
  const simpay = failpoints.channels(channels).get("simpay");
  const outcome: Outcome<unknown> | undefined = await simpay?.query("1");
  assert.equal(outcome?.kind, "unknown");
  assert.deepEqual(passed, ["before call simpay.query", "after call simpay.query"]);
  // What a channel has beside its calls stays as it is, and what it has is a call or known here.
  const calls = Object.keys(simpay ?? {}).filter((name) => failpoints.steps.has(`before call simpay.${name}`));
  const others = Object.keys(simpay ?? {}).filter((name) => !calls.includes(name));
  assert.deepEqual(others.toSorted(), ["name", "readStatement", "statement", "statementKinds", "verifyCallback"]);
});

test("an event consumer passes before its effect and before its acknowledgement, an answer once it is out", async () => {
  const passed: string[] = [];
  const failpoints = new Failpoints((step) => passed.push(step));
  await failpoints.consumer({ name: "c", types: "every", handle: async () => void passed.push("effect") }).handle([]);
  const res = new EventEmitter();
  failpoints.answer("POST /x", () => void passed.push("served"))({ res });
  res.emit("finish");
  assert.deepEqual(passed, ["before events c", "effect", "after events c", "served", "after answer POST /x"]);
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
  assert.deepEqual(places(/\.transaction\(|["'`]begin\b/, known), []);
  for (const path of Object.keys(known))
    assert.ok(
      places(/\.transaction\(|["'`]begin\b/).some((place) => place.startsWith(path)),
      path,
    );
  assert.deepEqual(places(/["'`]commit["'`]/, { "mixins/failpoints.ts": "both forms of it" }), []);
});

test("databases and channels are reached by what a node was put together from", () => {
  assert.deepEqual(places(/new (pg\.)?(Pool|Client|Database)\(/), []);
  const known = { "services/ops/snapshot.ts": "reads", "services/recon/stage.ts": "commit recon.stage, commit recon.match" };
  assert.deepEqual(places(/\breportClient\(/, known), []);
  assert.deepEqual(places(/(?<!function )\b(simpay|wechatPay)Channel\(/, { "mixins/channels/index.ts": "handed to the platform" }), []);
  // A bank inside this process, which remembers nothing: there is no other side to lose.
  assert.deepEqual(places(/(?<!function )\bofferPayoutChannel\((?!this\.broker, TEST_BANK)/), []);
});
