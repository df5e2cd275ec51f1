/** The life of orders and money on real databases, beside a plain model: a few lives; tests/cluster/model.test.ts has a thousand. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { liveAll } from "./support/life/run.ts";
import { reached } from "./support/life/steps.ts";

const LIVES = 60;

test(`${LIVES} lives, with crashes, agree with a model to the fen`, { timeout: 200_000 }, async (t) => {
  const { seed } = await liveAll({ lives: LIVES, lanes: 4, steps: 8, crashes: 3 });
  t.diagnostic(`SEED=${seed} and on`);
  t.diagnostic(JSON.stringify(Object.fromEntries(reached)));
  if (process.env["SEED"] === undefined) assert.ok(reached.size > 20, "the lives get somewhere");
});
