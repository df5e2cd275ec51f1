import assert from "node:assert/strict";
import { once } from "node:events";
import { connect } from "node:net";
import { after, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { Errors, type ServiceSchema } from "moleculer";
import { SignJWT } from "jose";
import { DatabaseUnavailable, type Database } from "../db/database.ts";
import { refusal } from "../domain/error.ts";
import { ERRORS } from "../domain/errors.ts";
import { serveRaw, type RawRequest } from "../mixins/raw-routes.ts";
import { streamEvents } from "../services/notify/notify.contract.ts";
import { Health } from "../mixins/health.ts";
import { addressKey } from "../services/gateway/limits.ts";
import { RouteTable } from "../services/gateway/route-table.ts";
import { fullPath, REST_CONTRACTS } from "../services/gateway/routes.ts";
import { JWT_SECRET, somebody, testGateway, tokens, type Seen, type TestGateway } from "./support/gateway.ts";

const ID = "5312068608032785";
const seen: Seen[] = [];
const gateway = await testGateway({
  "order.place": (call) => {
    seen.push(call);
    return { id: ID };
  },
  "wallet.topup": () => ({ id: ID, replayed: true }),
  "order.get": ({ params }) => failures[String(params["id"])]?.(),
  "user.logout": () => undefined,
});
after(() => gateway.stop());
const consumer = await somebody("consumer");

/** What `order.get` does for an id. */
const failures: Record<string, () => unknown> = {
  "4097": () => Promise.reject(refusal(ERRORS, "ORDER_NOT_FOUND", { orderId: "4097" })),
  "4098": () => Promise.reject(new Errors.RequestTimeoutError({ action: "order.get", nodeID: "n" })),
  "4099": () => Promise.reject(new Errors.QueueIsFullError({ action: "order.get", nodeID: "n", size: 1, limit: 1 })),
  "4100": () => Promise.reject(new Errors.ServiceNotFoundError({ action: "x.y" })),
  "4101": () => Promise.reject(new DatabaseUnavailable("database sh_1: connect ECONNREFUSED 10.0.0.7")),
  "4102": () => Promise.reject(new TypeError("secret: cannot read properties of undefined")),
  "4103": () =>
    Promise.reject(
      new Errors.ValidationError("Parameters validation error!", "", [{ action: "wallet.try", field: "slot", message: "x" }] as never),
    ),
};

interface Answer {
  readonly status: number;
  readonly headers: Headers;
  readonly body: Record<string, unknown>;
}
async function ask(path: string, init: RequestInit = {}, at: TestGateway = gateway): Promise<Answer> {
  const response = await fetch(at.url + path, { redirect: "manual", ...init });
  const text = await response.text();
  return {
    status: response.status,
    headers: response.headers,
    body: text.startsWith("{") ? (JSON.parse(text) as Record<string, unknown>) : { text },
  };
}
const post = (path: string, body: unknown, headers: Record<string, string> = {}, at?: TestGateway): Promise<Answer> =>
  ask(
    path,
    {
      method: "POST",
      body: typeof body === "string" ? body : JSON.stringify(body),
      headers: { "content-type": "application/json", ...headers },
    },
    at,
  );
const placed = async (body: string, key = "key-1"): Promise<Seen | undefined> => {
  const { status } = await post("/api/v1/orders", body, { authorization: consumer.authorization, "idempotency-key": key });
  assert.equal(status, 201);
  return seen.at(-1);
};

test("an action is told the caller, the request and its key, and nothing else", async () => {
  const headers = { authorization: consumer.authorization, "idempotency-key": "k", "x-request-id": "mine-1" };
  const { status, headers: answered } = await post("/api/v1/orders", { dealId: ID, quantity: 2 }, headers);
  assert.equal(status, 201);
  assert.equal(answered.get("x-request-id"), "mine-1");
  const { params, meta } = seen.at(-1) ?? assert.fail("not called");
  assert.equal(JSON.stringify(params), JSON.stringify({ dealId: ID, quantity: 2 }));
  assert.deepEqual(meta.caller, consumer.caller);
  assert.equal(meta.requestId, "mine-1");
  assert.equal(meta.idempotencyKey, "k");
  assert.match(meta.bodyHash ?? "", /^[0-9a-f]{64}$/);
});

test("white space and the order of fields do not make another request; a value does", async () => {
  const first = await placed(`{"dealId":"${ID}","quantity":2}`);
  const same = await placed(`{ "quantity": 2,\n "dealId": "${ID}" }`);
  const other = await placed(`{"dealId":"${ID}","quantity":3}`);
  assert.equal(same?.meta.bodyHash, first?.meta.bodyHash);
  assert.notEqual(other?.meta.bodyHash, first?.meta.bodyHash);
});

test("a stored answer says so in a header, not in its body", async () => {
  const { status, headers, body } = await post(
    "/api/v1/wallet/topups",
    { amount: 1, channel: "test" },
    { authorization: consumer.authorization, "idempotency-key": "k" },
  );
  assert.equal(status, 201);
  assert.equal(headers.get("idempotency-replayed"), "true");
  assert.deepEqual(body, { id: ID });
});

test("an empty answer is 204 without a body", async () => {
  const { status, headers } = await post("/api/v1/auth/logout", { refreshToken: "r".repeat(40) });
  assert.equal(status, 204);
  assert.equal(headers.get("content-type"), null);
});

test("what goes wrong has a status, a code and a trace id, and a fault of ours says nothing more", async () => {
  for (const [id, status, code, retryAfter] of [
    ["4097", 404, "ORDER_NOT_FOUND", null],
    ["4098", 504, "TIMEOUT", null],
    ["4099", 503, "OVERLOADED", "2"],
    ["4100", 503, "UNAVAILABLE", "2"],
    ["4101", 503, "UNAVAILABLE", "2"],
    ["4102", 500, "INTERNAL", null],
    ["4103", 500, "INTERNAL", null],
  ] as const) {
    const {
      status: actual,
      headers,
      body,
    } = await ask(`/api/v1/orders/${id}`, { headers: { authorization: consumer.authorization, "x-request-id": `trace-${id}` } });
    assert.deepEqual(
      [actual, body["status"], body["code"], body["type"], body["traceId"]],
      [status, status, code, `urn:tuanbar:error:${code}`, `trace-${id}`],
    );
    assert.equal(headers.get("content-type"), "application/problem+json");
    assert.equal(headers.get("retry-after"), retryAfter);
    assert.doesNotMatch(JSON.stringify(body), /secret|10\.0\.0\.7|slot|node_modules|\.ts:/);
  }
  const logged = gateway.log.filter((line) => line.includes("trace-4102"));
  assert.equal(logged.length, 1);
  assert.match(logged[0] ?? "", /^GET \/api\/v1\/orders\/\{id\} failed .*TypeError: secret/);
  assert.equal(
    gateway.log.some((line) => line.includes("trace-4097")),
    false,
    "a refusal is not logged",
  );
});

test("a form that is wrong is told field by field", async () => {
  const { status, body } = await post(
    "/api/v1/orders",
    { dealId: 5, quantity: 0, colour: "red" },
    { authorization: consumer.authorization, "idempotency-key": "k" },
  );
  assert.equal(status, 400);
  assert.equal(body["code"], "VALIDATION_ERROR");
  assert.deepEqual([...new Set((body["errors"] as { field: string }[]).map((error) => error.field))].toSorted(), [
    "colour",
    "dealId",
    "quantity",
  ]);
});

test("a path has its methods: HEAD is GET without a body, others are 405 with Allow, OPTIONS says nothing of CORS", async () => {
  const head = await ask("/healthz", { method: "HEAD" });
  assert.deepEqual([head.status, head.body], [200, { text: "" }]);
  for (const method of ["DELETE", "OPTIONS"]) {
    const { status, headers, body } = await ask("/api/v1/orders", { method, headers: { origin: "https://elsewhere.test" } });
    assert.deepEqual([status, body["code"], headers.get("allow")], [405, "METHOD_NOT_ALLOWED", "GET, HEAD, POST"]);
    assert.equal(headers.get("access-control-allow-origin"), null);
  }
  assert.equal((await ask("/api/v1/orders/")).status, 404);
});

test("answers cannot be sniffed, framed or kept", async () => {
  const { headers } = await ask("/api/v1/me");
  assert.deepEqual(
    ["x-content-type-options", "x-frame-options", "referrer-policy", "cache-control"].map((name) => headers.get(name)),
    ["nosniff", "DENY", "no-referrer", "no-store"],
  );
  assert.equal(headers.get("www-authenticate"), 'Bearer realm="tuanbar"');
});

test("a request id that is too long or not printable is not taken over", async () => {
  for (const given of ["x".repeat(65), "a b"]) {
    const id = (await ask("/healthz", { headers: { "x-request-id": given } })).headers.get("x-request-id");
    assert.match(id ?? "", /^[\w-]{16}-\d+$/);
  }
});

test("only our access tokens are taken: one algorithm, one issuer, one audience, not expired, whole", async () => {
  const key = new TextEncoder().encode(JWT_SECRET);
  const claims = { name: "x", roles: ["admin"], typ: "access" };
  const jwt = (change: (token: SignJWT) => SignJWT = (token) => token, more: object = {}, alg = "HS256") =>
    change(
      new SignJWT({ ...claims, ...more })
        .setProtectedHeader({ alg })
        .setSubject(ID)
        .setIssuer("tuanbar")
        .setAudience("tuanbar")
        .setExpirationTime("1m"),
    ).sign(key);
  const part = (value: object): string => Buffer.from(JSON.stringify(value)).toString("base64url");
  const none = `${part({ alg: "none" })}.${part({ ...claims, sub: ID, iss: "tuanbar", aud: "tuanbar", exp: 9_999_999_999 })}.`;
  const bad = {
    none,
    "none, signed": `${none}AAAA`,
    "another algorithm": await jwt(undefined, {}, "HS512"),
    "another audience": await jwt((token) => token.setAudience("elsewhere")),
    "another issuer": await jwt((token) => token.setIssuer("elsewhere")),
    expired: await jwt((token) => token.setExpirationTime("-1s")),
    "never expires": await new SignJWT(claims)
      .setProtectedHeader({ alg: "HS256" })
      .setSubject(ID)
      .setIssuer("tuanbar")
      .setAudience("tuanbar")
      .sign(key),
    "a refresh token": await jwt(undefined, { typ: "refresh" }),
    "a role that is none": await jwt(undefined, { roles: ["root"] }),
    "not a user": await jwt((token) => token.setSubject("admin")),
    "another secret": await new SignJWT(claims)
      .setProtectedHeader({ alg: "HS256" })
      .setSubject(ID)
      .setIssuer("tuanbar")
      .setAudience("tuanbar")
      .setExpirationTime("1m")
      .sign(key.toReversed()),
  };
  for (const [what, token] of Object.entries(bad))
    assert.equal((await ask("/api/v1/me", { headers: { authorization: `Bearer ${token}` } })).status, 401, what);
  for (const header of ["", "Bearer", "Basic YTpi", `Bearer ${"a".repeat(5_000)}.b.c`]) {
    assert.equal((await ask("/api/v1/cities", { headers: { authorization: header } })).status, 401, header.slice(0, 20));
  }
  assert.equal((await ask("/api/v1/me", { headers: { authorization: `Bearer ${await jwt()}` } })).status, 200);
});

test("a token that was known is not good any longer than it says", async () => {
  const { caller } = consumer;
  const authorization = `Bearer ${await tokens.sign(caller, 1)}`;
  assert.equal((await ask("/api/v1/me", { headers: { authorization } })).status, 200);
  await sleep(1_100);
  const { status, body } = await ask("/api/v1/me", { headers: { authorization } });
  assert.deepEqual([status, body["detail"]], [401, "the access token has expired"]);
});

test("requests are counted by route and status", async () => {
  await ask("/api/v1/groups/4711");
  const text = await gateway.metrics.registry.metrics();
  assert.match(text, /tuanbar_http_request_seconds_count\{route="GET \/api\/v1\/groups\/\{id\}",code="200"\} 1/);
  assert.match(text, /nodejs_eventloop_lag_seconds/);
});

test("metrics are told inside only; X-Forwarded-For counts only behind a proxy of ours, and then its last entry", async () => {
  const forwarded = { headers: { "x-forwarded-for": "10.0.0.1, 203.0.113.9" } };
  assert.equal((await ask("/metrics", forwarded)).status, 200);
  const behindProxy = await testGateway({}, { trustedProxies: ["127.0.0.0/8"] });
  try {
    const { status, body } = await ask("/metrics", forwarded, behindProxy);
    assert.deepEqual([status, body["code"]], [403, "FORBIDDEN"]);
    assert.equal((await ask("/metrics", { headers: { "x-forwarded-for": "203.0.113.9, 10.0.0.1" } }, behindProxy)).status, 200);
  } finally {
    await behindProxy.stop();
  }
});

test("the page at /docs needs nothing from elsewhere and may run nothing else", async () => {
  const page = await ask("/docs");
  assert.match(page.headers.get("content-security-policy") ?? "", /default-src 'none'; script-src 'self';/);
  const html = String(page.body["text"]);
  const links = [...html.matchAll(/(?:src|href)="([^"]+)"/g)].map(([, link]) => link ?? "");
  assert.equal(links.length, 4);
  for (const link of links) assert.equal((await ask(link)).status, 200, link);
  assert.equal((await ask("/docs/package.json")).status, 404);
  const root = await ask("/");
  assert.deepEqual([root.status, root.headers.get("location")], [302, "/docs"]);
});

test("limits: by address and user, tighter for logins, and for codes that were no voucher", async () => {
  const limited = await testGateway(
    { "voucher.redeem": () => Promise.reject(refusal(ERRORS, "VOUCHER_NOT_FOUND", {})) },
    { rateLimits: "on", rates: { address: 12, user: 3, auth: 2, voucherGuess: 2, loginGuess: 2 } },
  );
  try {
    const login = (): Promise<Answer> => post("/api/v1/auth/login", { username: "u", password: "p" }, {}, limited);
    const first = await login();
    assert.deepEqual(
      ["limit", "remaining", "policy"].map((name) => first.headers.get(`ratelimit-${name}`)),
      ["2", "1", "2;w=60"],
    );
    assert.equal((await login()).status, 200);
    const third = await login();
    assert.deepEqual([third.status, third.body["code"], third.headers.get("ratelimit-remaining")], [429, "RATE_LIMITED", "0"]);
    assert.ok(Number(third.headers.get("retry-after")) > 0 && Number(third.headers.get("ratelimit-reset")) <= 60);

    const merchant = await somebody("merchant");
    const redeem = (): Promise<Answer> =>
      post("/api/v1/vouchers/redeem", { code: "123456789012" }, { authorization: merchant.authorization, "idempotency-key": "k" }, limited);
    assert.deepEqual([(await redeem()).status, (await redeem()).status, (await redeem()).status], [404, 404, 429]);

    const me = (): Promise<Answer> => ask("/api/v1/me", { headers: { authorization: consumer.authorization } }, limited);
    assert.deepEqual([(await me()).status, (await me()).status, (await me()).status, (await me()).status], [200, 200, 200, 429]);
    const cities = async (): Promise<number> => (await ask("/api/v1/cities", {}, limited)).status;
    assert.deepEqual([await cities(), await cities(), await cities()], [200, 200, 429]);
    assert.equal((await ask("/healthz", {}, limited)).status, 200, "balancers are not limited");
  } finally {
    await limited.stop();
  }
});

test("wrong passwords for one name run out, and other names go on", async () => {
  const limited = await testGateway(
    { "user.login": () => Promise.reject(refusal(ERRORS, "BAD_CREDENTIALS", {})) },
    { rateLimits: "on", rates: { loginGuess: 2 } },
  );
  try {
    const login = async (username: string): Promise<number> =>
      (await post("/api/v1/auth/login", { username, password: "p" }, {}, limited)).status;
    assert.deepEqual([await login("mine"), await login("mine"), await login("mine"), await login("yours")], [401, 401, 429, 401]);
  } finally {
    await limited.stop();
  }
});

test("an IPv6 customer is a network of 64 bits", () => {
  assert.equal(addressKey("2001:db8:1:2:3:4:5:6"), addressKey("2001:db8:1:2::9"));
  assert.notEqual(addressKey("2001:db8:1:2::9"), addressKey("2001:db8:1:3::9"));
  assert.equal(addressKey("::1"), "0:0:0:0");
  assert.equal(addressKey("::ffff:192.0.2.1"), "192.0.2.1");
});

/** Sends bytes as they are, and reads until the server ends the connection. */
async function raw(bytes: string | Buffer, at: TestGateway = gateway): Promise<string> {
  const socket = connect(Number(new URL(at.url).port), "127.0.0.1");
  let answer = "";
  socket.setEncoding("utf8").on("data", (chunk: string) => (answer += chunk));
  socket.on("error", () => undefined);
  await once(socket, "connect");
  socket.write(bytes);
  await once(socket, "close");
  return answer;
}

test("what is not HTTP, or too much of it, is a problem document too", async () => {
  const flood = Array.from({ length: 2_000 }, (_, index) => `x-${index}: ${"y".repeat(20)}`).join("\r\n");
  for (const [bytes, status, code] of [
    ["GARBAGE\r\n\r\n", 400, "BAD_REQUEST"],
    ["GET / HTTP/1.1\r\nhost: x\r\nbad header\r\n\r\n", 400, "BAD_REQUEST"],
    ["POST /api/v1/orders HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\nabc", 400, "BAD_REQUEST"],
    [`GET /healthz HTTP/1.1\r\nhost: x\r\n${flood}\r\n\r\n`, 431, "HEADERS_TOO_LARGE"],
    ["GET /healthz HTTP/1.1\r\nhost: x\r\nexpect: miracles\r\n\r\n", 400, "BAD_REQUEST"],
  ] as const) {
    const answer = await raw(bytes);
    assert.match(answer, new RegExp(`^HTTP/1.1 ${status} `), bytes.slice(0, 40));
    assert.match(answer, /content-type: application\/problem\+json/i);
    assert.equal((JSON.parse(answer.slice(answer.indexOf("\r\n\r\n"))) as { code: string }).code, code);
  }
});

test("headers and bodies that come too slowly are cut off with 408", async () => {
  const slow = await testGateway();
  try {
    slow.server.headersTimeout = 300;
    slow.server.requestTimeout = 600;
    const [headers, body] = await Promise.all([
      raw("GET /healthz HTTP/1.1\r\nhost: x\r\n", slow),
      raw("POST /api/v1/auth/login HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 50\r\n\r\n{", slow),
    ]);
    for (const answer of [headers, body]) {
      assert.match(answer, /^HTTP\/1.1 408 /);
      assert.match(answer, /REQUEST_TIMEOUT/);
    }
  } finally {
    await slow.stop();
  }
});

test("a taken port is an error with its code, not the end of the process", async () => {
  const port = Number(new URL(gateway.url).port);
  await assert.rejects(testGateway({}, { port }), { code: "EADDRINUSE" });
});

test("on a stop readiness fails first, then the requests under way finish", async () => {
  let finish = (): void => undefined;
  const held = new Promise<object>((resolve) => (finish = () => resolve({ id: ID })));
  const stopping = await testGateway({ "group.get": () => held }, { drainMs: 300 });
  const underWay = ask(`/api/v1/groups/${ID}`, {}, stopping);
  await sleep(100);
  const stopped = stopping.stop();
  await sleep(50);
  const ready = await ask("/readyz", {}, stopping);
  assert.deepEqual([ready.status, ready.body["missing"], ready.headers.get("connection")], [503, ["the node is stopping"], "close"]);
  assert.equal((await ask("/api/v1/cities", {}, stopping)).status, 200, "it still answers while balancers look away");
  await sleep(400);
  await assert.rejects(ask("/healthz", {}, stopping));
  finish();
  assert.equal((await underWay).status, 200);
  await stopped;
});

test("a node that was ready stays so while anything can be served, and says what is missing", async () => {
  let missing: string[] = [];
  const health = new Health(() => [], { expected: 2, missing: () => missing });
  const later = async (): ReturnType<Health["readiness"]> => {
    await sleep(520);
    return health.readiness();
  };
  assert.deepEqual(await health.readiness(), { ready: true, missing: [] });
  missing = ["search"];
  assert.deepEqual(await later(), { ready: true, missing: ["service search"] });
  missing = ["search", "order"];
  assert.equal((await later()).ready, false);
});

test("a node is ready when every service is there and every database answers, asked at most twice a second", async () => {
  let asked = 0;
  const database = (name: string, query: () => Promise<unknown>): Database => ({ name, query }) as unknown as Database;
  const health = new Health(
    () => [
      database("users", () => Promise.resolve((asked++, []))),
      database("sh", () => Promise.reject(new DatabaseUnavailable("gone"))),
      database("hz", () => new Promise(() => undefined)),
    ],
    { expected: 11, missing: () => ["user"] },
  );
  const answers = await Promise.all([health.readiness(), health.readiness()]);
  assert.deepEqual(answers[0], { ready: false, missing: ["service user", "database sh", "database hz"] });
  assert.equal(asked, 1);
  const whole = new Health(() => [database("users", () => Promise.resolve([]))], { expected: 11, missing: () => [] });
  assert.deepEqual(await whole.readiness(), { ready: true, missing: [] });
});

test("a raw route is handed the open response once it is known who asks, and is ended when the node stops", async () => {
  const streaming = await testGateway();
  let handed: RawRequest | undefined;
  serveRaw(streaming.broker, streamEvents, (request) => {
    if (request.req.headers["last-event-id"] === "x") throw refusal(ERRORS, "VALIDATION_ERROR", { errors: [] });
    handed = request;
    request.res.writeHead(200, { "content-type": "text/event-stream" }).write("data: 1\n\n");
  });
  const path = fullPath(streamEvents.rest);
  const { authorization } = consumer;
  assert.equal((await ask(path, {}, streaming)).status, 401);
  assert.equal((await ask(path, { method: "HEAD", headers: { authorization } }, streaming)).status, 405);
  const refused = await ask(path, { headers: { authorization, "last-event-id": "x" } }, streaming);
  assert.deepEqual([refused.status, refused.headers.get("content-type")], [400, "application/problem+json"]);
  const response = await fetch(streaming.url + path, { headers: { authorization } });
  assert.deepEqual([response.status, response.headers.get("cache-control"), handed?.caller], [200, "no-store", consumer.caller]);
  const stopped = streaming.stop();
  assert.equal(await response.text(), "data: 1\n\n");
  await stopped;
  const counted = await streaming.metrics.registry.metrics();
  for (const code of [200, 400, 401, 405]) assert.match(counted, new RegExp(`seconds_count\\{route="GET ${path}",code="${code}"\\} 1\n`));
});

test("a raw route that nobody serves here is 503, not a silence", async () => {
  const { status, body } = await ask(fullPath(streamEvents.rest), { headers: { authorization: consumer.authorization } });
  assert.deepEqual([status, body["code"]], [503, "UNAVAILABLE"]);
});

test("every route is found by its own path, and by no other's", () => {
  const table = new RouteTable<string>();
  for (const { name, rest } of REST_CONTRACTS) table.add(rest.method, fullPath(rest), name);
  for (const { name, rest } of REST_CONTRACTS) {
    const { found, values } = table.find(rest.method, fullPath(rest).replaceAll(/\{\w+\}/g, ID));
    assert.equal(found, name);
    assert.equal(values.length, fullPath(rest).split("{").length - 1);
  }
  for (const path of [
    "",
    "/",
    "//",
    "/api/v1",
    "/api/v1/orders//pay",
    `/api/v1/orders/${ID}/pay/more`,
    "/__proto__",
    "/api/v1/constructor",
    "/".repeat(5_000),
  ]) {
    assert.equal(table.find("GET", path).found, undefined, path.slice(0, 40));
  }
});

test("moleculer-web still lists what is served, and nobody can add to it", async () => {
  const aliases: { fullPath: string }[] = await gateway.broker.call("gateway.listAliases");
  assert.ok(aliases.some((alias) => alias.fullPath === "/api/v1/orders/:id/pay"));
  await assert.rejects(gateway.broker.call("gateway.addRoute", { route: {} }), Errors.ServiceNotFoundError);
  const told = gateway.broker.registry.getServiceList({}).find((service) => service.name === "gateway") as unknown as ServiceSchema;
  assert.equal(JSON.stringify(told.settings).includes(JWT_SECRET), false, "other nodes are not told the secret");
});
