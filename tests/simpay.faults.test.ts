/** Each fault of simpay, one by one: switched on for a request, or by chance that a seed decides. */
import assert from "node:assert/strict";
import { after, beforeEach, test } from "node:test";
import { dayOf } from "../simpay/book.ts";
import { FAULT_NAMES, Faults } from "../simpay/faults.ts";
import type { FaultName } from "../simpay/faults.ts";
import { Ear, SECRET, testSimpay } from "./support/simpay.ts";
import { isGenuine } from "../simpay/signature.ts";
import { until } from "./support/until.ts";

const simpay = await testSimpay();
const ear = await Ear.open();
after(async () => {
  await simpay.stop();
  await ear.close();
});
beforeEach(() => void ear.heard.splice(0));

let numbers = 0;
const paidCharge = async (faults: readonly FaultName[] = [], amount = 1990): Promise<string> => {
  const number = `f-${++numbers}`;
  const { body } = await simpay.charge(number, ear.url, { faults, amount });
  await simpay.pay(body["payUrl"]);
  return number;
};
const genuine = (): number => ear.heard.filter((heard) => heard.genuine).length;
const status = async (kind: string, number: string): Promise<unknown> => (await simpay.call("GET", `/v1/${kind}/${number}`)).body["status"];
const outcomes = async (number: string): Promise<unknown[]> => {
  const { body } = await simpay.call("GET", `/v1/charges/${number}`);
  const lines = await simpay.log();
  return lines.flatMap((line) =>
    line.event === "callback.sent" && line.callbackId.startsWith(String(body["channelNumber"])) ? [line.outcome] : [],
  );
};

test("slow: the answer comes late", async () => {
  await simpay.plan({ slowMs: 300 });
  const started = performance.now();
  await simpay.charge("slow-1", ear.url, { faults: ["slow"] });
  assert.ok(performance.now() - started >= 299);
});

test("hang: nothing is done and no answer comes", async () => {
  const body = { number: "hang-1", amount: 1, currency: "CNY", subject: "x", notifyUrl: ear.url };
  const headers = { connection: "close" };
  const asked = simpay.raw("POST", "/v1/charges", body, ["hang"], headers);
  const first = await Promise.race([asked.then(() => "answered"), new Promise((done) => setTimeout(done, 500, "silence"))]);
  assert.equal(first, "silence");
  assert.equal((await simpay.call("GET", "/v1/charges/hang-1")).status, 404);
  void asked.catch(() => undefined);
});

test("refuse: a clear no, and nothing is done", async () => {
  const refused = await simpay.charge("refuse-1", ear.url, { faults: ["refuse"] });
  assert.deepEqual([refused.status, refused.body["code"]], [403, "CHANNEL_REFUSED"]);
  assert.equal((await simpay.call("GET", "/v1/charges/refuse-1")).status, 404);
});

test("errorAfterDoing: it says 500 and has done it", async () => {
  assert.equal((await simpay.charge("error-1", ear.url, { faults: ["errorAfterDoing"] })).status, 500);
  assert.equal(await status("charges", "error-1"), "PENDING");
});

test("loseCallback: never told, only a query finds out", async () => {
  const lost = await paidCharge(["loseCallback"]);
  const told = await paidCharge();
  await until(async () => genuine() === 1);
  assert.deepEqual(
    ear.heard.map(({ body }) => (body["data"] as { number: string }).number),
    [told],
  );
  assert.deepEqual([await status("charges", lost), await outcomes(lost)], ["PAID", ["lost"]]);
});

test("repeatCallback: a hundred times, each freshly signed", async () => {
  await paidCharge(["repeatCallback"]);
  await until(async () => genuine() === 100);
  assert.equal(new Set(ear.heard.map(({ body }) => body.id)).size, 1);
  assert.equal(new Set(ear.heard.map(({ headers }) => headers["simpay-nonce"])).size, 100);
});

test("reorderCallback: the next one overtakes it", async () => {
  // It is held for some seconds at this factor: time for the next one to come, whatever else the machine does.
  const slower = await testSimpay({ timeFactor: 10 });
  const { body } = await slower.charge("reorder-1", ear.url, { faults: ["reorderCallback"] });
  await slower.pay(body["payUrl"]);
  const refund = { number: "reorder-1-r", chargeNumber: "reorder-1", amount: 1, currency: "CNY", notifyUrl: ear.url };
  await slower.call("POST", "/v1/refunds", refund);
  await until(async () => genuine() === 2);
  await slower.stop();
  assert.deepEqual(
    ear.heard.map(({ body }) => body.event),
    ["refund.succeeded", "charge.paid"],
  );
});

test("lateCallback: a day late", async () => {
  const slower = await testSimpay({ timeFactor: 100_000 });
  const { body } = await slower.charge("late-1", ear.url, { faults: ["lateCallback"] });
  const started = performance.now();
  await slower.pay(body["payUrl"]);
  await until(async () => genuine() === 1);
  // 864 ms at this factor.
  assert.ok(performance.now() - started > 800);
  await slower.stop();
});

test("forgedCallback: ten times the money with a wrong signature, and the true one as well", async () => {
  await paidCharge(["forgedCallback"]);
  await until(async () => genuine() === 1);
  const amounts = ear.heard.map((heard) => [heard.genuine, (heard.body["data"] as { paid: { amount: number } }).paid.amount]);
  assert.deepEqual(amounts, [
    [false, 19_900],
    [true, 1_990],
  ]);
});

test("replayedCallback: the same bytes with the same nonce once more", async () => {
  await paidCharge(["replayedCallback"]);
  await until(async () => genuine() === 2);
  const [first, second] = ear.heard;
  assert.deepEqual(first?.raw, second?.raw);
  assert.equal(first?.headers["simpay-nonce"], second?.headers["simpay-nonce"]);
});

test("staleCallback: a true signature of ten minutes ago comes first", async () => {
  await paidCharge(["staleCallback"]);
  await until(async () => genuine() === 1);
  const [stale] = ear.heard;
  assert.ok(stale && !stale.genuine);
  assert.ok(isGenuine(SECRET, "callback", stale.raw, stale.headers, Date.now() - 600_000));
});

test("wrongAmount and wrongCurrency: the customer really paid something else, and everything says so", async () => {
  for (const [fault, paid] of [
    ["wrongAmount", [1_989, "CNY"]],
    ["wrongCurrency", [1_990, "USD"]],
  ] as const) {
    const number = await paidCharge([fault]);
    const { body } = await simpay.call("GET", `/v1/charges/${number}`);
    const { amount, currency } = body["paid"] as { amount: number; currency: string };
    assert.deepEqual([amount, currency], paid);
    const statement = await (await simpay.raw("GET", `/v1/statements/${dayOf(Date.now())}`)).text();
    assert.ok(statement.includes(`,${number},,${paid.join(",")},PAID\n`), statement);
  }
});

test("refuseRefund: no, and the same number may be tried again", async () => {
  const number = await paidCharge();
  const refund = { number: `${number}-r`, chargeNumber: number, amount: 1990, currency: "CNY", notifyUrl: ear.url };
  const refused = await simpay.call("POST", "/v1/refunds", refund, ["refuseRefund"]);
  assert.deepEqual([refused.status, refused.body["code"]], [409, "REFUND_REFUSED"]);
  assert.equal((await simpay.call("GET", `/v1/refunds/${number}-r`)).status, 404);
  assert.equal((await simpay.call("POST", "/v1/refunds", refund)).status, 201);
});

test("returnPayout: it succeeds, then the money comes back, and both are told and on the statement", async () => {
  const ask = { number: "back-1", amount: 777, currency: "CNY", account: "bar", notifyUrl: ear.url };
  await simpay.call("POST", "/v1/payouts", ask, ["returnPayout"]);
  await until(async () => (await status("payouts", "back-1")) === "RETURNED");
  const told = (): string[] => ear.heard.flatMap(({ body: { event } }) => (event.startsWith("payout.") ? [event] : []));
  await until(async () => told().length === 2);
  assert.deepEqual(told().toSorted(), ["payout.returned", "payout.succeeded"]);
  const statement = await (await simpay.raw("GET", `/v1/statements/${dayOf(Date.now())}`)).text();
  assert.match(statement, /,PAYOUT,\d+,back-1,,777,CNY,SUCCEEDED\n(.*\n)*.*,PAYOUT_RETURN,\d+,back-1,,777,CNY,RETURNED\n/);
});

test("a statement with missing, extra, doubled and altered lines adds up, and the log says which they are", async () => {
  const other = await testSimpay();
  const faults = ["statementMissing", "statementExtra", "statementDoubled", "statementAltered"] as const;
  const channelNumbers = new Map<string, string>();
  for (const [index, fault] of faults.entries()) {
    const { body } = await other.charge(`s-${index}`, ear.url, { faults: [fault] });
    await other.pay(body["payUrl"]);
    channelNumbers.set(fault, String(body["channelNumber"]));
  }
  const day = dayOf(Date.now());
  const read = async (): Promise<string> => (await other.raw("GET", `/v1/statements/${day}`)).text();
  const text = await read();
  assert.equal(await read(), text, "the same errors every time");
  const rows = text.trimEnd().split("\n").slice(1, -1);
  const count = (fault: string, more = ","): number => rows.filter((row) => row.includes(`${channelNumbers.get(fault)}${more}`)).length;
  assert.equal(count("statementMissing"), 0);
  assert.deepEqual([count("statementExtra"), count("statementExtra", "X,")], [1, 1]);
  assert.equal(count("statementDoubled"), 2);
  assert.ok(rows.some((row) => row.includes(`${channelNumbers.get("statementAltered")},s-3,,1991,`)));
  assert.ok(text.endsWith(`${day},TOTAL,5,,,${1990 * 4 + 1991},,\n`), text);
  const told = (await other.log()).flatMap((line) => (line.event === "statement.falsified" ? line.lines : []));
  assert.deepEqual([...new Set(told.map(({ how }) => how))].toSorted(), ["altered", "doubled", "extra", "missing"]);
  await other.stop();
});

test("chance is a matter of the seed: the same seed strikes the same numbers, about as many as asked for", () => {
  const struck = (seed: string): string[] => {
    const faults = new Faults();
    faults.plan = { seed, chance: { wrongAmount: 0.2 }, slowMs: 0 };
    return Array.from({ length: 2_000 }, (_, n) => String(n)).filter((number) => faults.strikes("wrongAmount", number));
  };
  assert.deepEqual(struck("a"), struck("a"));
  assert.notDeepEqual(struck("a"), struck("b"));
  assert.ok(Math.abs(struck("a").length - 400) < 80);
});

test("a plan that makes no sense is refused, and a header that names no fault", async () => {
  for (const wrong of [
    { chance: { wrongAmonut: 1 } },
    { chance: { slow: 2 } },
    { chance: { slow: "1" } },
    { seed: 1 },
    { slowMs: -1 },
    { x: 1 },
  ])
    assert.equal((await simpay.admin("PUT", "/faults", wrong)).status, 400, JSON.stringify(wrong));
  await simpay.plan({ chance: Object.fromEntries(FAULT_NAMES.map((name) => [name, 0])) });
  const answer = await simpay.raw("GET", "/v1/charges/x", undefined, [], { "simpay-fault": "wrongAmonut" });
  assert.equal(answer.status, 400);
});
