/** Calls to a channel that nobody waits for, such as the refunds of a mass refund, keep to the channel's limits. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { Background } from "../mixins/background.ts";
import { Limiter } from "../mixins/limiter.ts";

const PER_SECOND_MAX = 10;
const PACE = { atOnceMax: 3, limiter: new Limiter({ name: "test", points: PER_SECOND_MAX, seconds: 1 }, undefined), key: "channel" };
/** Of any second: a full one may follow upon a full one at once, as the channel's own counter has it. */
const IN_ANY_SECOND_MAX = 2 * PER_SECOND_MAX;

test("no more are under way at once, and no more begin in a second, than the channel allows; each key once, whatever fails", async () => {
  const failed: string[] = [];
  const calls = new Background(PACE, (key) => failed.push(key));
  const begunMs: number[] = [];
  const keys: number[] = [];
  let [running, most] = [0, 0];
  for (let n = 0; n < 25; n++) {
    const call = async (): Promise<void> => {
      begunMs.push(performance.now());
      keys.push(n);
      most = Math.max(most, ++running);
      await sleep(20);
      running--;
      if (n === 7) throw new Error("the channel said no");
    };
    calls.add(`refund ${n}`, call);
    calls.add(`refund ${n}`, call);
  }
  while (keys.length < 25 || running > 0) await sleep(20);
  await calls.stop();
  assert.deepEqual(
    keys,
    Array.from({ length: 25 }, (_, n) => n),
  );
  assert.equal(most, PACE.atOnceMax);
  assert.deepEqual(failed, ["refund 7"]);
  for (const from of begunMs) assert.ok(begunMs.filter((ms) => ms >= from && ms < from + 950).length <= IN_ANY_SECOND_MAX);
  assert.ok((begunMs.at(-1) ?? 0) - (begunMs[0] ?? 0) > 1_000, "25 calls at 10 a second end in the third second");
});
