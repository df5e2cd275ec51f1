import assert from "node:assert/strict";
import type { Server } from "node:http";
import type { AddressInfo } from "node:net";
import { after, test } from "node:test";
import { Agent, request } from "undici";
import { ERRORS, type ErrorCode } from "../domain/errors.ts";
import type { Role } from "../domain/user/role.ts";
import { makeTokens } from "../mixins/tokens.ts";
import { SERVICES } from "../moleculer.config.ts";
import { fullPath, REST_CONTRACTS } from "../services/gateway/routes.ts";
import { JWT_SECRET, tokens } from "./support/gateway.ts";
import { attacks, type Attack, type Passes } from "./support/hostile.ts";
import { caller, testNode } from "./support/node.ts";

const node = await testNode(SERVICES, {
  user: { jwtSecret: JWT_SECRET, adminPassword: "the admin's password" },
  wallet: { testChannel: true },
  gateway: { jwtSecret: JWT_SECRET, port: 0, rateLimits: "off" },
});
const { server } = node.node.broker.getLocalService("gateway") as unknown as { server: Server };
const base = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
const agent = new Agent({ connections: 8, pipelining: 1 });
after(async () => {
  await agent.close();
  await node.stop();
});

interface Answer {
  readonly status: number;
  readonly type: string | undefined;
  readonly requestId: string | undefined;
  readonly text: string;
}
async function send(attack: Omit<Attack, "what">): Promise<Answer> {
  const { statusCode, headers, body } = await request(base + attack.path, {
    method: attack.method as "GET",
    headers: attack.headers,
    body: attack.body ?? null,
    dispatcher: agent,
  });
  return {
    status: statusCode,
    type: headers["content-type"] as string | undefined,
    requestId: headers["x-request-id"] as string | undefined,
    text: await body.text(),
  };
}

/** A trade that somebody else has made: its ids are what the attackers try. */
interface Trade {
  readonly dealId: string;
  readonly orderId: string;
  readonly groupId: string;
  readonly merchantId: string;
  readonly buyerId: string;
  readonly admin: string;
}
let keys = 0;
async function does<A>(authorization: string | undefined, path: string, body: object): Promise<A> {
  const headers = {
    "content-type": "application/json",
    "idempotency-key": `trade-${keys++}`,
    ...(authorization === undefined ? {} : { authorization }),
  };
  const { status, text } = await send({ method: "POST", path: `/api/v1${path}`, headers, body: JSON.stringify(body) });
  assert.ok(status < 300, `${path}: ${status} ${text}`);
  return JSON.parse(text) as A;
}
async function person(username: string): Promise<{ id: string; authorization: string }> {
  const account = { username, password: "correct-horse-1" };
  const { id } = await does<{ id: string }>(undefined, "/auth/register", account);
  return { id, authorization: await logIn(account) };
}
const logIn = async (account: object): Promise<string> =>
  `Bearer ${(await does<{ accessToken: string }>(undefined, "/auth/login", account)).accessToken}`;

async function makeTrade(): Promise<Trade> {
  const admin = await logIn({ username: "admin", password: "the admin's password" });
  await person("owner");
  const { id: merchantId } = await does<{ id: string }>(admin, "/merchants", {
    name: "弄堂与麦",
    city: "sh",
    commissionBps: 600,
    ownerUsername: "owner",
  });
  const owner = await logIn({ username: "owner", password: "correct-horse-1" });
  const { id: dealId } = await does<{ id: string }>(owner, "/deals", {
    title: "两杯精酿",
    price: 1990,
    tiers: [{ size: 3, price: 1590 }],
    stock: 9,
  });
  await does(owner, `/deals/${dealId}/publish`, {});
  const buyer = await person("buyer");
  await does(buyer.authorization, "/wallet/topups", { amount: 10_000, channel: "test" });
  const { id: orderId, groupId } = await does<{ id: string; groupId: string }>(buyer.authorization, "/orders", {
    dealId,
    quantity: 1,
    groupSize: 3,
  });
  await does(buyer.authorization, `/orders/${orderId}/pay`, { channel: "wallet" });
  return { dealId, orderId, groupId, merchantId, buyerId: buyer.id, admin };
}

const part = (value: object): string => Buffer.from(JSON.stringify(value)).toString("base64url");

/** The same account with one of its roles: a bar's owner shops too, and would be let in as a consumer. */
async function only(role: Role, authorization: string): Promise<string> {
  const { caller: whole } = await tokens.verify(authorization.slice("Bearer ".length));
  return `Bearer ${await tokens.sign({ ...whole, roles: [role] }, 600)}`;
}

/** Real accounts, none of which has a part in the trade. */
async function makePasses({ admin, merchantId }: Trade): Promise<Passes> {
  const consumer = await person("stranger");
  await person("rival");
  await does(admin, "/merchants", { name: "Rival Bar", city: "hz", commissionBps: 600, ownerUsername: "rival" });
  const merchant = await logIn({ username: "rival", password: "correct-horse-1" });
  const claims = {
    sub: consumer.id,
    name: "x",
    roles: ["consumer", "merchant", "admin"],
    mid: merchantId,
    typ: "access",
    iss: "tuanbar",
    aud: "tuanbar",
    exp: 9_999_999_999,
  };
  const [head, payload, signature] = admin.slice("Bearer ".length).split(".");
  return {
    of: {
      consumer: consumer.authorization,
      merchant: await only("merchant", merchant),
      finance: await only("finance", admin),
      admin: await only("admin", admin),
    },
    bad: {
      "alg none": `Bearer ${part({ alg: "none", typ: "JWT" })}.${part(claims)}.`,
      "alg none, with a signature": `Bearer ${part({ alg: "none" })}.${part(claims)}.${signature}`,
      expired: `Bearer ${await tokens.sign(caller(consumer.id), -1)}`,
      forged: `Bearer ${await makeTokens("another secret, also of 32 bytes and more").sign(caller(consumer.id, ["admin"]), 60)}`,
      tampered: `Bearer ${head}.${part(claims)}.${signature}`,
      cut: `Bearer ${head}.${payload}`,
      "not a token": "Bearer null",
      "another scheme": "Basic YWRtaW46YWRtaW4=",
    },
  };
}

/** Everything that is wrong with an answer; empty when it is as it should be. */
async function faultsOf(attack: Attack): Promise<string[]> {
  const { status, type, requestId, text } = await send(attack);
  const faults: string[] = [];
  if (attack.want !== undefined && !attack.want.includes(status)) faults.push(`not ${attack.want.join(" or ")}`);
  if (status >= 500) faults.push("a fault of ours");
  if (status >= 400) {
    if (type !== "application/problem+json") return [`${attack.method} ${attack.path}: no problem document: ${text}`];
    const problem = JSON.parse(text) as { code: ErrorCode; detail: string; traceId: string };
    if (ERRORS[problem.code]?.status !== status) faults.push("the code has another status");
    if (problem.traceId !== requestId) faults.push("another trace id");
    if (/node_modules|\.ts:|\bat [A-Z]\w+\.|\bselect\b/.test(problem.detail)) faults.push("it tells too much");
  }
  return faults.map(
    (fault) => `${attack.method} ${attack.path.slice(0, 60)}, ${attack.what.slice(0, 60)}: ${fault}: ${status} ${text.slice(0, 300)}`,
  );
}

const trade = await makeTrade();
const passes = await makePasses(trade);

test("whatever a client sends to whichever route, the answer is never a 5xx, and what is wrong is a problem document", async () => {
  const all = [...attacks(passes, [trade.dealId, trade.orderId, trade.groupId, trade.merchantId, trade.buyerId])];
  assert.ok(all.length > 1_000, `${all.length} attacks`);
  const faults: string[] = [];
  const queue = all.values();
  const attacker = async (): Promise<void> => {
    for (const attack of queue) faults.push(...(await faultsOf(attack)));
  };
  await Promise.all(Array.from({ length: 8 }, attacker));
  assert.deepEqual(faults, []);
  assert.equal(Object.hasOwn(Object.prototype, "admin"), false);
});

test("somebody else's order is not there: not to see, pay, cancel or redeem, for a shopper or for another bar", async () => {
  const routes = REST_CONTRACTS.filter(({ rest }) => rest.path.startsWith("/orders/{id}"));
  assert.ok(routes.length >= 4);
  for (const { name, rest } of routes) {
    for (const role of ["consumer", "merchant", "admin"] as const) {
      const mayAsk = rest.who === "user" || rest.who === role;
      const { status, text } = await send({
        method: rest.method,
        path: fullPath(rest).replace("{id}", trade.orderId),
        headers: {
          authorization: passes.of[role],
          ...(rest.method === "POST" ? { "content-type": "application/json", "idempotency-key": `foreign-${name}-${role}` } : {}),
        },
        ...(rest.method === "POST" ? { body: JSON.stringify(rest.example ?? {}) } : {}),
      });
      if (role === "admin" && mayAsk) continue;
      assert.deepEqual(
        [status, (JSON.parse(text) as { code: string }).code],
        mayAsk ? [404, "ORDER_NOT_FOUND"] : [403, "FORBIDDEN"],
        `${name} as ${role}`,
      );
    }
  }
});

test("the trade that was attacked has not changed", async () => {
  const { text } = await send({ method: "GET", path: `/api/v1/groups/${trade.groupId}`, headers: {} });
  const group = JSON.parse(text) as { status: string; taken: number };
  assert.deepEqual([group.status, group.taken], ["OPEN", 1]);
  const { status, text: verified } = await send({ method: "GET", path: "/api/v1/ops/verify", headers: { authorization: trade.admin } });
  assert.equal(status, 200);
  assert.deepEqual(
    (JSON.parse(verified) as { checks: { ok: boolean }[] }).checks.filter((check) => !check.ok),
    [],
  );
});
