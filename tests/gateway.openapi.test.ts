import assert from "node:assert/strict";
import { test } from "node:test";
import { Validator } from "@seriousme/openapi-schema-validator";
import { ERRORS } from "../domain/errors.ts";
import { codesOf, openApi } from "../services/gateway/openapi.ts";
import { Form } from "../services/gateway/form.ts";
import { fullPath, RAW_ROUTES, REST_CONTRACTS } from "../services/gateway/routes.ts";

interface Operation {
  readonly operationId: string;
  readonly security: readonly object[];
  readonly parameters?: readonly { readonly name: string; readonly in: string; readonly required: boolean }[];
  readonly requestBody?: {
    readonly content: { readonly "application/json": { readonly schema: object; readonly example?: Record<string, unknown> } };
  };
  readonly responses: Readonly<Record<string, { readonly description: string }>>;
}
const document = openApi() as {
  openapi: string;
  paths: Record<string, Record<string, Operation>>;
  components: { schemas: Record<string, object> };
};
const operationOf = (method: string, path: string): Operation =>
  document.paths[path]?.[method.toLowerCase()] ?? assert.fail(`${method} ${path} is not documented`);

test("the document is valid OpenAPI 3.1", async () => {
  const validator = new Validator();
  const { valid, errors } = await validator.validate(structuredClone(document));
  assert.ok(valid, JSON.stringify(errors, undefined, 1));
  assert.equal(validator.version, "3.1");
});

test("every route is in it, with its parameters, its answer and every code it may give", () => {
  for (const contract of REST_CONTRACTS) {
    const { rest, params } = contract;
    const operation = operationOf(rest.method, fullPath(rest));
    const form = new Form(contract, rest.method, fullPath(rest));
    const names = (where: string): string[] =>
      (operation.parameters ?? []).filter((parameter) => parameter.in === where).map((parameter) => parameter.name);
    assert.deepEqual(names("path"), form.pathNames);
    assert.deepEqual(names("query"), form.queryNames);
    assert.deepEqual(names("header"), rest.key === undefined ? [] : ["Idempotency-Key"]);
    assert.equal(operation.requestBody !== undefined, form.bodyNames.length > 0, contract.name);
    assert.equal(form.pathNames.length + form.queryNames.length + form.bodyNames.length, Object.keys(params).length);
    assert.ok(String(rest.status) in operation.responses);
    for (const code of codesOf(contract))
      assert.match(operation.responses[ERRORS[code].status]?.description ?? "", new RegExp(`\\b${code}\\b`), contract.name);
    assert.equal(operation.security.length, rest.who === "anyone" ? 0 : 1);
  }
  for (const { rest } of RAW_ROUTES) operationOf(rest.method, fullPath(rest));
  for (const path of ["/healthz", "/readyz", "/metrics", "/openapi.json", "/docs"]) operationOf("GET", path);
});

test("operations have names of their own, and every named shape is there once", () => {
  const ids = Object.values(document.paths).flatMap((path) => Object.values(path).map((operation) => operation.operationId));
  assert.deepEqual(ids.toSorted(), [...new Set(ids)].toSorted());
  const used = [...JSON.stringify(document).matchAll(/#\/components\/schemas\/(\w+)/g)].map(([, name]) => name ?? "");
  assert.deepEqual([...new Set(used)].toSorted(), Object.keys(document.components.schemas).toSorted());
});

test("every example has the form that its contract asks for", () => {
  for (const contract of REST_CONTRACTS) {
    const { rest } = contract;
    if (rest.example === undefined) continue;
    const example = operationOf(rest.method, fullPath(rest)).requestBody?.content["application/json"].example;
    assert.ok(example !== undefined, contract.name);
    const form = new Form(contract, rest.method, fullPath(rest));
    assert.doesNotThrow(
      () => form.read({ path: form.pathNames.map(() => "4097"), query: "", body: example, escaped: false }),
      contract.name,
    );
  }
});
