/**
 * Walks through a town: between them they pass every step of every money path. Each insists on its end, with the same keys, whoever dies meanwhile,
 * and says itself what must be so then: each effect once, and none that was acknowledged lost.
 */
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import type { FaultName } from "../../simpay/faults.ts";
import { composeId, shardOf, type Id } from "../../domain/ids.ts";
import { dayAt } from "../../domain/recon/difference.ts";
import type { Town } from "./town.ts";
import { witnessed } from "./witness.ts";

export interface Walk {
  readonly name: string;
  /** Before the server starts. */
  readonly prepare?: (town: Town) => Promise<unknown>;
  readonly walk: (town: Town) => Promise<void>;
  /** False: no money is on it. It is rehearsed, so that no step is forgotten, and not struck: its thirty kills are two minutes of a CI run. */
  readonly ofMoney?: false;
}
interface Order {
  readonly id: Id;
  readonly as: string;
  readonly groupId?: Id;
  readonly amount: number;
}

const PRICE = 1_990;

async function order(town: Town, as: string, of: { groupSize?: number; groupId?: Id } = {}): Promise<Order> {
  const { id, groupId, amount } = await town.ask<Order>("POST", "/orders", as, { dealId: town.bar.deal, quantity: 1, ...of });
  return { id, as, amount, ...(groupId === undefined ? {} : { groupId }) };
}
const pay = (town: Town, { id, as }: Order, channel: "wallet" | "simpay"): Promise<{ status: string; payUrl?: string }> =>
  town.ask("POST", `/orders/${id}/pay`, as, { channel });
/** An order paid from the wallet of somebody who has just that. */
async function bought(town: Town, of: Parameters<typeof order>[2] = {}): Promise<Order> {
  const made = await order(town, await town.person(PRICE), of);
  assert.equal((await pay(town, made, "wallet")).status, "CONFIRMED");
  return made;
}
/** A charge open at simpay: where to pay it. */
async function charged(town: Town, made: Order): Promise<string> {
  let url: string | undefined;
  await town.becomes(async () => {
    url = (await pay(town, made, "simpay")).payUrl;
    assert.equal(typeof url, "string");
  });
  return url ?? "";
}
export async function paidBySimpay(town: Town): Promise<Order> {
  const made = await order(town, await town.person());
  await town.simpay.pay(await charged(town, made));
  await is(town, made, "CONFIRMED");
  return made;
}
const is = (town: Town, { id, as }: Order, status: string): Promise<void> =>
  town.becomes(async () => assert.equal((await town.ask<{ status: string }>("GET", `/orders/${id}`, as)).status, status));
const wallet = async (town: Town, as: string): Promise<number> => (await town.ask<{ available: number }>("GET", "/wallet", as)).available;
async function code(town: Town, { id, as }: Order): Promise<string> {
  const [voucher] = await town.ask<{ code: string }[]>("GET", `/orders/${id}/vouchers`, as);
  return voucher?.code ?? "";
}
async function used(town: Town): Promise<Order & { readonly code: string }> {
  const made = await bought(town);
  const voucher = await code(town, made);
  await town.ask("POST", "/vouchers/redeem", town.bar.boss, { code: voucher });
  return { ...made, code: voucher };
}
async function settled(town: Town): Promise<Order> {
  const made = await used(town);
  await town.rows(made.id, "update settlements set due_at = now() where slot = $1 and order_id = $2");
  await town.becomes(async () => {
    const [row] = await town.rows<{ state: string }>(made.id, "select state from settlements where slot = $1 and order_id = $2");
    assert.equal(row?.state, "SUCCESS");
  });
  return made;
}
async function refunded(town: Town, { id, as }: Order): Promise<void> {
  await town.becomes(async () => {
    const refunds = await town.ask<{ status: string }[]>("GET", `/orders/${id}/refunds`, as);
    assert.deepEqual(
      refunds.map(({ status }) => status),
      ["SUCCEEDED"],
    );
  });
}
/** Until the next such word, simpay does this to everything. */
const strike = (town: Town, ...faults: readonly FaultName[]): Promise<void> =>
  town.simpay.plan({ seed: "walk", chance: Object.fromEntries(faults.map((fault) => [fault, 1])), slowMs: 100 });
async function heardOf(town: Town, type: "refund" | "payout", id: Id): Promise<void> {
  await town.becomes(async () => assert.ok(witnessed(await town.simpay.log()).has(`${type} ${id}`)));
}
async function paidOut(town: Town, called: (id: Id) => Promise<void> = () => Promise.resolve()): Promise<void> {
  const { boss, merchantId } = town.bar;
  const { id } = await town.ask<{ id: Id }>("POST", `/merchants/${merchantId}/payouts`, boss, { amount: 100 });
  await called(id);
  await town.becomes(async () => {
    const [row] = await town.rows<{ state: string }>(id, "select state from payouts where slot = $1 and id = $2");
    assert.equal(row?.state, "SUCCEEDED");
  });
}

const paid = (number: Id): object => {
  const money = { amount: PRICE, currency: "CNY" };
  const at = new Date().toISOString();
  return {
    event: "charge.paid",
    data: { type: "charge", number, channelNumber: `c${number}`, status: "PAID", ...money, paid: { ...money, at } },
  };
};

export const WALKS: readonly Walk[] = [
  {
    name: "a start finds the ways that events travel gone, and an administrator who has lost his role",
    async prepare(town) {
      await town.becomes(() => town.loseWays());
      await town.inUsers("update users set roles = '{consumer}' where username = 'admin'");
    },
    async walk(town) {
      await town.becomes(async () => {
        const [admin] = await town.inUsers<{ roles: string[] }>("select roles from users where username = 'admin'");
        assert.deepEqual(admin?.roles, ["admin"]);
      });
    },
  },
  {
    name: "a bar opens and sells",
    ofMoney: false,
    async walk(town) {
      const [username, password] = [`boss-${randomUUID().slice(0, 8)}`, "failpoint-boss-1"];
      // A second attempt finds the name taken, by the first.
      assert.match(String((await town.insist("POST", "/auth/register", undefined, { username, password })).status), /^(201|409)$/);
      const form = { name: `bar of ${username}`, city: "sh", commissionBps: 500, ownerUsername: username };
      const bar = await town.ask<{ id: Id }>("POST", "/merchants", town.admin, form);
      const session = (): Promise<{ accessToken: string; refreshToken: string }> =>
        town.ask("POST", "/auth/login", undefined, { username, password });
      const { accessToken: boss } = await session();
      const deal = await town.ask<{ id: Id }>("POST", "/deals", boss, { title: "一杯", price: PRICE, tiers: [], stock: 10 });
      const state = async (): Promise<string> => (await town.ask<{ status: string }>("GET", `/deals/${deal.id}`, boss)).status;
      for (const [verb, status] of [
        ["publish", "ON_SALE"],
        ["pause", "PAUSED"],
        ["publish", "ON_SALE"],
      ] as const) {
        await town.insist("POST", `/deals/${deal.id}/${verb}`, boss, {});
        assert.equal(await state(), status);
      }
      const { total } = await town.ask<{ total: number }>("POST", `/deals/${deal.id}/restock`, boss, { quantity: 5 });
      assert.equal(total, 15);
      await town.insist("POST", `/deals/${deal.id}/close`, boss, {});
      assert.equal(await state(), "CLOSED");
      // A used refresh token revokes its family, which is what a client that lost the answer is told.
      const renewed = await town.insist("POST", "/auth/refresh", undefined, { refreshToken: (await session()).refreshToken });
      assert.match(String(renewed.status), /^(200|401)$/);
      assert.equal((await town.insist("POST", "/auth/logout", undefined, { refreshToken: (await session()).refreshToken })).status, 204);
      const [row] = await town.rows<{ state: string }>(bar.id, "select state from merchants where slot = $1 and id = $2");
      assert.equal(row?.state, "OPEN");
    },
  },
  {
    name: "two people pay from their wallets and are a group",
    async walk(town) {
      const first = await bought(town, { groupSize: 2 });
      const second = await bought(town, { groupId: first.groupId! });
      for (const made of [first, second]) {
        await is(town, made, "CONFIRMED");
        assert.equal(await wallet(town, made.as), PRICE - made.amount);
        await town.becomes(async () => {
          const { items } = await town.ask<{ items: { id: Id }[] }>("GET", "/orders", made.as);
          assert.deepEqual(
            items.map(({ id }) => id),
            [made.id],
          );
        });
      }
    },
  },
  {
    name: "somebody buys while the way that events travel is lost, and finds the order among his own",
    async walk(town) {
      await town.loseStreams();
      const made = await bought(town);
      await town.becomes(async () => {
        const { items } = await town.ask<{ items: { id: Id }[] }>("GET", "/orders", made.as);
        assert.equal(items.length, 1);
      });
      await town.readAgain();
    },
  },
  {
    name: "somebody has not got the money, and gives the order up",
    async walk(town) {
      const made = await order(town, await town.person(100));
      const { body } = await town.insist("POST", `/orders/${made.id}/pay`, made.as, { channel: "wallet" });
      assert.equal((body as { code: string }).code, "INSUFFICIENT_FUNDS");
      await town.ask("POST", `/orders/${made.id}/cancel`, made.as, {});
      await is(town, made, "CANCELLED");
      assert.equal(await wallet(town, made.as), 100);
    },
  },
  {
    name: "an order is not paid in time",
    async walk(town) {
      const made = await order(town, await town.person());
      await town.rows(made.id, "update orders set expires_at = now() where slot = $1 and id = $2");
      await is(town, made, "EXPIRED");
    },
  },
  {
    name: "an order is given up while it could be paid at simpay, and nobody can pay it any more",
    async walk(town) {
      const made = await order(town, await town.person());
      const url = await charged(town, made);
      await town.ask("POST", `/orders/${made.id}/cancel`, made.as, {});
      await town.becomes(async () => {
        const [row] = await town.rows<{ state: string }>(made.id, "select state from payments where slot = $1 and order_id = $2");
        assert.equal(row?.state, "FAILED");
      });
      await town.simpay.pay(url);
      await is(town, made, "CANCELLED");
    },
  },
  {
    name: "a group does not come together, and its member has the money back",
    async walk(town) {
      const made = await bought(town, { groupSize: 2 });
      await town.rows(
        made.id,
        "update groups set deadline = now() where slot = $1 and id = (select group_id from orders where slot = $1 and id = $2)",
      );
      await is(town, made, "REFUNDED");
      await refunded(town, made);
      assert.equal(await wallet(town, made.as), PRICE);
    },
  },
  {
    name: "a voucher is used, and used by mistake",
    async walk(town) {
      const made = await used(town);
      await town.ask("POST", "/vouchers/reverse", town.bar.boss, { code: made.code });
      const [voucher] = await town.ask<{ status: string }[]>("GET", `/orders/${made.id}/vouchers`, made.as);
      assert.equal(voucher?.status, "ISSUED");
    },
  },
  {
    name: "a voucher is not used in time",
    async walk(town) {
      const made = await bought(town);
      await town.rows(made.id, "update vouchers set valid_until = now() where slot = $1 and order_id = $2");
      await town.becomes(async () => {
        const [voucher] = await town.ask<{ status: string }[]>("GET", `/orders/${made.id}/vouchers`, made.as);
        assert.match(voucher?.status ?? "", /^(EXPIRED|REFUNDED)$/);
      });
    },
  },
  {
    name: "a used voucher is settled, paid out, and given back with the bar's word",
    async walk(town) {
      const made = await settled(town);
      await paidOut(town);
      const { id } = await town.ask<{ id: Id }>("POST", `/orders/${made.id}/refunds`, made.as, {});
      await town.ask("POST", `/merchants/${town.bar.merchantId}/refunds/${id}/approve`, town.bar.boss, {});
      await refunded(town, made);
      assert.equal(await wallet(town, made.as), PRICE);
    },
  },
  {
    name: "somebody pays at simpay, and has it back",
    async walk(town) {
      const made = await paidBySimpay(town);
      await town.ask("POST", `/orders/${made.id}/refunds`, made.as, {});
      await refunded(town, made);
    },
  },
  {
    name: "simpay says nothing of what it has done, and is asked",
    async walk(town) {
      await settled(town);
      const silent = (): Promise<void> => strike(town, "errorAfterDoing", "loseCallback");
      const asked = (): Promise<void> => strike(town, "loseCallback");
      await silent();
      const made = await order(town, await town.person());
      await pay(town, made, "simpay");
      await asked();
      await town.simpay.pay(await charged(town, made));
      await is(town, made, "CONFIRMED");
      await silent();
      const { id } = await town.ask<{ id: Id }>("POST", `/orders/${made.id}/refunds`, made.as, {});
      await heardOf(town, "refund", id);
      await asked();
      await refunded(town, made);
      await silent();
      await paidOut(town, async (payout) => {
        await heardOf(town, "payout", payout);
        await asked();
      });
      await strike(town);
    },
  },
  {
    name: "somebody pays another way after all",
    async walk(town) {
      const made = await order(town, await town.person(PRICE));
      await charged(town, made);
      assert.equal((await pay(town, made, "wallet")).status, "CONFIRMED");
      await is(town, made, "CONFIRMED");
    },
  },
  {
    name: "a callback that could not be worked off is replayed",
    async walk(town) {
      const made = await paidBySimpay(town);
      await town.becomes(async () => {
        const set =
          "update channel_callbacks set state = 'FAILED' where slot = $1 and subject in (select id from payments where slot = $1 and order_id = $2) and state = 'DONE' returning id::text";
        const [callback] = await town.rows<{ id: Id }>(made.id, set);
        assert.ok(callback);
        await town.insist("POST", `/ops/callbacks/${callback.id}/replay`, town.admin, {});
      });
      await is(town, made, "CONFIRMED");
    },
  },
  {
    name: "simpay speaks of a payment that nobody made",
    async walk(town) {
      const number = composeId({ ms: Date.now(), sequence: 1_023, city: shardOf(town.bar.deal).city, slot: shardOf(town.bar.deal).slot });
      await town.becomes(async () => assert.equal(await town.callback({ id: `nobody.${number}`, ...paid(number) }), 200));
      await town.becomes(async () => {
        const [row] = await town.rows<{ state: string }>(number, "select state from channel_callbacks where slot = $1 and subject = $2");
        assert.equal(row?.state, "FAILED");
      });
      // A person has looked: it is nobody's. Whoever is told twice hears the second time that it is not there any more.
      const [callback] = await town.rows<{ id: Id }>(number, "select id::text from channel_callbacks where slot = $1 and subject = $2");
      const { status } = await town.insist("POST", `/ops/callbacks/${callback?.id}/resolve`, town.admin, {});
      assert.match(String(status), /^(200|404)$/);
    },
  },
  {
    name: "a channel takes other money, and a person decides that it goes back",
    async walk(town) {
      const made = await order(town, await town.person());
      await strike(town, "wrongAmount");
      const url = await charged(town, made);
      await strike(town);
      await town.simpay.pay(url);
      let id: Id | undefined;
      await town.becomes(async () => {
        const [row] = await town.rows<{ id: Id }>(made.id, "select id::text from payments where slot = $1 and order_id = $2 and differs");
        assert.ok(row);
        ({ id } = row);
      });
      await town.insist("POST", `/ops/suspense/${id}/assign`, town.admin, { assignee: "li.na" });
      // With one key, whoever dies: one decision, and one refund of all that was paid.
      await town.ask("POST", `/ops/suspense/${id}/resolve`, town.admin, { outcome: "GIVEN_BACK", note: "it was paid by mistake" });
      await town.becomes(async () => {
        const refunds = await town.rows<{ state: string; amount: string }>(
          made.id,
          "select state, amount::text from refunds where slot = $1 and order_id = $2",
        );
        assert.deepEqual(refunds, [{ state: "SUCCEEDED", amount: String(PRICE - 1) }]);
      });
    },
  },
  {
    name: "a refund waits for a person",
    async walk(town) {
      const made = await paidBySimpay(town);
      await strike(town, "refuseRefund");
      const { id } = await town.ask<{ id: Id }>("POST", `/orders/${made.id}/refunds`, made.as, {});
      await town.becomes(async () => {
        const set =
          "update refunds set state = 'ABNORMAL' where slot = $1 and id = $2 and state = 'PROCESSING' and decided_at is not null returning id";
        const now = await town.rows(id, set);
        const [row] = await town.rows<{ state: string }>(id, "select state from refunds where slot = $1 and id = $2");
        assert.ok(now.length === 1 || row?.state === "ABNORMAL");
      });
      await strike(town);
      await town.insist("POST", `/ops/refunds/${id}/resume`, town.admin, {});
      await refunded(town, made);
    },
  },
  {
    name: "a statement tells of money nobody knows, and the channel is asked",
    async walk(town) {
      await paidBySimpay(town);
      const day = dayAt(Date.now());
      await town.simpay.plan({ seed: "walk", chance: { statementExtra: 1 } });
      const csv = await (await town.simpay.raw("GET", `/v1/statements/${day}`)).text();
      await strike(town);
      const done = async (id: Id): Promise<{ differences: { id: Id; status: string }[] }> => {
        let statement: { status: string; differences: { id: Id; status: string }[] } = { status: "", differences: [] };
        await town.becomes(async () => {
          statement = await town.ask("GET", `/recon/statements/${id}?limit=100`, town.admin);
          assert.match(statement.status, /^(DONE|FAILED)$/);
        });
        return statement;
      };
      let differences: { id: Id; status: string }[] = [];
      // One that was cut off has failed, and is sent again.
      await town.becomes(async () => {
        ({ differences } = await done((await town.upload(csv, day)).id));
        assert.ok(differences.length > 0);
      });
      for (const { id } of differences) await town.ask("POST", `/recon/differences/${id}/repair`, town.admin, {});
      await done((await town.ask<{ id: Id }>("POST", "/recon/queries", town.admin, { channel: "simpay", hours: 1 })).id);
    },
  },
];
