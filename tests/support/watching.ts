/** What the dashboard and the alerts ask of a node's `/metrics`. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { parser } from "@prometheus-io/lezer-promql";
import { parse } from "yaml";
import { root } from "./manifests.ts";

export const text = (file: string): string => readFileSync(join(root, file), "utf8");

interface Panel {
  readonly title: string;
  readonly type: string;
  readonly targets?: readonly { readonly expr: string }[];
}
export const dashboard = JSON.parse(text("deploy/grafana/dashboards/bar-overview.json")) as { uid: string; panels: readonly Panel[] };
const alerts = parse(text("deploy/prometheus/alerts.yml")) as {
  groups: readonly {
    rules: readonly { alert: string; expr: string; labels: { severity: string }; annotations: { summary: string } }[];
  }[];
};
export const rules = alerts.groups.flatMap((group) => group.rules);

/** Each expression, with what names it. Grafana puts a duration where `$__rate_interval` stands. */
export const expressions = new Map([
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

/** Only nodes whose events travel by JetStream tell these: `tests/cluster/journal.jetstream.test.ts`. */
export const asksOfStreams = (expression: string): boolean => usesOf(expression).some(({ metric }) => metric.startsWith("tuanbar_stream_"));

/** Every metric of an expression is one the page tells, with the labels it is asked by. */
export function assertTold(page: string, where: string, expression: string): void {
  const types = new Map([...page.matchAll(/^# TYPE (\S+) (\S+)$/gm)].map(([, name = "", type = ""]) => [name, type]));
  const told = (metric: string): string | undefined =>
    types.has(metric)
      ? metric
      : [...types].find(
          ([name, type]) => type === "histogram" && /^_(bucket|sum|count)$/.test(metric.slice(name.length)) && metric.startsWith(name),
        )?.[0];
  for (const { metric, labels } of usesOf(expression)) {
    if (metric === ITS_OWN) continue;
    assert.ok(told(metric), `${where}: a node tells ${metric}`);
    const sample = page.split("\n").find((line) => line.startsWith(`${metric}{`) || line.startsWith(`${metric} `));
    // A counter nobody has counted yet has a type and no sample.
    if (sample !== undefined)
      for (const label of labels)
        assert.ok(ADDED.includes(label) || sample.includes(`${label}="`), `${where}: ${metric} has the label ${label}`);
  }
}
