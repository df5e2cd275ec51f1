/** One request on its way through a cluster, as a collector sees it: HTTP at the gateway, over NATS to the worker, and the drain that committed it. */
import assert from "node:assert/strict";
import type { Server } from "node:http";
import type { AddressInfo } from "node:net";
import { after, before, describe, it } from "node:test";
import { makeTokens } from "../../mixins/tokens.ts";
import { makeNode, ROLES, type Node, type ServiceName } from "../../moleculer.config.ts";
import { attribute, collector, type Collector, type Span } from "../support/collector.ts";
import { testKeyspaces, testServer, type TestKeyspaces, type TestServer } from "../support/databases.ts";
import { merchantIn, onSale, registered, USER_SETTINGS } from "../support/market.ts";
import { TestNats } from "../support/nats.ts";
import { until } from "../support/until.ts";

describe("an order that is traced through a cluster", () => {
  const nodes: Node[] = [];
  let server: TestServer;
  let databases: TestKeyspaces;
  let nats: TestNats;
  let to: Collector;

  before(async () => {
    server = await testServer();
    databases = await testKeyspaces(server);
    nats = await TestNats.start();
    to = await collector();
    for (const [nodeID, services] of [
      ["worker-1", ROLES.worker],
      ["gateway-1", ["gateway"]],
    ] as const)
      nodes.push(await node(nodeID, services));
  });
  after(async () => {
    for (const one of nodes.toReversed()) await one.stop();
    await to.stop();
    await nats.stop();
    await databases.drop();
    await server.stop();
  });

  const node = (nodeID: string, services: readonly ServiceName[]): Promise<Node> =>
    makeNode({
      nodeID,
      keyspaces: databases.keyspaces,
      urlOf: databases.urlOf,
      services,
      nats: { servers: [new URL(nats.url).host] },
      trade: { orderTtlSeconds: 900, reversalMinutes: 60, settlementDelayMinutes: 60 },
      logLevel: "fatal",
      tracing: { endpoint: to.url, ratio: 1 },
      settings: { user: USER_SETTINGS, gateway: { jwtSecret: USER_SETTINGS.jwtSecret, port: 0, rateLimits: "off" } },
    });

  it("is one trace from the socket to the worker, and linked by the drain", async () => {
    const [worker, gateway] = nodes as [Node, Node];
    const deal = await onSale(worker, await merchantIn(worker, "sh"));
    const token = await makeTokens(USER_SETTINGS.jwtSecret).sign(await registered(worker), 60);
    const { port } = (gateway.broker.getLocalService("gateway") as unknown as { server: Server }).server.address() as AddressInfo;
    const answer = await fetch(`http://127.0.0.1:${port}/api/v1/orders`, {
      method: "POST",
      headers: {
        ...{ authorization: `Bearer ${token}`, "content-type": "application/json" },
        ...{ "idempotency-key": "traced-order", "x-request-id": "request-through-nats" },
      },
      body: JSON.stringify({ dealId: deal.id, quantity: 1 }),
    });
    assert.equal(answer.status, 201, await answer.text());
    const find = (name: string): Span | undefined => to.spans.find((span) => span.name === name);
    await until(
      async () => find("POST /api/v1/orders") !== undefined && find("drain order.place") !== undefined && find("order.place") !== undefined,
    );
    const [request, action, drain] = [find("POST /api/v1/orders"), find("order.place"), find("drain order.place")];
    assert.equal(attribute(request, "tuanbar.request_id"), "request-through-nats");
    assert.deepEqual([action?.traceId, action?.parentSpanId], [request?.traceId, request?.spanId]);
    assert.deepEqual(
      drain?.links?.map(({ traceId, spanId }) => [traceId, spanId]),
      [[action?.traceId, action?.spanId]],
    );
  });
});
