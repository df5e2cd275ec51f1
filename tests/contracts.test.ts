import assert from "node:assert/strict";
import { globSync, readFileSync, writeFileSync } from "node:fs";
import { test } from "node:test";
import { ERRORS } from "../domain/errors.ts";
import type { Contract, Fields, Shape } from "../mixins/contract.ts";
import { CONTRACTS, fullPath, isContract, isRawRoute, RAW_ROUTES, REST_CONTRACTS } from "../services/gateway/routes.ts";

const SNAPSHOT = new URL("contracts.snapshot.txt", import.meta.url);
const HEAD = `# The wire surface: every contract, every shape. A change here is a change for those who call; an old node meets it during a rolling upgrade.
# UPDATE_SNAPSHOTS=1 node --test tests/contracts.test.ts writes it anew.
`;

test("the wire surface is the one that was reviewed", () => {
  const printed = print();
  if (process.env["UPDATE_SNAPSHOTS"] === "1") writeFileSync(SNAPSHOT, printed);
  const reviewed = readFileSync(SNAPSHOT, "utf8");
  const difference = lineDifference(reviewed, printed);
  assert.equal(printed, reviewed, `contracts have changed; if that is meant, UPDATE_SNAPSHOTS=1 and review the difference:\n${difference}`);
});

test("the gateway knows every contract and raw route there is", async () => {
  const files = globSync("services/*/*.contract.ts", { cwd: new URL("..", import.meta.url).pathname });
  const modules = (await Promise.all(files.map((file) => import(`../${file}`)))) as Record<string, unknown>[];
  const values = modules.flatMap((module) => Object.values(module));
  const names = (contracts: readonly { name: string }[]): string[] => contracts.map((contract) => contract.name).toSorted();
  assert.deepEqual(names(CONTRACTS), names(values.filter(isContract)));
  assert.deepEqual(names(RAW_ROUTES), names(values.filter(isRawRoute)));
});

test("no two contracts have one name, and no two routes one method and path", () => {
  const names = CONTRACTS.map((contract) => contract.name);
  const routes = [...REST_CONTRACTS, ...RAW_ROUTES].map(({ rest }) => `${rest.method} ${fullPath(rest).replaceAll(/\{\w+\}/g, "{}")}`);
  assert.deepEqual(names.toSorted(), [...new Set(names)].toSorted());
  assert.deepEqual(routes.toSorted(), [...new Set(routes)].toSorted());
});

test("every contract is sound: its path's parameters are its own, its errors exist, a key is only for POST", () => {
  for (const { name, rest, params, errors } of REST_CONTRACTS) {
    for (const [, parameter] of rest.path.matchAll(/\{(\w+)\}/g))
      assert.ok(parameter !== undefined && parameter in params, `${name}: {${parameter}} is no parameter`);
    if (rest.method === "GET") assert.equal(rest.key, undefined, `${name}: a GET changes nothing`);
    for (const code of errors) assert.ok(code in ERRORS, `${name}: ${code}`);
  }
});

test("one name is one shape", () => {
  const byName = new Map<string, string>();
  for (const shape of shapes()) {
    const known = byName.get(shape.name);
    if (known !== undefined) assert.equal(describe(shape.props), known, `two shapes are called ${shape.name}`);
    byName.set(shape.name, describe(shape.props));
  }
});

function print(): string {
  const contracts = CONTRACTS.toSorted((a, b) => (a.name < b.name ? -1 : 1)).map(line);
  const named = new Map(shapes().map((shape) => [shape.name, shape]));
  const lines = [...named.values()].toSorted((a, b) => (a.name < b.name ? -1 : 1)).map(({ name, props }) => `${name}  ${describe(props)}`);
  const raw = RAW_ROUTES.map(
    (route) => `${route.name}  -> ${route.mediaType}\n  ${route.rest.method} ${fullPath(route.rest)} for ${route.rest.who}`,
  );
  return `${HEAD}\n${[...contracts, ...raw].join("\n")}\n\n${lines.join("\n")}\n`;
}

function line({ name, params, answer, errors, rest, timeoutMs, retrySafe }: Contract): string {
  const flags = `${timeoutMs} ms${retrySafe ? ", retry-safe" : ""}`;
  const first = `${name}  ${describe(params)} -> ${answer === undefined ? "nothing" : type(answer)}  [${flags}]`;
  const http = rest && `${rest.method} ${fullPath(rest)} for ${rest.who} -> ${rest.status}${rest.key ? `, key ${rest.key}` : ""}`;
  return [first, http, errors.join(" ")].filter((text) => text).join("\n  ");
}

interface Rule {
  readonly type: string;
  readonly [more: string]: unknown;
}
const isRule = (value: unknown): value is Rule => typeof value === "object" && value !== null && "type" in value;

/** `name:type`, optional ones with `?`. */
const describe = (fields: Fields): string =>
  Object.entries(fields)
    .map(([name, rule]) => `${name}${isRule(rule) && rule["optional"] ? "?" : ""}:${type(rule)}`)
    .join(" ");

function type(rule: unknown): string {
  if (!isRule(rule)) return String(rule);
  const more = Object.entries(rule)
    .filter(([key]) => !["type", "optional", "items", "props", "name", "values"].includes(key))
    .map(([key, value]) => `${key}=${String(value)}`);
  const bounds = more.length === 0 ? "" : `(${more.join(",")})`;
  if (rule.type === "enum") return (rule["values"] as string[]).join("|") + bounds;
  if (rule.type === "array") return `${type(rule["items"])}[]${bounds}`;
  if (rule.type === "object") return (rule["name"] as string | undefined) ?? `{${describe(rule["props"] as Fields)}}`;
  return rule.type + bounds;
}

function shapes(): Shape[] {
  const found: Shape[] = [];
  const visit = (rule: unknown): void => {
    if (!isRule(rule)) return;
    if (rule.type === "object" && typeof rule["name"] === "string") found.push(rule as unknown as Shape);
    for (const inner of Object.values((rule["props"] as Fields | undefined) ?? {})) visit(inner);
    visit(rule["items"]);
  };
  for (const { params, answer } of CONTRACTS) for (const rule of [...Object.values(params), answer]) visit(rule);
  return found;
}

function lineDifference(before: string, after: string): string {
  const [old, fresh] = [new Set(before.split("\n")), new Set(after.split("\n"))];
  return [
    ...[...old].filter((text) => !fresh.has(text)).map((text) => `- ${text}`),
    ...[...fresh].filter((text) => !old.has(text)).map((text) => `+ ${text}`),
  ].join("\n");
}
