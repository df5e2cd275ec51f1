/** The demo's eyes: what it asks for patience, what it takes for a fault, and what it says when there is nobody to talk to. */
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { Http, Refused } from "../demo/http.ts";
import { Faults, Shopper } from "../demo/people.ts";

interface Answer {
  readonly status: number;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body: object;
}

async function withServer<R>(answer: (req: IncomingMessage, body: string) => Answer, work: (http: Http) => Promise<R>): Promise<R> {
  const server = createServer((req: IncomingMessage, res: ServerResponse) => {
    let text = "";
    req.on("data", (chunk: Buffer) => (text += chunk.toString()));
    req.on("end", () => {
      const { status, headers, body } = answer(req, text);
      res.writeHead(status, { connection: "close", ...headers }).end(JSON.stringify(body));
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  try {
    return await work(new Http(`http://127.0.0.1:${(server.address() as AddressInfo).port}`));
  } finally {
    server.close();
  }
}

test("waits as long as the server asks, then sends the same request with the same key", async () => {
  const keys: unknown[] = [];
  const waits: number[] = [];
  await withServer(
    (req) => {
      keys.push(req.headers["idempotency-key"]);
      return keys.length === 1
        ? { status: 429, headers: { "retry-after": "1" }, body: { code: "RATE_LIMITED" } }
        : { status: 201, body: { id: "7" } };
    },
    async (http) => {
      http.onWait((seconds) => waits.push(seconds));
      assert.deepEqual(await http.post("/wallet/topups", { amount: 1, channel: "test" }, "t"), { id: "7" });
      assert.deepEqual([...http.refusals], [["RATE_LIMITED", 1]]);
    },
  );
  assert.deepEqual(waits, [1]);
  assert.equal(keys.length, 2);
  assert.equal(keys[0], keys[1]);
});

test("a refusal has its code; an answer nobody should get is remembered", async () => {
  await withServer(
    (req) =>
      req.url?.endsWith("/broken")
        ? { status: 500, body: { code: "INTERNAL" } }
        : { status: 409, body: { code: "SOLD_OUT", detail: "none left" } },
    async (http) => {
      await assert.rejects(http.get("/deals/1"), (error) => error instanceof Refused && error.code === "SOLD_OUT");
      assert.deepEqual(http.broken, []);
      await assert.rejects(http.get("/broken"), Refused);
      assert.deepEqual(http.broken, ["GET /broken: 500 INTERNAL"]);
    },
  );
});

test("two orders for one key are a fault, and so are two payments for one order", async () => {
  let made = 0;
  await withServer(
    (req) =>
      req.url?.endsWith("/pay") ? { status: 200, body: { paymentId: String(++made) } } : { status: 201, body: { id: String(++made) } },
    async (http) => {
      const faults = new Faults();
      const shopper = new Shopper(http, "somebody", faults);
      const order = await shopper.orderNervously({ dealId: "1", quantity: 1 });
      assert.ok(order);
      assert.match(faults.list.join("\n"), /one key made two orders/);
      assert.match(faults.list.join("\n"), /a key used again for another wish gave an order/);
      faults.list.length = 0;
      assert.equal(await shopper.pay(order, 3), true);
      assert.match(faults.list.join("\n"), /was paid by several payments/);
    },
  );
});

test("one line when there is no server", async () => {
  const main = fileURLToPath(new URL("../demo/main.ts", import.meta.url));
  const { code, stderr } = await new Promise<{ code: unknown; stderr: string }>((resolve) => {
    execFile(process.execPath, [main], { env: { ...process.env, PORT: "9", HOST: "" } }, (error, _stdout, text) =>
      resolve({ code: error?.code, stderr: text }),
    );
  });
  assert.equal(code, 1);
  assert.equal(stderr, "no server at http://127.0.0.1:9: start one with npm start\n");
});
