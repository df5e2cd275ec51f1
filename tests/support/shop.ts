/** A node that sells: what tests of money need to buy, pay, and see whether everything adds up. */
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import type { ServiceName } from "../../moleculer.config.ts";
import { DomainError } from "../../domain/error.ts";
import type { Channels } from "../../mixins/channels/index.ts";
import type { TradeSettings } from "../../mixins/platform.ts";
import { composeId, shardOf, type Id } from "../../domain/ids.ts";
import { verify } from "../../services/ops/ops.contract.ts";
import { placeOrder } from "../../services/order/order.contract.ts";
import { payOrder } from "../../services/payment/payment.contract.ts";
import { listVouchers } from "../../services/voucher/voucher.contract.ts";
import { getWallet, topUp } from "../../services/wallet/wallet.contract.ts";
import { callAs, caller, testNode, type TestNode } from "./node.ts";

const SELLING: readonly ServiceName[] = ["wallet", "group", "order", "payment", "voucher", "settlement", "ops"];

export const refused = (code: string) => (error: unknown) => error instanceof DomainError && error.type === code;

/** How many results came to what: `{ ok: 2, GROUP_FULL: 98 }`. */
export function tally(results: readonly PromiseSettledResult<unknown>[]): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const result of results) {
    const code = result.status === "fulfilled" ? "ok" : result.reason instanceof DomainError ? result.reason.type : String(result.reason);
    counts[code] = (counts[code] ?? 0) + 1;
  }
  return counts;
}

let people = 0;

/** What a shop has besides. */
interface Extras {
  readonly services: readonly ServiceName[];
  readonly settings: NonNullable<Parameters<typeof testNode>[1]>;
  readonly channels: Channels;
  readonly trade: TradeSettings;
}

export class Shop {
  readonly test: TestNode;

  private constructor(test: TestNode) {
    this.test = test;
  }
  static async open({ services = [], settings = {}, channels, trade }: Partial<Extras> = {}): Promise<Shop> {
    const test = { wallet: { testChannel: true }, settlement: { testChannel: true }, ...settings };
    return new Shop(await testNode([...SELLING, ...services], test, { ...(channels ? { channels } : {}), ...(trade ? { trade } : {}) }));
  }
  close(): Promise<void> {
    return this.test.stop();
  }

  /** A new consumer, with so much in the wallet. */
  async person(fen = 0): Promise<Id<"user">> {
    const n = ++people;
    const user = composeId({ ms: 1_765_000_000_000 + n, sequence: 0, city: 0, slot: n % 16 }) as Id<"user">;
    if (fen > 0) await callAs(this.test.node, topUp, { amount: fen, channel: "test" }, caller(user));
    return user;
  }
  order(deal: Id, user: Id, of: { quantity?: number; groupSize?: number; groupId?: Id } = {}) {
    const { quantity = 1, ...group } = of;
    return callAs(this.test.node, placeOrder, { dealId: deal, quantity, ...group }, caller(user));
  }
  pay(order: { id: Id }, user: Id) {
    return callAs(this.test.node, payOrder, { id: order.id, channel: "wallet" }, caller(user));
  }
  wallet(user: Id) {
    return callAs(this.test.node, getWallet, {}, caller(user));
  }
  vouchers(order: { id: Id }, user: Id) {
    return callAs(this.test.node, listVouchers, { id: order.id }, caller(user));
  }
  /** The state of one row of the city's tables. */
  async stateOf(table: "orders" | "payments" | "refunds" | "groups", id: Id): Promise<string | undefined> {
    return (await this.rows<{ state: string }>(id, `select state from ${table} where slot = $1 and id = $2`, [id]))[0]?.state;
  }
  /** Rows of the shard an id lives in; `$1` is its slot. */
  rows<Row extends object>(id: Id, text: string, values: readonly unknown[] = []): Promise<Row[]> {
    const shard = shardOf(id);
    return this.test.node.platform.databaseOf(shard).query<Row>({ name: `test/${randomUUID()}`, text }, [shard.slot, ...values]);
  }

  /** Waits until every payment and refund has its end, or waits for its merchant. */
  async settled(): Promise<void> {
    const unfinished = {
      name: "test/unfinished",
      text: `select (select count(*) from payments where unfinished)
                  + (select count(*) from refunds where state in ('REQUESTED', 'PROCESSING')
                        and (approve_by is null or approved_at is not null or approve_by <= now())) as left`,
    };
    const { platform } = this.test.node;
    const cities = [...platform.databases.values()].filter(({ city }) => platform.servesCity(city));
    await eventually(async () => {
      for (const database of cities)
        assert.equal((await database.query<{ left: string }>(unfinished))[0]?.left, "0", "payments and refunds are left");
    });
  }
  /** Every invariant of `/ops/verify` holds, once all is settled; but for the index of orders, which the journal feeds, and none runs here. */
  async addsUp(): Promise<void> {
    await this.settled();
    const { checks } = await callAs(this.test.node, verify, {}, caller("16", ["admin"]));
    assert.deepEqual(
      checks.filter(({ ok, name }) => !ok && name !== "events.order-index"),
      [],
    );
  }
}

/** Tries until it holds: for what happens in the background. */
export async function eventually(check: () => Promise<void>, withinMs = 10_000): Promise<void> {
  const untilMs = performance.now() + withinMs;
  for (;;) {
    try {
      return await check();
    } catch (error) {
      if (performance.now() > untilMs) throw error;
      await sleep(50);
    }
  }
}
