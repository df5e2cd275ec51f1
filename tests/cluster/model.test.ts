/**
 * A thousand lives of orders and money on real databases, in lanes beside each other, with crashes: after each, model = tables to the fen, simpay's own log
 * ⟗ ours is empty of differences, and every invariant of `/ops/verify` holds. `SEED=…` lives one again, alone. A few of them run in tests/model.test.ts.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { liveAll } from "../support/life/run.ts";
import { reached } from "../support/life/steps.ts";

const LIVES = 1_000;

test(`${LIVES} lives, with crashes, agree with a model to the fen`, { timeout: 900_000 }, async (t) => {
  const { seed } = await liveAll({ lives: LIVES, lanes: 8, steps: 8, crashes: 3 });
  t.diagnostic(`SEED=${seed} and on: ${JSON.stringify(Object.fromEntries(reached))}`);
  if (process.env["SEED"] !== undefined) return;
  // Nothing above is worth much if the lives never get there.
  const missing = REACHED.filter((kind) => !reached.has(kind));
  assert.deepEqual(missing, []);
});

const REACHED = [
  "Approve done",
  "Cancel CANCELLED",
  "Cancel ORDER_STATE",
  "Click true",
  "Close done",
  "Crash",
  "Expire done",
  "Heal well",
  "Hear forged",
  "Hear often",
  "Hear once",
  "Lapse done",
  "PayByChannel CHANNEL_REFUSED",
  "PayByChannel ORDER_STATE",
  "PayByChannel PROCESSING",
  "PayFromWallet CONFIRMED",
  "PayFromWallet INSUFFICIENT_FUNDS",
  "PayFromWallet ORDER_STATE",
  "PayFromWallet PAYMENT_OPEN",
  "PayOut INSUFFICIENT_FUNDS",
  "PayOut REQUESTED",
  "Place USER_LIMIT_EXCEEDED",
  "Place made",
  "Redeem REDEEMED",
  "Redeem VOUCHER_STATE",
  "Refund NOT_REFUNDABLE",
  "Refund REQUESTED #",
  "Reverse ISSUED",
  "Reverse VOUCHER_STATE",
  "Settle done",
];
