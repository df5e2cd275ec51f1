/** Dashboard, alerts and scrape configuration against a live node: every metric they name is one it tells, and every alert has its lines. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import type { AddressInfo, Server } from "node:net";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { parser } from "@prometheus-io/lezer-promql";
import { parse } from "yaml";
import { LIMITS } from "../domain/limits.ts";
import { SERVICES } from "../moleculer.config.ts";
import { verify } from "../services/ops/ops.contract.ts";
import { placeOrder } from "../services/order/order.contract.ts";
import { root } from "./support/manifests.ts";
import { merchantIn, onSale, registered, USER_SETTINGS, ADMIN } from "./support/market.ts";
import { callAs, testNode, type TestNode } from "./support/node.ts";

const text = (file: string): string => readFileSync(join(root, file), "utf8");

interface Panel {
  readonly title: string;
  readonly type: string;
  readonly targets?: readonly { readonly expr: string }[];
}
const dashboard = JSON.parse(text("deploy/grafana/dashboards/bar-overview.json")) as { uid: string; panels: readonly Panel[] };
const alerts = parse(text("deploy/prometheus/alerts.yml")) as {
  groups: readonly {
    rules: readonly { alert: string; expr: string; labels: { severity: string }; annotations: { summary: string } }[];
  }[];
};
const rules = alerts.groups.flatMap((group) => group.rules);

/** Each expression, with what names it. Grafana puts a duration where `$__rate_interval` stands. */
const expressions = new Map([
  ...rules.map(({ alert, expr }) => [`alert ${alert}`, expr] as const),
  ...dashboard.panels.flatMap(({ title, targets = [] }) =>
    targets.map(({ expr }, index) => [`panel ${title} ${index}`, expr.replaceAll("$__rate_interval", "1m")] as const),
  ),
]);

interface Use {
  readonly metric: string;
  readonly labels: readonly string[];
}
/** The metrics of an expression and the labels it selects them by, from its syntax tree; throws where it is no PromQL. */
function usesOf(expression: string): Use[] {
  const uses: Use[] = [];
  parser.parse(expression).iterate({
    enter({ type, node }) {
      assert.ok(!type.isError, `not PromQL: ${expression}`);
      if (type.name !== "VectorSelector") return;
      const name = node.getChild("Identifier");
      assert.ok(name, expression);
      const labels = node.getChild("LabelMatchers")?.getChildren("UnquotedLabelMatcher") ?? [];
      uses.push({
        metric: expression.slice(name.from, name.to),
        labels: labels.flatMap((matcher) => {
          const label = matcher.getChild("LabelName");
          return label ? [expression.slice(label.from, label.to)] : [];
        }),
      });
    },
  });
  return uses;
}
/** Prometheus' own: whether a scrape succeeded; and what it adds to every sample. */
const ITS_OWN = "up";
const ADDED = ["job", "instance", "role"];

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
    const types = new Map([...page.matchAll(/^# TYPE (\S+) (\S+)$/gm)].map(([, name = "", type = ""]) => [name, type]));
    const told = (metric: string): string | undefined =>
      types.has(metric)
        ? metric
        : [...types].find(
            ([name, type]) => type === "histogram" && /^_(bucket|sum|count)$/.test(metric.slice(name.length)) && metric.startsWith(name),
          )?.[0];
    for (const [where, expression] of expressions)
      for (const { metric, labels } of usesOf(expression)) {
        if (metric === ITS_OWN) continue;
        assert.ok(told(metric), `${where}: a node tells ${metric}`);
        const sample = page.split("\n").find((line) => line.startsWith(`${metric}{`) || line.startsWith(`${metric} `));
        // A counter nobody has counted yet has a type and no sample.
        if (sample !== undefined)
          for (const label of labels)
            assert.ok(ADDED.includes(label) || sample.includes(`${label}="`), `${where}: ${metric} has the label ${label}`);
      }
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
