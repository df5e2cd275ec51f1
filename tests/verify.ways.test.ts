/**
 * The checkers, way by way: what each check claims is broken in every way it claims to notice, one at a time, in a transaction that is rolled back.
 * verify.test.ts shows that each corruption is noticed by exactly the checks that claim to, over `/ops/verify`; here each guard, table and branch of a
 * check has its turn, also those that the database itself would not let happen.
 */
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import pg from "pg";
import { slotOf, USER_CITY } from "../domain/ids.ts";
import type { Check } from "../services/ops/checks/check.ts";
import { CHECKS } from "../services/ops/checks/index.ts";
import { testKeyspaces, testServer, type TestKeyspaces, type TestServer } from "./support/databases.ts";
import { everythingIn, World } from "./support/world.ts";

type Everything = ReturnType<typeof everythingIn>;
interface Way {
  readonly check: string;
  readonly what: string;
  readonly sql: (w: Everything) => string;
}
const HOUR_AGO = "now() - interval '1 hour'";
const way = (check: string, what: string, sql: (w: Everything) => string): Way => ({ check, what, sql });

const WAYS: readonly Way[] = [
  way("stock.not-oversold", "less than nothing is held", (w) => `update stock set held = -1 where deal_id = ${w.deal.dealId}`),
  way("stock.not-oversold", "less than nothing is sold", (w) => `update stock set sold = -1 where deal_id = ${w.deal.dealId}`),
  way("stock.held", "the bucket of unpaid orders is lost", (w) => `delete from stock where deal_id = ${w.deal.dealId}`),
  way("stock.sold", "the bucket of paid orders is lost", (w) => `delete from stock where deal_id = ${w.settling.dealId}`),
  way("stock.flows", "units appear from nowhere", (w) => `update stock set total = total + 1 where deal_id = ${w.deal.dealId}`),
  way("quotas.units", "a counter is lost", (w) => `delete from quotas where scope = ${w.deal.dealId} and user_id = ${w.confirmed.user.id}`),
  way("quotas.units", "a deal's limit is passed", (w) => `update deals set per_user_limit = 1 where id = ${w.deal.dealId}`),
  way("quotas.unpaid", "unpaid orders are not counted", (w) => `delete from quotas where scope = ${w.deal.merchantId}`),
  way(
    "orders.discount",
    "a discount is more than was given",
    (w) => `update orders set discount = discount + 1 where id = ${w.unpaid.row.id}`,
  ),
  way("orders.references", "a deal is another bar's", (w) => `update deals set merchant_id = 7 where id = ${w.deal.dealId}`),
  way("orders.references", "a bucket is not there", (w) => `update orders set bucket = 9 where id = ${w.unpaid.row.id}`),
  way("orders.references", "a group is of another deal", (w) => `update groups set deal_id = ${w.free.dealId} where id = ${w.open.id}`),
  way(
    "orders.history",
    "the first step is lost",
    (w) => `delete from events where type = 'order.moved' and subject = ${w.confirmed.row.id} and data ->> 'to' = 'PAID'`,
  ),
  way("orders.history", "all steps are lost", (w) => `delete from events where type = 'order.moved' and subject = ${w.confirmed.row.id}`),
  way("groups.seats", "a seat is held for nobody", (w) => `update groups set held = held + 1 where id = ${w.open.id}`),
  way("groups.seats", "there are more seats than places", (w) => `update groups set size = 1 where id = ${w.full.id}`),
  way("groups.seats", "a group is lost", (w) => `delete from groups where id = ${w.open.id}`),
  way("groups.seat-of-order", "a seat is somebody else's", (w) => `update seats set user_id = 7 where order_id = ${w.opened.row.id}`),
  way(
    "groups.seat-of-order",
    "a seat has no order",
    (w) => `update seats set order_id = ${w.spare[0]} where order_id = ${w.opened.row.id}`,
  ),
  way(
    "groups.formed",
    "an order of a formed group is not confirmed",
    (w) => `update orders set state = 'PAID' where id = ${w.first.row.id}`,
  ),
  way(
    "groups.formed",
    "an order is confirmed before its group",
    (w) => `update orders set state = 'CONFIRMED' where id = ${w.opened.row.id}`,
  ),
  way(
    "groups.failed",
    "somebody may still pay in a failed group",
    (w) => `update orders set state = 'PENDING_PAYMENT' where id = ${w.lonely.row.id}`,
  ),
  way("groups.failed", "less than all is given back", (w) => `update refunds set amount = amount - 1 where order_id = ${w.lonely.row.id}`),
  way("groups.pending", "a group waits for nobody", (w) => `update orders set state = 'CANCELLED' where group_id = ${w.pending.id}`),
  way("groups.overdue", "a group has no deadline", (w) => `update groups set deadline = null where id = ${w.open.id}`),
  way(
    "groups.overdue",
    "a closing group is never decided",
    (w) => `update groups set state = 'CLOSING', deadline = ${HOUR_AGO} where id = ${w.open.id}`,
  ),
  way("payments.paid-order", "somebody else paid", (w) => `update payments set consumer_id = 7 where id = ${w.payment.row.id}`),
  way("payments.paid-order", "another bar was paid", (w) => `update payments set merchant_id = 7 where id = ${w.payment.row.id}`),
  way("payments.paid-order", "nobody paid", (w) => `delete from payments where id = ${w.payment.row.id}`),
  way("payments.for-nothing", "there is no such order", (w) => `delete from orders where id = ${w.confirmed.row.id}`),
  way("payments.for-nothing", "what came late is not given back", (w) => `delete from refunds where payment_id = ${w.surplus.row.id}`),
  way("payments.finished", "a charge stays open", (w) => `update payments set expires_at = ${HOUR_AGO} where id = ${w.charged.row.id}`),
  way(
    "payments.finished",
    "the wallet never hears",
    (w) => `update payments set created_at = ${HOUR_AGO} where id = ${w.confirming.row.id}`,
  ),
  way(
    "payments.one-way",
    "a branch is confirmed without a try",
    (w) => `insert into tcc_barriers values (${w.shard.slot}, ${w.spare[0]}, 'city', 'confirm', 'confirm')`,
  ),
  way(
    "payments.one-way",
    "a try was a cancel's",
    (w) =>
      `insert into tcc_barriers values (${w.shard.slot}, ${w.spare[0]}, 'city', 'try', 'cancel'), (${w.shard.slot}, ${w.spare[0]}, 'city', 'confirm', 'confirm')`,
  ),
  way(
    "refunds.finished",
    "a refund is not begun",
    (w) => `update refunds set state = 'REQUESTED', decided_at = null, created_at = ${HOUR_AGO} where order_id = ${w.lonely.row.id}`,
  ),
  way(
    "refunds.finished",
    "an approved refund is not paid",
    (w) => `update refunds set state = 'REQUESTED', decided_at = null, approved_at = ${HOUR_AGO} where order_id = ${w.settled.row.id}`,
  ),
  way(
    "refunds.finished",
    "a channel keeps it for days",
    (w) => `update refunds set decided_at = now() - interval '4 days' where payment_id = ${w.goingBack.row.id}`,
  ),
  way(
    "refunds.finished",
    "a channel does not answer",
    (w) => `update refunds set last_error = 'silent', created_at = ${HOUR_AGO} where payment_id = ${w.goingBack.row.id}`,
  ),
  way(
    "refunds.within-payment",
    "it goes to somebody else",
    (w) => `update refunds set consumer_id = 7 where order_id = ${w.lonely.row.id}`,
  ),
  way("refunds.within-payment", "it is of no payment", (w) => `update refunds set payment_id = 7 where order_id = ${w.lonely.row.id}`),
  way(
    "refunds.units",
    "a unit is worth more than was paid",
    (w) => `update refunds set amount = amount + 1 where order_id = ${w.givenBack.row.id}`,
  ),
  way(
    "refunds.units",
    "it is of another order",
    (w) => `update vouchers set order_id = 7 where order_id = ${w.givenBack.row.id} and refund_id is not null`,
  ),
  way("refunds.refunded-order", "an order stays paid", (w) => `update orders set state = 'PAID' where id = ${w.lonely.row.id}`),
  way("refunds.refunded-order", "nothing was given back", (w) => `update orders set state = 'REFUNDED' where id = ${w.confirmed.row.id}`),
  way("channels.paid", "nobody knows when", (w) => `update payments set paid_at = null where id = ${w.byChannel.row.id}`),
  way("channels.paid", "what was asked for is given up", (w) => `update payments set state = 'FAILED' where id = ${w.byChannel.row.id}`),
  way(
    "channels.callbacks",
    "it is not worked off",
    (w) => `update channel_callbacks set state = 'KEPT', received_at = ${HOUR_AGO} where subject = ${w.byChannel.row.id}`,
  ),
  way(
    "channels.callbacks",
    "money of ours is waved through",
    (w) => `update channel_callbacks set state = 'RESOLVED' where subject = ${w.byChannel.row.id};
            update payments set paid_at = null where id = ${w.byChannel.row.id}`,
  ),
  way("channels.clearing", "a refund lies with nobody", (w) => `delete from refunds where payment_id = ${w.goingBack.row.id}`),
  way(
    "channels.clearing",
    "money in transit is gone",
    () => `update accounts set debits_posted = credits_posted where account = 'payout_in_transit'`,
  ),
  way(
    "vouchers.issued",
    "an order that was never paid has one",
    (w) => `update vouchers set order_id = ${w.unpaid.row.id} where order_id = ${w.confirmed.row.id}`,
  ),
  way("vouchers.issued", "it is of no order", (w) => `update vouchers set order_id = ${w.spare[0]} where order_id = ${w.confirmed.row.id}`),
  way(
    "vouchers.redeemed",
    "an unused one has a time",
    (w) => `update vouchers set redeemed_at = now() where order_id = ${w.confirmed.row.id}`,
  ),
  way(
    "vouchers.redeemed-once",
    "nobody was told",
    (w) => `delete from events where type = 'voucher.redeemed' and data ->> 'orderId' = '${w.half.row.id}'`,
  ),
  way(
    "vouchers.redemptions",
    "it was at another time",
    (w) => `update redemptions set at = at - interval '1 minute' where order_id = ${w.half.row.id}`,
  ),
  way(
    "vouchers.redemptions",
    "it is of no voucher",
    (w) => `update redemptions set voucher_id = ${w.spare[0]} where order_id = ${w.half.row.id}`,
  ),
  way(
    "vouchers.refunded",
    "its refund is not there",
    (w) => `update vouchers set refund_id = ${w.spare[0]} where order_id = ${w.confirmed.row.id} and unit = 0`,
  ),
  way(
    "vouchers.refunded",
    "a used one was unused for its refund",
    (w) => `update refunds set used = false where order_id = ${w.settled.row.id}`,
  ),
  way("vouchers.completed", "an order is not over", (w) => `update orders set state = 'CONFIRMED' where id = ${w.completed.row.id}`),
  way(
    "vouchers.code",
    "two have one code",
    (w) =>
      `update vouchers set code = (select min(code) from vouchers where order_id = ${w.confirmed.row.id}) where order_id = ${w.confirmed.row.id}`,
  ),
  way("settlements.redeemed", "it is another bar's", (w) => `update settlements set merchant_id = 7 where order_id = ${w.half.row.id}`),
  way("settlements.redeemed", "it is of other money", (w) => `update settlements set gross = gross + 1 where order_id = ${w.half.row.id}`),
  way("settlements.redeemed", "its voucher was not used", (w) => `update vouchers set state = 'ISSUED' where order_id = ${w.half.row.id}`),
  way(
    "settlements.redeemed",
    "it succeeded and the voucher does not know",
    (w) => `update settlements set state = 'SUCCESS' where order_id = ${w.half.row.id}`,
  ),
  way("settlements.split", "its order is not there", (w) => `delete from orders where id = ${w.half.row.id}`),
  way(
    "settlements.in-time",
    "it falls due before it was used",
    (w) => `update settlements set due_at = ${HOUR_AGO} where order_id = ${w.half.row.id}`,
  ),
  way(
    "settlements.in-time",
    "it has an end and goes on",
    (w) => `update settlements set ended_at = now() where order_id = ${w.half.row.id}`,
  ),
  way("settlements.in-time", "nobody settled it", (w) => `update settlements set attempt = 0 where order_id = ${w.settled.row.id}`),
  way("settlements.finished", "nobody settles it", (w) => `update settlements set due_at = ${HOUR_AGO} where order_id = ${w.half.row.id}`),
  way(
    "books.settlements",
    "our part is not booked",
    (w) => `delete from transfers where code = 'commission' and order_id = ${w.settled.row.id}`,
  ),
  way(
    "books.settlements",
    "it went to another bar",
    (w) => `update transfers set credit_account = 'payable:7' where code = 'settle' and order_id = ${w.settled.row.id}`,
  ),
  way(
    "books.settlements",
    "it is of no settlement",
    (w) => `update transfers set business_key = '7' where code = 'settle' and order_id = ${w.settled.row.id}`,
  ),
  way(
    "books.clawbacks",
    "our part does not come back",
    (w) => `delete from transfers where code = 'commission-back' and order_id = ${w.settled.row.id}`,
  ),
  way("books.breakage", "what was used is forfeited", (w) => `update vouchers set state = 'EXPIRED' where order_id = ${w.half.row.id}`),
  way(
    "books.payouts",
    "it is asked for and not booked",
    (w) => `delete from transfers where code = 'payout' and business_key = '${w.paidOut.row.id}'`,
  ),
  way(
    "books.payouts",
    "it is sent and not booked",
    (w) => `delete from transfers where code = 'payout-paid' and business_key = '${w.paidOut.row.id}'`,
  ),
  way("payouts.paid-out", "it came back and still counts", (w) => `update payouts set state = 'RETURNED' where id = ${w.paidOut.row.id}`),
  way(
    "ledger.chain",
    "a row is linked to another before",
    (w) => `update transfers set prev_hash = sha256(prev_hash) where business_key = '${w.payment.row.id}' and state = 'POSTED'`,
  ),
  way("ledger.chain", "the head has another hash", (w) => `update chain_heads set hash = sha256(hash) where slot = ${w.shard.slot}`),
  way(
    "ledger.chain",
    "a number is left out",
    (w) => `update transfers set seq = seq + 100000 where business_key = '${w.payment.row.id}' and state = 'POSTED'`,
  ),
  way(
    "ledger.transfers",
    "nothing is moved",
    (w) => `update transfers set amount = 0 where business_key = '${w.payment.row.id}' and state = 'POSTED'`,
  ),
  way(
    "ledger.transfers",
    "it comes from where it goes",
    (w) => `update transfers set debit_account = credit_account where business_key = '${w.payment.row.id}' and state = 'POSTED'`,
  ),
  way(
    "ledger.transfers",
    "a promise ends a promise",
    (w) => `update transfers set pending_id = id where business_key = '${w.trying.row.id}'`,
  ),
  way(
    "ledger.transfers",
    "what is given up was not promised",
    (w) => `update transfers set pending_id = null where business_key = '${w.refused.row.id}' and state = 'VOIDED'`,
  ),
  way(
    "ledger.accounts",
    "what is promised is forgotten",
    (w) => `update accounts set credits_pending = 0 where account = 'escrow:${w.free.merchantId}'`,
  ),
  way("ledger.accounts", "an account is lost", (w) => `delete from accounts where account = 'escrow:${w.free.merchantId}'`),
  way(
    "ledger.balanced",
    "what is promised has one side",
    (w) => `update accounts set credits_pending = credits_pending + 1 where account = 'escrow:${w.free.merchantId}'`,
  ),
  way("ledger.floors", "an escrow has a floor", (w) => `update accounts set floored = true where account = 'escrow:${w.free.merchantId}'`),
  way(
    "ledger.floors",
    "a payable has none",
    (w) => `update accounts set floored = false where account = 'payable:${w.settling.merchantId}'`,
  ),
  way(
    "ledger.overdrawn",
    "a payable is below zero",
    (w) => `update accounts set debits_posted = credits_posted + 1 where account = 'payable:${w.settling.merchantId}'`,
  ),
  way("books.payments", "it is decided and not booked", (w) => `update payments set state = 'CONFIRMED' where id = ${w.trying.row.id}`),
  way(
    "books.payments",
    "it is booked to another bar",
    (w) => `update transfers set credit_account = 'escrow:7' where business_key = '${w.payment.row.id}' and state = 'POSTED'`,
  ),
  way(
    "books.refunds",
    "it is booked and not decided",
    (w) => `update refunds set state = 'REQUESTED', decided_at = null where order_id = ${w.lonely.row.id}`,
  ),
  way(
    "books.channels",
    "suspense is in another currency",
    (w) => `update payments set paid_currency = 'USD' where id = ${w.differing.row.id}`,
  ),
  way(
    "recon.suspense",
    "money lies in suspense for no difference",
    (w) => `update transfers set code = 'suspense' where business_key = '${w.differing.row.id}'`,
  ),
  way(
    "recon.suspense",
    "what was written off is back, too",
    (w) => `update recon_differences set state = 'CLEARED' where id = ${w.long.row.id}`,
  ),
  way(
    "recon.suspense",
    "a loss is booked as a gain",
    (w) =>
      `update transfers set debit_account = credit_account, credit_account = debit_account where code = 'suspense-off' and business_key = '${w.short.row.id}'`,
  ),
  way(
    "recon.decided",
    "a difference is to go back to nobody",
    (w) => `update suspense_cases set outcome = 'GIVEN_BACK' where id = ${w.long.row.id}`,
  ),
  way("recon.decided", "one that is decided waits", (w) => `update recon_differences set state = 'OPEN' where id = ${w.long.row.id}`),
  way(
    "books.suspense",
    "it is written off to another account",
    (w) => `update transfers set credit_account = 'commission' where code = 'differs-off' and business_key = '${w.writtenOff.row.id}'`,
  ),
  way("books.suspense", "it goes back in part", (w) => `update refunds set amount = amount - 1 where payment_id = ${w.sentBack.row.id}`),
  way("books.suspense", "it does not go back", (w) => `delete from refunds where payment_id = ${w.sentBack.row.id}`),
  way(
    "books.suspense",
    "what is decided is of nothing",
    (w) => `insert into suspense_cases (slot, id, assignee) values (${w.shard.slot}, ${w.spare[0]}, 'li.na')`,
  ),
  way(
    "refunds.within-payment",
    "more goes back than came",
    (w) => `update refunds set amount = amount + 1 where payment_id = ${w.sentBack.row.id}`,
  ),
];

/** What the users' databases have of their own. */
const AT_USERS: readonly Way[] = [
  way(
    "ledger.floors",
    "a wallet is below zero",
    (w) => `update accounts set debits_posted = credits_posted + 1 where account = 'wallet:${w.users[0].id}'`,
  ),
  way(
    "books.topups",
    "a top-up is not booked",
    (w) => `delete from transfers where code = 'topup' and credit_account = 'wallet:${w.users[0].id}'`,
  ),
  way(
    "books.topups",
    "another wallet has it",
    (w) => `update transfers set credit_account = 'wallet:7' where code = 'topup' and credit_account = 'wallet:${w.users[0].id}'`,
  ),
];

describe("every check, in every way it claims", () => {
  let server: TestServer;
  let keyspaces: TestKeyspaces;
  let everything: Everything;
  const clients = new Map<number, pg.Client>();
  const shard = { city: 1, slot: 5 };

  before(async () => {
    server = await testServer();
    keyspaces = await testKeyspaces(server);
    const world = new World(keyspaces);
    everything = everythingIn(world, shard);
    await world.write();
    for (const city of [USER_CITY, shard.city]) {
      const client = new pg.Client({ connectionString: keyspaces.urlOf(keyspaces.keyspaces.databaseOf({ city, slot: shard.slot }) ?? "") });
      await client.connect();
      clients.set(city, client);
    }
  });
  after(async () => {
    for (const client of clients.values()) await client.end();
    await keyspaces.drop();
    await server.stop();
  });

  /** How many rows a check finds after something was done that is then undone. */
  async function found(city: number, check: Check, sql: string): Promise<number> {
    const client = clients.get(city);
    assert.ok(client);
    const { values = [] } = check;
    await client.query("begin");
    try {
      await client.query("set local session_replication_role = replica");
      await client.query(sql);
      const given = typeof values === "function" ? values({ slots: Array.from({ length: 16 }, (_, slot) => slot) }) : values;
      return (await client.query(check.statement, [...given])).rows.length;
    } finally {
      await client.query("rollback");
    }
  }
  const named = (name: string): Check => {
    const check = CHECKS.find((one) => one.name === name);
    assert.ok(check, name);
    return check;
  };
  async function dropGuards(city: number): Promise<void> {
    const client = clients.get(city);
    assert.ok(client);
    const { rows } = await client.query<{ sql: string }>(`
      select format('alter table %s drop constraint %I', c.conrelid::regclass, c.conname) as sql
        from pg_constraint c join pg_class t on t.oid = c.conrelid
       where c.contype = 'c' and t.relkind = 'p' and c.connamespace = 'public'::regnamespace
       union all
      select format('drop index %s', i.indexrelid::regclass)
        from pg_index i join pg_class t on t.oid = i.indrelid
       where i.indisunique and not i.indisprimary and t.relkind = 'p' and t.relnamespace = 'public'::regnamespace`);
    await client.query(rows.map(({ sql }) => sql).join("; "));
  }

  test("every table has its turn in the checks of addresses", async () => {
    for (const [city, name] of [
      [shard.city, "addresses.city"],
      [USER_CITY, "addresses.user"],
    ] as const) {
      const tables = [...named(name).statement.matchAll(/ from ([a-z_]+)\n/g)].map(([, table]) => table ?? "");
      assert.ok(tables.length >= 2);
      for (const table of tables) {
        const { slot } = city === USER_CITY ? { slot: slotOf(everything.users[0].id) } : shard;
        const other = (bits: number): string => `update ${table} set id = id # ${bits} where slot = ${slot}`;
        assert.ok((await found(city, named(name), other(1))) > 0, `${table}: another slot`);
        assert.ok((await found(city, named(name), other(16))) > 0, `${table}: another city`);
      }
    }
  });

  test("every guard is missed, whichever is dropped", async () => {
    for (const [city, name] of [
      [shard.city, "guards.city"],
      [USER_CITY, "guards.user"],
    ] as const) {
      const [constraints, indexes, tables] = named(name).values as readonly (readonly string[])[];
      const drops = [
        ...(constraints ?? []).map((guard) => [guard, "constraint"] as const),
        ...(indexes ?? []).map((guard) => [guard, "index"] as const),
        ...(tables ?? []).flatMap((table) => [table, `${table}_09`].map((part) => [part, "trigger"] as const)),
      ];
      assert.ok(drops.length > 5);
      for (const [guard, kind] of drops) {
        const sql =
          kind === "trigger"
            ? `alter table ${guard} disable trigger ${guard.replace(/_09$/, "")}_append_only`
            : `do $$ declare t regclass := (select conrelid from pg_constraint c join pg_class t on t.oid = c.conrelid where conname = '${guard}' and t.relkind = 'p');
               begin if t is null then drop index ${guard}; else execute format('alter table %s drop constraint %I', t, '${guard}'); end if; end $$`;
        assert.ok((await found(city, named(name), sql)) > 0, `${name}: ${guard}`);
      }
    }
  });

  // Last, because they need every guard out of their way: this database is nobody else's.
  for (const [city, ways] of [
    [shard.city, WAYS],
    [USER_CITY, AT_USERS],
  ] as const)
    test(`${ways.length} ways, in the databases of ${city === USER_CITY ? "users" : "a city"}`, async () => {
      await dropGuards(city);
      for (const name of new Set(ways.map(({ check }) => check)))
        assert.equal(await found(city, named(name), "select"), 0, `${name} finds nothing before`);
      const missed: string[] = [];
      for (const { check, what, sql } of ways)
        if ((await found(city, named(check), sql(everything))) === 0) missed.push(`${check}: ${what}`);
      assert.deepEqual(missed, []);
    });
});
