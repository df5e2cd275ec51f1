/**
 * A bar as the rules alone make it: rows in memory, and the writes of `domain/` applied to them as the stores and drains do, with nothing between
 * one step and the next. What the money does is booked by the ledger's own rule.
 */
import assert from "node:assert/strict";
import { DomainError } from "../../../domain/error.ts";
import { decideClosing } from "../../../domain/group/close.ts";
import type { GroupState } from "../../../domain/group/state.ts";
import type {
  DealId,
  GroupId,
  MerchantId,
  OrderId,
  PaymentId,
  PayoutId,
  RefundId,
  SettlementId,
  UserId,
  VoucherId,
} from "../../../domain/ids.ts";
import { fen, share, type Fen } from "../../../domain/money.ts";
import type { OrderRow } from "../../../domain/order/place.ts";
import { decideRelease } from "../../../domain/order/release.ts";
import { newsOf, type News } from "../../../domain/payment/charge.ts";
import { decidePayments, type DecideCommand } from "../../../domain/payment/decide.ts";
import { decideTry, WALLET, type PaymentRow } from "../../../domain/payment/try.ts";
import { OPEN_CHARGE } from "../../../domain/payment/state.ts";
import { decidePayouts, requestTransfer, type PayoutRow } from "../../../domain/payout/decide.ts";
import type { PayoutEvent } from "../../../domain/payout/state.ts";
import { heard, mayGo, refundedOrders } from "../../../domain/refund/advance.ts";
import { decideRequests } from "../../../domain/refund/request.ts";
import { COMMISSION, decideSettling, escrowOf, payableOf, transfersOf, type SettlementRow } from "../../../domain/settlement/decide.ts";
import { split } from "../../../domain/settlement/split.ts";
import { decideLapse } from "../../../domain/voucher/lapse.ts";
import { decideRedeem, type VoucherRow } from "../../../domain/voucher/redeem.ts";
import { decideReverse } from "../../../domain/voucher/reverse.ts";
import { DEAL, type Seen, type Terms } from "./model.ts";
import { post, RuleBooks } from "./rules.books.ts";

const BAR = "48" as MerchantId;
const OFFER = "32" as DealId;
const MINUTE = 60_000;

interface Group {
  readonly id: GroupId;
  readonly dealId: DealId;
  readonly leaderId: UserId;
  readonly size: number;
  state: GroupState;
  held: number;
  taken: number;
  filled: number;
  readonly ttlMinutes: number;
  readonly saleEndsAt: undefined;
  readonly autoFillBps: undefined;
  deadline: Date | undefined;
}
interface Refund {
  readonly id: RefundId;
  readonly order: OrderId;
  readonly amount: Fen;
  readonly channel: string;
  readonly used: boolean;
  readonly surplus: boolean;
  readonly commission: Fen;
  readonly approveBy: Date | undefined;
  approvedAt: Date | undefined;
  state: "REQUESTED" | "PROCESSING" | "SUCCEEDED";
}

export class RuleBar {
  #now = new Date(Date.UTC(2026, 0, 31, 18));
  #ids = 100;
  readonly #terms: Terms;
  readonly #orders = new Map<string, OrderRow>();
  readonly #groups = new Map<GroupId, Group>();
  readonly #payments = new Map<PaymentId, PaymentRow>();
  readonly #surplus = new Set<PaymentId>();
  #vouchers: VoucherRow[] = [];
  readonly #settlements = new Map<VoucherId, SettlementRow>();
  readonly #refunds: Refund[] = [];
  readonly #payouts: PayoutRow[] = [];
  /** What the money does, booked by the ledger's own rule. */
  readonly books = new RuleBooks();
  #held = 0;
  #sold = 0;
  readonly #counters: Record<string, number> = {};

  constructor(terms: Terms) {
    this.#terms = terms;
  }

  // -- buying ---------------------------------------------------------------------------------------------------------------

  place(user: number, quantity: number, group: number | "open" | undefined): void {
    const id = this.#id() as OrderId;
    const consumerId = String(user) as UserId;
    const price = group === undefined ? DEAL.price : DEAL.groupPrice;
    const groupId = group === "open" ? this.#open(consumerId) : group === undefined ? undefined : [...this.#groups.keys()][group];
    if (typeof group === "number") this.#group(groupId).held += 1;
    this.#orders.set(id, {
      ...{ id, consumerId, merchantId: BAR, dealId: OFFER, groupId, bucket: 0, quantity },
      ...{ unitPrice: fen(price), discount: fen(0), amount: fen(price * quantity), region: "", regionVersion: "", discountBps: 0 },
      ...{ commissionBps: DEAL.commissionBps, voucherValidDays: 90, state: "PENDING_PAYMENT", idemKey: id, bodyHash: "" },
      ...{ createdAt: this.#now, expiresAt: this.#in(15), paidAt: undefined },
    });
    this.#held += quantity;
    this.#count(`units ${user}`, quantity);
    this.#count(`unpaid ${user}`, 1);
  }

  /** Begins to pay, or finds who began; `undefined` where a payment is open. */
  try(index: number, channel: string): { said: string | undefined; payment: PaymentRow | undefined } {
    const order = this.#order(index);
    const live = new Map(
      [...this.#payments.values()]
        .filter(({ id, state }) => state !== "CANCELLING" && state !== "FAILED" && !this.#surplus.has(id))
        .map((payment) => [payment.orderId as string, payment]),
    );
    const { outcomes, begun } = decideTry(
      { orders: this.#orders, live, groups: this.#groups },
      [{ orderId: order.id, consumerId: order.consumerId, channel }],
      { now: this.#now, nextId: () => this.#id() as PaymentId },
    );
    for (const payment of begun) this.#payments.set(payment.id, payment);
    const [outcome] = outcomes;
    if (outcome instanceof DomainError) return { said: outcome.type, payment: undefined };
    const payment = outcome?.payment;
    return { said: payment && (payment.state === "CONFIRMED" || payment.state === "CONFIRMING") ? "CONFIRMED" : undefined, payment };
  }
  decideWallet({ id, orderId }: PaymentRow, confirm: boolean): PaymentRow {
    return this.#decide({ paymentId: id, orderId, confirm, reason: "INSUFFICIENT_FUNDS", requestId: undefined });
  }
  tell({ id, orderId }: Pick<PaymentRow, "id" | "orderId">, news: News): PaymentRow {
    return this.#decide({ paymentId: id, orderId, news, channelNo: undefined, requestId: undefined, callbackId: undefined });
  }
  /** What was paid at the channel for the n-th charge of an order. */
  tellPaid(index: number, charge: number, wrong: boolean): void {
    const payment = this.charges(index)[charge];
    assert.ok(payment);
    const paid = { amount: fen(payment.amount - (wrong ? 1n : 0n)), currency: "CNY", atMs: this.#now.getTime() };
    this.tell(payment, newsOf({ number: payment.id, status: "PAID", paid }));
  }
  charges = (index: number): PaymentRow[] =>
    [...this.#payments.values()].filter(({ orderId, channel }) => orderId === this.#order(index).id && channel !== WALLET);

  cancel(index: number): string {
    return this.#release(index, "cancel");
  }
  expire(index: number): void {
    const order = this.#order(index);
    this.#orders.set(order.id, { ...order, expiresAt: this.#in(-1) });
    assert.equal(this.#release(index, "expire"), "EXPIRED");
  }
  close(party: number, unpaid: readonly number[]): void {
    for (const index of unpaid) this.expire(index);
    const group = [...this.#groups.values()][party];
    assert.ok(group);
    group.deadline = this.#now;
    assert.equal(decideClosing(group, this.#now).step, "close");
    group.state = "CLOSING";
    assert.equal(decideClosing(group, this.#now).step, "fail");
    group.state = "FAILED";
    for (const order of this.#orders.values()) {
      if (order.groupId !== group.id || order.state !== "PAID") continue;
      this.#sold -= order.quantity;
      this.#count(`units ${order.consumerId}`, -order.quantity);
      this.#owe(order, order.amount, {});
    }
  }

  // -- using ----------------------------------------------------------------------------------------------------------------

  redeem(index: number, unit: number): string {
    const { writes, outcomes } = decideRedeem(
      { vouchers: this.#unitsOf(index) },
      [{ code: this.#code(index, unit), merchantId: BAR }],
      this.#now,
    );
    for (const voucher of writes.redeemed) {
      this.#put(voucher);
      const order = this.#orders.get(voucher.orderId);
      const { commission } = split(voucher.amount, order?.commissionBps ?? 0);
      const common = { id: this.#id() as SettlementId, voucherId: voucher.id, orderId: voucher.orderId, merchantId: BAR };
      this.#settlements.set(voucher.id, { ...common, gross: voucher.amount, commission, state: "INIT", attempt: 0 });
    }
    for (const id of writes.completed) this.#become(id, "COMPLETED");
    const [outcome] = outcomes;
    return outcome instanceof DomainError ? outcome.type : "REDEEMED";
  }
  reverse(index: number, unit: number): string {
    const settlements = new Map([...this.#settlements].map(([id, { state }]) => [id, state]));
    const { writes, outcomes } = decideReverse(
      { vouchers: this.#unitsOf(index), settlements },
      [{ code: this.#code(index, unit), merchantId: BAR }],
      { now: this.#now, reversalMinutes: 60 },
    );
    for (const voucher of writes.reversed) {
      this.#put(voucher);
      this.#settlements.delete(voucher.id);
    }
    for (const id of writes.reopened) if (this.#orders.get(id)?.state === "COMPLETED") this.#become(id, "CONFIRMED");
    const [outcome] = outcomes;
    return outcome instanceof DomainError ? outcome.type : "ISSUED";
  }
  age(index: number, minutes: number): void {
    for (const voucher of this.#unitsOf(index))
      if (voucher.redeemedAt) this.#put({ ...voucher, redeemedAt: new Date(voucher.redeemedAt.getTime() - minutes * MINUTE) });
  }
  /** By the worker that holds it, after one that was taken for dead. */
  settle(index: number): void {
    const due = this.#unitsOf(index)
      .flatMap(({ id }) => this.#settlements.get(id) ?? [])
      .filter(({ state }) => state === "INIT");
    for (const settlement of due) this.#settlements.set(settlement.voucherId, { ...settlement, state: "PROCESSING", attempt: 2 });
    const rows = new Map([...this.#settlements.values()].map((row) => [row.id, row]));
    const states = new Map(this.#vouchers.map(({ id, state }) => [id, { state }]));
    const claims = due.flatMap(({ id, voucherId }) => [1, 2, 2].map((attempt) => ({ id, voucherId, attempt })));
    const { settled, failed } = decideSettling(claims, rows, states);
    assert.deepEqual(failed, []);
    for (const settlement of settled) {
      this.#settlements.set(settlement.voucherId, { ...settlement, state: "SUCCESS" });
      const voucher = this.#vouchers.find(({ id }) => id === settlement.voucherId);
      assert.ok(voucher);
      this.#put({ ...voucher, state: "SETTLED" });
    }
    this.books.book(settled.flatMap(transfersOf));
  }
  lapse(index: number): void {
    for (const voucher of this.#unitsOf(index)) if (voucher.state === "ISSUED") this.#put({ ...voucher, validUntil: this.#now });
    const order = this.#order(index);
    for (const lapse of decideLapse(this.#unitsOf(index), new Map([[OFFER, { refundExpired: this.#terms.expired }]]), this.#now)) {
      if (lapse.refunded) this.#giveBack(order, lapse.vouchers, false, fen(0), undefined);
      else
        for (const voucher of lapse.vouchers) {
          this.#put({ ...voucher, state: "EXPIRED" });
          this.books.book([post("breakage", voucher.id, escrowOf(BAR), "breakage", voucher.amount)]);
        }
      if (lapse.completes) this.#become(order.id, "COMPLETED");
    }
  }
  refund(index: number, quantity: number | undefined): string {
    const order = this.#order(index);
    const capture = [...this.#payments.values()].find(
      ({ id, orderId, state }) => orderId === order.id && state.startsWith("CONFIRM") && !this.#surplus.has(id),
    );
    const { outcomes, refunds, completed } = decideRequests(
      {
        orders: this.#orders,
        vouchers: this.#unitsOf(index),
        terms: new Map([[OFFER, { refundAnytime: this.#terms.anytime, refundExpired: this.#terms.expired }]]),
        captures: new Map(capture ? [[order.id, { id: capture.id }]] : []),
        commissions: new Map([...this.#settlements].map(([id, { commission }]) => [id, commission])),
      },
      [{ orderId: order.id, consumerId: order.consumerId, quantity, note: undefined }],
      { now: this.#now, nextId: () => this.#id() as RefundId },
    );
    for (const { vouchers, used, commission, approveBy } of refunds) {
      const units = this.#vouchers.filter(({ id }) => vouchers.includes(id));
      this.#giveBack(order, units, used, commission, approveBy);
    }
    for (const id of completed) this.#become(id, "COMPLETED");
    const [outcome] = outcomes;
    return outcome instanceof DomainError ? outcome.type : `REQUESTED ${String(outcome?.amount)}`;
  }
  approve(index: number): void {
    for (const refund of this.#refunds)
      if (refund.order === this.#order(index).id && refund.used && refund.state === "REQUESTED") refund.approvedAt = this.#now;
    this.#goOn();
  }
  /** A day has passed. */
  silence(): void {
    this.#now = this.#in(25 * 60);
    this.#goOn();
  }
  /** The channel says `amount` for what is on its way: other money than was owed stops it, the same ends it. */
  arrive(differs: boolean): void {
    for (const refund of this.#refunds) {
      if (refund.state !== "PROCESSING") continue;
      const said = heard({ kind: "succeeded", amount: refund.amount + (differs ? 1n : 0n), currency: "CNY" }, refund.amount);
      if (said.kind === "succeeded") this.#arrived(refund);
    }
  }
  payOut(amount: number): string {
    const row: PayoutRow = {
      id: this.#id() as PayoutId,
      merchantId: BAR,
      channel: "simpay",
      amount: fen(amount),
      state: "REQUESTED",
      requestedBy: "16" as UserId,
    };
    if (!this.books.try([requestTransfer(row)])) return "INSUFFICIENT_FUNDS";
    this.#payouts.push(row);
    return "REQUESTED";
  }
  tellPayout(index: number, events: readonly PayoutEvent[]): void {
    const row = this.#payouts[index];
    assert.ok(row);
    const moves = decidePayouts(
      events.map((event) => ({ id: row.id, event })),
      new Map([[row.id, row]]),
    );
    for (const { to, transfers } of moves) {
      this.#payouts[index] = { ...row, state: to };
      this.books.book(transfers);
    }
  }

  // -- looking --------------------------------------------------------------------------------------------------------------

  look(): Seen {
    return {
      orders: [...this.#orders.values()].map(({ state }) => state),
      groups: [...this.#groups.values()].map(({ state }) => state),
      units: [...this.#orders.keys()].map((id) => this.#vouchers.filter(({ orderId }) => orderId === id).map(({ state }) => state)),
      held: this.#held,
      sold: this.#sold,
      counters: this.#counters,
    };
  }
  tally(): Record<string, number> {
    const all = [...this.#payments.values()];
    return {
      paid: all.filter(({ id, state }) => state.startsWith("CONFIRM") && !this.#surplus.has(id)).length,
      surplus: this.#surplus.size,
      differs: all.filter(({ state, paid }) => state === "FAILED" && paid !== undefined).length,
      open: all.filter(({ state }) => OPEN_CHARGE.includes(state)).length,
    };
  }

  // -- within ---------------------------------------------------------------------------------------------------------------

  #id = (): string => String(++this.#ids);
  #in = (minutes: number): Date => new Date(this.#now.getTime() + minutes * MINUTE);
  #order(index: number): OrderRow {
    const order = [...this.#orders.values()][index];
    assert.ok(order);
    return order;
  }
  #group(id: GroupId | undefined): Group {
    const group = id && this.#groups.get(id);
    assert.ok(group);
    return group;
  }
  #open(leaderId: UserId): GroupId {
    const id = this.#id() as GroupId;
    const { groupSize: size } = DEAL;
    const none = { saleEndsAt: undefined, autoFillBps: undefined, deadline: undefined };
    this.#groups.set(id, { id, dealId: OFFER, leaderId, size, state: "PENDING", held: 1, taken: 0, filled: 0, ttlMinutes: 60, ...none });
    return id;
  }
  #count(key: string, by: number): void {
    this.#counters[key] = (this.#counters[key] ?? 0) + by;
  }
  #become(id: string, state: OrderRow["state"]): void {
    const order = this.#orders.get(id);
    assert.ok(order);
    this.#orders.set(id, { ...order, state });
  }
  #unitsOf = (index: number): VoucherRow[] => this.#vouchers.filter(({ orderId }) => orderId === this.#order(index).id);
  #code = (index: number, unit: number): string => this.#unitsOf(index)[unit]?.code ?? "";
  #put(voucher: VoucherRow): void {
    this.#vouchers = this.#vouchers.map((one) => (one.id === voucher.id ? voucher : one));
  }

  #decide(command: DecideCommand): PaymentRow {
    const { outcomes, writes } = decidePayments(
      { payments: this.#payments, orders: this.#orders, groups: this.#groups },
      [command],
      this.#now,
    );
    for (const { payment } of writes.confirming) this.#payments.set(payment.id, { ...payment, state: "CONFIRMING" });
    for (const { payment, reason } of writes.cancelling) this.#payments.set(payment.id, { ...payment, state: "CANCELLING", reason });
    for (const { payment } of writes.charges.values()) this.#payments.set(payment.id, payment);
    for (const { payment } of writes.confirming) this.#pay(payment, "transit:user");
    for (const payment of writes.captured) this.#pay(payment, "channel:simpay");
    for (const { payment, paid } of writes.differing)
      this.books.book([post("pay-differs", payment.id, "channel:simpay", "suspense:long", paid.amount)]);
    for (const order of writes.paid) {
      this.#orders.set(order.id, order);
      this.#count(`unpaid ${order.consumerId}`, -1);
    }
    for (const { held, sold } of writes.buckets) {
      this.#held += held;
      this.#sold += sold;
    }
    for (const [id, { state, held, taken, deadline }] of writes.groups) {
      const group = this.#group(id);
      Object.assign(group, { state, held: group.held + held, taken: group.taken + taken, deadline: group.deadline ?? deadline });
    }
    for (const order of writes.confirmed) this.#confirm(order);
    for (const { payment, order } of writes.surplus) {
      this.#surplus.add(payment.id);
      this.#pay(payment, "channel:simpay");
      this.#owe(order, payment.amount, { surplus: true, channel: payment.channel });
    }
    const [outcome] = outcomes;
    assert.ok(outcome);
    return outcome.payment;
  }
  #pay(payment: PaymentRow, from: string): void {
    this.books.book([post("pay", payment.id, from, escrowOf(BAR), payment.amount)]);
  }
  #confirm(order: OrderRow): void {
    this.#orders.set(order.id, order);
    for (const [unit, amount] of share(order.amount, new Array<bigint>(order.quantity).fill(1n)).entries()) {
      const id = this.#id() as VoucherId;
      const of = { orderId: order.id, dealId: OFFER, merchantId: BAR, consumerId: order.consumerId, unit: unit + 1, amount };
      this.#vouchers.push({
        id,
        ...of,
        code: id,
        state: "ISSUED",
        validUntil: this.#in(90 * 1_440),
        redeemedAt: undefined,
        refundId: undefined,
      });
    }
  }
  #release(index: number, cause: "cancel" | "expire"): string {
    const order = this.#order(index);
    const state = { orders: this.#orders, paying: new Set<string>(), charging: new Set<string>(), groups: this.#groups };
    const { outcomes, writes } = decideRelease(
      state,
      [{ orderId: order.id, cause, callerId: cause === "cancel" ? order.consumerId : undefined }],
      this.#now,
    );
    for (const after of [...writes.cancelled, ...writes.expired]) {
      this.#orders.set(after.id, after);
      this.#count(`units ${after.consumerId}`, -after.quantity);
      this.#count(`unpaid ${after.consumerId}`, -1);
    }
    for (const { held } of writes.buckets) this.#held += held;
    for (const { id, held, state: after } of writes.groups.values())
      Object.assign(this.#group(id), { state: after, held: this.#group(id).held + held });
    const [outcome] = outcomes;
    return outcome instanceof DomainError ? outcome.type : (outcome?.state ?? "");
  }

  /** Of whole units: unused ones go back on sale at once. */
  #giveBack(order: OrderRow, units: readonly VoucherRow[], used: boolean, commission: Fen, approveBy: Date | undefined): void {
    const amount = fen(units.reduce((total, unit) => total + unit.amount, 0n));
    const id = this.#owe(order, amount, { used, commission, approveBy });
    for (const unit of units) this.#put({ ...unit, state: used ? "SETTLED" : "REFUNDING", refundId: id });
    if (used) return;
    this.#sold -= units.length;
    this.#count(`units ${order.consumerId}`, -units.length);
  }
  #owe(order: OrderRow, amount: Fen, of: Partial<Pick<Refund, "used" | "commission" | "approveBy" | "surplus" | "channel">>): RefundId {
    const id = this.#id() as RefundId;
    const paidBy = [...this.#payments.values()].find(
      (one) => one.orderId === order.id && one.state.startsWith("CONFIRM") && !this.#surplus.has(one.id),
    );
    const plain = { used: false, commission: fen(0), approveBy: undefined, surplus: false, channel: paidBy?.channel ?? WALLET };
    this.#refunds.push({ ...plain, ...of, id, order: order.id, amount, approvedAt: undefined, state: "REQUESTED" });
    this.#goOn();
    return id;
  }
  /** What may go leaves the escrow; by wallet it is there at once. */
  #goOn(): void {
    for (const refund of this.#refunds) {
      if (refund.state !== "REQUESTED" || !mayGo(refund, this.#now)) continue;
      refund.state = "PROCESSING";
      if (refund.used) {
        const net = fen(refund.amount - refund.commission);
        if (net > 0n) this.books.book([post("clawback", refund.id, payableOf(BAR), escrowOf(BAR), net)]);
        if (refund.commission > 0n) this.books.book([post("commission-back", refund.id, COMMISSION, escrowOf(BAR), refund.commission)]);
      }
      const to = refund.channel === WALLET ? "transit:user" : "refund_in_transit:simpay";
      this.books.book([post("refund", refund.id, escrowOf(BAR), to, refund.amount)]);
    }
  }
  #arrived(refund: Refund): void {
    refund.state = "SUCCEEDED";
    if (refund.channel !== WALLET)
      this.books.book([post("refund-paid", refund.id, "refund_in_transit:simpay", "channel:simpay", refund.amount)]);
    for (const voucher of this.#vouchers)
      if (voucher.refundId === refund.id && voucher.state === "REFUNDING") this.#put({ ...voucher, state: "REFUNDED" });
    const order = this.#orders.get(refund.order);
    assert.ok(order);
    const back = this.#refunds.filter((one) => one.order === order.id && one.state === "SUCCEEDED" && !one.used && !one.surplus);
    const whole = refundedOrders([order], new Map([[order.id, back.reduce((total, one) => total + one.amount, 0n)]]));
    for (const { id } of whole) this.#become(id, "REFUNDED");
  }
}
