import assert from "node:assert/strict";
import { globSync, readFileSync, writeFileSync } from "node:fs";
import { describe, it, test } from "node:test";
import { ERRORS } from "../domain/errors.ts";
import { action, shape, type Contract, type Fields } from "../mixins/contract.ts";
import { conflictOf, describeFields, describeRule, shapesOf, surfaceOf, type Surface } from "../mixins/surface.ts";
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
  for (const shape of shapesOf(CONTRACTS)) {
    const known = byName.get(shape.name);
    if (known !== undefined) assert.equal(describeFields(shape.props), known, `two shapes are called ${shape.name}`);
    byName.set(shape.name, describeFields(shape.props));
  }
});

describe("nodes of two versions", () => {
  const order = (params: Fields, answer: Fields): Surface =>
    surfaceOf([action("order.place", { summary: "", params, answer: shape("Order", answer) })]);
  const now = order({ dealId: "id", note: { type: "string", max: 10, optional: true } }, { id: "id", amount: "fen" });

  it("serve side by side when one only adds: an action, a field of an answer, an optional parameter, or other bounds", () => {
    const more = surfaceOf([
      action("order.place", {
        summary: "",
        params: { dealId: "id", note: { type: "string", max: 99, optional: true }, gift: { type: "boolean", optional: true } },
        answer: shape("Order", { id: "id", amount: "fen", discount: "number" }),
      }),
      action("order.gift", { summary: "", params: { id: "id" }, answer: undefined }),
    ]);
    assert.equal(conflictOf(more, now), undefined);
    assert.equal(conflictOf(now, now), undefined);
  });

  it("do not when a field is gone or has another type, or one insists on a parameter the other does not know", () => {
    assert.match(conflictOf(order({ dealId: "id" }, { id: "id" }), now) ?? "", /^order\.place disagrees about answer\.amount$/);
    assert.match(conflictOf(order({ dealId: "id" }, { id: "id", amount: "string" }), now) ?? "", /answer\.amount/);
    assert.match(conflictOf(order({ dealId: "id", quantity: "number" }, { id: "id", amount: "fen" }), now) ?? "", /quantity/);
    assert.match(conflictOf(order({ dealId: "id", note: "string" }, { id: "id", amount: "fen" }), now) ?? "", /note/);
    assert.match(conflictOf(order({}, { id: "id", amount: "fen" }), now) ?? "", /dealId/);
  });
});

function print(): string {
  const contracts = CONTRACTS.toSorted((a, b) => (a.name < b.name ? -1 : 1)).map(line);
  const named = new Map(shapesOf(CONTRACTS).map((shape) => [shape.name, shape]));
  const lines = [...named.values()]
    .toSorted((a, b) => (a.name < b.name ? -1 : 1))
    .map(({ name, props }) => `${name}  ${describeFields(props)}`);
  const raw = RAW_ROUTES.map(
    (route) => `${route.name}  -> ${route.mediaType}\n  ${route.rest.method} ${fullPath(route.rest)} for ${route.rest.who}`,
  );
  return `${HEAD}\n${[...contracts, ...raw].join("\n")}\n\n${lines.join("\n")}\n`;
}

function line({ name, params, answer, errors, rest, timeoutMs, retrySafe }: Contract): string {
  const flags = `${timeoutMs} ms${retrySafe ? ", retry-safe" : ""}`;
  const first = `${name}  ${describeFields(params)} -> ${answer === undefined ? "nothing" : describeRule(answer)}  [${flags}]`;
  const http = rest && `${rest.method} ${fullPath(rest)} for ${rest.who} -> ${rest.status}${rest.key ? `, key ${rest.key}` : ""}`;
  return [first, http, errors.join(" ")].filter((text) => text).join("\n  ");
}

function lineDifference(before: string, after: string): string {
  const [old, fresh] = [new Set(before.split("\n")), new Set(after.split("\n"))];
  return [
    ...[...old].filter((text) => !fresh.has(text)).map((text) => `- ${text}`),
    ...[...fresh].filter((text) => !old.has(text)).map((text) => `+ ${text}`),
  ].join("\n");
}
