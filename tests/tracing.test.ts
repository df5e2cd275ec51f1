/** Traces as a collector gets them: by OTLP over HTTP, from a real node under a few orders, and from one node to another. */
import assert from "node:assert/strict";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { after, before, describe, test } from "node:test";
import { ServiceBroker } from "moleculer";
import type { ServiceName } from "../moleculer.config.ts";
import { makeTokens } from "../mixins/tokens.ts";
import { Tracing } from "../mixins/tracing.ts";
import { readSettings } from "../scripts/settings.ts";
import { attribute, collector, type Collector } from "./support/collector.ts";
import { merchantIn, onSale, registered, USER_SETTINGS } from "./support/market.ts";
import { testNode, type TestNode } from "./support/node.ts";
import { until } from "./support/until.ts";

describe("a node that is traced", () => {
  const SERVICES: readonly ServiceName[] = ["user", "wallet", "merchant", "stock", "group", "deal", "order", "gateway"];
  let at: TestNode;
  let to: Collector;
  let base: string;
  before(async () => {
    to = await collector();
    at = await testNode(
      SERVICES,
      { user: USER_SETTINGS, gateway: { jwtSecret: USER_SETTINGS.jwtSecret, port: 0, rateLimits: "off" } },
      { tracing: { endpoint: to.url, ratio: 1 } },
    );
    const { server } = at.node.broker.getLocalService("gateway") as unknown as { server: Server };
    base = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  });
  after(async () => {
    await at?.stop();
    await to?.stop();
  });

  test("has a trace for each request, with its id and the calls below it, and one for the drain, which links them all", async () => {
    const deal = await onSale(at.node, await merchantIn(at.node, "sh"));
    const tokens = makeTokens(USER_SETTINGS.jwtSecret);
    const buyers = await Promise.all([1, 2, 3].map(() => registered(at.node)));
    const answers = await Promise.all(
      buyers.map(async (buyer, index) =>
        fetch(`${base}/api/v1/orders`, {
          method: "POST",
          headers: {
            authorization: `Bearer ${await tokens.sign(buyer, 60)}`,
            "content-type": "application/json",
            "idempotency-key": `order-${index}`,
            "x-request-id": `request-${index}`,
          },
          body: JSON.stringify({ dealId: deal.id, quantity: 1 }),
        }),
      ),
    );
    for (const answer of answers) assert.equal(answer.status, 201, await answer.text());
    await until(() => Promise.resolve(to.spans.filter(({ name }) => name === "POST /api/v1/orders").length === 3));
    const linked = new Set<string>();
    for (const drain of to.spans.filter(({ name }) => name === "drain order.place")) {
      assert.ok(Number(attribute(drain, "tuanbar.batch")) >= 1);
      for (const link of drain.links ?? []) linked.add(`${link.traceId} ${link.spanId}`);
    }
    for (const index of [0, 1, 2]) {
      const request = to.spans.find(
        (span) => span.name.startsWith("POST ") && attribute(span, "tuanbar.request_id") === `request-${index}`,
      );
      assert.ok(request && !request.parentSpanId);
      assert.equal(attribute(request, "http.response.status_code"), 201);
      const action = to.spans.find(({ name, parentSpanId }) => name === "order.place" && parentSpanId === request.spanId);
      assert.equal(action?.traceId, request.traceId);
      assert.equal(attribute(action, "tuanbar.request_id"), `request-${index}`);
      assert.ok(linked.has(`${request.traceId} ${action?.spanId}`), "the drain links the order");
    }
  });

  test("tells a refusal as an answer, and does not trace who asks whether it lives", async () => {
    const before = to.spans.length;
    assert.equal((await fetch(`${base}/healthz`)).status, 200);
    assert.equal((await fetch(`${base}/api/v1/deals/16`)).status, 404);
    await until(() => Promise.resolve(to.spans.length >= before + 2));
    const action = to.spans.find((span) => attribute(span, "tuanbar.refusal") !== undefined);
    assert.equal(action?.name, "deal.get");
    assert.notEqual(action?.status.code, 2);
    assert.ok(!to.spans.some(({ name }) => name.includes("healthz")));
  });
});

test("a trace goes on in the node that is called", async () => {
  const to = await collector();
  const nodes = ["asks", "answers"].map((nodeID) => {
    const tracing = new Tracing({ endpoint: to.url, ratio: 1 }, nodeID);
    const broker = new ServiceBroker({ nodeID, logger: false, transporter: "Fake", middlewares: [tracing.middleware()] });
    return { tracing, broker };
  });
  const [asks, answers] = nodes;
  assert.ok(asks && answers);
  answers.broker.createService({ name: "far", actions: { work: () => "done" } });
  await Promise.all(nodes.map(({ broker }) => broker.start()));
  await asks.broker.waitForServices("far");
  const gone = createServer((_req, res) => {
    asks.tracing
      .request("GET /far", "request-1", res, () => asks.broker.call("far.work"))
      .then(
        (answer) => res.end(answer),
        (error: unknown) => res.destroy(error as Error),
      );
  });
  await new Promise<void>((resolve) => gone.listen(0, "127.0.0.1", resolve));
  assert.equal(await (await fetch(`http://127.0.0.1:${(gone.address() as AddressInfo).port}`)).text(), "done");
  await new Promise((resolve) => gone.close(resolve));
  for (const { broker, tracing } of nodes) {
    await broker.stop();
    await tracing.close();
  }
  await to.stop();
  const [request, work] = ["GET /far", "far.work"].map((name) => to.spans.find((span) => span.name === name));
  assert.ok(request && work);
  assert.deepEqual([work.traceId, work.parentSpanId], [request.traceId, request.spanId]);
});

test("a collector that is not there costs spans and nothing else; a stop ends, and says so", { timeout: 20_000 }, async () => {
  const tracing = new Tracing({ endpoint: "http://127.0.0.1:9", ratio: 1 }, "alone");
  const served = createServer((_req, res) => tracing.request("GET /", "request-1", res, () => void res.end()));
  await new Promise<void>((resolve) => served.listen(0, "127.0.0.1", resolve));
  assert.equal((await fetch(`http://127.0.0.1:${(served.address() as AddressInfo).port}`)).status, 200);
  await new Promise((resolve) => served.close(resolve));
  await assert.rejects(tracing.close(), /ECONNREFUSED/);
});

test("tracing is off unless a collector is named, and then traces what it is told to", () => {
  assert.equal(readSettings({}).tracing, undefined);
  const endpoint = "http://otel-collector:4318";
  assert.deepEqual(readSettings({ OTEL_EXPORTER_OTLP_ENDPOINT: endpoint }).tracing, { endpoint, ratio: 1 });
  assert.equal(readSettings({ OTEL_EXPORTER_OTLP_ENDPOINT: endpoint, OTEL_TRACES_SAMPLER_ARG: "0.05" }).tracing?.ratio, 0.05);
  for (const wrong of [{ OTEL_EXPORTER_OTLP_ENDPOINT: "otel-collector:4318" }, { OTEL_TRACES_SAMPLER_ARG: "2" }])
    assert.throws(() => readSettings(wrong), /^StartError: environment: OTEL_/);
});
