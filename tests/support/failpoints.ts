/**
 * Programs are killed at every step of every path that money takes, each by a kill of its own (`mixins/failpoints.ts` says what a step is). The list is what a
 * rehearsal finds: everything that whole nodes were put together from, and every statement that was a transaction of its own. After each walk, whoever
 * was killed on it: nothing is under way any more, the invariants hold, and simpay's own log tells of the same money as we do.
 *
 * A program is told all of its steps that are left, and dies at the first one that it passes; so each start waits for the next kill, whoever's turn
 * it is, and no walk is gone for one step alone. Of a cluster's nodes each is killed while the others live, and started again.
 */
import assert from "node:assert/strict";
import { globSync, readFileSync } from "node:fs";
import { after, before, describe, it } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { Transaction } from "../../db/database.ts";
import { WRITES } from "../../mixins/failpoints.ts";
import { testServer, type TestServer } from "./databases.ts";
import { Town, type Programs } from "./town.ts";
import { WALKS, type Walk } from "./walks.ts";

export interface Profile {
  readonly programs: Programs;
  /** Steps that no walk passes, or at which nobody is killed, and why. */
  readonly elsewhere: readonly (readonly [step: RegExp, why: string])[];
  /** Statements that write and that no walk sends, and why. */
  readonly unsent: Readonly<Record<string, string>>;
  readonly stepsMin: number;
}

/** What no money goes through, and a walk would have to break the house for. */
export const OPERATORS: Profile["elsewhere"] = [
  [
    /: after answer POST \/api\/v1\/ops\/(shards|search|regions|dead-letters)\//,
    "an operator's: tests/cluster/shards.*, search, regions, dead-letters",
  ],
  [
    /: after answer POST \/api\/v1\/ops\/attention\/\{id\}\/retry$/,
    "makes an attempt due, which it would be soon: tests/attention.test.ts",
  ],
];
/** Statements that write and that no walk sends, in whatever profile. */
export const UNSENT: Readonly<Record<string, string>> = {
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
/** Rounds in a row on which nobody was killed, after which a step counts as one that nobody passes: a sweep passes it at its own moment, or one of two nodes. */
const QUIET_ROUNDS_MAX = 12;

/** A relay saves its marks five seconds after they have moved: whoever is started again and again does not come to it. */
const MARKS_SAVED_MS = 7_000;

/** `program: step`: two nodes of a cluster may pass one of the same name. */
const keyOf = (program: string, step: string): string => `${program}: ${step}`;
const stepOf = (key: string): string => key.slice(key.indexOf(": ") + 2);

export function killedAtEveryStep({ programs, elsewhere, unsent, stepsMin }: Profile): void {
  describe(`killed at every step: ${Object.keys(programs).join(", ")}`, () => {
    let server: TestServer;
    const towns: Town[] = [];
    const passedBy = new Map<Walk, Set<string>>();
    const isElsewhere = (key: string): boolean => elsewhere.some(([known]) => known.test(key));

    before(async () => {
      server = await testServer();
      for (let n = 0; n < 2; n++) towns.push(await Town.open(server, programs));
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
      const { mock: changed } = t.mock.method(Transaction.prototype, "change");
      const { mock: copied } = t.mock.method(Transaction.prototype, "copy");
      const { failpoints, stop } = await town.rehearse(({ name }, step) => passed.add(keyOf(name, step)));
      try {
        for (const one of WALKS) {
          passedBy.set(one, passed);
          // A walk that is about a start: this was one.
          if (one.prepare === undefined) await one.walk(town);
          await town.settles();
          passed = new Set();
          if (town.bar.deal !== "") continue;
          // On nobody's walk.
          await town.furnish();
          passed = new Set();
        }
        await town.holds();
      } finally {
        await stop();
      }
      const reached = new Set([...passedBy.values()].flatMap((steps) => [...steps]));
      const known = [...failpoints].flatMap(([{ name }, { steps }]) => [...steps].map((step) => keyOf(name, step)));
      const missed = known.filter((key) => !reached.has(key) && !isElsewhere(key));
      assert.deepEqual(missed, [], "every step of the house is passed on some walk");
      const stale = elsewhere.filter(([step]) => !known.some((key) => step.test(key)));
      assert.deepEqual(stale, [], "what is said to be elsewhere is a step");
      const sent = new Set([...within.calls, ...changed.calls, ...copied.calls].map(({ arguments: [statement] }) => statement.name));
      const alone = new Set([...reached].map((key) => key.split(": after write ")[1]));
      assert.deepEqual(
        WRITING.filter((name) => !sent.has(name) && !alone.has(name)).toSorted(),
        Object.keys(unsent).toSorted(),
        "every statement that writes is sent, in a drain or with steps of its own",
      );
      t.diagnostic(`${reached.size} steps on ${WALKS.length} walks`);
    });

    it("everything reaches its right end", { timeout: 1_500_000 }, async (t) => {
      const lanes = lanesOf(passedBy, isElsewhere, towns.length);
      const total = lanes.flat().reduce((sum, { steps }) => sum + steps.length, 0);
      const struck: string[] = [];
      const failures: string[] = [];
      await Promise.all(
        lanes.map(async (chains, n) => {
          const town = towns[n];
          assert.ok(town);
          const round = new Round(town, new Set(chains.flatMap(({ steps }) => steps)));
          await town.live();
          if (town.bar.deal === "") await town.furnish();
          await town.kill();
          await round.begin();
          for (const chain of [...chains, undefined]) {
            const name = chain?.walk.name ?? "the rest";
            const startMs = performance.now();
            const from = round.struck.length;
            await (chain ? round.play(chain) : round.finish(passedBy)).catch((error: unknown) => {
              const killed = round.struck.slice(from).join(", ");
              failures.push(`${name}, killed ${killed}: ${error instanceof Error ? error.stack : String(error)}\n${town.said}`);
            });
            const ms = performance.now() - startMs;
            t.diagnostic(`${name}: killed ${round.struck.length - from} times in ${Math.round(ms / 1_000)} s`);
          }
          struck.push(...round.struck);
        }),
      );
      assert.deepEqual(failures, []);
      assert.equal(new Set(struck).size, total, "each step had its own kill");
      assert.ok(total > stepsMin, `${total} steps`);
    });
  });
}

/** A walk, and the steps for which it is gone. */
interface Chain {
  readonly walk: Walk;
  readonly steps: readonly string[];
}

/** Each step once, on the first walk that passes it: later ones may pass it only for what earlier ones have left in the town. Each lane has as many. */
function lanesOf(passedBy: ReadonlyMap<Walk, ReadonlySet<string>>, isElsewhere: (key: string) => boolean, count: number): Chain[][] {
  const taken = new Set<string>();
  const lanes = Array.from({ length: count }, (): Chain[] => []);
  const weight = (lane: readonly Chain[]): number => lane.reduce((sum, { steps }) => sum + steps.length, 0);
  const chains = WALKS.map((walk): Chain => {
    const steps = [...(passedBy.get(walk) ?? [])].filter((key) => !taken.has(key) && !isElsewhere(key));
    for (const key of steps) taken.add(key);
    return { walk, steps };
  });
  for (const chain of chains.toSorted((a, b) => b.steps.length - a.steps.length)) {
    if (chain.walk.ofMoney === false || chain.steps.length === 0) continue;
    lanes.toSorted((a, b) => weight(a) - weight(b))[0]?.push(chain);
  }
  return lanes;
}

/** A town whose programs die, and are started again at once, until none of its steps is left. */
class Round {
  readonly #town: Town;
  readonly #left: Set<string>;
  /** Who was killed. */
  readonly struck: string[] = [];
  #reviving: Promise<unknown> = Promise.resolve();
  #resting = true;

  constructor(town: Town, left: Set<string>) {
    this.#town = town;
    this.#left = left;
  }

  async begin(): Promise<void> {
    const town = this.#town;
    this.#resting = false;
    await town.live(({ name }) => this.#stepsOf(name));
    this.#reviving = Promise.all(town.programs.map((program) => this.#revive(program)));
    // Who waits for it hears; in between nobody does.
    this.#reviving.catch(() => undefined);
  }

  /** The walk, until none of its steps is struck any more. */
  async play({ walk, steps }: Chain): Promise<void> {
    for (let before = -1; before < this.struck.length && steps.some((key) => this.#left.has(key));) {
      before = this.struck.length;
      await this.#go(walk);
    }
    await this.#town.simpay.plan({});
    await this.#unlessBroken(this.#town.holds());
  }

  /**
   * What a walk has passed by: its steps were not passed in the state in which the town was, or wait for a message that nobody has acknowledged. So
   * every walk past such a step is gone, by whichever node it was passed: two that take the same messages share them by chance.
   */
  async finish(passedBy: ReadonlyMap<Walk, ReadonlySet<string>>): Promise<void> {
    const ofStarts = WALKS.filter(({ prepare }) => prepare !== undefined);
    for (let quiet = 0; this.#left.size > 0;) {
      const before = this.struck.length;
      const left = new Set([...this.#left].map(stepOf));
      const isPast = (walk: Walk): boolean => [...(passedBy.get(walk) ?? [])].some((key) => left.has(stepOf(key)));
      for (const walk of WALKS) if (this.#left.size > 0 && walk.prepare === undefined && isPast(walk)) await this.#go(walk);
      if (this.#left.size > 0 && quiet > 0) await sleep(MARKS_SAVED_MS);
      // A start reads what was told before it, which on a fresh machine the first walk does.
      if (this.#left.size > 0) for (const walk of ofStarts) await this.#go(walk);
      quiet = this.struck.length > before ? 0 : quiet + 1;
      assert.ok(quiet < QUIET_ROUNDS_MAX, `nobody passes "${[...this.#left].join('", "')}"`);
    }
    await this.#town.simpay.plan({});
    await this.#unlessBroken(this.#town.holds());
    await this.#rest();
  }

  async #go({ prepare, walk }: Walk): Promise<void> {
    const town = this.#town;
    if (prepare !== undefined) {
      await this.#rest();
      await prepare(town);
      await this.begin();
    }
    await this.#unlessBroken(walk(town));
  }

  async #rest(): Promise<void> {
    this.#resting = true;
    await this.#town.kill();
    await this.#reviving;
  }

  #stepsOf(program: string): string[] {
    const own = keyOf(program, "");
    return [...this.#left].filter((key) => key.startsWith(own)).map((key) => key.slice(own.length));
  }

  async #revive(program: Town["programs"][number]): Promise<void> {
    for (;;) {
      await program.died;
      if (this.#resting) return;
      const key = keyOf(program.name, program.diedAt);
      this.#left.delete(key);
      this.struck.push(key);
      await this.#town.revive(program, this.#stepsOf(program.name));
      // It died just before everybody was killed, and was started behind that.
      if (this.#resting) await program.end();
    }
  }

  /** Rejects also when a program has not died where it was told to. */
  async #unlessBroken(work: Promise<void>): Promise<void> {
    await Promise.race([work, this.#reviving.then(() => work)]);
  }
}
