/** A node with a door and a simpay outside: everything between them goes over HTTP, as it does in earnest. */
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import type { FaultName } from "../../simpay/faults.ts";
import type { Stored } from "../../simpay/records.ts";
import type { Id } from "../../domain/ids.ts";
import { makeChannels } from "../../mixins/channels/index.ts";
import type { Caller } from "../../mixins/contract.ts";
import { makeTokens } from "../../mixins/tokens.ts";
import { caller } from "./node.ts";
import { freePort } from "../../scripts/free-ports.ts";
import { type Reply } from "./server.ts";
import { eventually, Shop } from "./shop.ts";
import { OURS, witnessed, type Ours } from "./witness.ts";
import { SECRET, testSimpay, type TestSimpay } from "./simpay.ts";
import { makeDeal } from "./deals.ts";

const JWT_SECRET = "a secret of tests, with more than 32 bytes";
const tokens = makeTokens(JWT_SECRET);

export interface Bought {
  readonly id: Id;
  readonly user: Id<"user">;
  readonly merchantId: Id;
  readonly amount: number;
}

export class ChannelShop {
  readonly shop: Shop;
  readonly simpay: TestSimpay;
  readonly base: string;

  private constructor(shop: Shop, simpay: TestSimpay, base: string) {
    this.shop = shop;
    this.simpay = simpay;
    this.base = base;
  }

  /** simpay's time runs a thousand times faster: a day late is a minute and a half. */
  static async open({ timeFactor = 1_000, simpay = undefined as TestSimpay | undefined } = {}): Promise<ChannelShop> {
    simpay ??= await testSimpay({ timeFactor });
    try {
      const port = await freePort();
      const base = `http://127.0.0.1:${port}`;
      const shop = await Shop.open({
        services: ["callback", "recon", "gateway"],
        settings: { gateway: { jwtSecret: JWT_SECRET, port, rateLimits: "off" } },
        channels: await makeChannels({ simpay: { url: simpay.url, secret: SECRET } }, base),
        // What is used is settled at once.
        trade: { orderTtlSeconds: 900, reversalMinutes: 0, settlementDelayMinutes: 0 },
      });
      return new ChannelShop(shop, simpay, base);
    } catch (error) {
      await simpay.stop();
      throw error;
    }
  }

  async close(): Promise<void> {
    await this.shop.close();
    await this.simpay.stop();
  }

  token(who: Caller): Promise<string> {
    return tokens.sign(who, 600);
  }

  /** One request of a consumer, or of whoever `roles` make of him. */
  async ask(
    method: "GET" | "POST",
    path: string,
    user: Id<"user">,
    body?: object,
    roles: Parameters<typeof caller>[1] = ["consumer"],
    merchantId?: Id,
  ): Promise<Reply> {
    const token = await this.token(caller(user, roles, merchantId));
    const answer = await fetch(`${this.base}/api/v1${path}`, {
      method,
      headers: {
        authorization: `Bearer ${token}`,
        ...(method === "POST" ? { "content-type": "application/json", "idempotency-key": randomUUID() } : {}),
      },
      ...(method === "POST" ? { body: JSON.stringify(body ?? {}) } : {}),
    });
    return { status: answer.status, body: await answer.json() };
  }

  /** An unpaid order of a new consumer, over HTTP. */
  async order(
    of: { deal?: Id; quantity?: number; groupSize?: number; groupId?: Id; fen?: number } = {},
  ): Promise<Bought & { groupId?: Id }> {
    const { deal = await makeDeal(this.shop.test, { stock: 100, price: 1_990 }), fen = 0, quantity = 1, ...group } = of;
    const user = await this.shop.person(fen);
    const placed = await this.ask("POST", "/orders", user, { dealId: deal, quantity, ...group });
    assert.equal(placed.status, 201, JSON.stringify(placed.body));
    return { ...(placed.body as Bought), user };
  }

  pay({ id, user }: { id: Id; user: Id<"user"> }, channel: "simpay" | "wallet" = "simpay"): Promise<Reply> {
    return this.ask("POST", `/orders/${id}/pay`, user, { channel });
  }

  /** An order whose charge is open, with where to pay it. */
  async charged(of: Parameters<ChannelShop["order"]>[0] = {}): Promise<Bought & { groupId?: Id; paymentId: Id; payUrl: string }> {
    const order = await this.order(of);
    const { status, body } = await this.pay(order);
    assert.equal(status, 202, JSON.stringify(body));
    const { paymentId, payUrl } = body as { paymentId: Id; payUrl: string };
    assert.equal(typeof payUrl, "string", JSON.stringify(body));
    return { ...order, paymentId, payUrl };
  }

  /** Bought and paid for by the channel. */
  async paid(of: Parameters<ChannelShop["order"]>[0] = {}): Promise<Bought & { groupId?: Id; paymentId: Id; payUrl: string }> {
    const order = await this.charged(of);
    await this.simpay.pay(order.payUrl);
    await this.becomes(order, /^(PAID|CONFIRMED)$/);
    return order;
  }

  /** Every call, charge, refund and payout from now on has these faults, until the next such word. */
  strike(...faults: readonly FaultName[]): Promise<void> {
    return this.simpay.plan({ seed: "test", chance: Object.fromEntries(faults.map((fault) => [fault, 1])), slowMs: 300 });
  }

  async status({ id, user }: { id: Id; user: Id<"user"> }): Promise<string> {
    return String(((await this.ask("GET", `/orders/${id}`, user)).body as { status: string }).status);
  }
  becomes(order: { id: Id; user: Id<"user"> }, status: RegExp, withinMs?: number): Promise<void> {
    return eventually(async () => assert.match(await this.status(order), status), withinMs);
  }

  /** The row of a payment, refund or payout. */
  async row<R extends object>(table: "payments" | "refunds" | "payouts" | "orders" | "channel_callbacks", id: Id): Promise<R> {
    const [row] = await this.shop.rows<R>(id, `select * from ${table} where slot = $1 and id = $2`, [id]);
    assert.ok(row, `${table} has ${id}`);
    return row;
  }
  async refundsOf(order: {
    id: Id;
  }): Promise<{ id: Id; state: string; amount: string; surplus: boolean; reason: string; attempts: number }[]> {
    return this.shop.rows(order.id, "select * from refunds where slot = $1 and order_id = $2 order by id", [order.id]);
  }

  /** As if the time of everything that waits for its next attempt had come. */
  async hurry(shardOf: Id): Promise<void> {
    for (const table of ["payments", "refunds", "payouts", "channel_callbacks"])
      await this.shop.rows(shardOf, `update ${table} set next_attempt_at = now() where slot = $1`);
    // Nor does a merchant take its day to say something about a used unit.
    await this.shop.rows(shardOf, "update refunds set approve_by = least(approve_by, now()) where slot = $1 and used");
  }

  async witness(): Promise<Map<string, Stored>> {
    return witnessed(await this.simpay.log());
  }

  /** What we say happened by channels, in every city. */
  async ours(): Promise<Ours[]> {
    const { platform } = this.shop.test.node;
    const cities = [...platform.databases.values()].filter(({ city }) => platform.servesCity(city));
    return (await Promise.all(cities.map((city) => city.query<Ours>({ name: "test/ours", text: OURS }, [])))).flat();
  }
}
