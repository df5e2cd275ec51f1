import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { after, beforeEach, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { refusal } from "../domain/error.ts";
import { ERRORS } from "../domain/errors.ts";
import { DEALS_CHANGED, type DealsChanged } from "../mixins/platform.ts";
import { LEASE_MS } from "../services/order/order.contract.ts";
import { somebody, testGateway } from "./support/gateway.ts";
import { until } from "./support/until.ts";

const DEAL = "5312068608032785";
let available = 0;
let buyers: string[] = [];
let page: Record<string, unknown> = {};
const calls = { place: 0, soldOut: 0, get: 0 };
const gateway = await testGateway({
  "order.place": ({ params }) => {
    calls.place++;
    return available > 0 ? { id: DEAL } : Promise.reject(refusal(ERRORS, "SOLD_OUT", { dealId: String(params["dealId"]), available }));
  },
  "order.soldOut": () => {
    calls.soldOut++;
    return { available, buyers, after: DEAL, hasMore: false };
  },
  "deal.get": async () => {
    calls.get++;
    const now = page;
    await sleep(20);
    return now;
  },
});
after(() => gateway.stop());
const shopper = await somebody("consumer");
const buyer = await somebody("consumer");
const merchant = await somebody("merchant");

const changed = (change: DealsChanged): void => void gateway.broker.broadcast(DEALS_CHANGED, change);
const order = async (who = shopper, body: object = { dealId: DEAL, quantity: 1 }) => {
  const answer = await fetch(`${gateway.url}/api/v1/orders`, {
    method: "POST",
    headers: {
      authorization: who.authorization,
      "content-type": "application/json",
      "idempotency-key": randomUUID(),
      "x-request-id": "same",
    },
    body: JSON.stringify(body),
  });
  return { status: answer.status, headers: [...answer.headers].filter(([name]) => name !== "date"), body: await answer.text() };
};
const deal = async (headers: Record<string, string> = {}) => {
  const answer = await fetch(`${gateway.url}/api/v1/deals/${DEAL}`, { headers });
  return (await answer.json()) as Record<string, unknown>;
};

beforeEach(() => {
  available = 0;
  buyers = [buyer.caller.userId];
  page = { id: DEAL, status: "ON_SALE", stock: { available: 3 } };
  changed({ changed: [DEAL], available: [DEAL] });
  Object.assign(calls, { place: 0, soldOut: 0, get: 0 });
});

/** Until refusals no longer reach the order service. */
const leased = (): Promise<void> =>
  until(async () => {
    const before = calls.place;
    await order();
    return calls.place === before;
  });

test("a sold-out deal is refused by the gateway, in the order service's own words", async () => {
  const theirs = await order();
  assert.equal(calls.place, 1);
  await leased();
  const before = calls.place;
  const ours = await Promise.all(Array.from({ length: 50 }, () => order()));
  assert.equal(calls.place, before);
  for (const one of ours) assert.deepEqual(one, theirs);
  assert.equal(theirs.status, 409);
  const text = await gateway.metrics.registry.metrics();
  assert.match(text, /tuanbar_gate_refusals_total\{at="gateway"\} [1-9]/);
});

test("who has ordered the deal before is always passed on: a key may have a stored answer", async () => {
  await leased();
  const before = calls.place;
  await order(buyer);
  assert.equal(calls.place, before + 1);
});

test("a form that is wrong is told so, sold out or not", async () => {
  await leased();
  assert.equal((await order(shopper, { dealId: DEAL, quantity: 0 })).status, 400);
  const before = calls.place;
  await order(shopper, { dealId: DEAL, quantity: 1, groupSize: 2, groupId: "4097" });
  assert.equal(calls.place, before + 1, "opening and joining at once is for the service to refuse");
});

test("units that are back are sold at once where the shard tells, and within a second where the word is lost", async () => {
  await leased();
  available = 1;
  changed({ changed: [DEAL], available: [DEAL] });
  assert.equal((await order()).status, 201);

  available = 0;
  await leased();
  available = 1;
  const startedMs = performance.now();
  await until(async () => (await order()).status === 201, 1_000);
  assert.ok(performance.now() - startedMs < 2 * LEASE_MS);
});

test("a stampede at a sold-out deal asks for a lease a few times a second", async () => {
  await leased();
  const before = { ...calls };
  const endMs = performance.now() + 1_200;
  let refused = 0;
  for (; performance.now() < endMs; refused += 10) await Promise.all(Array.from({ length: 10 }, () => order()));
  // A machine that stands still for longer than a lease lets one lapse.
  assert.ok(calls.place - before.place <= refused / 5, `${calls.place - before.place} of ${refused} left the gateway`);
  assert.ok(calls.soldOut - before.soldOut <= 8, `${calls.soldOut - before.soldOut} leases`);
});

test("a deal's page is fetched once for a crowd, kept, and fetched again when its shard tells of a change", async () => {
  await Promise.all(Array.from({ length: 20 }, () => deal()));
  assert.equal(calls.get, 1);
  page = { ...page, stock: { available: 2 } };
  assert.deepEqual((await deal())["stock"], { available: 3 });
  changed({ changed: [DEAL], available: [] });
  assert.deepEqual((await deal())["stock"], { available: 2 });
  assert.equal(calls.get, 2);
});

test("what was on its way when the deal changed is not kept", async () => {
  const early = deal();
  await until(async () => calls.get === 1);
  page = { ...page, stock: { available: 0 } };
  changed({ changed: [DEAL], available: [] });
  await early;
  assert.deepEqual((await deal())["stock"], { available: 0 });
});

test("a draft is shown to its merchant and kept for nobody", async () => {
  page = { id: DEAL, status: "DRAFT" };
  await deal({ authorization: merchant.authorization });
  await deal({ authorization: merchant.authorization });
  assert.equal(calls.get, 2);
});
