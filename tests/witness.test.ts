/**
 * The witness: random faults of simpay, random kills of it and random traffic, from one seed. After healing, what simpay's own log says happened is
 * what we say happened, to the fen and both ways, and so says the reconciliation of its statement. `SEED=… node --test tests/witness.test.ts` plays an evening again; the long one, in which the
 * platform is killed too, is tests/cluster/witness.test.ts.
 */
import assert from "node:assert/strict";
import { randomInt } from "node:crypto";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import type { Id } from "../domain/ids.ts";
import { ChannelShop } from "./support/channel-shop.ts";
import { makeDeal, userId } from "./support/deals.ts";
import { Evening } from "./support/evening.ts";
import { ADMIN } from "./support/market.ts";
import { eventually } from "./support/shop.ts";
import { counted, found, Statements } from "./support/statements.ts";
import { SimpayProcess } from "./support/simpay.ts";
import { differences, witnessed } from "./support/witness.ts";

const seed = Number(process.env["SEED"] ?? randomInt(2 ** 31));
const EVENING_MS = 6_000;
const MOODS = 6;
/** Few enough for one page of differences. */
const LIES = { statementMissing: 0.03, statementExtra: 0.03, statementDoubled: 0.03, statementAltered: 0.03 };

const outside = new SimpayProcess();
let town: ChannelShop;
before(async () => {
  town = await ChannelShop.open({ simpay: await outside.start() });
});
after(async () => {
  await town.close();
  outside.remove();
});

test(`simpay and we saw the same evening (SEED=${seed})`, { timeout: 120_000 }, async (t) => {
  const deals = [await makeDeal(town.shop.test, { stock: 10_000, tiers: [{ size: 2, price: 1_500 }] })];
  const [{ merchant_id: merchantId } = { merchant_id: "" as Id }] = await town.shop.rows<{ merchant_id: Id }>(
    deals[0]!,
    "select merchant_id from deals where slot = $1 and id = $2",
    [deals[0]],
  );
  const people = await Promise.all(Array.from({ length: 24 }, () => town.shop.person(100_000)));
  let simpay = town.simpay;
  const evening = new Evening(
    {
      ask: (method, path, as, body) =>
        as === "staff"
          ? town.ask(method, path, userId(16) as Id<"user">, body, ["merchant"], merchantId)
          : town.ask(method, path, as as Id<"user">, body),
      simpay: () => simpay,
      consumers: people,
      staff: "staff",
      merchantId,
      deals,
    },
    seed,
  );
  const running = evening.run();
  try {
    for (let mood = 0; mood < MOODS; mood++) {
      await evening.mood(`${seed} ${mood}`);
      await sleep(EVENING_MS / MOODS);
      if (mood % 3 === 1) {
        await outside.end("SIGKILL");
        simpay = await outside.start();
      }
    }
  } finally {
    evening.end();
  }
  await simpay.plan({});
  const endedMs = performance.now();
  await running;
  t.diagnostic(`the last request ended after ${Math.round(performance.now() - endedMs)} ms`);
  t.diagnostic(JSON.stringify(Object.fromEntries([...evening.done])));

  // Healed: as if the hours in which everything is asked for again had passed.
  await eventually(async () => {
    await town.hurry(deals[0]!);
    await sleep(300);
    const ours = await town.ours();
    assert.deepEqual(
      ours.filter(({ type, open }) => type !== "charge" && open),
      [],
    );
    assert.deepEqual(differences(witnessed(await simpay.log()), ours), []);
  }, 60_000);
  t.diagnostic(`healed after ${Math.round(performance.now() - endedMs)} ms`);
  const { body } = await town.ask("GET", "/ops/verify", userId(16) as Id<"user">, undefined, ["admin"]);
  const wrong = (body as { checks: { name: string; ok: boolean }[] }).checks.filter(({ ok, name }) => !ok && name !== "events.order-index");
  assert.deepEqual(wrong, []);

  // Its statement of the evening says the same, and a falsified one differs by what was falsified.
  const statements = new Statements({ base: town.base, simpay, token: () => town.token(ADMIN) });
  assert.deepEqual(Object.keys(counted(await statements.reconciled(await statements.fetched()))), ["MATCHED"]);
  const { body: falsified, lies } = await statements.liedTo(LIES);
  assert.deepEqual(found(await statements.reconciled(falsified)), lies);
});
