/** When a callback may be believed: the shared rules by property, and WeChat Pay's messages, recorded and made here. */
import assert from "node:assert/strict";
import { generateKeyPairSync } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, test } from "node:test";
import { inspect } from "node:util";
import fc from "fast-check";
import { header, hmacOf, isFresh, parseTimestampMs, REPLAY_WINDOW_MS, sameText } from "../domain/channel/callback.ts";
import { fenOf, fenOfYuan } from "../domain/channel/fen.ts";
import { FEN_MAX } from "../domain/money.ts";
import { wechatPayChannel, type WechatPaySettings } from "../mixins/channels/wechatpay.ts";
import { sealed, signed } from "./support/wechatpay.ts";

describe("the rules of callbacks", () => {
  const now = fc.integer({ min: 1_000_000_000_000, max: 9_000_000_000_000 });

  test("the window is five minutes to either side, edges included", () => {
    fc.assert(
      fc.property(now, fc.integer({ min: -2 * REPLAY_WINDOW_MS, max: 2 * REPLAY_WINDOW_MS }), (at, off) => {
        assert.equal(isFresh(at + off, at), Math.abs(off) <= 300_000);
      }),
    );
  });

  test("a timestamp is ten digits and nothing else", () => {
    fc.assert(
      fc.property(fc.integer({ min: 1_000_000_000, max: 9_999_999_999 }), (seconds) => {
        assert.equal(parseTimestampMs(String(seconds)), seconds * 1000);
      }),
    );
    fc.assert(
      fc.property(
        fc.string().filter((text) => !/^[1-9]\d{9}$/.test(text)),
        (text) => assert.equal(parseTimestampMs(text), undefined),
      ),
    );
    for (const wrong of [
      "",
      "0179533080",
      "1795330802.0",
      "+1795330802",
      " 1795330802",
      "1795330802\n",
      "1e9",
      "１７９５３３０８０２",
      "17953308020",
    ])
      assert.equal(parseTimestampMs(wrong), undefined, JSON.stringify(wrong));
    assert.equal(parseTimestampMs(undefined), undefined);
  });

  test("texts are the same exactly when they are", () => {
    const text = fc.string({ unit: "binary", maxLength: 80 });
    fc.assert(fc.property(text, text, (a, b) => assert.equal(sameText(a, b), Buffer.from(a).equals(Buffer.from(b)))));
    fc.assert(fc.property(text, (a) => assert.ok(sameText(a, a))));
  });

  test("another key, line or body is another signature; what stands in a line cannot slip into the next", () => {
    const line = fc.string({ unit: fc.constantFrom(..."ab1/ "), maxLength: 8 });
    const part = fc.record({ secret: fc.string({ minLength: 1 }), lines: fc.array(line, { minLength: 1, maxLength: 3 }), body: line });
    fc.assert(
      fc.property(part, part, (a, b) => {
        const same = JSON.stringify(a) === JSON.stringify(b);
        // Lines of equal number, as every channel has: without that a body that begins like a line could be one.
        fc.pre(a.lines.length === b.lines.length);
        assert.equal(hmacOf(a.secret, a.lines, a.body) === hmacOf(b.secret, b.lines, b.body), same);
      }),
    );
    assert.equal(
      hmacOf("key", ["1795330802", "nonce"], "body"),
      // printf '1795330802\nnonce\nbody' | openssl dgst -sha256 -hmac key
      "ee90cc16e03825ac1009f6342f613849b63d98365a2c7217b158bf1bc67795aa",
    );
  });

  test("a header that is missing, empty or sent twice is none", () => {
    assert.equal(header({ a: "x" }, "a"), "x");
    for (const value of [undefined, "", ["x", "x"]]) assert.equal(header({ a: value }, "a"), undefined);
  });

  test("amounts from outside are whole fen in bounds, or nothing", () => {
    fc.assert(fc.property(fc.bigInt({ min: 0n, max: FEN_MAX }), (n) => assert.equal(fenOf(String(n)), n)));
    fc.assert(
      fc.property(fc.bigInt({ min: 0n, max: FEN_MAX / 100n }), fc.integer({ min: 0, max: 99 }), (yuan, rest) => {
        const amount = yuan * 100n + BigInt(rest);
        if (amount > FEN_MAX) return;
        assert.equal(fenOfYuan(`${yuan}.${String(rest).padStart(2, "0")}`), amount);
      }),
    );
    fc.assert(fc.property(fc.anything(), (value) => void fenOf(value)));
    for (const wrong of [-1, 0.5, 1e21, Number.NaN, "", "-1", "1.0", " 1", "0x1", "1e3", null, {}, FEN_MAX + 1n, String(FEN_MAX + 1n)])
      assert.equal(fenOf(wrong), undefined, inspect(wrong));
    for (const wrong of ["", ".5", "1.", "1.234", "-1.00", "1,000.00", "¥1.00", "1.0e2"]) assert.equal(fenOfYuan(wrong), undefined, wrong);
    assert.deepEqual([fenOfYuan("19.9"), fenOfYuan("0.01"), fenOfYuan("7")], [1990n, 1n, 700n]);
  });
});

describe("WeChat Pay's callbacks", () => {
  const keys = generateKeyPairSync("rsa", {
    modulusLength: 2048,
    publicKeyEncoding: { type: "spki", format: "pem" },
    privateKeyEncoding: { type: "pkcs8", format: "pem" },
  });
  const settings: WechatPaySettings = {
    mchid: "1900009191",
    appid: "wxd678efh567hg6787",
    serial: "5157F09EFDC096DE15EBE81A47057A7232F1B8E1",
    privateKey: keys.privateKey,
    platformKeyId: "PUB_KEY_ID_1",
    platformKey: keys.publicKey,
    apiV3Key: "k".repeat(32),
  };
  const verdictOf = (body: string, over: Partial<WechatPaySettings> = {}, headers: Record<string, string> = {}) =>
    wechatPayChannel({ ...settings, ...over }, { notifyUrl: "https://x.test" }).verifyCallback(
      Buffer.from(body),
      { ...signed(body, keys.privateKey, settings.platformKeyId), ...headers },
      Date.now(),
    );
  const paid = {
    mchid: settings.mchid,
    out_trade_no: "8264520394753",
    transaction_id: "42000",
    trade_state: "SUCCESS",
    success_time: "2026-11-22T15:00:01+08:00",
    amount: { total: 1990, payer_total: 1790, currency: "CNY" },
  };

  test("a recorded one, made by other tools than ours, is understood; five minutes later it is stale", () => {
    const { headers, body, apiV3Key, platformKey, platformKeyId } = JSON.parse(
      readFileSync(join(import.meta.dirname, "recorded", "wechatpay-callback.json"), "utf8"),
    ) as { headers: Record<string, string>; body: string; apiV3Key: string; platformKey: string; platformKeyId: string };
    const channel = wechatPayChannel({ ...settings, apiV3Key, platformKey, platformKeyId }, { notifyUrl: "https://x.test" });
    const at = Number(headers["wechatpay-timestamp"]) * 1000;
    assert.deepEqual(channel.verifyCallback(Buffer.from(body), headers, at + 1_000), {
      kind: "genuine",
      news: {
        id: "EV-2026112215000200001",
        about: "charge",
        charge: {
          number: "8264520394753",
          status: "PAID",
          channelNumber: "4200002026112212345678901234",
          paid: { amount: 1990n, currency: "CNY", atMs: Date.parse("2026-11-22T15:00:01+08:00") },
        },
      },
    });
    assert.equal(channel.verifyCallback(Buffer.from(body), headers, at + 300_001).kind, "stale");
    assert.equal(channel.verifyCallback(Buffer.from(body.replace("EV-", "EW-")), headers, at).kind, "forged");
  });

  test("WeChat's own probe with a wrong signature, and an unknown key, are forged", () => {
    const body = sealed("TRANSACTION.SUCCESS", "transaction", paid, settings.apiV3Key);
    assert.equal(verdictOf(body).kind, "genuine");
    const { "wechatpay-signature": signature = "" } = signed(body, keys.privateKey, "x");
    assert.equal(verdictOf(body, {}, { "wechatpay-signature": `WECHATPAY/SIGNTEST/${signature.slice(19)}` }).kind, "forged");
    assert.equal(verdictOf(body, {}, { "wechatpay-signature": "" }).kind, "forged");
    assert.equal(verdictOf(body, {}, { "wechatpay-serial": "PUB_KEY_ID_2" }).kind, "forged");
  });

  test("genuine, but not for us or of no known kind: unreadable, never half understood", () => {
    const kind = (content: object, event = "TRANSACTION.SUCCESS", key = settings.apiV3Key): string =>
      verdictOf(sealed(event, "transaction", content as Record<string, unknown>, key)).kind;
    assert.equal(kind(paid), "genuine");
    for (const wrong of [
      { ...paid, mchid: "1900000001" },
      { ...paid, amount: { total: 19.9, currency: "CNY" } },
      { ...paid, amount: { total: -1, currency: "CNY" } },
      { ...paid, amount: { total: "1990x", currency: "CNY" } },
      { ...paid, trade_state: "toString" },
      { ...paid, success_time: "yesterday" },
      { ...paid, out_trade_no: 5 },
    ])
      assert.equal(kind(wrong), "unreadable", JSON.stringify(wrong));
    assert.equal(kind(paid, "COUPON.USE"), "unreadable");
    assert.equal(kind(paid, "TRANSACTION.SUCCESS", "q".repeat(32)), "unreadable");
    for (const body of ["", "[]", "null", "{}", '{"resource":null}', "\u0000"]) assert.equal(verdictOf(body).kind, "unreadable", body);
  });

  test("a refund that ended without giving anything back is ABNORMAL, a transfer that failed FAILED", () => {
    const { mchid } = settings;
    const refund = {
      mchid,
      out_trade_no: "1",
      out_refund_no: "2",
      refund_id: "3",
      refund_status: "CLOSED",
      amount: { total: 9, refund: 9 },
    };
    const closed = verdictOf(sealed("REFUND.CLOSED", "refund", refund, settings.apiV3Key));
    assert.ok(closed.kind === "genuine" && closed.news.about === "refund" && closed.news.refund.status === "ABNORMAL");
    const transfer = { mch_id: mchid, out_bill_no: "1", transfer_bill_no: "2", state: "FAIL", transfer_amount: 5 };
    const failed = verdictOf(sealed("MCHTRANSFER.BILL.FINISHED", "mch_payment", transfer, settings.apiV3Key));
    assert.ok(failed.kind === "genuine" && failed.news.about === "payout" && failed.news.payout.status === "FAILED");
  });
});
