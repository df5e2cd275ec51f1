/** Dashboard, alerts and scrape configuration against a live node: every metric they name is one it tells, and every alert has its lines. */
import assert from "node:assert/strict";
import type { AddressInfo, Server } from "node:net";
import { after, before, describe, test } from "node:test";
import { parse } from "yaml";
import { LIMITS } from "../domain/limits.ts";
import { SERVICES } from "../moleculer.config.ts";
import { verify } from "../services/ops/ops.contract.ts";
import { placeOrder } from "../services/order/order.contract.ts";
import { asksOfStreams, assertTold, dashboard, expressions, rules, text } from "./support/watching.ts";
import { merchantIn, onSale, registered, USER_SETTINGS, ADMIN } from "./support/market.ts";
import { callAs, testNode, type TestNode } from "./support/node.ts";

describe("a node that was used a little", () => {
  let at: TestNode;
  let page = "";
  before(async () => {
    at = await testNode(SERVICES, {
      user: { ...USER_SETTINGS, adminPassword: "correct-horse-1" },
      gateway: { jwtSecret: USER_SETTINGS.jwtSecret, port: 0, rateLimits: "off" },
    });
    const owner = await merchantIn(at.node, "sh");
    const deal = await onSale(at.node, owner);
    await callAs(at.node, placeOrder, { dealId: deal.id, quantity: 1 }, await registered(at.node));
    await callAs(at.node, verify, {}, ADMIN);
    const { server } = at.node.broker.getLocalService("gateway") as unknown as { server: Server };
    const base = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
    await (await fetch(`${base}/api/v1/deals`)).text();
    const answer = await fetch(`${base}/metrics`);
    assert.equal(answer.status, 200);
    page = await answer.text();
  });
  after(() => at?.stop());

  test("tells every metric that the dashboard and the alerts name, with the labels they ask for", () => {
    for (const [where, expression] of expressions) if (!asksOfStreams(expression)) assertTold(page, where, expression);
  });

  test("has counted its order, its request and its invariants", () => {
    assert.match(page, /^tuanbar_orders_total\{state="PENDING_PAYMENT"\} 1$/m);
    assert.match(page, /^tuanbar_http_request_seconds_count\{route="GET \/api\/v1\/deals",code="200"\} 1$/m);
    assert.match(page, /^tuanbar_verify_violations\{check="loop.closed"\} 0$/m);
    assert.match(page, /^tuanbar_unfinished_oldest_seconds\{database="[^"]+",kind="payment"\} 0$/m);
    assert.match(page, /^tuanbar_gate_open 0$/m);
  });
});

test("every alert says how bad it is and what is the matter, and the operations page what to do; no others are told of there", () => {
  for (const { alert, labels, annotations } of rules) {
    assert.match(labels.severity, /^(page|ticket)$/, alert);
    assert.ok(annotations.summary.length > 10, alert);
  }
  const told = [...text("docs/operations.md").matchAll(/^- \*\*(\w+)\*\*: /gm)].map(([, name]) => name);
  assert.deepEqual(
    told,
    rules.map(({ alert }) => alert),
  );
});

test("thresholds that repeat a limit of ours are of that limit", () => {
  const threshold = (name: string): number =>
    Number(
      rules
        .find(({ alert }) => alert === name)
        ?.expr.split(">")
        .at(-1),
    );
  assert.equal(threshold("MailboxDeep"), LIMITS.mailboxCommandsMax / 2);
  assert.ok(threshold("PaymentStuck") * 1_000 > 3 * LIMITS.tryMs);
});

test("the dashboard is bar-overview, and every panel of it asks something", () => {
  assert.equal(dashboard.uid, "bar-overview");
  for (const { title, type, targets } of dashboard.panels) assert.ok(type === "row" || (targets?.length ?? 0) > 0, title);
});

test("Prometheus finds nodes by the names that docker compose and Kubernetes give them", () => {
  const { scrape_configs: scrapes } = parse(text("deploy/prometheus/prometheus.yml")) as {
    scrape_configs: readonly { job_name: string; dns_sd_configs: readonly { names: readonly string[]; port: number }[] }[];
  };
  const names = scrapes.flatMap((scrape) => scrape.dns_sd_configs.flatMap((config) => config.names));
  assert.deepEqual(names, ["gateway-nodes", "worker-nodes", "jobs-nodes"]);
  const nodes = text("k8s/base/nodes.yaml");
  const compose = text("docker-compose.yml");
  for (const name of names) assert.ok(nodes.includes(`name: ${name}`) && compose.includes(`aliases: [${name}]`), name);
});

test("the collector takes what nodes send, and hands it on by pipelines whose parts are there", () => {
  const collector = parse(text("deploy/otel-collector/collector.yaml")) as Record<string, Record<string, unknown>> & {
    service: { extensions: string[]; pipelines: Record<string, Record<string, string[]>> };
  };
  for (const pipeline of Object.values(collector.service.pipelines))
    for (const [kind, names] of Object.entries(pipeline))
      for (const name of names) assert.ok(name in (collector[kind] ?? {}), `${kind}: ${name}`);
  for (const name of collector.service.extensions) assert.ok(name in (collector["extensions"] ?? {}), name);
});
