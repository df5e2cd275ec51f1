/** Many lives, in lanes beside each other. Each has a seed of its own: `SEED=… node --test tests/model.test.ts` lives that one again,
 * alone, and shrinks it when it fails. */
import assert from "node:assert/strict";
import { randomInt } from "node:crypto";
import fc from "fast-check";
import { verify } from "../../../services/ops/ops.contract.ts";
import { callAs, caller } from "../node.ts";
import { Bar } from "./bar.ts";
import { Life } from "./model.ts";
import { lives } from "./scenes.ts";
import { Heal } from "./steps.ts";
import { Town, type Lane } from "./town.ts";

/** A run of verify costs as much as three lives, and what a life has left behind stays in the tables: one looks at so many lives of a lane. */
const LIVES_A_VERIFY = 25;

export interface Plan {
  readonly lives: number;
  readonly lanes: number;
  readonly steps: number;
  readonly crashes: number;
}

export async function liveAll({ lives: count, lanes, steps, crashes }: Plan): Promise<{ readonly seed: number }> {
  const replayed = process.env["SEED"];
  const seed = Number(replayed ?? randomInt(2 ** 30));
  const town = await Town.open(replayed === undefined ? lanes : 1);
  try {
    const left = Array.from({ length: replayed === undefined ? count : 1 }, (_, n) => seed + n);
    await Promise.all(
      town.lanes.map(async (lane) => {
        let since: number[] = [];
        for (let next = left.shift(); next !== undefined; next = left.shift()) {
          await live(town, lane, next, steps, crashes);
          since.push(next);
          if (since.length < LIVES_A_VERIFY) continue;
          await holds(lane, since);
          since = [];
        }
        await holds(lane, since);
      }),
    );
  } finally {
    await town.close();
  }
  return { seed };
}

async function live(town: Town, lane: Lane, seed: number, steps: number, crashes: number): Promise<void> {
  const property = fc.asyncProperty(fc.boolean(), fc.boolean(), lives(steps, crashes), async (anytime, expired, commands) => {
    const terms = { anytime: anytime || seed % 3 > 0, expired };
    const life = new Life(terms);
    const bar = await Bar.open(town, lane, terms);
    await fc.asyncModelRun(() => ({ model: life, real: bar }), commands);
    await new Heal().run(life, bar);
  });
  // Shrinking takes many lives: it is for whoever lives one again, not for the run that found it.
  const endOnFailure = process.env["SEED"] === undefined;
  const details = await fc.check(property, { seed, numRuns: 1, unbiased: true, endOnFailure });
  const why = details.errorInstance instanceof Error ? details.errorInstance.message : "";
  assert.ok(!details.failed, `SEED=${seed} lives it again.\n${await fc.asyncDefaultReportMessage(details)}\n${why}`);
}

/** Every invariant there is, of this lane's city and of the users. */
async function holds(lane: Lane, seeds: readonly number[]): Promise<void> {
  if (seeds.length === 0) return;
  const { checks } = await callAs(lane.node, verify, {}, caller("16", ["admin"]));
  assert.deepEqual(
    checks.filter(({ ok }) => !ok),
    [],
    `one of the lives SEED=${seeds.join(", ")} left this behind`,
  );
}
