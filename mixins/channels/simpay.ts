/** The channel simpay (docs/channels.md): HTTP and JSON, calls, answers and callbacks signed with HMAC-SHA256. */
import { randomBytes } from "node:crypto";
import { Readable } from "node:stream";
import { header, hmacOf, isFresh, parseTimestampMs, sameText, type Headers } from "../../domain/channel/callback.ts";
import { fenOf } from "../../domain/channel/fen.ts";
import {
  answered,
  refused,
  unknown,
  type CallbackVerdict,
  type ChannelCharge,
  type ChannelNews,
  type ChannelPayout,
  type ChannelRefund,
  type Outcome,
  type StatementLine,
} from "../../domain/channel/records.ts";
import { LIMITS } from "../../domain/limits.ts";
import { toJson } from "../../domain/money.ts";
import { StatementError, type Channel, type ChannelOptions } from "./channel.ts";
import { oneOf, text, timeMs, type Json } from "./json.ts";
import { csvRows } from "./statement.ts";

export interface SimpaySettings {
  readonly url: string;
  /** The merchant's key; never logged, never in a message of an error. */
  readonly secret: string;
}

/** Refusals that are a matter of the moment: the same number may be tried again. */
const LATER = new Set(["CHANNEL_REFUSED", "REFUND_REFUSED", "STARTING", "TOO_MANY_REQUESTS"]);
const COLUMNS = ["time", "kind", "channel_number", "number", "charge_number", "amount", "currency", "status"] as const;
const KINDS = ["PAYMENT", "REFUND", "PAYOUT", "PAYOUT_RETURN"] as const;

export function simpayChannel({ url, secret }: SimpaySettings, options: ChannelOptions): Channel {
  const { notifyUrl, timeoutMs = LIMITS.channelMs } = options;

  const send = async (method: "GET" | "POST", path: string, body: string, nonce: string, signal: AbortSignal): Promise<Response> => {
    const timestamp = String(Math.floor(Date.now() / 1000));
    const target = new URL(path, url);
    const headers = {
      "simpay-timestamp": timestamp,
      "simpay-nonce": nonce,
      "simpay-signature": hmacOf(secret, [timestamp, nonce, `${method} ${target.pathname}`], body),
    };
    return fetch(target, { method, headers, redirect: "error", signal, ...(method === "POST" ? { body } : {}) });
  };

  /** One call, and what it came to. Only an answer that is signed, for this very call, is believed. */
  async function call(method: "GET" | "POST", path: string, content?: object): Promise<Outcome<Json>> {
    const nonce = randomBytes(16).toString("hex");
    let status: number;
    let body: string;
    let headers: Headers;
    try {
      const answer = await send(method, path, content ? JSON.stringify(content) : "", nonce, AbortSignal.timeout(timeoutMs));
      status = answer.status;
      headers = Object.fromEntries(answer.headers);
      body = await answer.text();
    } catch (error) {
      return noAnswer(error);
    }
    if (status >= 500) return unknown("server error", `HTTP ${status}`);
    if (!isSigned(`answer ${nonce}`, body, headers)) return unknown("not authentic", `HTTP ${status} without the channel's signature`);
    const json = parseObject(body);
    if (!json) return unknown("unreadable", `HTTP ${status} without a JSON object`);
    if (status >= 200 && status < 300) return answered(json);
    const code = text(json, "code") ?? `HTTP_${status}`;
    return refused(code, text(json, "message") ?? "", LATER.has(code) || status === 429 ? "later" : "never");
  }

  function isSigned(first: string, body: string | Uint8Array, headers: Headers): boolean {
    const timestamp = header(headers, "simpay-timestamp");
    const nonce = header(headers, "simpay-nonce");
    const signature = header(headers, "simpay-signature");
    if (timestamp === undefined || nonce === undefined || signature === undefined) return false;
    return sameText(signature, hmacOf(secret, [timestamp, nonce, first], body));
  }

  /** Makes sense of an answer; one that is about another number is no answer. */
  async function about<T extends { readonly number: string }>(
    number: string,
    outcome: Promise<Outcome<Json>>,
    read: (json: Json) => T | undefined,
  ): Promise<Outcome<T>> {
    const made = await outcome;
    if (made.kind !== "answered") return made;
    const value = read(made.value);
    return value?.number === number ? answered(value) : unknown("unreadable", "an answer about something else");
  }

  /** A query may hear that there is nothing, which is an answer. */
  async function asked<T>(absent: T, outcome: Promise<Outcome<T>>): Promise<Outcome<T>> {
    const made = await outcome;
    return made.kind === "refused" && made.code === "NOT_FOUND" ? answered(absent) : made;
  }

  const path = (kind: string, number: string, verb = ""): string => `/v1/${kind}/${encodeURIComponent(number)}${verb}`;
  return {
    name: "simpay",
    statementKinds: KINDS,
    charge({ number, amount, currency, subject, expiresAtMs, returnUrl }) {
      const expiresAt = expiresAtMs === undefined ? {} : { expiresAt: new Date(expiresAtMs).toISOString() };
      const body = { number, amount: toJson(amount), currency, subject, notifyUrl, ...expiresAt, ...(returnUrl ? { returnUrl } : {}) };
      return about(number, call("POST", "/v1/charges", body), chargeOf);
    },
    query: (number) => asked({ number, status: "ABSENT" }, about(number, call("GET", path("charges", number)), chargeOf)),
    close: (number) => about(number, call("POST", path("charges", number, "/close")), chargeOf),
    refund({ number, chargeNumber, amount, currency }) {
      return about(number, call("POST", "/v1/refunds", { number, chargeNumber, amount: toJson(amount), currency, notifyUrl }), refundOf);
    },
    queryRefund: (number) => asked({ number, status: "ABSENT" }, about(number, call("GET", path("refunds", number)), refundOf)),
    payout({ number, amount, currency, account }) {
      return about(number, call("POST", "/v1/payouts", { number, amount: toJson(amount), currency, account, notifyUrl }), payoutOf);
    },
    queryPayout: (number) => asked({ number, status: "ABSENT" }, about(number, call("GET", path("payouts", number)), payoutOf)),

    verifyCallback(rawBody, headers, nowMs): CallbackVerdict {
      if (!isSigned("callback", rawBody, headers)) return { kind: "forged", detail: "the signature is not simpay's" };
      const timestampMs = parseTimestampMs(header(headers, "simpay-timestamp"));
      if (timestampMs === undefined || !isFresh(timestampMs, nowMs)) return { kind: "stale", detail: "signed outside the replay window" };
      const news = newsOf(parseObject(Buffer.from(rawBody).toString("utf8")));
      return news ? { kind: "genuine", news } : { kind: "unreadable", detail: "not the callback of an event we know" };
    },

    async statement(day) {
      const waiting = new AbortController();
      const timer = setTimeout(() => waiting.abort(new DOMException("no answer in time", "TimeoutError")), timeoutMs);
      try {
        const answer = await send("GET", path("statements", day), "", randomBytes(16).toString("hex"), waiting.signal);
        if (answer.ok && answer.body) return answered(Readable.fromWeb(answer.body));
        await answer.body?.cancel();
        return answer.status >= 500 ? unknown("server error", `HTTP ${answer.status}`) : refused(`HTTP_${answer.status}`, "", "later");
      } catch (error) {
        return noAnswer(error);
      } finally {
        // Only the first byte is waited for: a million lines may take their time.
        clearTimeout(timer);
      }
    },

    async *readStatement(statement) {
      let lines = 0;
      let sum = 0n;
      let heading = false;
      let total: readonly string[] | undefined;
      for await (const row of csvRows(statement)) {
        if (!heading) {
          // Exactly, or the columns of a row would be taken for others.
          heading = row.join() === COLUMNS.join();
          if (!heading) throw new StatementError(`a statement begins with ${COLUMNS.join()}, this one with ${row.join()}`);
          continue;
        }
        if (total) throw new StatementError(`line ${lines + 3} comes after the total`);
        if (row[1] === "TOTAL") {
          total = row;
          continue;
        }
        const line = lineOf(row);
        if (!line) throw new StatementError(`line ${lines + 2} makes no sense: ${row.join()}`);
        lines += 1;
        sum += line.amount;
        yield line;
      }
      if (!total) throw new StatementError(`the statement was cut off after ${lines} lines: it has no total`);
      if (total[2] !== String(lines) || total[5] !== String(sum))
        throw new StatementError(`the total says ${total[2]} lines and ${total[5]} fen, there are ${lines} and ${sum}`);
    },
  };
}

/** fetch fails with a TimeoutError after the time, and with a TypeError when there is no connection or it breaks. */
function noAnswer(error: unknown): Outcome<never> {
  if (!(error instanceof Error)) throw error;
  if (error.name === "TimeoutError") return unknown("timeout", error.message);
  const cause = error.cause instanceof Error ? `: ${error.cause.message}` : "";
  return unknown("connection", `${error.message}${cause}`);
}

function parseObject(body: string): Json | undefined {
  try {
    const value: unknown = JSON.parse(body);
    return typeof value === "object" && value !== null ? (value as Json) : undefined;
  } catch (error) {
    if (error instanceof SyntaxError) return undefined;
    throw error;
  }
}

function chargeOf(json: Json): ChannelCharge | undefined {
  const number = text(json, "number");
  const status = oneOf(json, "status", ["PENDING", "PAID", "CLOSED"]);
  const channelNumber = text(json, "channelNumber");
  const payUrl = text(json, "payUrl");
  if (number === undefined || status === undefined || channelNumber === undefined) return undefined;
  const common = { number, status, channelNumber, ...(payUrl === undefined ? {} : { payUrl }) };
  if (status !== "PAID") return common;
  const money = json["paid"] as Json | undefined;
  const [amount, currency, atMs] = [fenOf(money?.["amount"]), text(money, "currency"), timeMs(money, "at")];
  if (amount === undefined || currency === undefined || atMs === undefined) return undefined;
  return { ...common, paid: { amount, currency, atMs } };
}

function refundOf(json: Json): ChannelRefund | undefined {
  const common = movedOf(json);
  const status = oneOf(json, "status", ["PROCESSING", "SUCCEEDED"]);
  const chargeNumber = text(json, "chargeNumber");
  return common && status && chargeNumber !== undefined ? { ...common, status, chargeNumber } : undefined;
}

function payoutOf(json: Json): ChannelPayout | undefined {
  const common = movedOf(json);
  const status = oneOf(json, "status", ["PROCESSING", "SUCCEEDED", "RETURNED"]);
  return common && status ? { ...common, status } : undefined;
}

function movedOf(json: Json): Pick<Required<ChannelPayout>, "number" | "channelNumber" | "amount" | "currency"> | undefined {
  const [number, channelNumber, currency] = [text(json, "number"), text(json, "channelNumber"), text(json, "currency")];
  const [amount, doneAtMs] = [fenOf(json["amount"]), timeMs(json, "doneAt")];
  if (number === undefined || channelNumber === undefined || currency === undefined || amount === undefined) return undefined;
  return { number, channelNumber, currency, amount, ...(doneAtMs === undefined ? {} : { doneAtMs }) };
}

function newsOf(json: Json | undefined): ChannelNews | undefined {
  const id = text(json, "id");
  const data = json?.["data"];
  if (id === undefined || typeof data !== "object" || data === null) return undefined;
  const record = data as Json;
  const type = text(record, "type");
  const charge = type === "charge" ? chargeOf(record) : undefined;
  const refund = type === "refund" ? refundOf(record) : undefined;
  const payout = type === "payout" ? payoutOf(record) : undefined;
  if (charge) return { id, about: "charge", charge };
  if (refund) return { id, about: "refund", refund };
  return payout ? { id, about: "payout", payout } : undefined;
}

function lineOf(row: readonly string[]): StatementLine | undefined {
  const [time = "", kindText, channelNumber = "", number = "", chargeNumber = "", amountText, currency = ""] = row;
  const kind = KINDS.find((one) => one === kindText);
  const [amount, atMs] = [fenOf(amountText), Date.parse(time)];
  if (!kind || amount === undefined || Number.isNaN(atMs) || channelNumber === "" || number === "" || currency === "") return undefined;
  return { kind, channelNumber, number, amount, currency, atMs, ...(chargeNumber === "" ? {} : { chargeNumber }) };
}
