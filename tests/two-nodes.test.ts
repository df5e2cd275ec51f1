/**
 * Two nodes that drain one shard at once, as happens whenever nodes come and go: orders, payments, cancellations and groups of one hot deal, half
 * of them on each node, as if neither knew of the other. Slower may be, wrong never: no command fails for it, and every invariant holds.
 */
import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import type { Database, Statement } from "../db/database.ts";
import { DomainError } from "../domain/error.ts";
import type { Id } from "../domain/ids.ts";
import { makeNode, type Node } from "../moleculer.config.ts";
import { cancelOrder, placeOrder } from "../services/order/order.contract.ts";
import { countQuotas, giveBackQuotas } from "../services/order/order.store.ts";
import { payOrder } from "../services/payment/payment.contract.ts";
import { makeDeal } from "./support/deals.ts";
import { callAs, caller } from "./support/node.ts";
import { Shop } from "./support/shop.ts";
import { until } from "./support/until.ts";

const BUYERS = 40;
const ROUNDS = 12;

describe("two nodes that drain one shard at once", () => {
  let shop: Shop;
  let other: Node;
  before(async () => {
    shop = await Shop.open();
    other = await makeNode({
      nodeID: "other",
      keyspaces: shop.test.keyspaces.keyspaces,
      urlOf: shop.test.keyspaces.urlOf,
      services: ["wallet", "group", "order", "payment", "voucher"],
      trade: { orderTtlSeconds: 900, reversalMinutes: 60, settlementDelayMinutes: 60 },
      logLevel: "fatal",
      settings: { wallet: { testChannel: true } },
    });
  });
  after(async () => {
    await other.stop();
    await shop.close();
  });

  it("sell, take money and give back without a fault", async () => {
    const deal = await makeDeal(shop.test, { stock: 100_000, tiers: [{ size: 2, price: 900 }], price: 1_000 });
    const faults: unknown[] = [];
    // "Try again" is an answer; anything that is not one is a fault.
    const ask = async <A>(work: () => Promise<A>): Promise<A | undefined> => {
      for (let tries = 0; tries < 50; tries++) {
        try {
          return await work();
        } catch (error) {
          if (error instanceof DomainError && error.retryable) continue;
          faults.push(error);
          return undefined;
        }
      }
      return undefined;
    };
    const buy = async (n: number): Promise<void> => {
      const user = caller(await shop.person(1_000_000));
      for (let round = 0; round < ROUNDS; round++) {
        const node = (n + round) % 2 === 0 ? shop.test.node : other;
        const form = { dealId: deal, quantity: 1, ...(n % 4 === 0 ? { groupSize: 2 } : {}) };
        const order = await ask(() => callAs(node, placeOrder, form, user));
        if (!order) return;
        const { id } = order;
        if (round % 4 === 3) await ask(() => callAs(node, cancelOrder, { id }, user));
        else await ask(() => callAs(n % 3 === 0 ? other : node, payOrder, { id, channel: "wallet" }, user));
      }
    };
    await Promise.all(Array.from({ length: BUYERS }, (_, n) => buy(n)));
    assert.deepEqual(faults, []);
    await shop.addsUp();
  });

  it("let nobody pass a limit, though both count on what they have read and neither has locked it", async () => {
    // One counter is new with the first order, the other was there: both ways of raising one meet.
    for (let round = 0; round < 10; round++) {
      const first = await makeDeal(shop.test, { stock: 1_000 });
      const second = await makeDeal(shop.test, { stock: 1_000, perUserLimit: 3, sibling: first });
      const user = caller(await shop.person(1_000_000));
      const outcomes = await Promise.all(
        Array.from({ length: 40 }, (_, n) => {
          const form = { dealId: n % 4 < 2 ? first : second, quantity: 1 };
          return callAs(n % 2 === 0 ? shop.test.node : other, placeOrder, form, user).then(
            () => (form.dealId === first ? "first" : "second"),
            (error: DomainError) => error.type,
          );
        }),
      );
      const count = (what: string): number => outcomes.filter((outcome) => outcome === what).length;
      const others = new Set(outcomes.filter((outcome) => outcome !== "first" && outcome !== "second"));
      const [sold, ofSecond] = [count("first") + count("second"), count("second")];
      // Told to come again, nobody came.
      assert.ok(ofSecond <= 3 && (others.has("OVERLOADED") ? sold <= 5 : sold === 5), JSON.stringify(outcomes));
      assert.deepEqual(
        [...others].filter((type) => !["TOO_MANY_UNPAID", "USER_LIMIT_EXCEEDED", "OVERLOADED"].includes(type)),
        [],
      );
    }
    await shop.addsUp();
  });

  it("count each counter once, those too that the other was changing at that moment, and none that is not there", async () => {
    const shard = { city: 1, slot: 7 };
    const [one, another] = [shop.test.node, other].map(({ platform }) => platform.databaseOf(shard)) as [Database, Database];
    const all = ["1", "2", "3", "4"].map((userId) => ({ scope: "99", userId: userId as Id<"user">, delta: 1, cap: undefined }));
    const some = all.slice(1, 3);
    const known = { has: () => true };
    await one.transaction((tx) => countQuotas(tx, shard, all, { has: () => false }));
    const changed = Promise.withResolvers<void>();
    const mayCommit = Promise.withResolvers<void>();
    const first = one.transaction(async (tx) => {
      await countQuotas(tx, shard, some, known);
      changed.resolve();
      await mayCommit.promise;
    });
    await changed.promise;
    const second = another.transaction(async (tx) => {
      await countQuotas(tx, shard, all, known);
      // And again: what this transaction has changed before is counted like any other.
      await giveBackQuotas(
        tx,
        shard,
        [...all.slice(0, 2), { scope: "99", userId: "5" }].map((back) => ({ ...back, units: 1 })),
      );
    });
    const waits: Statement = {
      name: "test/waits",
      text: "select 1 from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock' and query like '%quotas%'",
    };
    await until(async () => (await one.query(waits)).length > 0);
    mayCommit.resolve();
    await Promise.all([first, second]);
    const used: Statement = { name: "test/used", text: "select user_id, used from quotas where slot = $1 and scope = 99 order by user_id" };
    assert.deepEqual(await one.query(used, [shard.slot]), [
      { user_id: "1", used: 1 },
      { user_id: "2", used: 2 },
      { user_id: "3", used: 3 },
      { user_id: "4", used: 2 },
    ]);
  });
});
