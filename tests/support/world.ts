/**
 * A small world in which everything adds up, written as rows: merchants, deals, groups and orders in every state, paid from wallets, with the
 * books, events and counters that go with them. What `/ops/verify` is tested on, apart from the services that make such rows for a living.
 * Rows are kept and changed here as objects, and written once, at the end.
 */
import { randomInt } from "node:crypto";
import pg from "pg";
import { CHAIN_START, EMPTY, isFloored, postTransfers, type TransferRequest } from "../../domain/ledger.ts";
import {
  composeId,
  shardOf,
  slotOf,
  SLOT_COUNT,
  USER_CITY,
  type Id,
  type MerchantId,
  type OrderId,
  type PayoutId,
  type SettlementId,
  type Shard,
  type TransferId,
  type UserId,
  type VoucherId,
} from "../../domain/ids.ts";
import { LIMITS } from "../../domain/limits.ts";
import { fen, share } from "../../domain/money.ts";
import type { OrderState } from "../../domain/order/state.ts";
import { decidePayouts, requestTransfer } from "../../domain/payout/decide.ts";
import { transfersOf } from "../../domain/settlement/decide.ts";
import { split } from "../../domain/settlement/split.ts";
import type { TestKeyspaces } from "./databases.ts";

type Row = Record<string, unknown>;
export interface Person {
  readonly id: Id;
  readonly username: string;
}
export type OrderRow = ReturnType<World["order"]>;
type Deal = ReturnType<World["deal"]>;
type GroupRow = ReturnType<World["openGroup"]>;
type Payment = ReturnType<World["tryPayment"]>;

const ROWS_A_STATEMENT = 5_000;

export class World {
  readonly keyspaces: TestKeyspaces;
  /** Rows by database and table. */
  readonly #rows = new Map<string, Map<string, Row[]>>();
  readonly #transfers = new Map<string, { shard: Shard; requests: TransferRequest[] }>();
  readonly #quotas = new Map<string, { used: number }>();
  readonly #seats = new Map<string, { state: string }>();
  /** When everything happened: 40 s ago, so that its events should have arrived (30 s), and nothing is overdue (120 s) while a slow test runs. */
  readonly at: Date;
  #ids = 0;

  constructor(keyspaces: TestKeyspaces, at = new Date(Date.now() - 40_000)) {
    this.keyspaces = keyspaces;
    this.at = at;
  }

  id(shard: Shard): Id {
    const n = this.#ids++;
    return composeId({ ms: this.at.getTime() + (n >> 10), sequence: n & 1023, ...shard });
  }

  add<R extends Row>(shard: Shard, table: string, row: R): R & { slot: number } {
    const database = this.keyspaces.keyspaces.databaseOf(shard) ?? "";
    let tables = this.#rows.get(database);
    if (!tables) this.#rows.set(database, (tables = new Map()));
    const rows = tables.get(table);
    const added = { slot: shard.slot, ...row };
    if (rows) rows.push(added);
    else tables.set(table, [added]);
    return added;
  }

  transfer(shard: Shard, request: TransferRequest): void {
    const key = `${shard.city}/${shard.slot}`;
    const book = this.#transfers.get(key);
    if (book) book.requests.push(request);
    else this.#transfers.set(key, { shard, requests: [request] });
  }

  event(shard: Shard, type: string, subject: string, data: Row): void {
    this.add(shard, "events", { type, subject, data, at: this.at });
  }

  user(slot: number, amount: number): Person {
    const shard = { city: USER_CITY, slot };
    const id = this.id(shard);
    const topup = this.id(shard);
    this.add(shard, "users", { id, username: `user-${id}`, password_hash: "", roles: ["consumer"], created_at: this.at });
    this.add(shard, "topups", { id: topup, user_id: id, channel: "test", amount, state: "SUCCEEDED", created_at: this.at });
    this.transfer(shard, {
      kind: "post",
      code: "topup",
      businessKey: topup,
      debit: "cash:test",
      credit: `wallet:${id}`,
      amount: fen(amount),
    });
    return { id, username: `user-${id}` };
  }

  /** A merchant, and a deal of it with stock and a limit a user. */
  deal(shard: Shard, options: { price: number; stock: number; limit: number | null }) {
    const merchantId = this.id(shard);
    const dealId = this.id(shard);
    const merchant = this.add(shard, "merchants", {
      id: merchantId,
      name: "一间酒吧",
      commission_bps: 500,
      owner_id: this.id({ city: USER_CITY, slot: 0 }),
      owner_username: "owner",
      state: "OPEN",
      paid_out: 0,
      created_at: this.at,
    });
    this.add(shard, "deals", {
      id: dealId,
      merchant_id: merchantId,
      title: "精酿双人套餐",
      description: "",
      price: options.price,
      tiers: [{ size: 2, price: options.price }],
      per_user_limit: options.limit,
      group_ttl_minutes: 60,
      voucher_valid_days: 30,
      refund_anytime: true,
      refund_expired: true,
      state: "ON_SALE",
      words: "",
      created_at: this.at,
      published_at: this.at,
    });
    const stock = this.add(shard, "stock", { deal_id: dealId, bucket: 0, total: options.stock, held: 0, sold: 0 });
    this.#flow(shard, stock, { total: options.stock, held: 0, sold: 0 }, "created");
    return { shard, merchantId, dealId, price: options.price, limit: options.limit, stock, merchant };
  }

  openGroup(deal: Deal, size: number, leader: Person) {
    return this.add(deal.shard, "groups", {
      id: this.id(deal.shard),
      deal_id: deal.dealId,
      merchant_id: deal.merchantId,
      size,
      unit_price: deal.price,
      state: "PENDING",
      held: 0,
      taken: 0,
      filled: 0,
      leader_id: leader.id,
      leader_name: leader.username,
      ttl_minutes: 60,
      deadline: null as Date | null,
      created_at: this.at,
      ended_at: null as Date | null,
    });
  }

  /** An unpaid order: stock, seat and counters held. */
  order(deal: Deal, user: Person, quantity: number, group?: GroupRow) {
    const { shard } = deal;
    const order = this.add(shard, "orders", {
      id: this.id(shard),
      consumer_id: user.id,
      merchant_id: deal.merchantId,
      deal_id: deal.dealId,
      group_id: group?.id ?? null,
      bucket: 0,
      quantity,
      unit_price: deal.price,
      discount: 0,
      amount: deal.price * quantity,
      commission_bps: 500,
      voucher_valid_days: 30,
      state: "PENDING_PAYMENT",
      idem_key: `key-${this.#ids}`,
      body_hash: "\\x00",
      created_at: this.at,
      expires_at: new Date(this.at.getTime() + 900_000),
      paid_at: null as Date | null,
      ended_at: null as Date | null,
    });
    this.event(shard, "order.created", order.id, this.#facts(order));
    this.add({ city: USER_CITY, slot: slotOf(user.id) }, "order_index", { user_id: user.id, order_id: order.id });
    this.#move(deal, { held: quantity, sold: 0 }, "held");
    this.#quota(deal, deal.merchantId, user.id, 1, LIMITS.unpaidOrdersMax);
    if (deal.limit !== null) this.#quota(deal, deal.dealId, user.id, quantity, deal.limit);
    if (group) {
      group.held += 1;
      this.#seats.set(
        order.id,
        this.add(shard, "seats", { group_id: group.id, order_id: order.id, user_id: user.id, username: user.username, state: "HELD" }),
      );
    }
    return { row: order, deal, group, user };
  }

  /** An order that nobody paid in time, or wanted any more. */
  end(order: OrderRow, to: "CANCELLED" | "EXPIRED"): void {
    const { deal, group, row, user } = order;
    this.#become(order, to);
    row.ended_at = this.at;
    this.#move(deal, { held: -row.quantity, sold: 0 }, "released");
    this.#quota(deal, deal.merchantId, user.id, -1, LIMITS.unpaidOrdersMax);
    if (deal.limit !== null) this.#quota(deal, deal.dealId, user.id, -row.quantity, deal.limit);
    if (!group) return;
    group.held -= 1;
    this.#seat(order, "RELEASED");
    if (group.state === "PENDING") group.state = "FAILED";
  }

  /** A payment that set the money aside on both sides. */
  tryPayment(order: OrderRow, channel: "wallet" | "simpay" = "wallet") {
    const { row, deal, user } = order;
    const payment = this.add(deal.shard, "payments", {
      id: this.id(deal.shard),
      order_id: row.id,
      consumer_id: user.id,
      merchant_id: deal.merchantId,
      channel,
      amount: row.amount,
      state: "TRYING",
      attempts: 0,
      next_attempt_at: new Date(),
      created_at: new Date(),
      decided_at: null as Date | null,
      ended_at: null as Date | null,
      expires_at: null as Date | null,
      paid_amount: null as number | null,
      paid_currency: null as string | null,
      paid_at: null as Date | null,
      surplus: false,
    });
    if (channel === "wallet") this.#both(order, "pay", payment.id, "pend", "pend");
    return { row: payment, order };
  }

  /** A charge at a channel outside: open; paid in time; paid when its order was over, and given back; or paid with other money. */
  charge(order: OrderRow, end: "open" | "paid" | "late" | "differs", refund: "SUCCEEDED" | "PROCESSING" = "SUCCEEDED") {
    const { row, deal } = order;
    const payment = this.tryPayment(order, "simpay");
    const paid = row.amount - (end === "differs" ? 1 : 0);
    Object.assign(payment.row, { state: "PROCESSING", expires_at: new Date(Date.now() + 900_000) });
    if (end === "open") return payment;
    const id = this.id(deal.shard);
    const [escrow, clearing, transit] = [`escrow:${deal.merchantId}`, "channel:simpay", "refund_in_transit:simpay"];
    const post = (code: TransferRequest["code"], businessKey: string, debit: string, credit: string): void =>
      this.transfer(deal.shard, { kind: "post", code, businessKey, debit, credit, amount: fen(paid), orderId: row.id as OrderId });
    Object.assign(payment.row, { decided_at: this.at, ended_at: this.at, paid_amount: paid, paid_currency: "CNY", paid_at: this.at });
    this.add(deal.shard, "channel_callbacks", {
      id,
      channel: "simpay",
      callback_id: `${payment.row.id}.charge.paid`,
      about: "charge",
      subject: payment.row.id,
      body: "{}",
      news: { id, about: "charge", charge: { number: payment.row.id, status: "PAID" } },
      state: "DONE",
      attempts: 1,
      next_attempt_at: this.at,
      received_at: this.at,
      done_at: this.at,
    });
    Object.assign(payment.row, { state: end === "differs" ? "FAILED" : "CONFIRMED", surplus: end === "late" });
    if (end === "differs") post("pay-differs", payment.row.id, clearing, "suspense:long");
    else post("pay", payment.row.id, clearing, escrow);
    if (end === "paid") this.#paid(order);
    if (end !== "late") return payment;
    const back = this.#refund(order, payment, { quantity: row.quantity, amount: row.amount, reason: "LATE_PAYMENT" });
    Object.assign(back, { channel: "simpay", surplus: true, state: refund, ended_at: refund === "SUCCEEDED" ? this.at : null });
    post("refund", back.id, escrow, transit);
    if (refund === "SUCCEEDED") post("refund-paid", back.id, transit, clearing);
    return payment;
  }

  /** Other money than was asked for, as somebody decided. */
  decide(payment: Payment, outcome: "GIVEN_BACK" | "WRITTEN_OFF"): void {
    const { row, order } = payment;
    const { shard, merchantId } = order.deal;
    const amount = row.paid_amount ?? 0;
    const post = (code: TransferRequest["code"], businessKey: string, debit: string, credit: string): void =>
      this.transfer(shard, { kind: "post", code, businessKey, debit, credit, amount: fen(amount), orderId: order.row.id as OrderId });
    this.#case(shard, row.id, outcome);
    if (outcome === "WRITTEN_OFF") return post("differs-off", row.id, "suspense:long", "write_off");
    const [escrow, transit] = [`escrow:${merchantId}`, "refund_in_transit:simpay"];
    const back = this.#refund(order, payment, { quantity: order.row.quantity, amount, reason: "OTHER_MONEY" });
    Object.assign(back, { channel: "simpay", surplus: true });
    post("differs-back", row.id, "suspense:long", escrow);
    post("refund", back.id, escrow, transit);
    post("refund-paid", back.id, transit, "channel:simpay");
  }

  /** A difference with a statement that nothing explained and somebody wrote off: `off` is what the channel had too much, or too little. */
  writeOff(shard: Shard, off: number) {
    const row = this.add(shard, "recon_differences", {
      id: this.id(shard),
      statement_id: this.id({ city: USER_CITY, slot: 0 }),
      channel: "simpay",
      day: "2026-01-01",
      class: off > 0 ? "LONG" : "SHORT",
      kind: "PAYMENT",
      number: `nobodys${off}`,
      nth: off > 0 ? 1 : 0,
      ours: off > 0 ? null : -off,
      theirs: off > 0 ? off : null,
      currency: "CNY",
      state: "RESOLVED",
      booked: true,
      answer: "ABSENT",
      created_at: this.at,
      cleared_at: this.at,
    });
    const post = (code: TransferRequest["code"], debit: string, credit: string): void =>
      this.transfer(shard, { kind: "post", code, businessKey: row.id, debit, credit, amount: fen(Math.abs(off)) });
    this.#case(shard, row.id, "WRITTEN_OFF");
    post("suspense", off > 0 ? "channel:simpay" : "suspense:short", off > 0 ? "suspense:long" : "channel:simpay");
    post("suspense-off", off > 0 ? "suspense:long" : "write_off", off > 0 ? "write_off" : "suspense:short");
    return { row };
  }

  #case(shard: Shard, id: Id, outcome: "GIVEN_BACK" | "WRITTEN_OFF"): void {
    this.add(shard, "suspense_cases", { id, assignee: "li.na", outcome, note: "nobody's", resolved_by: 16, resolved_at: this.at });
  }

  cancelPayment({ row, order }: Payment): void {
    row.state = "CANCELLED";
    this.#both(order, "pay", row.id, "void-pending", "void-pending");
  }

  /** The decision: the order is paid, its seat taken. The wallet's side follows unless the payment stays on its way. */
  decidePayment({ row, order }: Payment, finish: "finished" | "on its way" = "finished"): void {
    row.decided_at = this.at;
    row.state = finish === "finished" ? "CONFIRMED" : "CONFIRMING";
    this.#both(order, "pay", row.id, "post-pending", finish === "finished" ? "post-pending" : undefined);
    this.#paid(order);
  }

  #paid(order: OrderRow): void {
    const { deal, group, user } = order;
    this.#become(order, "PAID");
    order.row.paid_at = this.at;
    this.#move(deal, { held: -order.row.quantity, sold: order.row.quantity }, "sold");
    this.#quota(deal, deal.merchantId, user.id, -1, LIMITS.unpaidOrdersMax);
    if (!group) return this.confirm(order);
    group.held -= 1;
    group.taken += 1;
    this.#seat(order, "TAKEN");
    if (group.state === "PENDING") {
      group.state = "OPEN";
      group.deadline = new Date(this.at.getTime() + 3_600_000);
    }
  }

  pay(order: OrderRow): Payment {
    const payment = this.tryPayment(order);
    this.decidePayment(payment);
    return payment;
  }

  form(group: GroupRow, orders: readonly OrderRow[]): void {
    group.state = "FORMED";
    for (const order of orders) this.confirm(order);
  }

  confirm(order: OrderRow): void {
    const { row, deal, user } = order;
    this.#become(order, "CONFIRMED");
    const amounts = share(fen(row.amount), new Array<bigint>(row.quantity).fill(1n));
    for (const [unit, amount] of amounts.entries()) {
      const code = `${String(randomInt(10 ** 13)).padStart(14, "0")}${String(deal.shard.slot).padStart(2, "0")}`;
      this.add(deal.shard, "vouchers", {
        id: this.id(deal.shard),
        order_id: row.id,
        deal_id: deal.dealId,
        merchant_id: deal.merchantId,
        consumer_id: user.id,
        unit,
        amount: Number(amount),
        code,
        state: "ISSUED",
        issued_at: this.at,
        valid_until: new Date(this.at.getTime() + 30 * 86_400_000),
        redeemed_at: null,
        refund_id: null,
      });
    }
  }

  /** Redeems the first `count` vouchers of an order. */
  redeem(order: OrderRow, count: number): void {
    const { row, deal, user } = order;
    const vouchers = this.#table(deal.shard, "vouchers").filter((voucher) => voucher["order_id"] === row.id);
    for (const voucher of vouchers.slice(0, count)) {
      Object.assign(voucher, { state: "REDEEMED", redeemed_at: this.at });
      const of = { voucher_id: voucher["id"], order_id: row.id, merchant_id: deal.merchantId };
      this.add(deal.shard, "redemptions", { id: this.id(deal.shard), ...of, kind: "REDEEM", actor: null, at: this.at });
      const gross = fen(voucher["amount"] as number);
      this.add(deal.shard, "settlements", {
        id: this.id(deal.shard),
        ...of,
        gross: Number(gross),
        commission: Number(split(gross, 500).commission),
        state: "INIT",
        attempt: 0,
        created_at: this.at,
        due_at: new Date(this.at.getTime() + 7_200_000),
        ended_at: null as Date | null,
      });
      this.event(deal.shard, "voucher.redeemed", String(voucher["id"]), {
        orderId: row.id,
        consumerId: user.id,
        dealId: deal.dealId,
        merchantId: deal.merchantId,
      });
    }
    if (count === row.quantity) this.#become(order, "COMPLETED");
  }

  /** The merchant has what the used vouchers of an order brought. */
  settle(order: OrderRow): void {
    const { row, deal } = order;
    const vouchers = this.#table(deal.shard, "vouchers").filter((voucher) => voucher["order_id"] === row.id);
    for (const voucher of vouchers) if (voucher["state"] === "REDEEMED") voucher["state"] = "SETTLED";
    for (const settlement of this.#table(deal.shard, "settlements")) {
      if (settlement["order_id"] !== row.id) continue;
      Object.assign(settlement, { state: "SUCCESS", attempt: 1, due_at: this.at, ended_at: this.at });
      const common = {
        id: settlement["id"] as SettlementId,
        voucherId: settlement["voucher_id"] as VoucherId,
        orderId: row.id as OrderId,
        merchantId: deal.merchantId as MerchantId,
      };
      const of = { gross: fen(settlement["gross"] as number), commission: fen(settlement["commission"] as number) };
      for (const request of transfersOf({ ...common, ...of, state: "PROCESSING", attempt: 1 })) this.transfer(deal.shard, request);
    }
  }

  /** The first used and settled unit of an order is paid back by its merchant, and pro rata by us. */
  clawBack(order: OrderRow, payment: Payment): void {
    const { row, deal } = order;
    const voucher = this.#table(deal.shard, "vouchers").find((one) => one["order_id"] === row.id && one["state"] === "SETTLED");
    const amount = fen(voucher?.["amount"] as number);
    const { commission, net } = split(amount, 500);
    const refund = this.#refund(order, payment, { quantity: 1, amount: Number(amount), reason: "REQUESTED" });
    Object.assign(refund, { used: true, commission: Number(commission), approve_by: this.at, approved_at: this.at });
    Object.assign(voucher ?? {}, { refund_id: refund.id });
    const common = { kind: "post", businessKey: refund.id, credit: `escrow:${deal.merchantId}`, orderId: row.id as OrderId } as const;
    this.transfer(deal.shard, { ...common, code: "clawback", debit: `payable:${deal.merchantId}`, amount: net });
    this.transfer(deal.shard, { ...common, code: "commission-back", debit: "commission", amount: commission });
    this.#both(order, "refund", refund.id, "pend", "pend", amount);
    this.#both(order, "refund", refund.id, "post-pending", "post-pending", amount);
  }

  /** An order's last unit is given back unused. */
  giveBack(order: OrderRow, payment: Payment): void {
    const { row, deal, user } = order;
    const voucher = this.#table(deal.shard, "vouchers").findLast((one) => one["order_id"] === row.id);
    const amount = fen(voucher?.["amount"] as number);
    const refund = this.#refund(order, payment, { quantity: 1, amount: Number(amount), reason: "REQUESTED" });
    Object.assign(voucher ?? {}, { state: "REFUNDED", refund_id: refund.id });
    this.#both(order, "refund", refund.id, "pend", "pend", amount);
    this.#both(order, "refund", refund.id, "post-pending", "post-pending", amount);
    this.#move(deal, { held: 0, sold: -1 }, "refunded");
    if (deal.limit !== null) this.#quota(deal, deal.dealId, user.id, -1, deal.limit);
  }

  /** Nobody used an order's vouchers in time, and its deal gives nothing back. */
  forfeit(order: OrderRow): void {
    const { row, deal } = order;
    for (const voucher of this.#table(deal.shard, "vouchers")) {
      if (voucher["order_id"] !== row.id) continue;
      Object.assign(voucher, { state: "EXPIRED", valid_until: this.at });
      this.transfer(deal.shard, {
        kind: "post",
        code: "breakage",
        businessKey: voucher["id"] as string,
        debit: `escrow:${deal.merchantId}`,
        credit: "breakage",
        amount: fen(voucher["amount"] as number),
        orderId: row.id as OrderId,
      });
    }
    this.#become(order, "COMPLETED");
  }

  /** A payout that is where its state says. */
  payOut(deal: Deal, amount: number, state: "PROCESSING" | "SUCCEEDED" | "FAILED" | "RETURNED") {
    const id = this.id(deal.shard);
    const ended = state !== "PROCESSING";
    const row = this.add(deal.shard, "payouts", {
      id,
      merchant_id: deal.merchantId,
      channel: "bank",
      amount,
      state,
      requested_by: this.id({ city: USER_CITY, slot: 0 }),
      attempts: 1,
      next_attempt_at: this.at,
      created_at: this.at,
      ended_at: ended ? this.at : null,
    });
    const payout = { id: id as PayoutId, merchantId: deal.merchantId as MerchantId, channel: "bank", amount: fen(amount) };
    const whole = { ...payout, state: "PROCESSING" as const, requestedBy: row.requested_by as UserId };
    this.transfer(deal.shard, requestTransfer(whole));
    const words = { PROCESSING: [], SUCCEEDED: ["pay"], FAILED: ["refuse"], RETURNED: ["pay", "return"] } as const;
    const told = words[state].map((event) => ({ id: payout.id, event, reason: undefined }));
    for (const { transfers } of decidePayouts(told, new Map([[payout.id, whole]])))
      for (const request of transfers) this.transfer(deal.shard, request);
    if (state === "SUCCEEDED") deal.merchant.paid_out += amount;
    return { row };
  }

  /** The group's time is up: everybody's money goes back. */
  fail(group: GroupRow, paid: readonly { order: OrderRow; payment: Payment }[]): void {
    group.state = "FAILED";
    for (const { order, payment } of paid) {
      const { row, deal, user } = order;
      const refund = this.#refund(order, payment, { quantity: row.quantity, amount: row.amount, reason: "GROUP_FAILED" });
      this.#both(order, "refund", refund.id, "pend", "pend");
      this.#both(order, "refund", refund.id, "post-pending", "post-pending");
      this.#become(order, "REFUNDED");
      this.#move(deal, { held: 0, sold: -row.quantity }, "refunded");
      if (deal.limit !== null) this.#quota(deal, deal.dealId, user.id, -row.quantity, deal.limit);
      group.taken -= 1;
      this.#seat(order, "REFUNDED");
    }
  }

  #refund({ row, deal, user }: OrderRow, payment: Payment, of: { quantity: number; amount: number; reason: string }) {
    return this.add(deal.shard, "refunds", {
      id: this.id(deal.shard),
      order_id: row.id,
      payment_id: payment.row.id,
      consumer_id: user.id,
      merchant_id: deal.merchantId,
      ...of,
      channel: "wallet",
      surplus: false,
      used: false,
      commission: 0,
      approve_by: null as Date | null,
      approved_at: null as Date | null,
      state: "SUCCEEDED",
      attempts: 1,
      next_attempt_at: this.at,
      created_at: this.at,
      decided_at: this.at,
      ended_at: this.at,
    });
  }

  async write(): Promise<void> {
    for (const { shard, requests } of this.#transfers.values()) this.#book(shard, requests);
    for (const [database, tables] of this.#rows) {
      const client = new pg.Client({ connectionString: this.keyspaces.urlOf(database) });
      await client.connect();
      await client.query("begin");
      await client.query("delete from chain_heads where slot = any($1)", [(tables.get("chain_heads") ?? []).map(({ slot }) => slot)]);
      for (const [table, rows] of tables) {
        const columns = Object.keys(rows[0] ?? {}).join(", ");
        for (let from = 0; from < rows.length; from += ROWS_A_STATEMENT) {
          const json = JSON.stringify(rows.slice(from, from + ROWS_A_STATEMENT));
          await client.query(`insert into ${table} (${columns}) select ${columns} from json_populate_recordset(null::${table}, $1)`, [
            json,
          ]);
        }
      }
      await client.query("commit");
      await client.end();
    }
    this.#rows.clear();
    this.#transfers.clear();
  }

  #book(shard: Shard, requests: readonly TransferRequest[]): void {
    const accounts = new Set(requests.flatMap(({ debit, credit }) => [debit, credit]));
    const posting = postTransfers(
      {
        slot: shard.slot,
        at: this.at,
        head: CHAIN_START,
        balances: new Map([...accounts].map((account) => [account, EMPTY])),
        recorded: [],
        ids: requests.map(() => this.id(shard) as TransferId),
      },
      requests,
    );
    for (const outcome of posting.outcomes) if (!outcome.ok) throw new Error("this world pays what it does not have");
    for (const row of posting.rows) {
      this.add(shard, "transfers", {
        id: row.id,
        seq: String(row.seq),
        debit_account: row.debit,
        credit_account: row.credit,
        amount: String(row.amount),
        code: row.code,
        state: row.state,
        business_key: row.businessKey,
        pending_id: row.pendingId ?? null,
        order_id: row.orderId ?? null,
        at: row.at,
        prev_hash: `\\x${row.prevHash}`,
        hash: `\\x${row.hash}`,
      });
    }
    for (const [account, sums] of posting.changes) {
      this.add(shard, "accounts", {
        account,
        debits_pending: String(sums.debitsPending),
        debits_posted: String(sums.debitsPosted),
        credits_pending: String(sums.creditsPending),
        credits_posted: String(sums.creditsPosted),
        floored: isFloored(account),
      });
    }
    this.add(shard, "chain_heads", { seq: String(posting.head.seq), hash: `\\x${posting.head.hash}` });
  }

  /** One step of a payment or refund, in the city and at the user. */
  #both(
    order: OrderRow,
    code: "pay" | "refund",
    key: string,
    inCity: TransferRequest["kind"],
    atUser: TransferRequest["kind"] | undefined,
    amount = fen(order.row.amount),
  ): void {
    const { deal, row, user } = order;
    const common = { code, businessKey: key, amount, orderId: row.id as OrderId };
    const into = (from: string, to: string): { debit: string; credit: string } =>
      code === "pay" ? { debit: from, credit: to } : { debit: to, credit: from };
    this.transfer(deal.shard, { kind: inCity, ...common, ...into("transit:user", `escrow:${deal.merchantId}`) });
    if (atUser) this.transfer(shardOf(user.id), { kind: atUser, ...common, ...into(`wallet:${user.id}`, `transit:${deal.shard.city}`) });
  }

  #become({ row, deal }: { row: OrderRow["row"]; deal: Deal }, to: OrderState): void {
    this.event(deal.shard, "order.moved", row.id, { ...this.#facts(row), from: row.state, to });
    row.state = to;
  }

  #facts(row: OrderRow["row"]): Row {
    return {
      orderId: row.id,
      consumerId: row.consumer_id,
      merchantId: row.merchant_id,
      dealId: row.deal_id,
      quantity: row.quantity,
      amount: row.amount,
    };
  }

  #move(deal: Deal, by: { held: number; sold: number }, cause: string): void {
    deal.stock.held += by.held;
    deal.stock.sold += by.sold;
    this.#flow(deal.shard, deal.stock, { total: 0, ...by }, cause);
  }

  #flow(shard: Shard, stock: { deal_id: Id; bucket: number }, by: { total: number; held: number; sold: number }, cause: string): void {
    this.add(shard, "stock_flows", { deal_id: stock.deal_id, bucket: stock.bucket, ...by, cause, at: this.at });
  }

  #quota({ shard }: Deal, scope: string, userId: string, by: number, cap: number): void {
    const key = `${scope} ${userId}`;
    const quota = this.#quotas.get(key);
    if (quota) quota.used += by;
    else this.#quotas.set(key, this.add(shard, "quotas", { scope, user_id: userId, used: by, cap }));
  }

  #seat({ row }: OrderRow, state: string): void {
    const seat = this.#seats.get(row.id);
    if (seat) seat.state = state;
  }

  #table(shard: Shard, table: string): Row[] {
    return this.#rows.get(this.keyspaces.keyspaces.databaseOf(shard) ?? "")?.get(table) ?? [];
  }
}

/** Orders, groups, payments and refunds in every state, in one shard; the ids tests look for. */
export function everythingIn(world: World, shard: Shard) {
  const deal = world.deal(shard, { price: 9_900, stock: 100, limit: 9 });
  const free = world.deal(shard, { price: 3_333, stock: 100, limit: null });
  const person = (index: number): Person => world.user((shard.slot + index * 3) % SLOT_COUNT, 1_000_000);
  const users = [person(0), person(1), person(2), person(3), person(4), person(5)] as const;
  const [ann, bob, cyd, dan, eve, fay] = users;

  const unpaid = world.order(deal, ann, 2);
  const cancelled = world.order(deal, ann, 1);
  world.end(cancelled, "CANCELLED");
  world.end(world.order(free, bob, 1), "EXPIRED");

  const confirmed = world.order(deal, bob, 3);
  const payment = world.pay(confirmed);
  const half = world.order(free, cyd, 2);
  world.pay(half);
  world.redeem(half, 1);
  const completed = world.order(free, cyd, 2);
  world.pay(completed);
  world.redeem(completed, 2);

  const refused = world.tryPayment(world.order(free, dan, 1));
  world.cancelPayment(refused);
  const trying = world.tryPayment(world.order(free, eve, 1));
  const confirming = world.tryPayment(world.order(deal, dan, 1));
  world.decidePayment(confirming, "on its way");

  const pending = world.openGroup(deal, 3, dan);
  world.order(deal, dan, 1, pending);
  const open = world.openGroup(deal, 3, eve);
  const opened = world.order(deal, eve, 1, open);
  world.pay(opened);
  const joining = world.order(deal, fay, 1, open);
  const full = world.openGroup(free, 2, fay);
  const first = world.order(free, fay, 1, full);
  const second = world.order(free, ann, 1, full);
  world.pay(first);
  world.pay(second);
  world.form(full, [first, second]);
  const failed = world.openGroup(deal, 2, bob);
  const lonely = world.order(deal, bob, 1, failed);
  const lonelyPayment = world.pay(lonely);
  world.fail(failed, [{ order: lonely, payment: lonelyPayment }]);
  // What used and unused units bring, in a deal of their own: its merchant's payable has all it can have.
  const settling = world.deal(shard, { price: 7_007, stock: 100, limit: 99 });
  const settled = world.order(settling, cyd, 3);
  const settledPayment = world.pay(settled);
  world.redeem(settled, 3);
  world.settle(settled);
  world.clawBack(settled, settledPayment);
  const givenBack = world.order(settling, cyd, 2);
  world.giveBack(givenBack, world.pay(givenBack));
  const forfeited = world.order(settling, cyd, 1);
  world.pay(forfeited);
  world.forfeit(forfeited);
  const paidOut = world.payOut(settling, 5_000, "SUCCEEDED");
  world.payOut(settling, 300, "PROCESSING");
  world.payOut(settling, 200, "FAILED");
  const returned = world.payOut(settling, 100, "RETURNED");
  // By a channel outside.
  const charged = world.charge(world.order(free, eve, 1), "open");
  const byChannel = world.charge(world.order(free, dan, 2), "paid");
  const late = world.order(free, bob, 1);
  world.end(late, "EXPIRED");
  const surplus = world.charge(late, "late");
  const later = world.order(free, bob, 1);
  world.end(later, "CANCELLED");
  const goingBack = world.charge(later, "late", "PROCESSING");
  const differing = world.charge(world.order(free, ann, 1), "differs");
  const sentBack = world.charge(world.order(free, ann, 1), "differs");
  world.decide(sentBack, "GIVEN_BACK");
  const writtenOff = world.charge(world.order(free, ann, 1), "differs");
  world.decide(writtenOff, "WRITTEN_OFF");
  const long = world.writeOff(shard, 700);
  const short = world.writeOff(shard, -300);
  const spare = [world.id(shard), world.id(shard), world.id(shard)] as const;
  return {
    shard,
    deal,
    free,
    users,
    spare,
    refused,
    unpaid,
    cancelled,
    confirmed,
    payment,
    half,
    completed,
    trying,
    confirming,
    pending,
    open,
    opened,
    joining,
    full,
    first,
    failed,
    lonely,
    settling,
    settled,
    givenBack,
    forfeited,
    paidOut,
    returned,
    charged,
    byChannel,
    surplus,
    goingBack,
    differing,
    sentBack,
    writtenOff,
    long,
    short,
  };
}
