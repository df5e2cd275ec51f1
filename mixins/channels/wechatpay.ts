/**
 * WeChat Pay (微信支付) APIv3 for a merchant of its own: Native payments (a QR code), refunds, transfers to a user (商家转账) and the trade
 * bill. Signing, and verifying what WeChat signed, are its SDK's (wechatpay-axios-plugin): the most alive of those on npm, typed, without
 * native code. `wechatpay-node-v3` pins a superagent of 2022; the official SDKs are for Java, Go and PHP.
 *
 * The SDK verifies answers of success alone; what WeChat refuses is believed on the strength of TLS.
 */
import { createHash, verify, type KeyObject } from "node:crypto";
import { pipeline, Transform, type Readable } from "node:stream";
import { createGunzip } from "node:zlib";
import { Aes, Decorator, Rsa } from "wechatpay-axios-plugin";
import { header, isFresh, parseTimestampMs } from "../../domain/channel/callback.ts";
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
} from "../../domain/channel/records.ts";
import { LIMITS } from "../../domain/limits.ts";
import { toJson } from "../../domain/money.ts";
import { StatementError, type Channel, type ChannelOptions } from "./channel.ts";
import { oneOf, text, timeMs, type Json } from "./json.ts";
import { readTradeBill } from "./wechatpay-bill.ts";

export interface WechatPaySettings {
  readonly mchid: string;
  readonly appid: string;
  /** Serial number of the merchant's certificate. */
  readonly serial: string;
  /** PEM. Signs our calls; never logged. */
  readonly privateKey: string;
  /** WeChat's public key (PUB_KEY_ID_…) or platform certificate by serial number, and its PEM. */
  readonly platformKeyId: string;
  readonly platformKey: string;
  /** 32 bytes; decrypts what callbacks carry. Never logged. */
  readonly apiV3Key: string;
  /** Another address than WeChat's own. */
  readonly url?: string;
}

const CURRENCY = "CNY";
const CHARGE_STATES = {
  SUCCESS: "PAID",
  /** Paid, and refunded in part or whole since. */
  REFUND: "PAID",
  NOTPAY: "PENDING",
  USERPAYING: "PENDING",
  PAYERROR: "PENDING",
  CLOSED: "CLOSED",
  REVOKED: "CLOSED",
} as const;
/** CLOSED: the refund ended without giving anything back, for example to a closed account. */
const REFUND_STATES = { SUCCESS: "SUCCEEDED", PROCESSING: "PROCESSING", ABNORMAL: "ABNORMAL", CLOSED: "ABNORMAL" } as const;
const PAYOUT_STATES = {
  ACCEPTED: "PROCESSING",
  PROCESSING: "PROCESSING",
  WAIT_USER_CONFIRM: "PROCESSING",
  TRANSFERING: "PROCESSING",
  CANCELING: "PROCESSING",
  SUCCESS: "SUCCEEDED",
  FAIL: "FAILED",
  CANCELLED: "FAILED",
} as const;
const ABSENT = new Set(["ORDER_NOT_EXIST", "ORDERNOTEXIST", "RESOURCE_NOT_EXISTS", "NOT_FOUND"]);
const LATER = new Set([
  "NOT_ENOUGH",
  "FREQUENCY_LIMITED",
  "FREQUENCY_LIMIT_EXCEED",
  "RATELIMIT_EXCEEDED",
  "STATEMENT_CREATING",
  "NO_STATEMENT_EXIST",
]);
/** 佣金报酬: the scene of paying a business partner its share. It must be granted to the merchant by WeChat. */
const TRANSFER_SCENE = "1005";

export function wechatPayChannel(settings: WechatPaySettings, options: ChannelOptions): Channel {
  const { mchid, appid, serial, apiV3Key, platformKeyId } = settings;
  const { notifyUrl, timeoutMs = LIMITS.channelMs } = options;
  const platformKey = Rsa.from(settings.platformKey, Rsa.KEY_TYPE_PUBLIC);
  const client = new Decorator({
    mchid,
    serial,
    privateKey: settings.privateKey,
    certs: { [platformKeyId]: platformKey },
    timeout: timeoutMs,
    maxRedirects: 0,
    ...(settings.url === undefined ? {} : { baseURL: settings.url }),
  });

  async function call(method: "GET" | "POST", path: string, body?: object, config: object = {}): Promise<Outcome<unknown>> {
    try {
      const { data } = await client.request<unknown>(path, method, body, config);
      return answered(data);
    } catch (error) {
      return withoutSuccess(error);
    }
  }

  async function read<T extends { readonly number: string }>(
    number: string,
    made: Promise<Outcome<unknown>>,
    of: (json: Json) => T | undefined,
  ): Promise<Outcome<T>> {
    const outcome = await made;
    if (outcome.kind !== "answered") return outcome;
    const value = typeof outcome.value === "object" && outcome.value !== null ? of(outcome.value as Json) : undefined;
    return value?.number === number ? answered(value) : unknown("unreadable", "an answer that does not say what was asked");
  }

  async function asked<T>(absent: T, made: Promise<Outcome<T>>): Promise<Outcome<T>> {
    const outcome = await made;
    return outcome.kind === "refused" && ABSENT.has(outcome.code) ? answered(absent) : outcome;
  }

  const byNumber = (number: string): string => `v3/pay/transactions/out-trade-no/${encodeURIComponent(number)}`;
  return {
    name: "wechatpay",
    statementKinds: ["PAYMENT", "REFUND"],

    charge({ number, amount, currency, subject, expiresAtMs }) {
      if (currency !== CURRENCY) return Promise.resolve(refused("CURRENCY", `WeChat Pay takes ${CURRENCY}, not ${currency}`));
      const body = {
        appid,
        mchid,
        description: subject,
        out_trade_no: number,
        notify_url: notifyUrl,
        amount: { total: toJson(amount), currency },
        ...(expiresAtMs === undefined ? {} : { time_expire: new Date(expiresAtMs).toISOString() }),
      };
      return read<ChannelCharge>(number, call("POST", "v3/pay/transactions/native", body), (json) => {
        const payUrl = text(json, "code_url");
        return payUrl === undefined ? undefined : { number, status: "PENDING", payUrl };
      });
    },
    query: (number) =>
      asked({ number, status: "ABSENT" }, read(number, call("GET", byNumber(number), undefined, { params: { mchid } }), chargeOf)),
    async close(number) {
      const outcome = await call("POST", `${byNumber(number)}/close`, { mchid });
      return outcome.kind === "answered" ? answered({ number, status: "CLOSED" }) : outcome;
    },

    refund({ number, chargeNumber, amount, chargeAmount, currency, reason }) {
      const body = {
        out_trade_no: chargeNumber,
        out_refund_no: number,
        reason,
        notify_url: notifyUrl,
        amount: { refund: toJson(amount), total: toJson(chargeAmount), currency },
      };
      return read(number, call("POST", "v3/refund/domestic/refunds", body), refundOf);
    },
    queryRefund: (number) =>
      asked({ number, status: "ABSENT" }, read(number, call("GET", `v3/refund/domestic/refunds/${encodeURIComponent(number)}`), refundOf)),

    payout({ number, amount, currency, account, reason }) {
      if (currency !== CURRENCY) return Promise.resolve(refused("CURRENCY", `WeChat Pay pays ${CURRENCY}, not ${currency}`));
      const body = {
        appid,
        out_bill_no: number,
        transfer_scene_id: TRANSFER_SCENE,
        openid: account,
        transfer_amount: toJson(amount),
        transfer_remark: reason,
        notify_url: notifyUrl,
        transfer_scene_report_infos: [
          { info_type: "岗位类型", info_content: "商户" },
          { info_type: "报酬说明", info_content: reason },
        ],
      };
      return read(number, call("POST", "v3/fund-app/mch-transfer/transfer-bills", body), payoutOf);
    },
    queryPayout: (number) =>
      asked(
        { number, status: "ABSENT" },
        read(number, call("GET", `v3/fund-app/mch-transfer/transfer-bills/out-bill-no/${encodeURIComponent(number)}`), payoutOf),
      ),

    verifyCallback(rawBody, headers, nowMs): CallbackVerdict {
      const timestamp = header(headers, "wechatpay-timestamp");
      const nonce = header(headers, "wechatpay-nonce");
      const signature = header(headers, "wechatpay-signature");
      // WeChat sends signatures that begin with WECHATPAY/SIGNTEST/ to see whether we look: they are wrong like any other wrong one.
      const genuine =
        timestamp !== undefined &&
        nonce !== undefined &&
        signature !== undefined &&
        header(headers, "wechatpay-serial") === platformKeyId &&
        isSignedBy(platformKey, timestamp, nonce, rawBody, signature);
      if (!genuine) return { kind: "forged", detail: "the signature is not WeChat's" };
      const timestampMs = parseTimestampMs(timestamp);
      if (timestampMs === undefined || !isFresh(timestampMs, nowMs)) return { kind: "stale", detail: "signed outside the replay window" };
      const news = newsOf(Buffer.from(rawBody).toString("utf8"), apiV3Key, mchid);
      return news ? { kind: "genuine", news } : { kind: "unreadable", detail: "not the callback of an event we know" };
    },

    async statement(day) {
      const made = await call("GET", "v3/bill/tradebill", undefined, { params: { bill_date: day, bill_type: "ALL", tar_type: "GZIP" } });
      if (made.kind !== "answered") return made;
      const json = made.value as Json;
      const [address, sha1] = [text(json, "download_url"), text(json, "hash_value")];
      if (address === undefined || sha1 === undefined || !URL.canParse(address)) return unknown("unreadable", "no address of a bill");
      // By path, not by the address: what is signed with our key goes to the host we were configured with.
      const params = Object.fromEntries(new URL(address).searchParams);
      const bill = await call("GET", "v3/billdownload/file", undefined, { params, responseType: "stream" });
      return bill.kind === "answered" ? answered(unpacked(bill.value as Readable, sha1)) : bill;
    },
    readStatement: readTradeBill,
  };
}

/** Over the bytes as they came, which the SDK's verify does not take: what is decoded to text first may have been other bytes. */
function isSignedBy(key: KeyObject, timestamp: string, nonce: string, rawBody: Uint8Array, signature: string): boolean {
  const message = Buffer.concat([Buffer.from(`${timestamp}\n${nonce}\n`), rawBody, Buffer.from("\n")]);
  return verify("RSA-SHA256", message, key, Buffer.from(signature, "base64"));
}

/** axios throws whatever is not a success. Only a refusal that WeChat put into words, with a status below 500, is one. */
function withoutSuccess(error: unknown): Outcome<never> {
  if (!(error instanceof Error)) throw error;
  const { code, response } = error as Error & { code?: string; response?: { status: number; data: unknown } };
  if (code?.startsWith("EV3_")) return unknown("not authentic", code);
  if (!response) return unknown(code === "ECONNABORTED" || code === "ETIMEDOUT" ? "timeout" : "connection", code ?? error.message);
  if (response.status >= 500) return unknown("server error", `HTTP ${response.status}`);
  const json = typeof response.data === "object" && response.data !== null ? (response.data as Json) : undefined;
  const said = text(json, "code");
  if (response.status < 400 || said === undefined) return unknown("unreadable", `HTTP ${response.status} without a reason`);
  return refused(said, text(json, "message") ?? "", LATER.has(said) || response.status === 429 ? "later" : "never");
}

const stateOf = <T extends string>(table: Readonly<Record<string, T>>, state: string | undefined): T | undefined =>
  state !== undefined && Object.hasOwn(table, state) ? table[state] : undefined;

function chargeOf(json: Json): ChannelCharge | undefined {
  const number = text(json, "out_trade_no");
  const status = stateOf(CHARGE_STATES, text(json, "trade_state"));
  const channelNumber = text(json, "transaction_id");
  if (number === undefined || status === undefined) return undefined;
  const common = { number, status, ...(channelNumber ? { channelNumber } : {}) };
  if (status !== "PAID") return common;
  const money = json["amount"] as Json | undefined;
  const [amount, currency, atMs] = [fenOf(money?.["total"]), text(money, "currency"), timeMs(json, "success_time")];
  if (amount === undefined || currency === undefined || atMs === undefined || !channelNumber) return undefined;
  return { ...common, paid: { amount, currency, atMs } };
}

function refundOf(json: Json): ChannelRefund | undefined {
  const [number, channelNumber, chargeNumber] = [text(json, "out_refund_no"), text(json, "refund_id"), text(json, "out_trade_no")];
  // Calls say `status`, callbacks `refund_status`.
  const status = stateOf(REFUND_STATES, text(json, "status") ?? text(json, "refund_status"));
  const money = json["amount"] as Json | undefined;
  const [amount, doneAtMs] = [fenOf(money?.["refund"]), timeMs(json, "success_time")];
  if (number === undefined || status === undefined || channelNumber === undefined || chargeNumber === undefined || amount === undefined)
    return undefined;
  const common = { number, status, channelNumber, chargeNumber, amount, currency: text(money, "currency") ?? CURRENCY };
  return doneAtMs === undefined ? common : { ...common, doneAtMs };
}

function payoutOf(json: Json): ChannelPayout | undefined {
  const [number, channelNumber] = [text(json, "out_bill_no"), text(json, "transfer_bill_no")];
  const status = stateOf(PAYOUT_STATES, text(json, "state"));
  if (number === undefined || channelNumber === undefined || status === undefined) return undefined;
  // The answer to the transfer itself does not repeat the amount.
  const [amount, doneAtMs] = [fenOf(json["transfer_amount"]), status === "SUCCEEDED" ? timeMs(json, "update_time") : undefined];
  const common = { number, channelNumber, status, currency: CURRENCY, ...(amount === undefined ? {} : { amount }) };
  return doneAtMs === undefined ? common : { ...common, doneAtMs };
}

/** What a callback carries is encrypted (AES-256-GCM); only what we can decrypt was meant for us. */
function newsOf(body: string, apiV3Key: string, mchid: string): ChannelNews | undefined {
  let id: string | undefined;
  let event: string | undefined;
  let content: Json;
  try {
    const json = JSON.parse(body) as Json;
    const resource = json["resource"] as Json;
    id = text(json, "id");
    event = oneOf(json, "event_type", [
      "TRANSACTION.SUCCESS",
      "REFUND.SUCCESS",
      "REFUND.ABNORMAL",
      "REFUND.CLOSED",
      "MCHTRANSFER.BILL.FINISHED",
    ]);
    const [ciphertext, nonce, associated] = ["ciphertext", "nonce", "associated_data"].map((name) => text(resource, name) ?? "");
    content = JSON.parse(Aes.AesGcm.decrypt(ciphertext ?? "", apiV3Key, nonce ?? "", associated)) as Json;
  } catch (error) {
    // Not JSON, no resource, or not encrypted with our key: whichever it is, it tells us nothing.
    if (error instanceof Error) return undefined;
    throw error;
  }
  const whose = text(content, "mchid") ?? text(content, "mch_id");
  if (id === undefined || event === undefined || whose !== mchid) return undefined;
  const charge = event.startsWith("TRANSACTION") ? chargeOf(content) : undefined;
  if (charge) return { id, about: "charge", charge };
  const refund = event.startsWith("REFUND") ? refundOf(content) : undefined;
  if (refund) return { id, about: "refund", refund };
  const payout = event.startsWith("MCHTRANSFER") ? payoutOf(content) : undefined;
  return payout ? { id, about: "payout", payout } : undefined;
}

/** The bill itself is not signed; its hash, in the signed answer before, is of the unpacked file. */
function unpacked(bill: Readable, sha1: string): Readable {
  const hash = createHash("sha1");
  const check = new Transform({
    transform(chunk: Buffer, _encoding, done) {
      hash.update(chunk);
      done(null, chunk);
    },
    flush(done) {
      done(hash.digest("hex") === sha1.toLowerCase() ? null : new StatementError("the bill is not the one whose hash was signed"));
    },
  });
  // An error of any part ends `check`, whose reader hears of it.
  return pipeline(bill, createGunzip(), check, () => undefined);
}
