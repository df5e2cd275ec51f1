/** The channel outside: what it does when nothing is wrong, and that it forgets nothing it has said. */
import assert from "node:assert/strict";
import { appendFileSync, statSync, writeFileSync } from "node:fs";
import { after, describe, test } from "node:test";
import { gunzipSync } from "node:zlib";
import { dayOf } from "../simpay/book.ts";
import { RETRY_DELAYS_MS } from "../simpay/callbacks.ts";
import type { Change } from "../simpay/records.ts";
import { sign } from "../simpay/signature.ts";
import { Ear, SECRET, SimpayProcess, testSimpay } from "./support/simpay.ts";
import { until } from "./support/until.ts";

const simpay = await testSimpay();
const ear = await Ear.open();
after(async () => {
  await simpay.stop();
  await ear.close();
});
const today = (): string => dayOf(Date.now());

describe("simpay", () => {
  test("a charge is paid on its page, told by callback, refunded and gone from nowhere", async () => {
    const made = await simpay.charge("life-1", ear.url);
    assert.equal(made.status, 201);
    assert.equal(made.body["status"], "PENDING");
    await simpay.pay(made.body["payUrl"]);
    await simpay.pay(made.body["payUrl"]);
    const { body: paid } = await simpay.call("GET", "/v1/charges/life-1");
    assert.deepEqual([paid["status"], (paid["paid"] as { amount: number }).amount], ["PAID", 1990]);
    await until(async () => ear.about("charge.paid").some(({ body }) => (body["data"] as { number: string }).number === "life-1"));
    const refund = { number: "life-1-r", chargeNumber: "life-1", amount: 1000, currency: "CNY", notifyUrl: ear.url };
    const { body: first } = await simpay.call("POST", "/v1/refunds", refund);
    const { body: again } = await simpay.call("POST", "/v1/refunds", refund);
    assert.equal(first["channelNumber"], again["channelNumber"]);
    await until(async () => (await simpay.call("GET", "/v1/refunds/life-1-r")).body["status"] === "SUCCEEDED");
    const tooMuch = await simpay.call("POST", "/v1/refunds", { ...refund, number: "life-1-r2", amount: 991 });
    assert.deepEqual([tooMuch.status, tooMuch.body["code"]], [409, "REFUND_TOO_MUCH"]);
    const paidLines = (await simpay.log()).filter(
      (line) => line.event === "charge.paid" && "records" in line && line.records[0]?.number === "life-1",
    );
    assert.equal(paidLines.length, 1, "two clicks paid once");
  });

  test("a number used again is the same charge, or refused if it is another", async () => {
    const first = await simpay.charge("again-1", ear.url);
    const same = await simpay.charge("again-1", ear.url);
    assert.equal(first.body["channelNumber"], same.body["channelNumber"]);
    const other = await simpay.charge("again-1", ear.url, { amount: 1991 });
    assert.deepEqual([other.status, other.body["code"]], [409, "NUMBER_REUSED"]);
  });

  test("a closed or expired charge cannot be paid, a paid one not closed", async () => {
    const open = await simpay.charge("close-1", ear.url);
    assert.equal((await simpay.call("POST", "/v1/charges/close-1/close")).body["status"], "CLOSED");
    await simpay.pay(open.body["payUrl"]);
    assert.equal((await simpay.call("GET", "/v1/charges/close-1")).body["status"], "CLOSED");
    const short = await simpay.charge("close-2", ear.url, { more: { expiresAt: new Date(Date.now() + 50).toISOString() } });
    await until(async () => (await simpay.call("GET", "/v1/charges/close-2")).body["status"] === "CLOSED");
    await simpay.pay(short.body["payUrl"]);
    assert.equal((await simpay.call("GET", "/v1/charges/close-2")).body["status"], "CLOSED");
    const paid = await simpay.charge("close-3", ear.url);
    await simpay.pay(paid.body["payUrl"]);
    const late = await simpay.call("POST", "/v1/charges/close-3/close");
    assert.deepEqual([late.status, late.body["code"]], [409, "CHARGE_PAID"]);
  });

  test("a payout succeeds by itself", async () => {
    const ask = { number: "out-1", amount: 5000, currency: "CNY", account: "bar-longtang", notifyUrl: ear.url };
    assert.equal((await simpay.call("POST", "/v1/payouts", ask)).body["status"], "PROCESSING");
    await until(async () => (await simpay.call("GET", "/v1/payouts/out-1")).body["status"] === "SUCCEEDED");
    await until(async () => ear.about("payout.succeeded").length === 1);
  });

  test("who cannot sign is refused: no key, another body, another address, an old clock, no admin secret", async () => {
    const body = JSON.stringify({ number: "x" });
    const post = async (headers: object): Promise<number> =>
      (await fetch(`${simpay.url}/v1/charges`, { method: "POST", headers: { ...headers }, body })).status;
    const now = Date.now();
    assert.equal(await post({}), 401);
    assert.equal(await post(sign("another key", "POST /v1/charges", body, now)), 401);
    assert.equal(await post(sign(SECRET, "POST /v1/refunds", body, now)), 401);
    assert.equal(await post(sign(SECRET, "POST /v1/charges", `${body} `, now)), 401);
    assert.equal(await post(sign(SECRET, "POST /v1/charges", body, now - 301_000)), 401);
    assert.equal(await post(sign(SECRET, "POST /v1/charges", body, now + 302_000)), 401);
    assert.equal(await post(sign(SECRET, "POST /v1/charges", body, now)), 400, "genuine, but no charge");
    for (const path of ["/faults", "/log"]) assert.equal((await fetch(`${simpay.url}${path}`)).status, 401);
  });

  test("what is no request is refused with a reason, and nothing of it is kept", async () => {
    const good = { number: "bad-1", amount: 1, currency: "CNY", subject: "x", notifyUrl: ear.url };
    for (const wrong of [
      { amount: 0 },
      { amount: 1.5 },
      { amount: "1" },
      { amount: 1e15 },
      { currency: "yuan" },
      { number: "a b" },
      { number: "../x" },
      { number: "" },
      { subject: "" },
      { notifyUrl: "file:///etc/passwd" },
      { expiresAt: "soon" },
      { surprise: 1 },
    ]) {
      const { status, body } = await simpay.call("POST", "/v1/charges", { ...good, ...wrong });
      assert.deepEqual([status, body["code"]], [400, "BAD_REQUEST"], JSON.stringify(wrong));
    }
    assert.equal((await simpay.call("GET", "/v1/charges/bad-1")).status, 404);
    assert.equal((await simpay.call("POST", "/v1/nonsense", good)).status, 404);
    const tooLarge = await simpay.raw("POST", "/v1/charges", { ...good, subject: "x".repeat(70_000) });
    assert.equal(tooLarge.status, 413);
  });

  test("a guessed pay page is not there, and a page runs nothing and loads nothing", async () => {
    const { body } = await simpay.charge("page-1", ear.url, { more: { returnUrl: "https://shop.example.test/?a=1&b='<" } });
    const page = await fetch(String(body["payUrl"]));
    const html = await page.text();
    assert.match(html, /确认支付 · Pay now/);
    assert.match(html, /¥19\.90/);
    assert.doesNotMatch(html, /<script|src=|'</);
    assert.match(page.headers.get("content-security-policy") ?? "", /default-src 'none';.*form-action 'self'; frame-ancestors 'none'/);
    const guessed = await fetch(String(body["payUrl"]).replace(/.$/, "_"), { method: "POST" });
    assert.equal(guessed.status, 404);
  });

  test("the statement says what the log says, also packed, with a total at its end", async () => {
    const day = today();
    const plain = await (await simpay.raw("GET", `/v1/statements/${day}`, undefined, [], { "accept-encoding": "identity" })).text();
    const lines = plain.trimEnd().split("\n");
    const rows = lines.slice(1, -1).map((line) => line.split(","));
    const moved = (await simpay.log()).filter(
      (line): line is Change => "records" in line && /\.(paid|succeeded|returned)$/.test(line.event) && dayOf(line.at) === day,
    );
    const expected = moved.map((line) => [new Date(line.at).toISOString(), line.records.at(-1)?.channelNumber]);
    assert.deepEqual(
      rows.map(([time, , channelNumber]) => [time, channelNumber]),
      expected,
    );
    const sum = rows.reduce((total, row) => total + Number(row[5]), 0);
    assert.equal(lines.at(-1), `${day},TOTAL,${rows.length},,,${sum},,`);
    const packed = await import("undici").then(({ request }) =>
      request(`${simpay.url}/v1/statements/${day}`, {
        headers: { ...sign(SECRET, `GET /v1/statements/${day}`, "", Date.now()), "accept-encoding": "gzip" },
      }),
    );
    assert.equal(packed.headers["content-encoding"], "gzip");
    assert.equal(gunzipSync(Buffer.from(await packed.body.arrayBuffer())).toString("utf8"), plain);
    assert.equal((await simpay.call("GET", "/v1/statements/yesterday")).status, 400);
  });

  test("a callback is sent again on the channel's schedule until it is answered 200", async () => {
    const deaf = await Ear.open();
    deaf.answer = () => (deaf.heard.length < 4 ? 503 : 200);
    const { body } = await simpay.charge("repeat-1", deaf.url);
    await simpay.pay(body["payUrl"]);
    await until(async () => deaf.heard.length === 4);
    const times = deaf.heard.map(({ atMs }) => atMs);
    for (const [index, at] of times.slice(1).entries()) {
      const waited = at - (times[index] ?? 0);
      // Timers of a loaded machine are late, never early; a millisecond is rounded away.
      assert.ok(waited >= (RETRY_DELAYS_MS[index] ?? 0) / 1_000 - 2, `attempt ${index + 2} after ${waited} ms`);
    }
    assert.equal(new Set(deaf.heard.map(({ body: { id } }) => id)).size, 1, "it is one callback");
    assert.equal(new Set(deaf.heard.map(({ headers }) => headers["simpay-nonce"])).size, 4, "each time freshly signed");
    assert.ok(deaf.heard.every(({ genuine }) => genuine));
    await deaf.close();
    const minutes = RETRY_DELAYS_MS.map((ms) => ms / 60_000);
    assert.deepEqual(minutes, [0.25, 0.25, 0.5, 3, 10, 20, 30, 30, 30, 60, 60, 60, 180, 180, 180, 360, 360]);
  });

  test("after the last attempt it gives up", async () => {
    const fast = await testSimpay({ timeFactor: 1_000_000 });
    const deaf = await Ear.open();
    deaf.answer = () => 500;
    await fast.pay((await fast.charge("up-1", deaf.url)).body["payUrl"]);
    await until(async () => (await fast.log()).some((line) => line.event === "callback.sent" && line.outcome === "given up"));
    assert.equal(deaf.heard.length, RETRY_DELAYS_MS.length + 1);
    await fast.stop();
    await deaf.close();
  });
});

describe("simpay as a process", () => {
  test("kill -9 under load: everything it has answered is there after the restart, and owed callbacks come", async (t) => {
    const server = new SimpayProcess();
    t.after(() => server.remove());
    const before = await server.start();
    const late = await Ear.open();
    late.answer = () => 503;
    const acknowledged: string[] = [];
    const paid: string[] = [];
    let running = true;
    const shopper = async (name: number): Promise<void> => {
      for (let n = 0; running; n++) {
        const number = `kill-${name}-${n}`;
        const made = await before.charge(number, late.url).catch(() => undefined);
        if (made?.status !== 201) continue;
        acknowledged.push(number);
        const clicked = await before.pay(made.body["payUrl"]).then(
          () => true,
          () => false,
        );
        if (clicked) paid.push(number);
      }
    };
    const shoppers = [1, 2, 3, 4, 5, 6, 7, 8].map(shopper);
    await until(async () => paid.length > 200);
    await server.end("SIGKILL");
    running = false;
    await Promise.all(shoppers);
    // The worst a kill can leave: a line without its end.
    appendFileSync(server.logFile, '{"seq":999999,"at":1,"event":"charge.created","rec');
    const after = await server.start();
    assert.equal(after.url, before.url, "pay pages are where they were");
    for (const number of acknowledged) assert.equal((await after.call("GET", `/v1/charges/${number}`)).status, 200, number);
    for (const number of paid) assert.equal((await after.call("GET", `/v1/charges/${number}`)).body["status"], "PAID", number);
    late.answer = () => 200;
    const told = (): Set<unknown> => new Set(late.heard.map(({ body }) => (body["data"] as { number: string }).number));
    await until(async () => paid.every((number) => told().has(number)));
    const sequence = (await after.log()).map(({ seq }) => seq);
    assert.deepEqual(
      sequence,
      sequence.map((_, index) => index + 1),
    );
    assert.equal(await server.end("SIGTERM"), 0);
    await late.close();
  });

  test("a second one on the same data is refused, a damaged log too", async (t) => {
    const server = new SimpayProcess();
    t.after(() => server.remove());
    await server.start();
    const { dataDir } = server;
    const rival = new SimpayProcess(dataDir);
    await assert.rejects(rival.start(), /is in use by another simpay/);
    await server.end("SIGTERM");
    writeFileSync(server.logFile, '{"seq":1,"at":1,"ev\n{"seq":2,"at":1,"event":"charge.created","records":[]}\n');
    await assert.rejects(server.start(), /is damaged at byte 0, line 1/);
    assert.equal(statSync(`${dataDir}/secret`, { throwIfNoEntry: false }), undefined, "a secret that was given is written nowhere");
  });
});
