/** The OpenAPI 3.1 document, generated from the contracts: what is served is what is documented. */
import { ERRORS, type ErrorCode } from "../../domain/errors.ts";
import type { Contract, Rest } from "../../mixins/contract.ts";
import type { RawRoute } from "../../mixins/raw-routes.ts";
import { PROBLEM_TYPE, problemUrn, titleOf } from "./problem.ts";
import { fullPath, RAW_ROUTES, REST_CONTRACTS, type RestContract } from "./routes.ts";
import { isOptional, Schemas, type JsonSchema } from "./schemas.ts";

const INTRODUCTION = `Group buying (团购) for local life services.

Money is integer fen (CNY). Ids are decimal strings. Times are RFC 3339, UTC. Lists are \`{ items, nextCursor }\`. Unknown fields are refused.
Errors are RFC 9457 problem documents with a stable \`code\`. The same \`Idempotency-Key\` with the same request answers the first answer again, for 90 days.`;

const TAGS = ["People", "Merchants and deals", "Buying", "Money", "Operating"];

/** The codes an operation may answer with: its own, and those its form brings. In the order they are checked. */
export function codesOf(
  contract: Pick<Contract, "errors"> & { readonly rest: Pick<Rest, "method" | "who" | "key"> } & Partial<
      Pick<Contract, "params" | "address">
    >,
): readonly ErrorCode[] {
  const { rest, errors } = contract;
  const post = rest.method === "POST";
  const fields = Object.keys(contract.params ?? {}).length > 0;
  const codes: (ErrorCode | false)[] = [
    "RATE_LIMITED",
    "UNAUTHENTICATED",
    rest.who !== "anyone" && rest.who !== "user" && "FORBIDDEN",
    rest.key === "required" && "IDEMPOTENCY_KEY_REQUIRED",
    post && "BODY_TOO_LARGE",
    post && "UNSUPPORTED_MEDIA_TYPE",
    post && "BAD_JSON",
    (fields || post || rest.key !== undefined) && "VALIDATION_ERROR",
    contract.address !== undefined && "CITY_NOT_FOUND",
    rest.key !== undefined && "IDEMPOTENCY_KEY_REUSED",
    ...errors,
    "INTERNAL",
    "OVERLOADED",
    "UNAVAILABLE",
    "TIMEOUT",
  ];
  return [...new Set(codes.filter((code) => code !== false))];
}

export function openApi(): JsonSchema {
  const schemas = new Schemas();
  const paths: Record<string, Record<string, JsonSchema>> = {};
  const add = (path: string, method: string, operation: JsonSchema): void => void ((paths[path] ??= {})[method.toLowerCase()] = operation);
  for (const contract of REST_CONTRACTS) add(fullPath(contract.rest), contract.rest.method, callOperation(schemas, contract));
  for (const route of RAW_ROUTES) add(fullPath(route.rest), route.rest.method, rawOperation(route));
  for (const [path, page] of Object.entries(PAGES)) add(path, "GET", page);
  return {
    openapi: "3.1.0",
    info: { title: "Tuanbar", version: "1", description: INTRODUCTION, license: { name: "MIT", identifier: "MIT" } },
    servers: [{ url: "/" }],
    tags: TAGS.map((name) => ({ name })),
    paths,
    components: {
      schemas: { ...schemas.components, Problem: PROBLEM },
      securitySchemes: {
        bearer: { type: "http", scheme: "bearer", bearerFormat: "JWT", description: "The `accessToken` of `POST /api/v1/auth/login`." },
      },
    },
  };
}

function callOperation(schemas: Schemas, contract: RestContract): JsonSchema {
  const { rest, params, answer } = contract;
  const template = fullPath(rest);
  const inPath = (name: string): boolean => template.includes(`{${name}}`);
  const others = Object.keys(params).filter((name) => !inPath(name));
  const parameters = [
    ...Object.keys(params)
      .filter(inPath)
      .map((name) => ({ name, in: "path", required: true, schema: schemas.of(params[name]) })),
    ...(rest.method === "GET"
      ? others.map((name) => ({ name, in: "query", required: !isOptional(params[name]), schema: schemas.of(params[name]) }))
      : []),
    ...(rest.key === undefined ? [] : [idempotencyKey(rest.key === "required")]),
  ];
  const body = rest.method === "POST" && others.length > 0 ? schemas.fields(params, others) : undefined;
  const content = answer === undefined ? undefined : { "application/json": { schema: schemas.of(answer) } };
  const success = {
    description: contract.summary,
    headers: { ...REQUEST_ID_HEADER, ...(rest.key === undefined ? {} : REPLAYED_HEADER) },
    ...(content === undefined ? {} : { content }),
  };
  return {
    ...head(contract),
    ...(parameters.length === 0 ? {} : { parameters }),
    ...(body === undefined ? {} : { requestBody: { required: true, content: { "application/json": { schema: body, ...example(rest) } } } }),
    responses: {
      [rest.status]: success,
      ...(rest.acceptedWhen === undefined ? {} : { 202: { ...success, description: "Begun, and not at its end yet" } }),
      ...problems(codesOf(contract)),
    },
  };
}

/** An example with a name to fill in (`{dealId}`) shows an id where one will stand. */
const example = (rest: Rest): JsonSchema =>
  rest.example === undefined
    ? {}
    : {
        example: JSON.parse(
          JSON.stringify(rest.example)
            .replaceAll(/\{voucherCode\}/g, "482915730264")
            .replaceAll(/\{\w+Id\}/g, "5312068608032785"),
        ),
      };

function rawOperation(route: RawRoute): JsonSchema {
  const { rest, query = {}, takes } = route;
  const schemas = new Schemas();
  const parameters = [
    ...[...rest.path.matchAll(/\{(\w+)\}/g)].map(([, name]) => ({ name, in: "path", required: true, schema: { type: "string" } })),
    ...Object.entries(query).map(([name, rule]) => ({ name, in: "query", required: !isOptional(rule), schema: schemas.of(rule) })),
  ];
  const body = takes === undefined ? { "application/json": { schema: { type: "object" } } } : { [takes]: { schema: { type: "string" } } };
  return {
    ...head(route),
    ...(parameters.length === 0 ? {} : { parameters }),
    ...(rest.method === "POST" ? { requestBody: { required: true, content: body } } : {}),
    responses: {
      [rest.status]: {
        description: route.summary,
        headers: REQUEST_ID_HEADER,
        content: { [route.mediaType]: { schema: { type: "string" } } },
      },
      ...problems(codesOf({ ...route, params: query })),
    },
  };
}

const head = ({
  name,
  summary,
  rest,
}: Pick<RestContract, "name" | "summary"> & { readonly rest: Pick<Rest, "tag" | "who"> }): JsonSchema => ({
  operationId: name.replace(".", "_"),
  summary,
  description: `For ${AUDIENCES[rest.who]}.`,
  tags: [rest.tag],
  security: rest.who === "anyone" ? [] : [{ bearer: [] }],
});
const AUDIENCES = {
  anyone: "anyone; no token needed",
  user: "anyone with a token",
  consumer: "consumers",
  merchant: "merchants",
  finance: "the finance staff",
  admin: "administrators",
} as const;

const idempotencyKey = (required: boolean): JsonSchema => ({
  name: "Idempotency-Key",
  in: "header",
  required,
  description: "Chosen by the client, once for each thing it wants done.",
  schema: { type: "string", minLength: 1, maxLength: 128, pattern: "^[ -~]+$" },
});

const header = (description: string, schema: JsonSchema = { type: "string" }): JsonSchema => ({ description, schema });
const REQUEST_ID_HEADER = { "X-Request-Id": header("The client's own, if it sent one; a problem's `traceId`.") };
const REPLAYED_HEADER = { "Idempotency-Replayed": header("`true` on a stored answer.", { type: "string", enum: ["true"] }) };
const RETRY_AFTER_HEADER = { "Retry-After": header("Seconds.", { type: "integer" }) };
const RETRY_STATUS = new Set([429, 503]);

/** One response per status, with every code that may stand in it. */
function problems(codes: readonly ErrorCode[]): JsonSchema {
  const byStatus = Map.groupBy(codes, (code) => ERRORS[code].status);
  return Object.fromEntries(
    [...byStatus].map(([status, those]) => [
      status,
      {
        description: those.map((code) => `${code}`).join(", "),
        headers: { ...REQUEST_ID_HEADER, ...(RETRY_STATUS.has(status) ? RETRY_AFTER_HEADER : {}) },
        content: {
          [PROBLEM_TYPE]: {
            schema: { allOf: [{ $ref: "#/components/schemas/Problem" }, { properties: { code: { enum: those } } }] },
            examples: Object.fromEntries(those.map((code) => [code, { value: problemExample(code, status) }])),
          },
        },
      },
    ]),
  );
}

const problemExample = (code: ErrorCode, status: number): JsonSchema => ({
  type: problemUrn(code),
  title: titleOf(code),
  status,
  code,
  detail: `${titleOf(code)}.`,
  traceId: "9b2f6c1e-52c3-4f0e-8d0c-0c1f4a3f7f11",
});

const PROBLEM: JsonSchema = {
  type: "object",
  description: "RFC 9457. `code` is stable; `detail` is for people.",
  properties: {
    type: { type: "string", examples: [problemUrn("SOLD_OUT")] },
    title: { type: "string" },
    status: { type: "integer" },
    code: { type: "string" },
    detail: { type: "string" },
    traceId: { type: "string" },
    errors: {
      type: "array",
      items: {
        type: "object",
        properties: { field: { type: "string" }, message: { type: "string" } },
        required: ["field", "message"],
        additionalProperties: false,
      },
    },
  },
  required: ["type", "title", "status", "code", "detail", "traceId"],
};

const page = (operationId: string, summary: string, mediaType: string, schema: JsonSchema, more: JsonSchema = {}): JsonSchema => ({
  operationId,
  summary,
  tags: ["Operating"],
  security: [],
  responses: { 200: { description: summary, content: { [mediaType]: { schema } } }, ...more },
});
const status = (...values: string[]): JsonSchema => ({
  type: "object",
  properties: { status: { type: "string", enum: values } },
  required: ["status"],
});
const NOT_READY = {
  description: "What is missing",
  headers: RETRY_AFTER_HEADER,
  content: {
    "application/json": {
      schema: {
        type: "object",
        properties: { status: { const: "not ready" }, missing: { type: "array", items: { type: "string" } } },
        required: ["status", "missing"],
      },
    },
  },
};

/** What the gateway answers by itself: `pages.ts`. */
const PAGES: Readonly<Record<string, JsonSchema>> = {
  "/healthz": page("healthz", "The process is alive", "application/json", status("ok")),
  "/readyz": page("readyz", "It is able to serve", "application/json", status("ready"), { 503: NOT_READY }),
  "/metrics": page("metrics", "Prometheus text, for addresses inside", "text/plain", { type: "string" }, problems(["FORBIDDEN"])),
  "/openapi.json": page("openapi", "This document", "application/json", { type: "object" }),
  "/docs": page("docs", "This document as a page", "text/html", { type: "string" }),
};
