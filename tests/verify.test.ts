/**
 * Who checks the checkers: a world in which everything adds up, then one row changed per case, and the checks that must notice are exactly
 * those that do. Every case has a place of its own (a shard of a city, or a slot of the users), so one run of verify judges all of them.
 */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { after, before, describe, test } from "node:test";
import pg from "pg";
import { DomainError } from "../domain/error.ts";
import { cityOf, slotOf, USER_CITY, type Shard } from "../domain/ids.ts";
import { CHECKS } from "../services/ops/checks/index.ts";
import { CROSSING_CHECKS } from "../services/ops/crossings.ts";
import { listShards, verify } from "../services/ops/ops.contract.ts";
import { placeOrder } from "../services/order/order.contract.ts";
import { payOrder } from "../services/payment/payment.contract.ts";
import { topUp } from "../services/wallet/wallet.contract.ts";
import { admin } from "./support/databases.ts";
import { makeDeal, userId } from "./support/deals.ts";
import { callAs, caller, testNode, type TestNode } from "./support/node.ts";
import { everythingIn, World } from "./support/world.ts";

type Everything = ReturnType<typeof everythingIn>;
interface Corruption {
  readonly what: string;
  /** What is done to one row or a few, in the database of the shard unless it is `at` a user. */
  readonly sql: (world: Everything) => string;
  /** Whose wallet it is done to: an index of `users`. */
  readonly at?: number;
  /** The checks that notice, in the shard; those with `users:` notice at the user. */
  readonly caught: readonly string[];
}

const CORRUPTIONS: readonly Corruption[] = [
  // Stock and counters.
  {
    what: "a unit is sold to nobody",
    sql: (w) => `update stock set sold = sold + 1 where deal_id = ${w.deal.dealId}`,
    caught: ["stock.sold", "stock.flows"],
  },
  {
    what: "a unit is held for nobody",
    sql: (w) => `update stock set held = held + 1 where deal_id = ${w.deal.dealId}`,
    caught: ["stock.held", "stock.flows"],
  },
  {
    what: "a flow of stock is lost",
    sql: (w) => `delete from stock_flows where deal_id = ${w.deal.dealId} and cause = 'created'`,
    caught: ["stock.flows"],
  },
  {
    what: "a user's counter forgets a unit",
    sql: (w) => `update quotas set used = used - 1 where scope = ${w.deal.dealId} and user_id = ${w.confirmed.user.id}`,
    caught: ["quotas.units"],
  },
  {
    what: "a user's counter of unpaid orders is not given back",
    sql: (w) => `update quotas set used = used + 1 where scope = ${w.deal.merchantId} and user_id = ${w.confirmed.user.id}`,
    caught: ["quotas.unpaid"],
  },
  {
    what: "a counter counts nothing there is",
    sql: (w) => `insert into quotas values (${w.shard.slot}, 1, 1, 1, 5)`,
    caught: ["quotas.scopes"],
  },
  // Orders.
  {
    what: "an order has no event",
    sql: (w) => `delete from events where type = 'order.created' and subject = ${w.unpaid.row.id}`,
    caught: ["orders.created-event"],
  },
  {
    what: "an order is created twice",
    sql: (w) =>
      `insert into events (slot, type, subject, data) select slot, type, subject, data from events where type = 'order.created' and subject = ${w.unpaid.row.id}`,
    caught: ["orders.created-event"],
  },
  {
    what: "an event tells of an order that is not there",
    sql: (w) => `insert into events (slot, type, subject, data) values (${w.shard.slot}, 'order.created', 7, '{}')`,
    caught: ["orders.created-event"],
  },
  {
    what: "an order has not the discount its region gave",
    sql: (w) => `update orders set discount_bps = 100 where id = ${w.unpaid.row.id}`,
    caught: ["orders.discount"],
  },
  {
    what: "an order takes a step that is not allowed",
    sql: (w) =>
      `update events set data = (data::jsonb || '{"from":"CANCELLED"}')::json where type = 'order.moved' and subject = ${w.confirmed.row.id} and data ->> 'to' = 'PAID'`,
    caught: ["orders.history"],
  },
  {
    what: "an order's steps come in the wrong order",
    sql: (w) => `
      update events set data = (data::jsonb || case data ->> 'to' when 'PAID' then '{"from":"PAID","to":"CONFIRMED"}' else '{"from":"PENDING_PAYMENT","to":"PAID"}' end::jsonb)::json
       where type = 'order.moved' and subject = ${w.confirmed.row.id}`,
    caught: ["orders.history"],
  },
  {
    what: "an order moves without an event",
    sql: (w) => `update orders set state = 'COMPLETED' where id = ${w.confirmed.row.id}`,
    caught: ["orders.history", "vouchers.completed"],
  },
  {
    what: "an order has not the price of its group",
    sql: (w) => `update groups set unit_price = unit_price + 1 where id = ${w.open.id}`,
    caught: ["orders.references"],
  },
  {
    what: "an unpaid order is not expired",
    sql: (w) => `update orders set expires_at = now() - interval '1 hour' where id = ${w.unpaid.row.id}`,
    caught: ["orders.overdue"],
  },
  // Groups.
  {
    what: "a group counts a seat that nobody took",
    sql: (w) => `update groups set taken = taken + 1 where id = ${w.open.id}`,
    caught: ["groups.seats"],
  },
  {
    what: "a seat forgets that it was paid",
    sql: (w) => `update seats set state = 'HELD' where order_id = ${w.opened.row.id}`,
    caught: ["groups.seats", "groups.seat-of-order"],
  },
  {
    what: "a seat is lost",
    sql: (w) => `delete from seats where order_id = ${w.joining.row.id}`,
    caught: ["groups.seats", "groups.seat-of-order"],
  },
  {
    what: "a group is formed with a seat missing",
    sql: (w) => `update groups set size = size + 1 where id = ${w.full.id}`,
    caught: ["groups.formed"],
  },
  {
    what: "a full group is not formed",
    sql: (w) => `update groups set state = 'OPEN', deadline = now() + interval '1 hour' where id = ${w.full.id}`,
    caught: ["groups.formed"],
  },
  {
    what: "a failed group keeps a member's money",
    sql: (w) => `delete from refunds where order_id = ${w.lonely.row.id}`,
    caught: ["groups.failed", "refunds.refunded-order", "books.refunds", "books.escrow", "stock.sold", "quotas.units"],
  },
  {
    what: "a group waits for somebody else's payment",
    sql: (w) => `update groups set leader_id = 7 where id = ${w.pending.id}`,
    caught: ["groups.pending"],
  },
  {
    what: "a group's time is up and nobody notices",
    sql: (w) => `update groups set deadline = now() - interval '1 hour' where id = ${w.open.id}`,
    caught: ["groups.overdue"],
  },
  // Payments and refunds.
  {
    what: "a payment is less than its order",
    sql: (w) => `update payments set amount = amount - 1 where id = ${w.payment.row.id}`,
    caught: ["payments.paid-order", "books.payments", "books.escrow"],
  },
  {
    what: "an order is paid by a cancelled payment",
    sql: (w) => `update payments set state = 'CANCELLED' where id = ${w.payment.row.id}`,
    caught: ["payments.paid-order", "books.payments", "books.escrow"],
  },
  {
    what: "money is taken for a cancelled order",
    sql: (w) => `
      insert into payments (slot, id, order_id, consumer_id, merchant_id, channel, amount, state, next_attempt_at, created_at)
      select slot, ${w.spare[0]}, id, consumer_id, merchant_id, 'wallet', amount, 'CONFIRMED', now(), now() from orders where id = ${w.cancelled.row.id}`,
    caught: ["payments.for-nothing", "books.payments", "books.escrow"],
  },
  {
    what: "a payment never ends",
    sql: (w) => `update payments set created_at = now() - interval '1 hour' where id = ${w.trying.row.id}`,
    caught: ["payments.finished"],
  },
  {
    what: "a branch is confirmed and cancelled",
    sql: (w) => `
      insert into tcc_barriers select ${w.shard.slot}, ${w.payment.row.id}, 'wallet', phase, phase from unnest(array['try', 'confirm', 'cancel']) phase`,
    caught: ["payments.one-way"],
  },
  {
    what: "a refund waits for a person",
    sql: (w) => `update refunds set state = 'ABNORMAL' where order_id = ${w.lonely.row.id}`,
    caught: ["refunds.finished", "refunds.refunded-order"],
  },
  {
    what: "more is refunded than was paid",
    sql: (w) => `update refunds set amount = amount + 1 where order_id = ${w.lonely.row.id}`,
    caught: ["refunds.within-payment", "refunds.refunded-order", "groups.failed", "books.refunds", "books.escrow"],
  },
  // Vouchers.
  {
    what: "a voucher is missing",
    sql: (w) => `delete from vouchers where order_id = ${w.confirmed.row.id} and unit = 0`,
    caught: ["vouchers.issued"],
  },
  {
    what: "the vouchers are worth more than was paid",
    sql: (w) => `update vouchers set amount = amount + 1 where order_id = ${w.confirmed.row.id} and unit = 0`,
    caught: ["vouchers.issued"],
  },
  {
    what: "a voucher is redeemed at no time",
    sql: (w) => `update vouchers set redeemed_at = null where order_id = ${w.half.row.id}`,
    caught: ["vouchers.redeemed"],
  },
  {
    what: "a voucher is redeemed twice",
    sql: (w) => `
      insert into events (slot, type, subject, data)
      select slot, type, subject, data from events where type = 'voucher.redeemed' and data ->> 'orderId' = '${w.half.row.id}'`,
    caught: ["vouchers.redeemed-once"],
  },
  {
    what: "a voucher is redeemed and nobody did it",
    sql: (w) => `update vouchers set state = 'REDEEMED', redeemed_at = now() where order_id = ${w.confirmed.row.id} and unit = 0`,
    caught: ["vouchers.redeemed-once", "vouchers.redemptions", "settlements.redeemed"],
  },
  {
    what: "a code is of another slot",
    sql: (w) => `update vouchers set code = left(code, 14) || '77' where order_id = ${w.confirmed.row.id} and unit = 0`,
    caught: ["vouchers.code"],
  },
  {
    what: "a voucher is somebody else's",
    sql: (w) => `update vouchers set consumer_id = 7 where order_id = ${w.confirmed.row.id} and unit = 0`,
    caught: ["vouchers.owner"],
  },
  // The books.
  {
    what: "a transfer is taken out of the chain",
    sql: (w) => `delete from transfers where business_key = '${w.payment.row.id}' and state = 'POSTED'`,
    caught: ["ledger.chain", "ledger.accounts", "books.payments", "loop.closed"],
  },
  {
    what: "a hash is changed",
    sql: (w) => `update transfers set hash = sha256(hash) where business_key = '${w.payment.row.id}' and state = 'POSTED'`,
    caught: ["ledger.chain"],
  },
  {
    what: "a transfer's amount is changed",
    sql: (w) => `update transfers set amount = amount + 1 where business_key = '${w.payment.row.id}' and state = 'POSTED'`,
    caught: ["ledger.chain", "ledger.accounts", "ledger.transfers", "books.payments", "loop.closed"],
  },
  {
    what: "the last transfer of a slot is forgotten",
    sql: (w) => `update chain_heads set seq = seq + 1 where slot = ${w.shard.slot}`,
    caught: ["ledger.chain"],
  },
  {
    what: "an escrow holds a fen more than was paid",
    sql: (w) => `update accounts set credits_posted = credits_posted + 1 where account = 'escrow:${w.deal.merchantId}'`,
    caught: ["ledger.accounts", "ledger.balanced", "books.escrow"],
  },
  // What reconciliation found.
  {
    what: "a difference is called booked and is not in suspense",
    sql: (w) => `
      insert into recon_differences (slot, id, statement_id, channel, day, class, kind, number, nth, theirs, currency, booked)
      values (${w.shard.slot}, ${w.spare[2]}, 1, 'simpay', '2026-01-01', 'LONG', 'PAYMENT', 'x', 1, 100, 'CNY', true)`,
    caught: ["recon.suspense"],
  },
  {
    what: "a difference that was written off is open again",
    sql: (w) => `update recon_differences set state = 'OPEN', cleared_at = null where id = ${w.long.row.id}`,
    caught: ["recon.suspense", "recon.decided"],
  },
  {
    what: "a difference is written off and nobody has decided it",
    sql: (w) => `delete from suspense_cases where id = ${w.short.row.id}`,
    caught: ["recon.decided"],
  },
  {
    what: "a write-off is booked as if something had explained it",
    sql: (w) => `update transfers set code = 'suspense-back' where code = 'suspense-off' and business_key = '${w.short.row.id}'`,
    caught: ["ledger.chain", "recon.suspense"],
  },
  {
    what: "other money that goes back is booked as written off",
    sql: (w) => `update transfers set code = 'differs-off' where code = 'differs-back' and business_key = '${w.sentBack.row.id}'`,
    caught: ["ledger.chain", "books.suspense"],
  },
  {
    what: "other money goes back and nobody has decided it",
    sql: (w) => `delete from suspense_cases where id = ${w.sentBack.row.id}`,
    caught: ["books.suspense", "books.escrow", "refunds.within-payment"],
  },
  {
    what: "other money is kept that was to go back",
    sql: (w) => `update suspense_cases set outcome = 'GIVEN_BACK' where id = ${w.writtenOff.row.id}`,
    caught: ["books.suspense", "books.escrow"],
  },
  {
    what: "a cancelled payment leaves its promise open",
    sql: (w) => `delete from transfers where business_key = '${w.refused.row.id}' and state = 'VOIDED'`,
    caught: ["ledger.chain", "ledger.accounts", "books.payments"],
  },
  {
    what: "a promise is never kept",
    sql: (w) => `update transfers set at = at - interval '1 hour' where business_key = '${w.trying.row.id}'`,
    caught: ["ledger.chain", "ledger.promises"],
  },
  // Wallets, and what crosses databases.
  {
    what: "a wallet loses its floor",
    at: 0,
    sql: (w) => `update accounts set floored = false where account = 'wallet:${w.users[0].id}'`,
    caught: ["users:ledger.floors"],
  },
  {
    what: "a top-up says more than was credited",
    at: 1,
    sql: (w) => `update topups set amount = amount + 1 where user_id = ${w.users[1].id}`,
    caught: ["users:books.topups"],
  },
  {
    what: "a wallet has a fen too much",
    at: 2,
    sql: (w) => `update accounts set credits_posted = credits_posted + 1 where account = 'wallet:${w.users[2].id}'`,
    caught: ["users:ledger.accounts", "users:ledger.balanced"],
  },
  {
    what: "a wallet's half of a payment is missing",
    at: 1,
    sql: (w) => `delete from transfers where business_key = '${w.payment.row.id}' and state = 'POSTED'`,
    caught: ["users:ledger.chain", "users:ledger.accounts", "loop.closed"],
  },
  {
    what: "a consumer cannot find an order",
    at: 1,
    sql: (w) => `delete from order_index where order_id = ${w.confirmed.row.id}`,
    caught: ["events.order-index"],
  },
  {
    what: "a consumer finds an order that is not there",
    at: 1,
    sql: (w) => `insert into order_index values (${slotOf(w.users[1].id)}, ${w.users[1].id}, ${w.spare[1]})`,
    caught: ["events.order-index"],
  },
  {
    what: "a merchant is in a slot that is not its id's",
    sql: (w) =>
      `insert into merchants (slot, id, name, commission_bps, owner_id, owner_username) values (${w.shard.slot}, ${BigInt(w.spare[2]) ^ 1n}, '', 0, 1, '')`,
    caught: ["addresses.city"],
  },
  {
    what: "a user is in a slot that is not the id's",
    at: 3,
    sql: (w) =>
      `insert into users (slot, id, username, password_hash, roles) values (${slotOf(w.users[3].id)}, ${BigInt(w.users[3].id) ^ 1n}, 'x', '', '{}')`,
    caught: ["users:addresses.user"],
  },
  // What happened at the bar, and units given back.
  {
    what: "a redemption leaves no trace",
    sql: (w) => `delete from redemptions where order_id = ${w.half.row.id}`,
    caught: ["vouchers.redemptions"],
  },
  {
    what: "a voucher is reversed at another bar",
    sql: (w) => `
      insert into redemptions (slot, id, voucher_id, order_id, merchant_id, kind, at)
      select slot, ${w.spare[1]}, id, order_id, 7, 'REVERSE', now() from vouchers where order_id = ${w.half.row.id} and state = 'REDEEMED'`,
    caught: ["vouchers.redemptions"],
  },
  {
    what: "a refunded voucher can be used",
    sql: (w) => `update vouchers set state = 'ISSUED' where order_id = ${w.givenBack.row.id} and state = 'REFUNDED'`,
    caught: ["vouchers.refunded", "refunds.units"],
  },
  {
    what: "a refund has more units than it gives back",
    sql: (w) => `update refunds set quantity = quantity + 1 where order_id = ${w.givenBack.row.id}`,
    caught: ["refunds.units", "stock.sold", "quotas.units"],
  },
  {
    what: "a voucher does not expire",
    sql: (w) => `update vouchers set valid_until = now() - interval '1 hour' where order_id = ${w.confirmed.row.id} and unit = 0`,
    caught: ["vouchers.overdue"],
  },
  // Settlement, payouts and what goes with them.
  {
    what: "a used voucher brings its merchant nothing",
    sql: (w) => `delete from settlements where order_id = ${w.half.row.id}`,
    caught: ["settlements.redeemed"],
  },
  {
    what: "our part is a fen too much",
    sql: (w) => `
      update settlements set commission = commission + 1
       where voucher_id = (select max(id) from vouchers where order_id = ${w.settled.row.id} and refund_id is null)`,
    caught: ["settlements.split", "books.settlements"],
  },
  {
    what: "a voucher is settled before it is due",
    sql: (w) => `update settlements set due_at = now() + interval '1 hour' where order_id = ${w.settled.row.id}`,
    caught: ["settlements.in-time"],
  },
  {
    what: "a settlement fails",
    sql: (w) => `update settlements set state = 'FAILED', attempt = 1, ended_at = due_at where order_id = ${w.half.row.id}`,
    caught: ["settlements.finished"],
  },
  {
    what: "a settled voucher's money stays in escrow",
    sql: (w) => `delete from transfers where code = 'settle' and order_id = ${w.settled.row.id}`,
    caught: ["ledger.chain", "ledger.accounts", "books.settlements"],
  },
  {
    what: "a clawback takes more from us than we had",
    sql: (w) => `update refunds set commission = commission + 1 where order_id = ${w.settled.row.id}`,
    caught: ["books.clawbacks"],
  },
  {
    what: "a clawback is not booked",
    sql: (w) => `delete from transfers where code = 'clawback' and order_id = ${w.settled.row.id}`,
    caught: ["ledger.chain", "ledger.accounts", "books.clawbacks"],
  },
  {
    what: "a forfeited voucher stays in escrow",
    sql: (w) => `delete from transfers where code = 'breakage' and order_id = ${w.forfeited.row.id}`,
    caught: ["ledger.chain", "ledger.accounts", "books.breakage"],
  },
  {
    what: "a payout is paid and forgotten",
    sql: (w) => `update payouts set state = 'PROCESSING', ended_at = null where id = ${w.paidOut.row.id}`,
    caught: ["books.payouts", "payouts.paid-out", "channels.clearing"],
  },
  {
    what: "a payout that came back is not the merchant's again",
    sql: (w) => `delete from transfers where code = 'payout-returned' and business_key = '${w.returned.row.id}'`,
    caught: ["ledger.chain", "ledger.accounts", "books.payouts"],
  },
  {
    what: "a merchant was paid more than its payouts",
    sql: (w) => `update merchants set paid_out = paid_out + 1 where id = ${w.settling.merchantId}`,
    caught: ["payouts.paid-out"],
  },
  // Channels outside.
  {
    what: "a refund by a channel arrives without a posting",
    sql: (w) => `delete from transfers where code = 'refund-paid' and order_id = ${w.surplus.order.row.id}`,
    caught: ["ledger.chain", "ledger.accounts", "books.channels"],
  },
  {
    what: "money in suspense is what was asked for",
    sql: (w) => `update payments set paid_amount = amount where id = ${w.differing.row.id}`,
    caught: ["channels.paid", "books.channels"],
  },
  {
    what: "what a channel told has no effect",
    sql: (w) =>
      `update payments set state = 'PROCESSING', paid_amount = null, paid_currency = null, paid_at = null where id = ${w.differing.row.id}`,
    caught: ["channels.callbacks", "books.channels"],
  },
  {
    what: "a callback waits for a person",
    sql: (w) => `update channel_callbacks set state = 'FAILED' where subject = ${w.byChannel.row.id}`,
    caught: ["channels.callbacks"],
  },
  {
    what: "a refund that is under way at a channel is forgotten",
    sql: (w) => `update refunds set state = 'SUCCEEDED', ended_at = now() where payment_id = ${w.goingBack.row.id}`,
    caught: ["channels.clearing", "books.channels"],
  },
  {
    what: "an open charge has money already",
    sql: (w) => `update payments set paid_amount = amount, paid_currency = 'CNY', paid_at = now() where id = ${w.charged.row.id}`,
    caught: ["channels.paid"],
  },
  {
    what: "money that came too late is kept",
    sql: (w) => `update refunds set payment_id = ${w.byChannel.row.id} where payment_id = ${w.surplus.row.id}`,
    caught: ["payments.for-nothing", "refunds.within-payment"],
  },
  {
    what: "a payable may be overdrawn by a payout",
    sql: (w) => `update accounts set overdrawn = 1 where account = 'payable:${w.settling.merchantId}'`,
    caught: ["ledger.overdrawn"],
  },
];

/** What only shows once a guard of the database is gone: first the guard is dropped, then broken what it guarded. */
const UNGUARDED: readonly { readonly drop: string; readonly sql: (world: Everything) => string; readonly caught: string }[] = [
  {
    drop: "alter table stock drop constraint stock_not_oversold",
    sql: (w) => `update stock set total = 1 where deal_id = ${w.deal.dealId}`,
    caught: "stock.not-oversold",
  },
  {
    drop: "alter table orders drop constraint orders_check",
    sql: (w) => `update orders set discount = 1 where id = ${w.unpaid.row.id}`,
    caught: "orders.amount",
  },
  {
    drop: "drop index orders_idem_key",
    sql: (w) => `update orders set idem_key = 'twice' where consumer_id = ${w.users[0].id}`,
    caught: "orders.key",
  },
  {
    drop: "drop index seats_one_a_user",
    sql: (w) => `update seats set user_id = ${w.users[4].id} where order_id = ${w.joining.row.id}`,
    caught: "groups.one-seat",
  },
  {
    drop: "drop index payments_one_live",
    sql: (w) => `update payments set order_id = ${w.confirmed.row.id} where id = ${w.trying.row.id}`,
    caught: "payments.one-live",
  },
  {
    drop: "alter table transfers_00 disable trigger transfers_append_only",
    sql: () =>
      `insert into parked_events (consumer, source, event_id, event, error, attempts) values ('notify', 'sh', 1, '{}', 'cannot read it', 5)`,
    caught: "events.parked",
  },
];

let node: TestNode;
const worlds: Everything[] = [];
/** Changes rows as only somebody with the database's password could: triggers sleep. */
const corrupt = (shard: Shard, ...statements: string[]): Promise<void> =>
  admin(
    node.server,
    async (client: pg.Client) => {
      await client.query("set session_replication_role = replica");
      for (const statement of statements) await client.query(statement);
    },
    node.keyspaces.keyspaces.databaseOf(shard) ?? "",
  );
const run = () => callAs(node.node, verify, {}, undefined);
const userShard = (world: Everything, index: number): Shard => ({ city: USER_CITY, slot: slotOf(world.users[index]?.id ?? "") });

/** `check@city/slot` of every violation shown: rows name their database and slot, facts across databases the id they are about. */
function places(checks: Awaited<ReturnType<typeof run>>["checks"]): string[] {
  const cityOfDatabase = new Map(node.keyspaces.keyspaces.databases().map(({ name, keyspace }) => [name, keyspace.id]));
  const found = checks.flatMap(({ name, detail }) =>
    detail
      .split("\n")
      .slice(1)
      .map((line) => {
        const row = /^(\S+): \{.*?"slot":(\d+)/.exec(line);
        const id = /\d{15,}/.exec(line)?.[0] ?? "";
        return row ? `${name}@${cityOfDatabase.get(row[1] ?? "")}/${row[2]}` : `${name}@${cityOf(id)}/${slotOf(id)}`;
      }),
  );
  return [...new Set(found)].sort();
}

describe("verify", () => {
  before(async () => {
    node = await testNode(["ops", "probe"]);
    const world = new World(node.keyspaces);
    for (let slot = 0; slot < 16; slot++) for (const city of [1, 3]) worlds.push(everythingIn(world, { city, slot }));
    await world.write();
  });
  after(() => node.stop());

  test("finds nothing in a world in which everything adds up, and calls at the same time share one run", async () => {
    const [one, two] = await Promise.all([run(), run()]);
    assert.deepEqual(
      one.checks.filter(({ ok }) => !ok),
      [],
    );
    assert.equal(one.ok, true);
    assert.equal(one.checkedAt, two.checkedAt);
    assert.deepEqual(
      one.checks.map(({ name }) => name),
      [...CHECKS, ...CROSSING_CHECKS].map(({ name }) => name),
    );
  });

  test("finds nothing amiss with old orders whose events have gone, wholly or in part", async () => {
    const world = worlds.at(-1);
    assert.ok(world);
    const [wholly, partly] = [world.confirmed.row.id, world.completed.row.id];
    await corrupt(
      world.shard,
      `update orders set created_at = created_at - interval '40 days' where id in (${wholly}, ${partly})`,
      `update vouchers set issued_at = issued_at - interval '40 days' where order_id in (${wholly}, ${partly})`,
      `delete from events where subject = ${wholly}`,
      `delete from events e where subject = ${partly} and id < (select max(id) from events m where m.subject = ${partly})`,
      `delete from events where type = 'voucher.redeemed' and data ->> 'orderId' = '${partly}'
          and id = (select min(id) from events where type = 'voucher.redeemed' and data ->> 'orderId' = '${partly}')`,
    );
    assert.deepEqual(
      (await run()).checks.filter(({ ok }) => !ok),
      [],
    );
  });

  test("catches every corruption, each by exactly the checks that claim to", async () => {
    const expected: string[] = [];
    for (const [index, { what, sql, at, caught }] of CORRUPTIONS.entries()) {
      const marks = (world: Everything): string[] =>
        caught.map((check) =>
          check.startsWith("users:")
            ? `${check.slice(6)}@0/${userShard(world, at ?? 0).slot}`
            : `${check}@${world.shard.city}/${world.shard.slot}`,
        );
      // The next world in which no other case is caught by one of these checks.
      const from = index % worlds.length;
      const world = [...worlds.slice(from), ...worlds.slice(0, from)].find((one) => marks(one).every((mark) => !expected.includes(mark)));
      assert.ok(world, `a place for: ${what}`);
      await corrupt(at === undefined ? world.shard : userShard(world, at), sql(world));
      expected.push(...marks(world));
    }
    assert.deepEqual(places((await run()).checks), expected.sort());
  });

  test("notices when a guard of the database is gone, and what got past it", async () => {
    const world = worlds.find(({ shard }) => shard.city === 3);
    assert.ok(world);
    const before = await run();
    for (const { drop, sql } of UNGUARDED) await corrupt(world.shard, drop, sql(world));
    await corrupt(userShard(world, 0), "drop index users_username");
    const after = await run();
    const violations = ({ checks }: typeof before, name: string): number => checks.find((check) => check.name === name)?.violations ?? 0;
    for (const { caught } of UNGUARDED) assert.equal(violations(after, caught), violations(before, caught) + 1, caught);
    assert.equal(violations(after, "guards.city"), UNGUARDED.filter(({ drop }) => /constraint|index|trigger/.test(drop)).length);
    assert.equal(violations(after, "guards.user"), 1);
  });

  test("judges every check there is", () => {
    const judged = new Set([
      ...CORRUPTIONS.flatMap(({ caught }) => caught.map((check) => check.replace("users:", ""))),
      ...UNGUARDED.map(({ caught }) => caught),
    ]);
    const all = [...CHECKS, ...CROSSING_CHECKS].map(({ name }) => name).filter((name) => !name.startsWith("guards."));
    assert.deepEqual([...judged].sort(), all.sort());
  });

  test("is documented, check by check", () => {
    const documented = [
      ...readFileSync(new URL("../docs/invariants.md", import.meta.url), "utf8").matchAll(/^\| `([a-z-]+\.[a-z-]+)` /gm),
    ].map(([, name]) => name ?? "");
    assert.deepEqual(documented.sort(), [...CHECKS, ...CROSSING_CHECKS].map(({ name }) => name).sort());
  });

  test("says who serves each shard, from which database", async () => {
    const { items } = await callAs(node.node, listShards, {}, undefined);
    assert.equal(items.length, 3 * 16);
    const hangzhou = items.filter(({ city }) => city === "hz");
    assert.equal(new Set(hangzhou.map(({ database }) => database)).size, 2);
    assert.deepEqual(
      hangzhou.map(({ slot }) => slot),
      Array.from({ length: 16 }, (_, slot) => slot),
    );
  });

  test("shows mailboxes and connections to Prometheus", async () => {
    const text = await node.node.platform.metrics.registry.metrics();
    assert.match(text, /^tuanbar_mailbox_depth_commands\{city="sh"\} 0$/m);
    assert.match(text, /^tuanbar_pool_connections\{database="sh_[0-9a-f]+",state="busy"\} \d+$/m);
  });

  test("proves nothing while a database cannot be reached, and says so", async () => {
    const { databases } = node.node.platform;
    const lost = [...databases.keys()].at(-1) ?? "";
    await admin(node.server, (client) => client.query(`drop database ${lost} with (force)`));
    await assert.rejects(
      run(),
      (error) => error instanceof DomainError && error.type === "UNAVAILABLE" && error.code === 503 && error.retryable,
    );
  });
});

describe("verify, while people buy", () => {
  let busy: TestNode;
  before(async () => {
    busy = await testNode(["wallet", "group", "order", "payment", "voucher", "order-index", "journal", "ops", "probe"], {
      wallet: { testChannel: true },
    });
  });
  after(() => busy.stop());

  test("what is on its way between two databases is not taken for broken, and nothing is", async () => {
    const deals = await Promise.all([1, 3].map((city) => makeDeal(busy, { city, stock: 10_000, tiers: [{ size: 2, price: 1_500 }] })));
    let shopping = true;
    const shop = async (n: number): Promise<void> => {
      const who = caller(userId(n));
      await callAs(busy.node, topUp, { amount: 1_000_000, channel: "test" }, who);
      for (let visit = 0; shopping; visit++) {
        const dealId = deals[visit % 2];
        assert.ok(dealId);
        const { id } = await callAs(busy.node, placeOrder, { dealId, quantity: 1, ...(visit % 3 === 0 ? { groupSize: 2 } : {}) }, who);
        await callAs(busy.node, payOrder, { id, channel: "wallet" }, who);
      }
    };
    const shoppers = Promise.all(Array.from({ length: 20 }, (_, n) => shop(n)));
    try {
      for (let round = 0; round < 3; round++) {
        const { checks } = await callAs(busy.node, verify, {}, undefined);
        assert.deepEqual(
          checks.filter(({ ok }) => !ok),
          [],
        );
      }
    } finally {
      shopping = false;
      await shoppers;
    }
  });

  test("every shard has an owner", async () => {
    const { items } = await callAs(busy.node, listShards, {}, undefined);
    assert.deepEqual([...new Set(items.map(({ owner }) => owner))], [busy.node.broker.nodeID]);
    assert.ok(items.some(({ batchSize }) => batchSize > 0));
  });
});
