/**
 * The other side of WeChat Pay, as far as the adapter needs it: written against the published APIv3, with node:crypto and nothing of the
 * SDK, so that signing is checked by somebody else than who signs.
 */
import assert from "node:assert/strict";
import { createCipheriv, createHash, createSign, createVerify, generateKeyPairSync, randomBytes } from "node:crypto";
import { once } from "node:events";
import { createServer, type IncomingMessage, type ServerResponse, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { gzipSync } from "node:zlib";
import type { WechatPaySettings } from "../../mixins/channels/wechatpay.ts";
import type { RigFault } from "./channel-conformance.ts";

type Json = Record<string, unknown>;
const pair = (): { publicKey: string; privateKey: string } =>
  generateKeyPairSync("rsa", {
    modulusLength: 2048,
    publicKeyEncoding: { type: "spki", format: "pem" },
    privateKeyEncoding: { type: "pkcs8", format: "pem" },
  });

interface Charge {
  readonly ask: Json;
  state: "NOTPAY" | "SUCCESS" | "CLOSED";
  readonly id: string;
  at: string;
  refunded: number;
}

export class WechatPay {
  readonly #merchant = pair();
  readonly #platform = pair();
  readonly #stranger = pair();
  readonly #apiV3Key = randomBytes(16).toString("hex");
  readonly #server: Server;
  readonly #charges = new Map<string, Charge>();
  readonly #refunds = new Map<string, Json>();
  readonly #payouts = new Map<string, Json>();
  #fault: RigFault | undefined;
  #ids = 4_200_000_000_000;
  /** Authorization headers that were verified. */
  verified = 0;

  private constructor() {
    this.#server = createServer((request, response) => void this.#serve(request, response));
  }

  static async open(): Promise<WechatPay> {
    const channel = new WechatPay();
    channel.#server.listen(0, "127.0.0.1");
    await once(channel.#server, "listening");
    return channel;
  }

  settings(port = (this.#server.address() as AddressInfo).port): WechatPaySettings {
    return {
      mchid: "1900009191",
      appid: "wxd678efh567hg6787",
      serial: "5157F09EFDC096DE15EBE81A47057A7232F1B8E1",
      privateKey: this.#merchant.privateKey,
      platformKeyId: "PUB_KEY_ID_0119000091912026",
      platformKey: this.#platform.publicKey,
      apiV3Key: this.#apiV3Key,
      url: `http://127.0.0.1:${port}/`,
    };
  }

  strikeNext(fault: RigFault): void {
    this.#fault = fault;
  }

  async pay(number: string): Promise<void> {
    const charge = this.#charges.get(number);
    assert.ok(charge?.state === "NOTPAY");
    charge.state = "SUCCESS";
    charge.at = now();
    await this.#tell(charge.ask, "TRANSACTION.SUCCESS", "transaction", this.#chargeView(charge));
  }

  async stop(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((done) => this.#server.close(done));
  }

  async #serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const parts: Buffer[] = [];
    for await (const part of request as AsyncIterable<Buffer>) parts.push(part);
    const raw = Buffer.concat(parts).toString("utf8");
    const fault = this.#fault;
    this.#fault = undefined;
    if (fault === "hang") return;
    if (!this.#isMerchants(request, raw)) return this.#send(response, 401, { code: "SIGN_ERROR", message: "签名错误" });
    if (fault === "refuse") return this.#send(response, 403, { code: "NO_AUTH", message: "商户无权限" });
    const url = new URL(request.url ?? "/", "http://x");
    if (url.pathname === "/v3/billdownload/file")
      return void response.writeHead(200, { "content-type": "application/x-gzip" }).end(gzipSync(this.#bill()));
    const [status, body] = this.#do(`${request.method} ${url.pathname}`, raw === "" ? {} : (JSON.parse(raw) as Json));
    if (fault === "errorAfterDoing") this.#send(response, 500, { code: "SYSTEM_ERROR", message: "系统错误" });
    else if (fault === "unreadable") this.#send(response, 200, "<html>");
    else this.#send(response, status, body, fault === "forgedAnswer" ? this.#stranger.privateKey : undefined);
  }

  #isMerchants(request: IncomingMessage, raw: string): boolean {
    const [scheme, rest = ""] = request.headers.authorization?.split(/ (.*)/s) ?? [];
    const said = Object.fromEntries([...rest.matchAll(/(\w+)="([^"]*)"/g)].map(([, name, value]) => [name, value]));
    const { mchid, serial } = this.settings();
    const message = `${request.method}\n${request.url}\n${said["timestamp"]}\n${said["nonce_str"]}\n${raw}\n`;
    const signed = createVerify("RSA-SHA256").update(message).verify(this.#merchant.publicKey, String(said["signature"]), "base64");
    const fresh = Math.abs(Number(said["timestamp"]) * 1000 - Date.now()) < 300_000;
    const genuine = scheme === "WECHATPAY2-SHA256-RSA2048" && signed && fresh && said["mchid"] === mchid && said["serial_no"] === serial;
    if (genuine) this.verified += 1;
    return genuine;
  }

  #do(route: string, body: Json): [number, unknown] {
    const [, number = "", close] = /out-trade-no\/([^/]+)(\/close)?$/.exec(route) ?? [];
    if (route === "POST /v3/pay/transactions/native") return this.#charge(body);
    if (number !== "") return close ? this.#close(number) : this.#query(number);
    if (route === "POST /v3/refund/domestic/refunds") return this.#refund(body);
    if (route === "POST /v3/fund-app/mch-transfer/transfer-bills") return this.#payout(body);
    if (route.startsWith("GET /v3/refund/")) return found(this.#refunds.get(route.split("/").at(-1) ?? ""));
    if (route.startsWith("GET /v3/fund-app/")) return found(this.#payouts.get(route.split("/").at(-1) ?? ""));
    if (route === "GET /v3/bill/tradebill") {
      const hash = createHash("sha1").update(this.#bill()).digest("hex");
      const download = "https://api.mch.weixin.qq.com/v3/billdownload/file?token=6XIv5TUPto7pByrTQKhd6kwvyKLG2uY2&tartype=gzip";
      return [200, { hash_type: "SHA1", hash_value: hash, download_url: download }];
    }
    return [404, { code: "NOT_FOUND", message: route }];
  }

  #charge(ask: Json): [number, unknown] {
    const number = String(ask["out_trade_no"]);
    const known = this.#charges.get(number);
    if (known && JSON.stringify(known.ask) !== JSON.stringify(ask)) return [403, { code: "OUT_TRADE_NO_USED", message: "商户订单号重复" }];
    if (!known) this.#charges.set(number, { ask, state: "NOTPAY", id: this.#id(), at: now(), refunded: 0 });
    return [200, { code_url: `weixin://wxpay/bizpayurl/up?pr=${number}` }];
  }

  #query(number: string): [number, unknown] {
    const charge = this.#charges.get(number);
    return charge ? [200, this.#chargeView(charge)] : [404, { code: "ORDER_NOT_EXIST", message: "订单不存在" }];
  }

  #close(number: string): [number, unknown] {
    const charge = this.#charges.get(number);
    if (!charge) return [404, { code: "ORDER_NOT_EXIST", message: "订单不存在" }];
    if (charge.state === "SUCCESS") return [400, { code: "ORDERPAID", message: "订单已支付" }];
    charge.state = "CLOSED";
    return [204, undefined];
  }

  #refund(ask: Json): [number, unknown] {
    const number = String(ask["out_refund_no"]);
    const known = this.#refunds.get(number);
    if (known) return [200, known];
    const charge = this.#charges.get(String(ask["out_trade_no"]));
    const money = ask["amount"] as { refund: number; total: number; currency: string };
    if (charge?.state !== "SUCCESS") return [404, { code: "RESOURCE_NOT_EXISTS", message: "订单不存在" }];
    if (charge.refunded + money.refund > money.total)
      return [400, { code: "INVALID_REQUEST", message: "订单金额或退款金额与之前请求不一致" }];
    charge.refunded += money.refund;
    const common = { refund_id: this.#id(), out_refund_no: number, out_trade_no: ask["out_trade_no"], amount: money, create_time: now() };
    this.#refunds.set(number, { ...common, status: "PROCESSING" });
    setTimeout(() => {
      this.#refunds.set(number, { ...common, status: "SUCCESS", success_time: now() });
      const { currency: _, ...amount } = money;
      const told = { ...common, amount, mchid: this.settings().mchid, refund_status: "SUCCESS", success_time: now() };
      void this.#tell(ask, "REFUND.SUCCESS", "refund", told);
    }, 20);
    return [200, { ...common, status: "PROCESSING" }];
  }

  #payout(ask: Json): [number, unknown] {
    const number = String(ask["out_bill_no"]);
    const known = this.#payouts.get(number);
    if (known) return [200, known];
    const common = { out_bill_no: number, transfer_bill_no: this.#id(), create_time: now() };
    this.#payouts.set(number, { ...common, transfer_amount: ask["transfer_amount"], state: "WAIT_USER_CONFIRM" });
    setTimeout(() => {
      const { mchid: mch_id } = this.settings();
      const done = { ...common, mch_id, transfer_amount: ask["transfer_amount"], state: "SUCCESS", update_time: now() };
      this.#payouts.set(number, done);
      void this.#tell(ask, "MCHTRANSFER.BILL.FINISHED", "mch_payment", done);
    }, 20);
    return [200, { ...common, state: "WAIT_USER_CONFIRM", package_info: "affffddafdfafddffda==" }];
  }

  #chargeView({ ask, state, id, at }: Charge): Json {
    const { mchid, appid } = this.settings();
    const common = { appid, mchid, out_trade_no: ask["out_trade_no"], trade_type: "NATIVE", trade_state: state };
    if (state !== "SUCCESS") return common;
    const { total, currency } = ask["amount"] as { total: number; currency: string };
    const amount = { total, payer_total: total, currency, payer_currency: currency };
    return { ...common, transaction_id: id, trade_state_desc: "支付成功", success_time: at, amount };
  }

  /** All of it, whatever day was asked for. */
  #bill(): string {
    const yuan = (fen: number): string => (fen / 100).toFixed(2);
    const time = (at: unknown): string => String(at).slice(0, 19).replace("T", " ");
    const rows = [...this.#charges.values()].flatMap((charge) => {
      if (charge.state !== "SUCCESS") return [];
      const { total, currency } = charge.ask["amount"] as { total: number; currency: string };
      const row = (state: string, refund: readonly string[], ordered: string, given: string): string[] => {
        const { mchid, appid } = this.settings();
        const head = [time(charge.at), appid, mchid, "0", "", charge.id, String(charge.ask["out_trade_no"]), "o4GgauMQHaUO", "NATIVE"];
        const middle = [state, "OTHERS", currency, ordered, "0.00", ...refund, String(charge.ask["description"]), "", "0.00000", "0.60%"];
        return [...head, ...middle, ordered, given, ""];
      };
      const refunds = [...this.#refunds.values()].filter((refund) => refund["out_trade_no"] === charge.ask["out_trade_no"]);
      return [
        row("SUCCESS", ["0", "0", "0.00", "0.00", "", ""], yuan(total), "0.00"),
        ...refunds.map((refund) => {
          const given = yuan((refund["amount"] as { refund: number }).refund);
          const about = [refund["refund_id"], refund["out_refund_no"], given, "0.00", "ORIGINAL", refund["status"]].map(String);
          return row("REFUND", about, "0.00", given);
        }),
      ];
    });
    const lines = rows.map((row) => row.map((cell) => `\`${cell}`).join(","));
    const summary = `\`${rows.length},\`0.00,\`0.00,\`0.00,\`0.00,\`0.00,\`0.00`;
    return `\uFEFF${[HEADING, ...lines, SUMMARY, summary].join("\r\n")}\r\n`;
  }

  async #tell(ask: Json, event: string, type: string, content: Json): Promise<void> {
    const body = sealed(event, type, content, this.#apiV3Key);
    const headers = signed(body, this.#platform.privateKey, this.settings().platformKeyId);
    const answer = await fetch(String(ask["notify_url"]), { method: "POST", body, headers });
    await answer.body?.cancel();
  }

  #id(): string {
    return String(++this.#ids);
  }

  #send(response: ServerResponse, status: number, content: unknown, key = this.#platform.privateKey): void {
    const body = content === undefined ? "" : typeof content === "string" ? content : JSON.stringify(content);
    const headers = { ...signed(body, key, this.settings().platformKeyId), "content-type": "application/json" };
    response.writeHead(status, headers).end(status === 204 ? undefined : body);
  }
}

const found = (record: Json | undefined): [number, unknown] =>
  record ? [200, record] : [404, { code: "RESOURCE_NOT_EXISTS", message: "记录不存在" }];

/** RFC 3339 in Beijing time, as WeChat writes it. */
const now = (): string => `${new Date(Date.now() + 8 * 3_600_000).toISOString().slice(0, 19)}+08:00`;

/** What WeChat signs: time, nonce and body, each with its line end. */
export function signed(body: string, privateKey: string, serial: string, nowMs = Date.now()): Record<string, string> {
  const [timestamp, nonce] = [String(Math.floor(nowMs / 1000)), randomBytes(16).toString("hex")];
  const signature = createSign("RSA-SHA256").update(`${timestamp}\n${nonce}\n${body}\n`).sign(privateKey, "base64");
  return {
    "wechatpay-timestamp": timestamp,
    "wechatpay-nonce": nonce,
    "wechatpay-signature": signature,
    "wechatpay-signature-type": "WECHATPAY2-SHA256-RSA2048",
    "wechatpay-serial": serial,
  };
}

/** A callback's body: its content encrypted with the APIv3 key. */
export function sealed(event: string, type: string, content: Json, apiV3Key: string): string {
  const nonce = randomBytes(6).toString("hex");
  const cipher = createCipheriv("aes-256-gcm", apiV3Key, nonce).setAAD(Buffer.from(type));
  const encrypted = Buffer.concat([cipher.update(JSON.stringify(content), "utf8"), cipher.final(), cipher.getAuthTag()]);
  const resource = { original_type: type, algorithm: "AEAD_AES_256_GCM", ciphertext: encrypted.toString("base64") };
  return JSON.stringify({
    id: `EV-${randomBytes(8).toString("hex")}`,
    create_time: now(),
    resource_type: "encrypt-resource",
    event_type: event,
    resource: { ...resource, associated_data: type, nonce },
  });
}

const HEADING =
  "交易时间,公众账号ID,商户号,特约商户号,设备号,微信订单号,商户订单号,用户标识,交易类型,交易状态,付款银行,货币种类,应结订单金额,代金券金额,微信退款单号,商户退款单号,退款金额,充值券退款金额,退款类型,退款状态,商品名称,商户数据包,手续费,费率,订单金额,申请退款金额,费率备注";
const SUMMARY = "总交易单数,应结订单总金额,退款总金额,充值券退款总金额,手续费总金额,订单总金额,申请退款总金额";
