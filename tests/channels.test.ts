/** Every adapter against the channel it is for: simpay itself, and a stand-in for WeChat Pay written against its published API. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import type { Channel } from "../mixins/channels/index.ts";
import { simpayChannel } from "../mixins/channels/simpay.ts";
import { wechatPayChannel } from "../mixins/channels/wechatpay.ts";
import { dayOf } from "../simpay/book.ts";
import { sign } from "../simpay/signature.ts";
import { channelConformance, IMPATIENT_MS, type RigFault } from "./support/channel-conformance.ts";
import { Ear, SECRET, testSimpay } from "./support/simpay.ts";
import { WechatPay } from "./support/wechatpay.ts";

/** A port that is reserved and never listened on. */
const NOBODY = 1;

channelConformance("simpay", async () => {
  const simpay = await testSimpay();
  const ear = await Ear.open();
  let fault: RigFault | undefined;
  // Faults are asked for by a header, which the adapter does not send: what stands between puts it on.
  const between = createServer((request, response) => {
    void (async () => {
      const parts: Buffer[] = [];
      for await (const part of request as AsyncIterable<Buffer>) parts.push(part);
      const [strike, leaving] = [fault, new AbortController()];
      fault = undefined;
      response.once("close", () => leaving.abort());
      const { host: _, connection: __, "content-length": ___, ...headers } = request.headers;
      const answer = await fetch(`${simpay.url}${request.url}`, {
        method: request.method ?? "",
        headers: { ...(headers as Record<string, string>), ...(strike && strike !== "unreadable" ? { "simpay-fault": strike } : {}) },
        ...(parts.length > 0 ? { body: Buffer.concat(parts) } : {}),
        signal: leaving.signal,
      });
      const body = strike === "unreadable" ? Buffer.from("<html>") : Buffer.from(await answer.arrayBuffer());
      const {
        "content-encoding": ____,
        "content-length": _____,
        "transfer-encoding": ______,
        ...rest
      } = Object.fromEntries(answer.headers);
      const resigned = strike === "unreadable" ? sign(SECRET, `answer ${String(headers["simpay-nonce"])}`, body, Date.now()) : {};
      response.writeHead(answer.status, { ...rest, ...resigned }).end(body);
    })().catch((error: unknown) => response.destroyed || response.destroy(error as Error));
  });
  between.listen(0, "127.0.0.1");
  await once(between, "listening");
  const port = (): number => (between.address() as AddressInfo).port;
  const at = (toPort: number, timeoutMs?: number): Channel =>
    simpayChannel(
      { url: `http://127.0.0.1:${toPort}`, secret: SECRET },
      { notifyUrl: ear.url, ...(timeoutMs === undefined ? {} : { timeoutMs }) },
    );
  return {
    channel: at(port()),
    impatient: at(port(), IMPATIENT_MS),
    heard: ear.heard,
    today: () => dayOf(Date.now()),
    secrets: [SECRET],
    async pay(number) {
      const { body } = await simpay.call("GET", `/v1/charges/${number}`);
      await simpay.pay(body["payUrl"]);
    },
    strikeNext: (next) => void (fault = next),
    unreachable: () => at(NOBODY),
    async stop() {
      between.closeAllConnections();
      between.close();
      await simpay.stop();
      await ear.close();
    },
  };
});

channelConformance("wechatpay", async () => {
  const wechat = await WechatPay.open();
  const ear = await Ear.open();
  const options = { notifyUrl: ear.url };
  return {
    channel: wechatPayChannel(wechat.settings(), options),
    impatient: wechatPayChannel(wechat.settings(), { ...options, timeoutMs: IMPATIENT_MS }),
    heard: ear.heard,
    today: () => dayOf(Date.now()),
    secrets: [wechat.settings().privateKey.split("\n")[1] ?? "", wechat.settings().apiV3Key],
    pay: (number) => wechat.pay(number),
    strikeNext: (fault) => wechat.strikeNext(fault),
    unreachable: () => wechatPayChannel(wechat.settings(NOBODY), options),
    async stop() {
      assert.ok(wechat.verified > 20, "calls were signed, and checked by another hand");
      await wechat.stop();
      await ear.close();
    },
  };
});
