/** The manifests in k8s/, as kustomize builds them (`support/kustomize.ts`), against the schemas of Kubernetes, Cilium and CloudNativePG, and against the house's own rules. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, test } from "node:test";
import { SETTINGS } from "../db/embedded.ts";
import { parseKeyspaces } from "../db/keyspaces.ts";
import { VARIABLES } from "../scripts/settings.ts";
import { HASH, kustomize, realKustomize, type Raw } from "./support/kustomize.ts";
import { buildOverlay, overlayPath, matches, ofKind, root, type Manifest, type Peer, type PodTemplate } from "./support/manifests.ts";

/** The npm package with the types of an API group. */
const moduleOf = (apiVersion: string): string =>
  apiVersion.startsWith("cilium.io/")
    ? `@kubernetes-models/cilium/${apiVersion}`
    : apiVersion.startsWith("postgresql.cnpg.io/")
      ? `@kubernetes-models/cloudnative-pg/${apiVersion}`
      : `kubernetes-models/${apiVersion}`;

type Model = new (data: Manifest) => { validate(): void };

const templates = (manifests: readonly Manifest[]): [string, PodTemplate][] =>
  ofKind(manifests, "Deployment", "StatefulSet").flatMap(({ metadata, spec }) =>
    spec.template ? [[metadata.name, spec.template] as [string, PodTemplate]] : [],
  );

for (const overlay of ["dev", "prod"]) {
  describe(`overlay ${overlay}`, () => {
    const manifests = buildOverlay(overlay);

    test("is what kustomize itself makes of it, where there is one on the PATH", (t) => {
      const real = realKustomize(overlayPath(overlay));
      if (real === undefined) return t.diagnostic("no kustomize and no kubectl on the PATH: the house's own renderer is not compared");
      const byName = (all: readonly Raw[]): unknown[] =>
        all
          .map((one) => JSON.parse(JSON.stringify(one).replaceAll(/-[a-z0-9]{10}(?=")/g, (hash) => (/\d/.test(hash) ? HASH : hash))) as Raw)
          .toSorted((a, b) => (`${a.kind} ${a.metadata.name}` < `${b.kind} ${b.metadata.name}` ? -1 : 1));
      assert.deepEqual(byName(kustomize(overlayPath(overlay))), byName(real));
    });

    test("every manifest is valid by its schema", async () => {
      for (const manifest of manifests) {
        const models = (await import(moduleOf(manifest.apiVersion))) as Record<string, Model>;
        const ModelOfKind = models[manifest.kind];
        assert.ok(ModelOfKind, `${manifest.apiVersion} has a ${manifest.kind}`);
        assert.doesNotThrow(() => new ModelOfKind(manifest).validate(), `${manifest.kind} ${manifest.metadata.name}`);
      }
    });

    test("no manifest has a field its type does not know", () => {
      // The schemas let unknown fields pass, as the API server does not; the compiler's check of literals finds them.
      assert.equal(typeCheck(manifests), "");
    });

    test("everything is in the namespace, and secrets are only referred to", () => {
      for (const { kind, metadata } of manifests) if (kind !== "Namespace") assert.equal(metadata.namespace, "tuanbar", metadata.name);
      assert.deepEqual(ofKind(manifests, "Secret"), []);
      const documented = readFileSync(join(root, "docs/operations.md"), "utf8");
      for (const secret of secretsOf(manifests))
        assert.ok(documented.includes(`\`${secret}\``), `docs/operations.md tells of the secret ${secret}`);
    });

    test("every pod fits the restricted security standard, has probes, and an end to its memory", () => {
      for (const [name, { spec }] of templates(manifests)) {
        assert.equal(spec.securityContext?.["runAsNonRoot"], true, name);
        assert.deepEqual(spec.securityContext?.["seccompProfile"], { type: "RuntimeDefault" }, name);
        assert.equal(spec["automountServiceAccountToken"], false, name);
        for (const container of spec.containers) {
          assert.equal(container.securityContext?.["allowPrivilegeEscalation"], false, name);
          assert.deepEqual(container.securityContext?.capabilities?.drop, ["ALL"], name);
          if (name !== "clickhouse" && name !== "grafana") assert.equal(container.securityContext?.["readOnlyRootFilesystem"], true, name);
          assert.ok(container.readinessProbe, name);
          assert.ok(container.resources?.limits?.memory, name);
          assert.ok(container.resources?.requests, name);
        }
      }
    });

    test("every pod says how much of the network is its own", () => {
      const all = [
        ...templates(manifests).map(([name, { metadata }]) => ({ name, annotations: metadata.annotations })),
        ...ofKind(manifests, "Cluster").map(({ metadata, spec }) => ({
          name: metadata.name,
          annotations: spec.inheritedMetadata?.annotations,
        })),
      ];
      for (const { name, annotations } of all)
        for (const way of ["egress", "ingress"]) assert.match(annotations?.[`kubernetes.io/${way}-bandwidth`] ?? "", /^\d+[MG]$/, name);
    });

    test("the nodes' roles are three, with settings that exist, probes of their own kinds, and a routing table that is one", () => {
      const nodes = templates(manifests).filter(([, { metadata }]) => metadata.labels["tuanbar.io/node"] === "true");
      assert.deepEqual(nodes.map(([name]) => name).toSorted(), ["gateway", "jobs", "worker"]);
      for (const [name, { spec }] of nodes) {
        const [container] = spec.containers;
        const names = container?.env?.map((variable) => variable.name) ?? [];
        assert.deepEqual(
          names.filter((variable) => !VARIABLES.includes(variable)),
          [],
          name,
        );
        assert.equal(container?.env?.find((variable) => variable.name === "SERVICES")?.value, name);
        assert.ok(container?.startupProbe && container.livenessProbe && container.readinessProbe, name);
        assert.ok(spec["topologySpreadConstraints"], name);
        // Also the gateways: they check the signatures of what channels tell.
        assert.deepEqual(container?.envFrom, [{ secretRef: { name: "channels", optional: true } }], name);
      }
      const [keyspaces] = ofKind(manifests, "ConfigMap").filter(({ metadata }) => metadata.name.startsWith("keyspaces-"));
      const table = parseKeyspaces(keyspaces?.data?.["keyspaces.yaml"] ?? "");
      const services = ofKind(manifests, "Service").map(({ metadata }) => metadata.name);
      const clusters = ofKind(manifests, "Cluster").map(({ metadata }) => `${metadata.name}-rw`);
      for (const { name } of table.databases()) assert.ok([...services, ...clusters].includes(new URL(name).hostname), name);
    });

    test("gateways and workers scale by themselves, and nobody else counts their pods", () => {
      const scaled = ofKind(manifests, "HorizontalPodAutoscaler").map(({ spec }) => spec.scaleTargetRef?.name ?? "");
      assert.deepEqual(scaled.toSorted(), ["gateway", "worker"]);
      for (const name of scaled)
        assert.equal(ofKind(manifests, "Deployment").find(({ metadata }) => metadata.name === name)?.spec.replicas, undefined);
      const budgets = ofKind(manifests, "PodDisruptionBudget").map(({ metadata }) => metadata.name);
      assert.deepEqual(budgets.toSorted(), ["edge", "gateway", "nats", "worker"]);
    });

    test("who may speak to whom is exactly this", () => {
      assert.deepEqual(allowed(manifests), [
        "edge → gateway:3000",
        ...["gateway → nats:4222", "gateway → otel-collector:4318", "gateway → postgres:5432", "gateway → redis:6379"],
        ...["grafana → jaeger:16686", "grafana → prometheus:9090"],
        ...["jobs → clickhouse:8123", "jobs → nats:4222", "jobs → otel-collector:4318", "jobs → postgres:5432", "jobs → redis:6379"],
        "otel-collector → jaeger:4318",
        ...(overlay === "prod" ? ["postgres → postgres:5432", "postgres → postgres:8000"] : []),
        ...["prometheus → gateway:3000", "prometheus → jobs:3000", "prometheus → worker:3000"],
        ...["worker → nats:4222", "worker → otel-collector:4318", "worker → postgres:5432", "worker → redis:6379"],
      ]);
    });

    test("payment channels are called by workers and jobs and by nobody else, by name where the network reads names", () => {
      const callers = templates(manifests).flatMap(([name, { metadata }]) =>
        metadata.labels["tuanbar.io/channels"] === "true" ? name : [],
      );
      assert.deepEqual(callers.toSorted(), ["jobs", "worker"]);
      const policies = manifests.filter(({ kind, metadata }) => kind.endsWith("NetworkPolicy") && metadata.name === "channels");
      assert.deepEqual(
        policies.map(({ kind }) => kind),
        [overlay === "prod" ? "CiliumNetworkPolicy" : "NetworkPolicy"],
      );
      const outside = ofKind(manifests, "NetworkPolicy").filter(({ spec }) =>
        spec.egress?.some(({ to }) => to === undefined || to.some(({ ipBlock }) => ipBlock)),
      );
      assert.deepEqual(
        outside.map(({ metadata }) => metadata.name),
        [overlay === "prod" ? "postgres-instances" : "channels"],
      );
    });

    test("names are looked up in the cluster's own DNS and nowhere else", () => {
      const dns = manifests.find(({ kind, metadata }) => kind.endsWith("NetworkPolicy") && metadata.name === "dns");
      assert.equal(dns?.kind, overlay === "prod" ? "CiliumNetworkPolicy" : "NetworkPolicy");
      assert.ok(JSON.stringify(dns).includes("kube-dns"));
      // Added to this selector, a label of ours would cut every pod off its DNS.
      assert.ok(!JSON.stringify(dns?.spec.egress).includes("part-of"));
    });
  });
}

test("PostgreSQL is set up as the embedded one is, where the platform stands on it", () => {
  const names = ["wal_level", "max_wal_senders", "max_replication_slots", "max_slot_wal_keep_size", "max_locks_per_transaction"];
  const file = new Map(
    readFileSync(join(root, "deploy/postgres/postgres.conf"), "utf8")
      .split("\n")
      .flatMap((line) => (/^(\w+) = '?(.*?)'?$/.exec(line) ?? []).slice(1, 3).join("=") || [])
      .map((line) => line.split("=") as [string, string]),
  );
  const operators = ofKind(buildOverlay("prod"), "Cluster").map(({ spec }) => spec.postgresql?.parameters);
  for (const name of names) {
    assert.equal(file.get(name), String(SETTINGS[name]), name);
    // The operator fixes wal_level at logical and refuses the parameter.
    if (name !== "wal_level") for (const parameters of operators) assert.equal(parameters?.[name], String(SETTINGS[name]), name);
  }
});

test("the routing table is the same for docker compose and Kubernetes", () => {
  const compose = readFileSync(join(root, "deploy/keyspaces.yaml"), "utf8");
  assert.equal(readFileSync(join(root, "k8s/base/keyspaces.yaml"), "utf8"), compose);
  const tables = [compose, readFileSync(join(root, "k8s/components/cloudnative-pg/keyspaces.yaml"), "utf8").replaceAll("-rw:", ":")];
  const [ours, operators] = tables.map((text) => parseKeyspaces(text).all);
  assert.deepEqual(operators, ours);
  const plain = parseKeyspaces(readFileSync(join(root, "keyspaces.yaml"), "utf8")).all;
  const identity = ({ code, id, name, region }: (typeof plain)[number]): unknown[] => [code, id, name, region];
  assert.deepEqual(ours?.map(identity), plain.map(identity));
});

/** Every manifest as a literal of its type, in one file, given to the compiler: what it says, or nothing. */
function typeCheck(manifests: readonly Manifest[]): string {
  const folder = mkdtempSync(join(tmpdir(), "tuanbar-manifests-"));
  try {
    symlinkSync(join(root, "node_modules"), join(folder, "node_modules"));
    const modules = [...new Set(manifests.map(({ apiVersion }) => apiVersion))];
    const lines = [
      ...modules.map((apiVersion, index) => `import type * as m${index} from "${moduleOf(apiVersion)}";`),
      ...manifests.map(
        (manifest, index) =>
          `const _${index}: Omit<m${modules.indexOf(manifest.apiVersion)}.I${manifest.kind}, "apiVersion" | "kind"> & { apiVersion: string; kind: string } = ${JSON.stringify(manifest)};`,
      ),
    ];
    writeFileSync(join(folder, "manifests.ts"), `${lines.join("\n")}\n`);
    writeFileSync(join(folder, "package.json"), '{ "type": "module" }');
    execFileSync(
      join(root, "node_modules/.bin/tsc"),
      ["--noEmit", "--strict", "--skipLibCheck", "--module", "nodenext", "--target", "esnext", "--types", "", "manifests.ts"],
      { cwd: folder, encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] },
    );
    return "";
  } catch (error) {
    return (error as { stdout?: string }).stdout || String(error);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

function secretsOf(manifests: readonly Manifest[]): Set<string> {
  const names = templates(manifests).flatMap(([, { spec }]) => [
    ...(spec.volumes ?? []).flatMap(({ secret }) => (secret ? [secret.secretName] : [])),
    ...spec.containers.flatMap(({ env = [] }) => env.flatMap(({ valueFrom }) => valueFrom?.secretKeyRef?.name ?? [])),
    ...spec.containers.flatMap(({ envFrom = [] }) => envFrom.flatMap(({ secretRef }) => secretRef?.name ?? [])),
  ]);
  return new Set(names);
}

/** Every connection that both sides' policies allow, by the labels pods have. Where a policy names no peer, the peer is outside. */
function allowed(manifests: readonly Manifest[]): string[] {
  const pods = new Map(templates(manifests).map(([name, { metadata }]) => [name, metadata.labels]));
  for (const { metadata, spec } of ofKind(manifests, "Cluster")) pods.set(metadata.name, { ...spec.inheritedMetadata?.labels });
  const policies = ofKind(manifests, "NetworkPolicy").map(({ spec }) => spec);
  const isNear = ({ podSelector, namespaceSelector }: Peer, labels: Readonly<Record<string, string>>): boolean =>
    namespaceSelector === undefined && podSelector !== undefined && matches(podSelector, labels);
  const ports = new Set(
    policies.flatMap((spec) => [...(spec.ingress ?? []), ...(spec.egress ?? [])]).flatMap((rule) => rule.ports.map(({ port }) => port)),
  );
  const found = new Set<string>();
  for (const [from, fromLabels] of pods)
    for (const [to, toLabels] of pods)
      for (const port of ports) {
        const leaves = policies.some(
          (spec) =>
            matches(spec.podSelector, fromLabels) &&
            spec.egress?.some((rule) => rule.ports.some((one) => one.port === port) && rule.to?.some((peer) => isNear(peer, toLabels))),
        );
        const enters = policies.some(
          (spec) =>
            matches(spec.podSelector, toLabels) &&
            spec.ingress?.some(
              (rule) => rule.ports.some((one) => one.port === port) && rule.from?.some((peer) => isNear(peer, fromLabels)),
            ),
        );
        if (leaves && enters) found.add(`${kindOf(from)} → ${kindOf(to)}:${port}`);
      }
  return [...found].toSorted();
}
const kindOf = (name: string): string => (name.startsWith("postgres-") ? "postgres" : name);
