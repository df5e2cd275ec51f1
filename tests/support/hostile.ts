/** Every route × everything a client can do wrong, made from the contracts: a new route is attacked without anybody remembering to. */
import type { Contract, Rest } from "../../mixins/contract.ts";
import { ROLES, type Role } from "../../domain/user/role.ts";
import { fullPath, RAW_ROUTES, REST_CONTRACTS } from "../../services/gateway/routes.ts";

export interface Attack {
  readonly what: string;
  readonly method: string;
  readonly path: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body?: string | Buffer;
  /** The statuses it may get; undefined: anything below 500 (it has the right form, but names things that are not there). */
  readonly want?: readonly number[];
}

/** `Authorization` headers: of each role, and ones that must not be taken. */
export interface Passes {
  readonly of: Readonly<Record<Role, string>>;
  readonly bad: Readonly<Record<string, string>>;
}

/** A well-formed id that nobody has: of city 1, slot 1. */
const NOBODY = "4194304017";
const IDS = [
  "0",
  "-1",
  "1e3",
  "0x10",
  "abc",
  "9223372036854775808",
  "99999999999999999999",
  "%00",
  "%ff",
  "%F0%9F%8D%BA",
  "..%2f..",
  "'%20or%201=1--",
  "__proto__",
];
/** Well-formed, of cities that are served and that are not; the test adds ids of somebody else. */
const NOBODYS_IDS = ["1", NOBODY, "17", "9223372036854775807"];
const METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
const LONG_BODY = Buffer.alloc(10 * 1024 * 1024, 0x20);
const NUMBERS: readonly unknown[] = [1e308, -1e308, 0.5, -0.5, "1", 2 ** 53, null];
const NEVER: readonly unknown[] = [{ a: 1 }, [{ a: 1 }], true];
const BAD_TEXTS = ['"\\u0000"', '"a\\u0000b"', '"\\ud800"', '"\\udc00x"'];

type Served = { readonly rest: Pick<Rest, "method" | "path" | "who"> & Partial<Pick<Rest, "key" | "root" | "example">> };

const allowed = ({ rest }: Served): Role => (rest.who === "anyone" || rest.who === "user" ? "consumer" : rest.who);
const at = (served: Served, id: string = NOBODY): string => fullPath(served.rest).replaceAll(/\{\w+\}/g, id);
const baseBody = ({ rest }: Served): Record<string, unknown> =>
  JSON.parse(
    JSON.stringify(rest.example ?? {})
      .replaceAll("{voucherCode}", "123456789012")
      .replaceAll(/\{\w+\}/g, NOBODY),
  ) as Record<string, unknown>;
const typeOf = (rule: unknown): string => (typeof rule === "string" ? (rule.split("|")[0] ?? "") : (rule as { type: string }).type);

export function* attacks(passes: Passes, foreignIds: readonly string[]): Generator<Attack> {
  for (const contract of REST_CONTRACTS) {
    yield* entry(contract, passes);
    yield* forms(contract, passes.of[allowed(contract)], foreignIds);
  }
  for (const route of RAW_ROUTES) yield* entry(route, passes);
}

/** Who, and how: tokens, roles and methods. */
function* entry(served: Served, passes: Passes): Generator<Attack> {
  const { rest } = served;
  const headers = { "content-type": "application/json", "idempotency-key": "hostile" };
  const make = (what: string, more: Partial<Attack>): Attack => {
    const attack = { what, method: rest.method, path: at(served), headers, ...more };
    return attack.method === "POST" && attack.body === undefined ? { ...attack, body: JSON.stringify(baseBody(served)) } : attack;
  };
  if (rest.who !== "anyone") yield make("no token", { want: [401] });
  for (const [what, authorization] of Object.entries(passes.bad)) yield make(what, { headers: { ...headers, authorization }, want: [401] });
  for (const role of ROLES) {
    const mayNot = rest.who !== "anyone" && rest.who !== "user" && rest.who !== role;
    // The raw routes stay open for those who may; others have tests for that.
    if (mayNot) yield make(`as ${role}`, { headers: { ...headers, authorization: passes.of[role] }, want: [403] });
  }
  const here = [...REST_CONTRACTS, ...RAW_ROUTES].filter((other) => at(other) === at(served)).map((other) => other.rest.method as string);
  for (const method of METHODS)
    if (!here.includes(method)) yield make(`by ${method}`, { method, want: [405], headers: { authorization: passes.of[allowed(served)] } });
}

/** What: paths, queries and bodies. */
function* forms(contract: Contract & { readonly rest: Rest }, authorization: string, foreignIds: readonly string[]): Generator<Attack> {
  const { rest, params } = contract;
  const headers: Record<string, string> = {
    authorization,
    ...(rest.method === "POST" ? { "content-type": "application/json", "idempotency-key": "hostile" } : {}),
  };
  const path = at(contract);
  const body = JSON.stringify(baseBody(contract));
  const make = (what: string, more: Partial<Attack>): Attack => ({
    what,
    method: rest.method,
    path,
    headers,
    ...(rest.method === "POST" ? { body } : {}),
    ...more,
  });
  const refused = [400];

  if (path !== fullPath(rest)) {
    for (const id of IDS) yield make(`id ${id}`, { path: at(contract, id), want: [400] });
    for (const id of [...NOBODYS_IDS, ...foreignIds]) yield make(`somebody else's ${id}`, { path: at(contract, id) });
  }
  for (const query of ["unknown=1", "__proto__=1", "constructor=1", "__proto__[x]=1", "%ff=1", "x"])
    yield make(`?${query}`, { path: `${path}?${query}`, want: refused });
  if (rest.method === "GET") {
    for (const [name, rule] of Object.entries(params)) {
      if (path !== fullPath(rest) && rest.path.includes(`{${name}}`)) continue;
      yield make(`${name} twice`, { path: `${path}?${name}=1&${name}=1`, want: refused });
      for (const value of ["%00", "%ff", "%", "a%ED%A0%80"])
        yield make(`${name}=${value}`, { path: `${path}?${name}=${value}`, want: refused });
      if (typeOf(rule) === "number")
        for (const value of ["", "-1", "0x1", "1e1", "NaN", "99999999999999999999", "1.5"])
          yield make(`${name}=${value}`, { path: `${path}?${name}=${value}`, want: refused });
      for (const value of ["'%20or%201=1--", "%3Cscript%3E", "%25", "x".repeat(150), "%F0%9F%8D%BA"])
        yield make(`${name}=${value}`, { path: `${path}?${name}=${value}` });
    }
    return;
  }

  if (rest.key === "required") yield make("no key", { headers: { ...headers, "idempotency-key": "" }, want: refused });
  for (const key of ["k".repeat(129), "schl\u00fcssel", "tab\there"])
    yield make(`key ${key.slice(0, 12)}`, { headers: { ...headers, "idempotency-key": key }, want: refused });
  for (const text of ["{", "[1", "nul", "{'a':1}", '{"a":1,}', '\ufeff{"a":1}', "[".repeat(50_000), '{"a":'.repeat(15_000), "\u0000"])
    yield make(`body ${text.slice(0, 9)}`, { body: text, want: refused });
  for (const text of ["null", "1", '"text"', "[]", "true", `[${body}]`])
    yield make(`body ${text.slice(0, 9)}`, { body: text, want: refused });
  for (const extra of [
    '"unknown":1',
    '"__proto__":{"admin":true}',
    '"constructor":{"prototype":{"admin":true}}',
    '"id":"1"',
    '"toString":1',
    '"":1',
  ]) {
    yield make(`with ${extra}`, { body: body === "{}" ? `{${extra}}` : `{${extra},${body.slice(1)}`, want: refused });
  }
  yield make("invalid UTF-8", {
    body: Buffer.concat([Buffer.from('{"a":"'), Buffer.from([0xc3, 0x28, 0xff]), Buffer.from('"}')]),
    want: refused,
  });
  yield make("10 MB", { body: LONG_BODY, want: [413] });
  for (const type of [
    "text/plain",
    "application/x-www-form-urlencoded",
    "application/json; charset=latin1",
    "multipart/form-data; boundary=x",
  ])
    yield make(type, { headers: { ...headers, "content-type": type }, body: body === "{}" ? "{ }" : body, want: [415] });
  yield make("gzip", { headers: { ...headers, "content-encoding": "gzip" }, want: [415] });

  for (const [name, rule] of Object.entries(params)) {
    if (rest.path.includes(`{${name}}`)) continue;
    const type = typeOf(rule);
    const wrong = [
      ...NEVER.filter((value) => !(type === "boolean" && value === true)),
      ...(type === "number" || type === "fen" ? NUMBERS : []),
    ];
    for (const value of wrong) {
      const absent = value === null && (rule as { optional?: boolean }).optional === true;
      yield make(`${name}: ${JSON.stringify(value)}`, {
        body: JSON.stringify({ ...baseBody(contract), [name]: value }),
        ...(absent ? {} : { want: refused }),
      });
    }
    if (type === "string" || type === "id" || type === "time" || type === "enum") {
      for (const text of BAD_TEXTS)
        yield make(`${name}: ${text}`, {
          body: JSON.stringify({ ...baseBody(contract), [name]: "@" }).replace('"@"', () => text),
          want: refused,
        });
      for (const text of ["'; drop table orders; --", "<script>alert(1)</script>", "\u202e🍺", "x".repeat(50_000)])
        yield make(`${name}: ${text.slice(0, 12)}`, { body: JSON.stringify({ ...baseBody(contract), [name]: text }) });
    }
  }
}
