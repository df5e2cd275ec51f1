/**
 * The process and PostgreSQL are killed with SIGKILL at random moments under load, twenty times and more. Afterwards every order and payment
 * that a client was told of is there, whatever was unfinished has reached an end, and every invariant holds.
 */
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { makeTokens } from "../../mixins/tokens.ts";
import { Server, type Reply } from "../support/server.ts";
import { userId } from "../support/deals.ts";
import { caller } from "../support/node.ts";
import { until } from "../support/until.ts";

const KILLS = 22;
const SHOPPERS = 24;
const SECRET = "a secret for crash tests, long enough";

describe("killed at any moment", () => {
  const dataDir = mkdtempSync(join(tmpdir(), "tuanbar-crash-"));
  const server = new Server({
    DATA_DIR: dataDir,
    JWT_SECRET: SECRET,
    RATE_LIMITS: "off",
    ADMIN_PASSWORD: "crash-test-admin",
    LOG_LEVEL: "fatal",
  });
  before(() => server.start());
  after(async () => {
    await server.stop();
    rmSync(dataDir, { recursive: true, force: true });
  });

  // Every wait has an end of its own, and says then what it waited for; on a machine that is busy with others the sum of them has been 390 s.
  it(`loses nothing it acknowledged in ${KILLS} kills`, { timeout: 900_000 }, async (t) => {
    const tokens = makeTokens(SECRET);
    const admin = await tokens.sign(caller(userId(1), ["admin"]), 3_600);
    const deal = await makeDealOverHttp(server, admin);
    const shoppers = await Promise.all(Array.from({ length: SHOPPERS }, (_, n) => tokens.sign(caller(userId(n + 100)), 3_600)));
    for (const token of shoppers)
      assert.equal((await server.insist("POST", "/wallet/topups", { token, body: { amount: 1_000_000, channel: "test" } })).status, 201);

    const acknowledged = new Map<string, { token: string; paid: boolean }>();
    let over = false;
    const shop = async (token: string, n: number): Promise<void> => {
      while (!over) {
        const placed = await server.insist("POST", "/orders", {
          token,
          body: { dealId: deal, quantity: 1, ...(n % 2 === 0 ? { groupSize: 2 } : {}) },
        });
        assert.equal(placed.status, 201, JSON.stringify(placed.body));
        const { id } = placed.body as { id: string };
        acknowledged.set(id, { token, paid: false });
        const paid = await server.insist("POST", `/orders/${id}/pay`, { token, body: { channel: "wallet" } });
        // A payment the crash caught between its steps may have been cancelled; the buyer then pays again.
        if (paid.status === 200) acknowledged.set(id, { token, paid: true });
        else await server.insist("POST", `/orders/${id}/cancel`, { token });
      }
    };
    const shopping = Promise.all(shoppers.map(shop));
    let sinceMs = performance.now();
    const took = (what: string): void => {
      t.diagnostic(`${what}: ${((performance.now() - sinceMs) / 1_000).toFixed(1)} s`);
      sinceMs = performance.now();
    };
    for (let kill = 0; kill < KILLS; kill++) {
      // Each kill hits traffic that has got going again, at a moment of its own.
      const before = acknowledged.size;
      await until(async () => acknowledged.size >= before + 10, 60_000);
      await sleep(Math.random() * 300);
      if (kill % 2 === 0) server.killPostgres();
      else await server.killAndRestart();
      await server.ready();
    }
    took("kills");
    await sleep(500);
    over = true;
    await shopping;
    took("the last orders");

    assert.ok(acknowledged.size > KILLS, `there was traffic: ${acknowledged.size} orders`);
    for (const [id, { token, paid }] of acknowledged) {
      const { status, body } = await server.insist("GET", `/orders/${id}`, { token });
      assert.equal(status, 200, `order ${id} was acknowledged`);
      if (paid) assert.match((body as { status: string }).status, /^(PAID|CONFIRMED)$/, `order ${id} was paid`);
    }
    // Recovery ends what the kills left unfinished. One that was cut off at attempt after attempt rests up to 80 s before the next.
    const end = performance.now() + 150_000;
    let verified: Reply = { status: 0, body: {} };
    do {
      await sleep(1_000);
      verified = await server.insist("GET", "/ops/verify", { token: admin });
    } while (!(verified.body as { ok?: boolean }).ok && performance.now() < end);
    took("recovery");
    const failing = (verified.body as { checks?: { name: string; ok: boolean; detail: string }[] }).checks?.filter((check) => !check.ok);
    assert.deepEqual(failing, [], "every invariant holds");
  });
});

async function makeDealOverHttp(server: Server, admin: string): Promise<string> {
  const username = `boss-${randomUUID().slice(0, 8)}`;
  const password = "crash-test-boss";
  const expect = async (status: number, reply: Promise<Reply>): Promise<{ id: string; accessToken: string }> => {
    const { status: got, body } = await reply;
    assert.equal(got, status, JSON.stringify(body));
    return body as { id: string; accessToken: string };
  };
  await expect(201, server.insist("POST", "/auth/register", { body: { username, password } }));
  await expect(
    201,
    server.insist("POST", "/merchants", {
      token: admin,
      body: { name: "crash bar", city: "sh", commissionBps: 600, ownerUsername: username },
    }),
  );
  const { accessToken: token } = await expect(200, server.insist("POST", "/auth/login", { body: { username, password } }));
  const { id } = await expect(
    201,
    server.insist("POST", "/deals", {
      token,
      body: { title: "two pints", price: 1_990, tiers: [{ size: 2, price: 1_490 }], stock: 1_000_000 },
    }),
  );
  await expect(200, server.insist("POST", `/deals/${id}/publish`, { token }));
  return id;
}
