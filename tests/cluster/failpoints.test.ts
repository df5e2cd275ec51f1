/**
 * The process is killed at every step of every path that money takes, each by a kill of its own (`mixins/failpoints.ts` says what a step is). The list is what a
 * rehearsal finds: everything a whole node was put together from, and every statement that was a transaction of its own. After each walk, whoever was
 * killed on it: nothing is under way any more, the invariants hold, and simpay's own log tells of the same money as we do.
 *
 * One walk is struck at each of its steps in turn: the restart after one kill is the start that waits for the next. That costs a start a step, not a
 * start and a walk, and most steps are struck in a town that has just been.
 */
import assert from "node:assert/strict";
import { globSync, readFileSync } from "node:fs";
import { after, before, describe, it } from "node:test";
import { Transaction } from "../../db/database.ts";
import { WRITES } from "../../mixins/failpoints.ts";
import { testServer, type TestServer } from "../support/databases.ts";
import { Town } from "../support/town.ts";
import { WALKS, type Walk } from "../support/walks.ts";

/** What no money goes through, and a walk would have to break the house for. */
const ELSEWHERE: readonly (readonly [step: RegExp, why: string])[] = [
  [
    /^after answer POST \/api\/v1\/ops\/(shards|search|regions|dead-letters)\//,
    "an operator's: tests/cluster/shards.*, search, regions, dead-letters",
  ],
  [/^after answer POST \/api\/v1\/ops\/attention\/\{id\}\/retry$/, "makes an attempt due, which it would be soon: tests/attention.test.ts"],
];
/** Statements that write and that no walk sends. */
const UNSENT: Readonly<Record<string, string>> = {
  "jetstream/move-marks": "events over NATS: tests/cluster/journal.jetstream.test.ts",
  "jetstream/save": "events over NATS",
  "jetstream/settled": "events over NATS",
  "journal/once": "for event consumers without a key of their own: tests/journal.test.ts kills one",
  "ops/retry-settlement": "makes a settlement that failed due: tests/attention.test.ts",
  "parked/ask-replay": "dead letters: tests/dead-letters.test.ts",
  "parked/drop": "dead letters",
  "parked/fail": "dead letters",
  "parked/park": "dead letters",
  "prune/events": "drops what everybody has handled a month ago",
  "prune/inbox": "drops what everybody has handled a month ago",
  "recon/renew": "a lease that is not renewed runs out",
  "refund/failed": "notes why an attempt failed, and nothing else",
  "refund/stall": "in drain refund.tell, which is struck",
  "session/revoke-of-user": "in drain user.setAdmin, which is struck; a rehearsal's start makes its administrator",
  "user/set-admin": "in drain user.setAdmin, which is struck",
};
/** Every statement of ours that writes, by its name. */
const WRITING = globSync("{mixins,services}/**/*.ts").flatMap((path) =>
  [...readFileSync(path, "utf8").matchAll(/name: "([\w/-]+)",\s*text: (`[^`]*`|"[^"]*")/g)].flatMap(([, name = "", text = ""]) =>
    WRITES.test(text) ? [name] : [],
  ),
);
/** Walks without a kill in a row, and time without one, after which a step counts as one that nobody passes: a sweep passes it, at its own moment. */
const ROUNDS_MAX = 3;
const PATIENCE_MS = 30_000;

interface Chain {
  readonly walk: Walk;
  readonly steps: string[];
}

describe("killed at every step", () => {
  let server: TestServer;
  const towns: Town[] = [];
  const passedBy = new Map<string, Set<string>>();

  before(async () => {
    server = await testServer();
    for (let n = 0; n < 2; n++) towns.push(await Town.open(server));
  });
  after(async () => {
    for (const town of towns) await town.close();
    await server.stop();
  });

  it("there is a walk past each", { timeout: 300_000 }, async (t) => {
    const [town] = towns;
    assert.ok(town);
    let passed = new Set<string>();
    // Called through, and put back with the test.
    const { mock: within } = t.mock.method(Transaction.prototype, "query");
    const { mock: copied } = t.mock.method(Transaction.prototype, "copy");
    const { node, failpoints } = await town.rehearse((step) => passed.add(step));
    try {
      for (const { name, walk, prepare } of WALKS) {
        passedBy.set(name, passed);
        // A walk that is about a start: this was one.
        if (prepare === undefined) await walk(town);
        await town.settles();
        passed = new Set();
        if (town.bar.deal !== "") continue;
        // On nobody's walk.
        await town.furnish();
        passed = new Set();
      }
      await town.holds();
    } finally {
      await node.stop();
    }
    const reached = new Set([...passedBy.values()].flatMap((steps) => [...steps]));
    const missed = [...failpoints.steps].filter((step) => !reached.has(step) && !ELSEWHERE.some(([known]) => known.test(step)));
    assert.deepEqual(missed, [], "every step of the house is passed on some walk");
    const sent = new Set([...within.calls, ...copied.calls].map(({ arguments: [statement] }) => statement.name));
    const unsent = WRITING.filter((name) => !sent.has(name) && !reached.has(`after write ${name}`));
    assert.deepEqual(
      unsent.toSorted(),
      Object.keys(UNSENT).toSorted(),
      "every statement that writes is sent, in a drain or with steps of its own",
    );
    t.diagnostic(`${reached.size} steps on ${WALKS.length} walks`);
  });

  it("everything reaches its right end", { timeout: 1_500_000 }, async (t) => {
    const chains = chainsOf(passedBy);
    const total = chains.reduce((sum, { steps }) => sum + steps.length, 0);
    const struck: string[] = [];
    const failures: string[] = [];
    const lane = async (town: Town): Promise<void> => {
      await town.live();
      if (town.bar.deal === "") await town.furnish();
      for (let chain = chains.shift(); chain; chain = chains.shift()) {
        const { walk } = chain;
        const startMs = performance.now();
        const killed: string[] = [];
        await play(town, chain, killed).catch((error: unknown) => {
          failures.push(`${walk.name}, killed ${killed.join(", ")}: ${error instanceof Error ? error.stack : String(error)}\n${town.said}`);
        });
        struck.push(...killed);
        t.diagnostic(`${walk.name}: killed ${killed.length} times in ${Math.round((performance.now() - startMs) / 1_000)} s`);
      }
    };
    await Promise.all(towns.map(lane));
    assert.deepEqual(failures, []);
    assert.equal(new Set(struck).size, total, "each step had its own kill");
    assert.ok(total > 100, `${total} steps`);
  });
});

/**
 * Each step once, on the first walk that passes it: later ones may pass it only for what earlier ones have left in the town. In the order in which
 * the walk does; the longest chain first, so that the lanes end together.
 */
function chainsOf(passedBy: ReadonlyMap<string, ReadonlySet<string>>): Chain[] {
  const taken = new Set<string>();
  return WALKS.map((walk): Chain => {
    const steps = [...(passedBy.get(walk.name) ?? [])].filter((step) => !taken.has(step));
    for (const step of steps) taken.add(step);
    return { walk, steps };
  })
    .filter(({ walk, steps }) => walk.ofMoney !== false && steps.length > 0)
    .toSorted((a, b) => b.steps.length - a.steps.length);
}

/** Walks until every step of the chain has killed the server; `killed` grows with it. */
async function play(town: Town, { walk, steps }: Chain, killed: string[]): Promise<void> {
  const next = (): string | undefined => steps[killed.length];
  let isArmed = false;
  let sinceMs = performance.now();
  for (let rounds = 0; next() !== undefined; rounds++) {
    assert.ok(rounds < ROUNDS_MAX || performance.now() - sinceMs < PATIENCE_MS, `nobody passes "${next()}"`);
    if (walk.prepare !== undefined || !isArmed) {
      await town.kill();
      await walk.prepare?.(town);
      await town.live(next());
      isArmed = true;
    }
    const walking = walk.walk(town);
    const over = walking.then(() => "over" as const);
    for (let end = await Promise.race([town.died, over]); end !== "over"; end = await Promise.race([town.died, over])) {
      assert.equal(end, "SIGKILL", "the server lives until it is killed");
      killed.push(next() ?? "by itself");
      rounds = -1;
      await town.live(next());
      sinceMs = performance.now();
    }
  }
  await town.simpay.plan({});
  await town.holds();
}
