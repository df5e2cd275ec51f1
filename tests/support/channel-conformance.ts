/**
 * What every adapter of a channel must do, whatever channel is behind it. A rig is the channel with its other side: the customer who pays,
 * the callbacks that come, and faults that strike the next call.
 */
import assert from "node:assert/strict";
import type { IncomingHttpHeaders } from "node:http";
import { Readable } from "node:stream";
import { after, before, describe, test } from "node:test";
import { inspect } from "node:util";
import { gzipSync } from "node:zlib";
import type { Outcome, StatementLine, ChannelNews } from "../../domain/channel/records.ts";
import { REPLAY_WINDOW_MS } from "../../domain/channel/callback.ts";
import { fen } from "../../domain/money.ts";
import { StatementError, type Channel, type ChargeOrder, type RefundOrder } from "../../mixins/channels/channel.ts";
import { until } from "./until.ts";

/** What may happen to a call on its way; the rig makes it happen to the next one. */
export type RigFault = "hang" | "refuse" | "errorAfterDoing" | "forgedAnswer" | "unreadable";

export interface HeardCallback {
  readonly raw: Buffer;
  readonly headers: IncomingHttpHeaders;
}

/** Short, because tests wait for it; long enough for a loaded machine to let the call arrive. */
export const IMPATIENT_MS = 500;

export interface Rig {
  readonly channel: Channel;
  /** The same adapter, with a patience of `IMPATIENT_MS`. */
  readonly impatient: Channel;
  readonly heard: readonly HeardCallback[];
  readonly today: () => string;
  /** What must never be in anything that may be logged. */
  readonly secrets: readonly string[];
  pay(number: string): Promise<void>;
  strikeNext(fault: RigFault): void;
  /** The same adapter where nobody listens. */
  unreachable(): Channel;
  stop(): Promise<void>;
}

export function channelConformance(name: string, open: () => Promise<Rig>): void {
  describe(`channel ${name}`, () => {
    let rig: Rig;
    let count = 0;
    before(async () => void (rig = await open()));
    after(() => rig.stop());

    const order = (amount = 1990): ChargeOrder => ({
      number: `conform${++count}`,
      amount: fen(amount),
      currency: "CNY",
      subject: "精酿, 两杯",
    });
    const refundOf = ({ number, amount }: ChargeOrder, refund = amount): RefundOrder => ({
      number: `${number}r${++count}`,
      chargeNumber: number,
      amount: refund,
      chargeAmount: amount,
      currency: "CNY",
      reason: "散团",
    });
    async function paid(amount?: number): Promise<ChargeOrder> {
      const asked = order(amount);
      value(await rig.channel.charge(asked));
      await rig.pay(asked.number);
      return asked;
    }
    const news = (): ChannelNews[] =>
      rig.heard.flatMap(({ raw, headers }) => {
        const verdict = rig.channel.verifyCallback(raw, headers, Date.now());
        return verdict.kind === "genuine" ? [verdict.news] : [];
      });
    const newsOf = async (number: string): Promise<ChannelNews> => {
      const found = (): ChannelNews | undefined =>
        news().find((one) => (one.about === "charge" ? one.charge : one.about === "refund" ? one.refund : one.payout).number === number);
      await until(async () => found() !== undefined);
      return found() as ChannelNews;
    };

    test("a charge waits for its customer at an address, and asking twice charges once", async () => {
      const asked = order();
      const first = value(await rig.channel.charge(asked));
      assert.equal(first.status, "PENDING");
      assert.ok(URL.canParse(first.payUrl ?? ""));
      assert.deepEqual(value(await rig.channel.charge(asked)), first);
      assert.equal(value(await rig.channel.query(asked.number)).status, "PENDING");
    });

    test("a number used for another charge is refused, for good", async () => {
      const asked = order();
      value(await rig.channel.charge(asked));
      const outcome = await rig.channel.charge({ ...asked, amount: fen(1991) });
      assert.deepEqual([outcome.kind, outcome.kind === "refused" && outcome.repeat], ["refused", "never"]);
    });

    test("a number never heard of is ABSENT, which is an answer", async () => {
      assert.equal(value(await rig.channel.query("nobody1")).status, "ABSENT");
      assert.equal(value(await rig.channel.queryRefund("nobody1")).status, "ABSENT");
      assert.equal(value(await rig.channel.queryPayout("nobody1")).status, "ABSENT");
      assert.equal((await rig.channel.close("nobody1")).kind, "refused");
      assert.equal((await rig.channel.refund(refundOf(order()))).kind, "refused");
    });

    test("paid: query and callback say the same, to the fen", async () => {
      const { number } = await paid(123_456_789);
      const charge = value(await rig.channel.query(number));
      assert.equal(charge.status, "PAID");
      assert.deepEqual([charge.paid?.amount, charge.paid?.currency], [123_456_789n, "CNY"]);
      assert.ok(Math.abs((charge.paid?.atMs ?? 0) - Date.now()) < 60_000);
      const told = await newsOf(number);
      assert.ok(told.about === "charge" && told.id !== "");
      const { payUrl: _, ...known } = charge;
      const { payUrl: __, ...heard } = told.charge;
      assert.deepEqual(heard, known);
    });

    test("closed: nobody pays it any more; a paid charge cannot be closed", async () => {
      const asked = order();
      value(await rig.channel.charge(asked));
      assert.equal(value(await rig.channel.close(asked.number)).status, "CLOSED");
      assert.equal(value(await rig.channel.query(asked.number)).status, "CLOSED");
      const { number } = await paid();
      assert.equal((await rig.channel.close(number)).kind, "refused");
      assert.equal(value(await rig.channel.query(number)).status, "PAID");
    });

    test("a refund under the same number happens once, and never more than was paid", async () => {
      const asked = await paid();
      const part = refundOf(asked, fen(1000));
      const first = value(await rig.channel.refund(part));
      const again = value(await rig.channel.refund(part));
      assert.equal(first.channelNumber, again.channelNumber);
      assert.equal((await rig.channel.refund(refundOf(asked, fen(991)))).kind, "refused");
      value(await rig.channel.refund(refundOf(asked, fen(990))));
      await until(async () => value(await rig.channel.queryRefund(part.number)).status === "SUCCEEDED");
      const told = await newsOf(part.number);
      assert.ok(told.about === "refund");
      assert.deepEqual([told.refund.status, told.refund.amount, told.refund.chargeNumber], ["SUCCEEDED", 1000n, asked.number]);
    });

    test("a payout comes to its end and is told", async () => {
      const asked = { number: `payout${++count}`, amount: fen(5000), currency: "CNY", account: "oUpF8uMuAJO", reason: "结算" };
      const first = value(await rig.channel.payout(asked));
      assert.equal(value(await rig.channel.payout(asked)).channelNumber, first.channelNumber);
      await until(async () => value(await rig.channel.queryPayout(asked.number)).status === "SUCCEEDED");
      assert.equal(value(await rig.channel.queryPayout(asked.number)).amount, 5000n);
      const told = await newsOf(asked.number);
      assert.ok(told.about === "payout" && told.payout.status === "SUCCEEDED");
    });

    test("a callback with one byte changed is forged: body, time, nonce, signature, or a header less", async () => {
      const { number } = await paid();
      await newsOf(number);
      const heard: HeardCallback | undefined = rig.heard.at(-1);
      assert.ok(heard);
      const verdict = (raw: Buffer, headers: IncomingHttpHeaders, nowMs = Date.now()): string =>
        rig.channel.verifyCallback(raw, headers, nowMs).kind;
      assert.equal(verdict(heard.raw, heard.headers), "genuine");
      for (let at = 0; at < heard.raw.length; at += 7) {
        const altered: Buffer = Buffer.from(heard.raw);
        altered[at] = (altered[at] ?? 0) ^ 1;
        assert.equal(verdict(altered, heard.headers), "forged", `byte ${at}`);
      }
      assert.equal(verdict(Buffer.concat([heard.raw, Buffer.from(" ")]), heard.headers), "forged");
      const signed = Object.entries(heard.headers).filter(([key]) => /-(timestamp|nonce|signature)$/.test(key));
      assert.equal(signed.length, 3);
      for (const [key, text] of signed) {
        assert.equal(verdict(heard.raw, { ...heard.headers, [key]: undefined }), "forged", `without ${key}`);
        assert.equal(verdict(heard.raw, { ...heard.headers, [key]: [String(text), String(text)] as never }), "forged", `${key} twice`);
        const other = String(text).replace(/[0-9a-zA-Z]/, (letter) => (letter === "1" ? "2" : "1"));
        assert.equal(verdict(heard.raw, { ...heard.headers, [key]: other }), "forged", `another ${key}`);
      }
      const timestampMs = Number(signed.find(([key]) => key.endsWith("timestamp"))?.[1]) * 1000;
      assert.equal(verdict(heard.raw, heard.headers, timestampMs + REPLAY_WINDOW_MS), "genuine");
      assert.equal(verdict(heard.raw, heard.headers, timestampMs + REPLAY_WINDOW_MS + 1), "stale");
      assert.equal(verdict(heard.raw, heard.headers, timestampMs - REPLAY_WINDOW_MS - 1), "stale");
    });

    test("a statement tells each movement once; cut off anywhere or altered, it is refused", async () => {
      const { channel } = rig;
      const text = await textOf(value(await channel.statement(rig.today())));
      const lines = await linesOf(channel, Readable.from([Buffer.from(text)]));
      assert.deepEqual(await linesOf(channel, Readable.from([gzipSync(text)])), lines, "packed or not");
      assert.equal(new Set(lines.map(({ kind, channelNumber }) => `${kind} ${channelNumber}`)).size, lines.length);
      assert.ok(lines.every(({ kind }) => channel.statementKinds.includes(kind)));
      assert.ok(lines.some(({ kind, amount }) => kind === "PAYMENT" && amount === 123_456_789n));
      assert.ok(lines.some(({ kind, amount, chargeNumber }) => kind === "REFUND" && amount === 990n && chargeNumber !== undefined));
      const bytes = Buffer.from(text);
      const lastLineFrom = bytes.lastIndexOf("\n", bytes.length - 2);
      for (const length of [0, 1, 20, 500, bytes.length >> 1, lastLineFrom, lastLineFrom + 1])
        await assert.rejects(linesOf(channel, Readable.from([bytes.subarray(0, length)])), StatementError, `cut at ${length}`);
      const packed = gzipSync(text);
      await assert.rejects(linesOf(channel, Readable.from([packed.subarray(0, packed.length - 9)])), StatementError);
      const [heading = "", first = "", ...rest] = text.split("\n");
      await assert.rejects(linesOf(channel, Readable.from([Buffer.from([heading, ...rest].join("\n"))])), StatementError, "a line less");
      await assert.rejects(
        linesOf(channel, Readable.from([Buffer.from([heading, first, first, ...rest].join("\n"))])),
        StatementError,
        "twice",
      );
      await assert.rejects(linesOf(channel, Readable.from([Buffer.from([first, ...rest].join("\n"))])), StatementError, "no heading");
    });

    test("an error after doing is unknown, not a failure; asking by number finds out, asking again does nothing twice", async () => {
      const asked = order();
      rig.strikeNext("errorAfterDoing");
      assert.deepEqual(reason(await rig.channel.charge(asked)), "server error");
      assert.equal(value(await rig.channel.query(asked.number)).status, "PENDING");
      value(await rig.channel.charge(asked));
      await rig.pay(asked.number);
      const refund = refundOf(asked);
      rig.strikeNext("errorAfterDoing");
      assert.deepEqual(reason(await rig.channel.refund(refund)), "server error");
      const known = value(await rig.channel.queryRefund(refund.number));
      assert.equal(value(await rig.channel.refund(refund)).channelNumber, known.channelNumber);
    });

    test("silence is unknown after the time, on every call", async () => {
      const asked = order();
      const { impatient: channel } = rig;
      const payout = { number: "silent1", amount: fen(1), currency: "CNY", account: "x", reason: "x" };
      for (const call of [
        () => channel.charge(asked),
        () => channel.query(asked.number),
        () => channel.close(asked.number),
        () => channel.refund(refundOf(asked)),
        () => channel.queryRefund("silent1"),
        () => channel.payout(payout),
        () => channel.queryPayout("silent1"),
        () => channel.statement(rig.today()),
      ]) {
        rig.strikeNext("hang");
        const started = performance.now();
        assert.equal(reason(await call()), "timeout");
        assert.ok(performance.now() - started < IMPATIENT_MS + 2_000);
      }
      assert.equal(value(await rig.channel.query(asked.number)).status, "ABSENT");
    });

    test("an answer that is not signed by the channel, or makes no sense, is unknown", async () => {
      const asked = await paid();
      rig.strikeNext("forgedAnswer");
      assert.equal(reason(await rig.channel.query(asked.number)), "not authentic");
      rig.strikeNext("unreadable");
      assert.equal(reason(await rig.channel.query(asked.number)), "unreadable");
    });

    test("where nobody listens, every call is unknown", async () => {
      const nobody = rig.unreachable();
      const asked = order();
      assert.equal(reason(await nobody.charge(asked)), "connection");
      assert.equal(reason(await nobody.query(asked.number)), "connection");
      assert.equal(reason(await nobody.refund(refundOf(asked))), "connection");
      assert.equal(reason(await nobody.statement(rig.today())), "connection");
    });

    test("what a failed call came to, and the adapter itself, may be logged: no secret is in it", async () => {
      const asked = order();
      const said: unknown[] = [rig.channel, await rig.unreachable().charge(asked)];
      for (const fault of ["hang", "refuse", "errorAfterDoing", "forgedAnswer", "unreadable"] as const) {
        rig.strikeNext(fault);
        said.push(await (fault === "hang" ? rig.impatient : rig.channel).query(asked.number));
      }
      const text = inspect(said, { depth: Infinity, showHidden: true, maxStringLength: Infinity });
      for (const secret of rig.secrets) assert.ok(!text.includes(secret));
    });

    test("a clear no is a refusal, and nothing was done", async () => {
      const asked = order();
      rig.strikeNext("refuse");
      assert.equal((await rig.channel.charge(asked)).kind, "refused");
      assert.equal(value(await rig.channel.query(asked.number)).status, "ABSENT");
    });
  });
}

function value<T>(outcome: Outcome<T>): T {
  assert.ok(outcome.kind === "answered", `answered, not ${inspect(outcome)}`);
  return outcome.value;
}

const reason = (outcome: Outcome<unknown>): string => (outcome.kind === "unknown" ? outcome.reason : inspect(outcome));

async function linesOf(channel: Channel, statement: Readable): Promise<StatementLine[]> {
  const lines: StatementLine[] = [];
  for await (const line of channel.readStatement(statement)) lines.push(line);
  return lines;
}

async function textOf(stream: Readable): Promise<string> {
  const parts: Buffer[] = [];
  for await (const part of stream as AsyncIterable<Buffer>) parts.push(part);
  return Buffer.concat(parts).toString("utf8");
}
