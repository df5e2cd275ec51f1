/** The parts of the bench that decide what a figure is: the generator counts what it was told, draws by Zipf's law, and reports say what they must. */
import assert from "node:assert/strict";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { after, before, describe, test } from "node:test";
import { Generator } from "../bench/load/client.ts";
import { stampedeOrders, zipf } from "../bench/load/plans.ts";
import { LoadSocket } from "../bench/load/socket.ts";
import { figuresOf, markdown, median, type Result } from "../bench/report.ts";
import type { Measured } from "../bench/measure.ts";
import { LIMITS } from "../domain/limits.ts";

const SECRET = "a secret of tests, with more than 32 bytes";

/** Serves one server on a free port. */
async function listening(server: Server): Promise<number> {
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return (server.address() as AddressInfo).port;
}

describe("the load socket", () => {
  test("reads answers that come in pieces, and one after the other on one connection", async () => {
    const bodies = ['{"id":"1"}', '{"id":"2","more":"团购"}', ""];
    let at = 0;
    const server = createServer((_req, res) => {
      const body = bodies[at++] ?? "";
      res.writeHead(at === 2 ? 409 : 201, { "content-length": Buffer.byteLength(body) });
      res.write(body.slice(0, 4));
      setTimeout(() => res.end(body.slice(4)), 5);
    });
    const port = await listening(server);
    const seen: [number, string][] = [];
    await new Promise<void>((resolve, reject) => {
      const socket: LoadSocket = new LoadSocket(port, undefined, {
        answered: (status, body) => {
          seen.push([status, Buffer.from(body, "latin1").toString("utf8")]);
          if (seen.length < bodies.length) socket.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n");
          else {
            socket.close();
            resolve();
          }
        },
        lost: reject,
      });
      socket.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n");
    });
    server.close();
    assert.deepEqual(seen, [
      [201, '{"id":"1"}'],
      [409, '{"id":"2","more":"团购"}'],
      [201, ""],
    ]);
  });

  test("tells of a connection that breaks while an answer is due", async () => {
    const server = createServer((req) => req.socket.destroy());
    const port = await listening(server);
    const reason = await new Promise<string>((resolve, reject) => {
      const socket = new LoadSocket(port, undefined, { answered: () => reject(new Error("there was no answer")), lost: resolve });
      socket.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n");
    });
    server.close();
    assert.match(reason, /closed|reset/i);
  });
});

test("Zipf's law: the first of 1,000 has its share, and the last is drawn at all", () => {
  let at = 0;
  const evenly = (): number => (at++ % 65_536) / 65_536;
  const draw = zipf(1_000, 1.1, evenly);
  const drawn = new Array<number>(1_000).fill(0);
  for (let n = 0; n < 65_536; n++) drawn[draw()]! += 1;
  const whole = drawn.reduce((sum, _, rank) => sum + 1 / (rank + 1) ** 1.1, 0);
  assert.ok(Math.abs((drawn[0] ?? 0) / 65_536 - 1 / whole) < 0.01);
  assert.ok(drawn.every((times) => times > 0));
});

describe("the generator", () => {
  let generator: Generator;
  before(async () => {
    generator = new Generator();
    await generator.sign(SECRET, 20);
  });
  after(() => generator.stop());

  test("remembers every order that was acknowledged, and counts refusals by code", async () => {
    const made: string[] = [];
    const keys = new Set<string>();
    const server = createServer((req, res) => {
      const key = String(req.headers["idempotency-key"]);
      assert.match(String(req.headers.authorization), /^Bearer [\w-]+\.[\w-]+\.[\w-]+$/);
      assert.ok(!keys.has(key), "every request has a key of its own");
      keys.add(key);
      req.resume().on("end", () => {
        const refused = keys.size % 3 === 0;
        if (!refused) made.push(String(keys.size));
        const body = JSON.stringify(refused ? { status: 409, code: "SOLD_OUT" } : { id: String(keys.size), status: "PENDING_PAYMENT" });
        res.writeHead(refused ? 409 : 201, { "content-length": body.length }).end(body);
      });
    });
    const port = await listening(server);
    const windows: string[] = [];
    const result = await generator.run(
      {
        id: "t",
        ports: [port],
        connections: 8,
        warmSeconds: 0.2,
        seconds: 0.3,
        plan: { kind: "orders", deals: ["1"], exponent: 0, firstShopper: 0, shoppers: 20 },
      },
      (at) => windows.push(at),
    );
    server.close();
    assert.deepEqual(windows, ["open", "closed"]);
    assert.deepEqual(result.tally.orders.toSorted(), made.toSorted());
    assert.ok(result.ordersInWindow > 0 && result.ordersInWindow < made.length, "those of the warm-up are remembered and not counted");
    assert.ok((result.answers["SOLD_OUT"] ?? 0) > 0);
    assert.ok(result.latencyMs.p50 <= result.latencyMs.p99);
  });

  test("a life is two orders, two payments, and counted only when the last payment is answered", async () => {
    const calls: string[] = [];
    let orders = 0;
    const server = createServer((req, res) => {
      let text = "";
      req.on("data", (chunk: Buffer) => (text += chunk.toString()));
      req.on("end", () => {
        const { groupSize, groupId } = JSON.parse(text) as { groupSize?: number; groupId?: string };
        calls.push(`${req.url}${groupSize ? " opens" : ""}${groupId ? ` joins ${groupId}` : ""}`);
        const isPay = req.url?.endsWith("/pay") === true;
        const body = isPay ? '{"status":"CONFIRMED"}' : JSON.stringify({ id: String(++orders), groupId: "9" });
        res.writeHead(isPay ? 200 : 201, { "content-length": body.length }).end(body);
      });
    });
    const port = await listening(server);
    const { tally } = await generator.run({
      id: "l",
      ports: [port],
      connections: 1,
      warmSeconds: 0,
      seconds: 0.2,
      plan: { kind: "lives", deals: ["5"], firstShopper: 0, shoppers: 4 },
    });
    server.close();
    assert.deepEqual(calls.slice(0, 4), ["/api/v1/orders opens", "/api/v1/orders/1/pay", "/api/v1/orders joins 9", "/api/v1/orders/2/pay"]);
    assert.deepEqual(tally.lived.slice(0, 2), ["1", "2"]);
    assert.equal(tally.lived.length % 2, 0);
  });

  test("a stampede goes on to the next merchant before anybody has too many unpaid orders, and is over after the last", async () => {
    const unpaid = new Map<string, number>();
    const deals: string[] = [];
    const server = createServer((req, res) => {
      let text = "";
      req.on("data", (chunk: Buffer) => (text += chunk.toString()));
      req.on("end", () => {
        const { dealId } = JSON.parse(text) as { dealId: string };
        const who = `${req.headers.authorization} at ${dealId}`;
        unpaid.set(who, (unpaid.get(who) ?? 0) + 1);
        deals.push(dealId);
        res.writeHead(201, { "content-length": 10 }).end('{"id":"1"}');
      });
    });
    const port = await listening(server);
    const run = { id: "s", ports: [port], connections: 8, warmSeconds: 0, seconds: 30 };
    const { tally } = await generator.run({ ...run, plan: { kind: "stampede", deals: ["5", "6"], firstShopper: 0, shoppers: 20 } });
    server.close();
    assert.equal(tally.orders.length, stampedeOrders(20) * 2);
    assert.ok(unpaid.values().every((orders) => orders === LIMITS.unpaidOrdersMax));
    assert.ok(deals.lastIndexOf("5") < stampedeOrders(20) + 8, "one deal after the other");
  });

  test("open loop: sends at its rate, whatever the answers take", async () => {
    let answered = 0;
    const server = createServer((req, res) => {
      req.resume().on("end", () => {
        setTimeout(() => {
          answered++;
          res.writeHead(201, { "content-length": 10 }).end('{"id":"1"}');
        }, 20);
      });
    });
    const port = await listening(server);
    await generator.run({
      id: "o",
      ports: [port],
      connections: 16,
      warmSeconds: 0,
      seconds: 1,
      rate: 200,
      plan: { kind: "orders", deals: ["1"], exponent: 0, firstShopper: 0, shoppers: 20 },
    });
    server.close();
    assert.ok(answered > 150 && answered <= 202, `about 200 requests in a second, not ${answered}`);
  });
});

describe("the report", () => {
  const measured = (perSecond: number): Measured => ({
    name: "orders.drain",
    done: perSecond,
    perSecond,
    latencyMs: { p50: 10, p99: 20, p999: 30, max: 40 },
    answers: { "201": perSecond },
    cpu: { server: perSecond / 1e4, generator: 0, backends: 0, walsenders: 0, walwriter: 0, checkpointer: 0, "other PostgreSQL": 0 },
    seconds: 1,
    memory: { server: 300, postgres: 200 },
    batch: 128,
    walBytes: 1_000,
    warm: { seconds: 0, answers: {} },
  });
  const figures = figuresOf("orders.drain", "orders/s", [measured(11_000), measured(9_000), measured(12_000)]);
  const result = (faults: string[]): Result => ({
    at: "2026-01-31T18:00:00.000Z",
    machine: { cpu: "a CPU", cores: 2, memoryGb: 8, system: "Linux", fileSystem: "ext4" },
    versions: {},
    settings: { fsync: "on" },
    figures,
    faults,
  });

  test("several runs are a median and its extremes", () => {
    const of = (name: string): number | undefined => figures.find((figure) => figure.name === name)?.value;
    assert.equal(of("orders.drain"), 11_000);
    assert.equal(of("orders.drain.min"), 9_000);
    assert.equal(of("orders.drain.max"), 12_000);
    assert.equal(of("orders.drain.cpu.server"), 100);
    assert.equal(median([1, 2, 3, 10]), 2.5);
  });

  test("says what was promised and whether it was met, and that figures with faults are none", () => {
    assert.match(markdown(result([])), /\| orders\.drain +\| +11,000 orders\/s \| +at least 10,000 \| +yes \|/);
    assert.match(markdown(result(["an order is missing"])), /\*\*Not valid\*\*, 1 faults:\n\n- an order is missing/);
  });
});
