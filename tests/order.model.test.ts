/**
 * Ordering, releasing, paying and closing, as pure functions, against a model. The world below keeps rows and applies what the rules tell it
 * to write, as the stores do; the model keeps a list of orders and derives everything else from it: it has no counters that could be wrong
 * in the same way.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import type { DealState } from "../domain/deal/state.ts";
import { DomainError } from "../domain/error.ts";
import { decideClosing } from "../domain/group/close.ts";
import { GROUP, SEAT, type GroupState, type SeatState } from "../domain/group/state.ts";
import type { DealId, GroupId, MerchantId, OrderId, PaymentId, UserId } from "../domain/ids.ts";
import { fen } from "../domain/money.ts";
import { DEFAULT_RULES } from "../domain/region/policy.ts";
import {
  decidePlace,
  orderKey,
  quotaKey,
  seatKey,
  type Bucket,
  type DealFacts,
  type NewGroup,
  type OrderRow,
  type PlaceCommand,
} from "../domain/order/place.ts";
import { decideRelease, type ReleaseCommand } from "../domain/order/release.ts";
import { ORDER } from "../domain/order/state.ts";
import { decidePayments } from "../domain/payment/decide.ts";
import { PAYMENT, type TccState } from "../domain/payment/state.ts";
import { decideTry, WALLET, type PaymentRow } from "../domain/payment/try.ts";
import { arrows, type Transitions } from "../domain/transition.ts";

const START_MS = Date.UTC(2026, 0, 31, 18);
const MINUTE = 60_000;
const ORDER_TTL_MS = 15 * MINUTE;
const UNPAID_MAX = 5;

/** `a` is scarce, scattered over buckets, limited and ends soon; `b` has plenty and fills up groups; `x` is another bar's; `draft` is none. */
interface Offer {
  readonly merchant: string;
  readonly stock: readonly number[];
  readonly sizes: readonly number[];
  readonly limit: number | undefined;
  readonly fillBps: number | undefined;
  readonly endsMs: number | undefined;
}
const OFFERS: Readonly<Record<string, Offer>> = {
  a: { merchant: "m", stock: [3, 1, 2], sizes: [2, 3], limit: 3, fillBps: undefined, endsMs: START_MS + 50 * MINUTE },
  b: { merchant: "m", stock: [14], sizes: [3, 4], limit: undefined, fillBps: 3_000, endsMs: undefined },
  x: { merchant: "n", stock: [2, 2], sizes: [2], limit: undefined, fillBps: undefined, endsMs: undefined },
  draft: { merchant: "n", stock: [9], sizes: [], limit: undefined, fillBps: undefined, endsMs: undefined },
};
const TTL_MINUTES = 30;

interface Asked {
  readonly user: string;
  readonly deal: string;
  readonly quantity: number;
  readonly size: number | undefined;
  /** The number of a group, in the order they were opened. */
  readonly group: number | undefined;
  readonly key: string;
  /** What was asked, as one text: the key's second use must ask the same. */
  readonly body: string;
}
/** The number of a group that never was. */
const NO_GROUP = 999;

// -- the model ------------------------------------------------------------------------------------------------------------

type Fate = "PENDING_PAYMENT" | "PAID" | "CONFIRMED" | "CANCELLED" | "EXPIRED";
interface Purchase extends Asked {
  readonly asked: Asked;
  fate: Fate;
  readonly untilMs: number;
  /** Begun and not decided, by the number of the payment. */
  paying: number | undefined;
}
interface Party {
  readonly deal: string;
  readonly size: number;
  readonly opener: string;
  state: GroupState;
  untilMs: number | undefined;
  filled: number;
}

class Model {
  nowMs = START_MS;
  readonly saleStates: Record<string, DealState> = { a: "ON_SALE", b: "ON_SALE", x: "ON_SALE", draft: "DRAFT" };
  readonly orders: Purchase[] = [];
  readonly parties: Party[] = [];
  /** The order of each payment, and what became of it. */
  readonly payments: { readonly order: number; end: "TRYING" | "CONFIRMING" | "CANCELLING" }[] = [];

  /** An order that has units and a seat: unpaid or paid, unless its group failed. */
  lives = (order: Purchase): boolean =>
    order.fate === "PENDING_PAYMENT" || order.fate === "CONFIRMED" || (order.fate === "PAID" && this.partyOf(order)?.state !== "FAILED");
  partyOf = (order: Purchase): Party | undefined => (order.group === undefined ? undefined : this.parties[order.group]);
  living(which: Partial<Purchase>): Purchase[] {
    const wanted = Object.entries(which) as [keyof Purchase, unknown][];
    return this.orders.filter((order) => wanted.every(([field, value]) => order[field] === value) && this.lives(order));
  }
  units = (orders: readonly Purchase[]): number => orders.reduce((units, order) => units + order.quantity, 0);
  free = (deal: string): number => OFFERS[deal]!.stock.reduce((a, b) => a + b) - this.units(this.living({ deal }));
  unpaidWith = (user: string, merchant: string): number =>
    this.living({ user, fate: "PENDING_PAYMENT" }).filter(({ deal }) => OFFERS[deal]!.merchant === merchant).length;

  place(asked: Asked): string {
    const { user, deal, quantity, size, group, key, body } = asked;
    const seen = this.orders.findIndex((order) => order.user === user && order.key === key);
    if (seen !== -1) return this.orders[seen]!.body === body ? `again ${seen}` : "IDEMPOTENCY_KEY_REUSED";
    const offer = OFFERS[deal];
    const party = group === undefined ? undefined : this.parties[group];
    const members = party ? this.living({ group: group! }) : [];
    const ended = offer?.endsMs !== undefined && this.nowMs >= offer.endsMs;
    const late = party?.untilMs === undefined || this.nowMs >= party.untilMs;
    const refusals: [string, boolean][] = [
      ["DEAL_NOT_FOUND", !offer || this.saleStates[deal] === "DRAFT"],
      ["GROUP_NOT_FOUND", group !== undefined && (!party || party.deal !== deal || party.state === "PENDING")],
      ["DEAL_NOT_ON_SALE", this.saleStates[deal] !== "ON_SALE" || ended],
      ["NO_SUCH_TIER", size !== undefined && !offer?.sizes.includes(size)],
      ["GROUP_FULL", party?.state === "FORMED"],
      ["GROUP_CLOSED", party !== undefined && (party.state !== "OPEN" || late)],
      ["ALREADY_IN_GROUP", members.some((member) => member.user === user)],
      ["GROUP_FULL", members.length >= (party?.size ?? Infinity)],
      ["USER_LIMIT_EXCEEDED", this.units(this.living({ user, deal })) + quantity > (offer?.limit ?? Infinity)],
      ["TOO_MANY_UNPAID", this.unpaidWith(user, offer?.merchant ?? "") >= UNPAID_MAX],
      ["SOLD_OUT", offer !== undefined && this.free(deal) < quantity],
    ];
    const refused = refusals.find(([, holds]) => holds);
    if (refused) return refused[0];
    if (size !== undefined) this.parties.push({ deal, size, opener: user, state: "PENDING", untilMs: undefined, filled: 0 });
    const inGroup = size === undefined ? group : this.parties.length - 1;
    const saleEnd = inGroup === undefined ? undefined : offer?.endsMs;
    const untilMs = Math.min(this.nowMs + ORDER_TTL_MS, party?.untilMs ?? Infinity, saleEnd ?? Infinity);
    this.orders.push({ ...asked, asked, group: inGroup, fate: "PENDING_PAYMENT", untilMs, paying: undefined });
    return `made ${this.orders.length - 1}`;
  }

  release(index: number, by: string | undefined, cause: "cancel" | "expire"): string {
    const order = this.orders[index]!;
    if (by !== undefined && by !== order.user) return "ORDER_NOT_FOUND";
    const unpaid = order.fate === "PENDING_PAYMENT";
    if (cause === "cancel" && !unpaid) return "ORDER_STATE";
    if (cause === "expire" && (!unpaid || order.untilMs > this.nowMs || order.paying !== undefined)) return order.fate;
    order.fate = cause === "cancel" ? "CANCELLED" : "EXPIRED";
    const party = this.partyOf(order);
    if (party?.state === "PENDING") party.state = "FAILED";
    return order.fate;
  }

  try(index: number, by: string): string {
    const order = this.orders[index]!;
    if (by !== order.user) return "ORDER_NOT_FOUND";
    if (order.fate === "CANCELLED" || order.fate === "EXPIRED") return "ORDER_STATE";
    const live = this.payments.findIndex((payment) => payment.order === index && payment.end !== "CANCELLING");
    if (live !== -1) return `shares ${live}`;
    if (order.fate !== "PENDING_PAYMENT" || order.untilMs <= this.nowMs) return "ORDER_STATE";
    order.paying = this.payments.push({ order: index, end: "TRYING" }) - 1;
    return `begins ${order.paying}`;
  }

  /** The money is there (`confirm`), or it is not. */
  decide(index: number, confirm: boolean): string {
    const payment = this.payments[index]!;
    const order = this.orders[payment.order]!;
    if (payment.end !== "TRYING") return payment.end;
    order.paying = undefined;
    payment.end = confirm && order.fate === "PENDING_PAYMENT" ? "CONFIRMING" : "CANCELLING";
    if (payment.end === "CANCELLING") return payment.end;
    const party = this.partyOf(order);
    order.fate = party ? "PAID" : "CONFIRMED";
    if (party?.state === "PENDING") {
      party.state = "OPEN";
      party.untilMs = Math.min(this.nowMs + TTL_MINUTES * MINUTE, OFFERS[order.deal]!.endsMs ?? Infinity);
    }
    if (party && this.living({ group: order.group!, fate: "PAID" }).length === party.size) this.#form(order.group!);
    return payment.end;
  }

  close(index: number): GroupState {
    const party = this.parties[index]!;
    const paid = this.living({ group: index, fate: "PAID" }).length;
    const waiting = this.living({ group: index, fate: "PENDING_PAYMENT" }).length > 0;
    if (party.state === "OPEN" && party.untilMs! <= this.nowMs) party.state = "CLOSING";
    else if (party.state === "CLOSING" && !waiting) {
      if (paid / party.size >= (OFFERS[party.deal]!.fillBps ?? Infinity) / 10_000) {
        party.filled = party.size - paid;
        this.#form(index);
      } else party.state = "FAILED";
    }
    return party.state;
  }

  #form(index: number): void {
    for (const member of this.living({ group: index, fate: "PAID" })) member.fate = "CONFIRMED";
    this.parties[index]!.state = "FORMED";
  }
}

// -- the world: rows, and the writes of the rules applied to them ----------------------------------------------------------

interface Group extends NewGroup {
  state: GroupState;
  held: number;
  taken: number;
  filled: number;
  deadline: Date | undefined;
}
interface Seat {
  readonly groupId: GroupId;
  readonly userId: UserId;
  state: SeatState;
}

/** The `where` of an update: a state changes along an arrow of its table, or not at all. */
function allowed<S extends string>(table: Transitions<S, string>, from: S, to: S): void {
  assert.ok(from === to || arrows(table).some(([a, b]) => a === from && b === to), `${from} does not become ${to}`);
}

class World {
  now = new Date(START_MS);
  #lastId = 0;
  readonly deals = new Map<DealId, DealFacts>();
  readonly buckets = new Map<DealId, Bucket[]>();
  readonly orders = new Map<OrderId, OrderRow>();
  readonly groups = new Map<GroupId, Group>();
  readonly seats = new Map<OrderId, Seat>();
  readonly quotas = new Map<string, number>();
  readonly payments = new Map<PaymentId, PaymentRow>();

  constructor() {
    for (const [name, offer] of Object.entries(OFFERS)) {
      const id = name as DealId;
      this.deals.set(id, {
        id,
        merchantId: offer.merchant as MerchantId,
        price: fen(1_000),
        tiers: offer.sizes.map((size) => ({ size, price: 1_000 - size })),
        perUserLimit: offer.limit,
        groupTtlMinutes: TTL_MINUTES,
        autoFillBps: offer.fillBps,
        saleStartsAtMs: undefined,
        saleEndsAtMs: offer.endsMs,
        commissionBps: 600,
        voucherValidDays: 90,
        state: name === "draft" ? "DRAFT" : "ON_SALE",
      });
      this.buckets.set(
        id,
        offer.stock.map((total, bucket) => ({ dealId: id, bucket, total, held: 0, sold: 0 })),
      );
    }
  }
  nextId = (): string => String(++this.#lastId);
  groupAt = (index: number): GroupId => [...this.groups.keys()][index] ?? ("no group" as GroupId);
  orderAt = (index: number): OrderRow => [...this.orders.values()][index]!;
  indexOf = <K>(rows: ReadonlyMap<K, unknown>, id: K): number => [...rows.keys()].indexOf(id);

  place(batch: readonly Asked[]): string[] {
    const commands = batch.map((asked): PlaceCommand => ({
      consumerId: asked.user as UserId,
      username: asked.user,
      dealId: asked.deal as DealId,
      quantity: asked.quantity,
      groupSize: asked.size,
      groupId: asked.group === undefined ? undefined : this.groupAt(asked.group),
      idemKey: asked.key,
      bodyHash: asked.body,
      requestId: undefined,
    }));
    const live = [...this.seats.values()].filter(({ state }) => state === "HELD" || state === "TAKEN");
    const { outcomes, writes } = decidePlace(
      {
        orders: new Map([...this.orders.values()].map((order) => [orderKey(order.consumerId, order.idemKey), order])),
        deals: this.deals,
        buckets: new Map([...this.buckets].map(([id, buckets]) => [id, buckets.map((bucket) => ({ ...bucket }))])),
        groups: new Map([...this.groups].map(([id, group]) => [id, { ...group, deadlineMs: group.deadline?.getTime() }])),
        seats: new Set(live.map(({ groupId, userId }) => seatKey(groupId, userId))),
        quotas: this.quotas,
      },
      commands,
      { now: this.now, orderTtlMs: ORDER_TTL_MS, rules: DEFAULT_RULES, nextId: this.nextId },
    );
    for (const group of writes.groups)
      this.groups.set(group.id, { ...group, state: "PENDING", held: 1, taken: 0, filled: 0, deadline: undefined });
    for (const [id, held] of writes.held) this.groups.get(id)!.held += held;
    for (const order of writes.orders) this.orders.set(order.id, order);
    for (const { groupId, orderId, userId } of writes.seats) this.seats.set(orderId, { groupId, userId, state: "HELD" });
    for (const change of writes.buckets.values()) this.#changeBucket(change);
    for (const { scope, userId, delta, cap } of writes.quotas.values()) this.#count(scope, userId, delta, cap);
    return outcomes.map((outcome) =>
      outcome instanceof DomainError
        ? outcome.type
        : `${outcome.replayed ? "again" : "made"} ${this.indexOf(this.orders, outcome.order.id)}`,
    );
  }

  release(commands: readonly ReleaseCommand[]): string[] {
    const trying = [...this.payments.values()].filter(({ state }) => state === "TRYING");
    const state = {
      orders: this.orders,
      paying: new Set(trying.map(({ orderId }) => orderId)),
      charging: new Set<string>(),
      groups: this.groups,
    };
    const { outcomes, writes } = decideRelease(state, commands, this.now);
    for (const order of [...writes.cancelled, ...writes.expired]) this.#moveOrder(order);
    for (const change of writes.buckets) this.#changeBucket(change);
    for (const { id, held, was, state: after } of writes.groups.values()) {
      const group = this.groups.get(id)!;
      assert.equal(group.state, was);
      allowed(GROUP, was, after);
      group.held += held;
      group.state = after;
    }
    for (const { orderId } of writes.seats) this.#moveSeat(orderId as OrderId, "RELEASED");
    for (const { scope, userId, units } of writes.quotas) if (this.quotas.has(quotaKey(scope, userId))) this.#count(scope, userId, -units);
    return outcomes.map((outcome) => (outcome instanceof DomainError ? outcome.type : outcome.state));
  }

  try(batch: readonly { order: number; by: string }[]): string[] {
    const live = new Map(
      [...this.payments.values()].filter(({ state }) => state !== "CANCELLING").map((payment) => [payment.orderId as string, payment]),
    );
    const commands = batch.map(({ order, by }) => ({ orderId: this.orderAt(order).id, consumerId: by as UserId, channel: WALLET }));
    const { outcomes, begun } = decideTry({ orders: this.orders, live, groups: this.groups }, commands, {
      now: this.now,
      nextId: () => this.nextId() as PaymentId,
    });
    for (const payment of begun) this.payments.set(payment.id, payment);
    return outcomes.map((outcome) =>
      outcome instanceof DomainError
        ? outcome.type
        : `${outcome.begun ? "begins" : "shares"} ${this.indexOf(this.payments, outcome.payment.id)}`,
    );
  }

  decide(batch: readonly { payment: number; confirm: boolean }[]): string[] {
    const rows = batch.map(({ payment }) => [...this.payments.values()][payment]!);
    const commands = rows.map(({ id, orderId }, index) => ({
      paymentId: id,
      orderId,
      confirm: batch[index]!.confirm,
      reason: "INSUFFICIENT_FUNDS",
      requestId: undefined,
    }));
    const { outcomes, writes } = decidePayments({ payments: this.payments, orders: this.orders, groups: this.groups }, commands, this.now);
    for (const { payment } of writes.confirming) this.#movePayment(payment, "CONFIRMING");
    for (const { payment } of writes.cancelling) this.#movePayment(payment, "CANCELLING");
    for (const order of writes.paid) {
      this.#moveOrder(order);
      this.#count(order.merchantId, order.consumerId, -1);
    }
    for (const order of writes.confirmed) this.#moveOrder(order);
    for (const change of writes.buckets) this.#changeBucket(change);
    for (const { orderId } of writes.seats) this.#moveSeat(orderId, "TAKEN");
    for (const [id, { state, held, taken, deadline }] of writes.groups) {
      const group = this.groups.get(id)!;
      // One batch may open a group and fill it.
      if (!(group.state === "PENDING" && state === "FORMED")) allowed(GROUP, group.state, state);
      Object.assign(group, { state, held: group.held + held, taken: group.taken + taken, deadline: group.deadline ?? deadline });
    }
    return outcomes.map(({ payment }) => payment.state);
  }

  /** What the closing drain does with one group. */
  close(index: number): GroupState {
    const group = this.groups.get(this.groupAt(index))!;
    const closing = decideClosing(group, this.now);
    const members = [...this.orders.values()].filter((order) => order.groupId === group.id && order.state === "PAID");
    const after = { wait: group.state, close: "CLOSING", form: "FORMED", fail: "FAILED" } as const;
    allowed(GROUP, group.state, after[closing.step]);
    group.state = after[closing.step];
    if (closing.step === "form") {
      group.filled += closing.filled;
      for (const order of members) this.#moveOrder({ ...order, state: "CONFIRMED" });
    }
    if (closing.step === "fail") {
      for (const { dealId, bucket, quantity, consumerId } of members) {
        this.#changeBucket({ dealId, bucket, total: 0, held: 0, sold: -quantity });
        if (this.quotas.has(quotaKey(dealId, consumerId))) this.#count(dealId, consumerId, -quantity);
      }
    }
    return group.state;
  }

  /** The CHECKs of the tables stand here as assertions. */
  #changeBucket(change: { dealId: DealId; bucket: number; total: number; held: number; sold: number }): void {
    const bucket = this.buckets.get(change.dealId)![change.bucket]!;
    bucket.total += change.total;
    bucket.held += change.held;
    bucket.sold += change.sold;
  }
  #count(scope: string, userId: string, delta: number, cap?: number): void {
    const used = (this.quotas.get(quotaKey(scope, userId)) ?? 0) + delta;
    assert.ok(used >= 0 && used <= (cap ?? Infinity), "quotas_within_cap");
    this.quotas.set(quotaKey(scope, userId), used);
  }
  #moveOrder(order: OrderRow): void {
    allowed(ORDER, this.orders.get(order.id)!.state, order.state);
    this.orders.set(order.id, order);
  }
  #moveSeat(orderId: OrderId, state: SeatState): void {
    const seat = this.seats.get(orderId)!;
    assert.notEqual(seat.state, state);
    allowed(SEAT, seat.state, state);
    seat.state = state;
  }
  #movePayment(payment: PaymentRow, state: TccState): void {
    allowed(PAYMENT, this.payments.get(payment.id)!.state as TccState, state);
    this.payments.set(payment.id, { ...payment, state });
  }
}

// -- what must hold after every step ---------------------------------------------------------------------------------------

function agree(world: World, model: Model): void {
  const sums = new Map<string, number>();
  const add = (key: string, units: number) => sums.set(key, (sums.get(key) ?? 0) + units);
  for (const order of model.living({})) {
    const { user, deal, quantity } = order;
    const unpaid = order.fate === "PENDING_PAYMENT";
    add(`${deal} ${unpaid ? "held" : "sold"}`, quantity);
    if (OFFERS[deal]!.limit !== undefined) add(quotaKey(deal, user), quantity);
    if (unpaid) add(quotaKey(OFFERS[deal]!.merchant, user), 1);
  }
  for (const [deal, { stock }] of Object.entries(OFFERS)) {
    const units = { total: 0, held: 0, sold: 0 };
    for (const { total, held, sold } of world.buckets.get(deal as DealId)!) {
      assert.ok(held >= 0 && sold >= 0 && held + sold <= total, "stock_not_oversold");
      units.total += total;
      units.held += held;
      units.sold += sold;
    }
    assert.equal(
      units.total,
      stock.reduce((a, b) => a + b),
      "buckets exchange units and lose none",
    );
    assert.equal(units.held, sums.get(`${deal} held`) ?? 0, "units held are those of unpaid orders");
    assert.equal(units.sold, sums.get(`${deal} sold`) ?? 0, "units sold are those of paid orders");
  }
  for (const key of new Set([...world.quotas.keys(), ...[...sums.keys()].filter((key) => !/held|sold/.test(key))])) {
    assert.equal(world.quotas.get(key) ?? 0, sums.get(key) ?? 0, `${key}: units and unpaid orders are counted`);
  }
  for (const [index, { state, expiresAt }] of [...world.orders.values()].entries()) {
    assert.equal(state, model.orders[index]?.fate);
    assert.equal(expiresAt.getTime(), model.orders[index]?.untilMs);
  }
  assert.equal(
    new Set([...world.orders.values()].map(({ consumerId, idemKey }) => orderKey(consumerId, idemKey))).size,
    world.orders.size,
    "one order a key",
  );
  const byGroup = Map.groupBy(model.living({}), ({ group }) => group);
  for (const [index, group] of [...world.groups.values()].entries()) {
    const party = model.parties[index]!;
    const members = byGroup.get(index) ?? [];
    const unpaid = members.filter(({ fate }) => fate === "PENDING_PAYMENT").length;
    const { state, held, filled, deadline, size } = group;
    assert.equal(state, party.state);
    assert.equal(held, unpaid, "seats held are those of unpaid orders");
    assert.equal(filled, party.filled);
    assert.equal(deadline?.getTime(), party.untilMs);
    if (state !== "FAILED") assert.equal(group.taken, members.length - unpaid, "seats taken are those of paid orders");
    assert.ok(held + group.taken + filled <= size, "groups_not_overfull");
    if (state === "FORMED") assert.equal(group.taken + filled, size);
    assert.equal(new Set(members.map(({ user }) => user)).size, members.length, "one seat a user");
  }
  const live = [...world.payments.values()].filter(({ state }) => state !== "CANCELLING");
  assert.equal(new Set(live.map(({ orderId }) => orderId)).size, live.length, "one live payment an order");
  for (const [index, { state }] of [...world.payments.values()].entries()) assert.equal(state, model.payments[index]?.end);
}

// -- steps -----------------------------------------------------------------------------------------------------------------

type Way = { alone: true } | { size: number } | { join: number } | { again: number };
type Step =
  | { do: "place"; batch: readonly { user: string; deal: string; quantity: number; key: number; way: Way }[] }
  | { do: "cancel"; batch: readonly { which: number; byOwner: boolean }[] }
  | { do: "try"; batch: readonly { which: number; byOwner: boolean }[] }
  /** Begun and decided at once, as most payments are. */
  | { do: "pay"; which: number }
  | { do: "expire"; batch: readonly { which: number }[] }
  | { do: "decide"; batch: readonly { which: number; confirm: boolean }[] }
  | { do: "close"; which: number }
  | { do: "wait"; minutes: number }
  | { do: "sale"; deal: string; state: DealState };

/** Counted back from the newest: most steps are about what has just been made. */
const which = fc.oneof({ weight: 3, arbitrary: fc.nat(3) }, fc.nat(30));
const often = fc.integer({ min: 0, max: 9 }).map((n) => n < 9);
const upTo = <T>(count: number, one: fc.Arbitrary<T>) => fc.array(one, { minLength: 1, maxLength: count });
const place = fc.record({
  user: fc.constantFrom("u1", "u1", "u1", "u2", "u2", "u3", "u4"),
  deal: fc.constantFrom("a", "a", "a", "a", "b", "b", "b", "b", "x", "x", "draft", "none"),
  quantity: fc.constantFrom(1, 1, 1, 2, 3),
  key: fc.nat(150),
  way: fc.oneof<fc.Arbitrary<Way>[]>(
    fc.constant({ alone: true }),
    fc.record({ size: fc.constantFrom(2, 3, 3, 4) }),
    fc.record({ join: which }),
    fc.record({ join: which }),
    fc.record({ again: which }),
  ),
});
const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 8, arbitrary: fc.record({ do: fc.constant("place" as const), batch: upTo(5, place) }) },
  { weight: 3, arbitrary: fc.record({ do: fc.constant("try" as const), batch: upTo(4, fc.record({ which, byOwner: often })) }) },
  { weight: 4, arbitrary: fc.record({ do: fc.constant("pay" as const), which }) },
  { weight: 3, arbitrary: fc.record({ do: fc.constant("decide" as const), batch: upTo(4, fc.record({ which, confirm: often })) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("cancel" as const), batch: upTo(2, fc.record({ which, byOwner: often })) }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant("expire" as const), batch: upTo(5, fc.record({ which })) }) },
  { weight: 4, arbitrary: fc.record({ do: fc.constant("close" as const), which }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant("wait" as const), minutes: fc.integer({ min: 1, max: 35 }) }) },
  fc.record({
    do: fc.constant("sale" as const),
    deal: fc.constantFrom("a", "b"),
    state: fc.constantFrom<DealState>("ON_SALE", "ON_SALE", "PAUSED", "CLOSED"),
  }),
);

const back = (which: number, of: number): number => of - 1 - (which % of);

/** Takes one step in both; gives what the world answered and what the model says it must be. */
function take(world: World, model: Model, one: Step): [string[], string[]] {
  const orders = model.orders.length;
  const some = <T extends { which: number }>(batch: readonly T[], of: number): T[] =>
    of === 0 ? [] : batch.map((item) => ({ ...item, which: back(item.which, of) }));
  switch (one.do) {
    case "place": {
      const groups = model.parties.length;
      const batch = one.batch.map(({ way, key, ...rest }): Asked => {
        const earlier = "again" in way && orders > 0 ? model.orders[back(way.again, orders)] : undefined;
        // The same key and, mostly, the same request.
        if (earlier) return key % 4 > 0 ? earlier.asked : { ...earlier.asked, body: "another" };
        const group = !("join" in way) ? undefined : groups === 0 || key % 16 === 1 ? NO_GROUP : back(way.join, groups);
        // Mostly the group's own deal is asked for, else nobody would get in.
        const deal = group !== undefined && key % 8 > 0 ? (model.parties[group]?.deal ?? rest.deal) : rest.deal;
        const size = "size" in way ? way.size : undefined;
        return {
          user: rest.user,
          deal,
          quantity: rest.quantity,
          key: `k${key}`,
          size,
          group,
          body: JSON.stringify([deal, rest.quantity, size, group]),
        };
      });
      return [world.place(batch), batch.map((asked) => model.place(asked))];
    }
    case "cancel":
    case "expire": {
      const batch = some<{ which: number; byOwner?: boolean }>(one.batch, orders).map((item) => {
        const owner = model.orders[item.which]!.user;
        return { which: item.which, by: one.do === "expire" ? undefined : item.byOwner ? owner : "stranger" };
      });
      const { do: cause } = one;
      const commands = batch.map((item): ReleaseCommand => ({
        orderId: world.orderAt(item.which).id,
        cause,
        callerId: item.by as UserId | undefined,
      }));
      return [world.release(commands), batch.map((item) => model.release(item.which, item.by, cause))];
    }
    case "try": {
      const batch = some(one.batch, orders).map((item) => ({
        order: item.which,
        by: item.byOwner ? model.orders[item.which]!.user : "stranger",
      }));
      return [world.try(batch), batch.map(({ order, by }) => model.try(order, by))];
    }
    case "pay": {
      if (orders === 0) return [[], []];
      const order = back(one.which, orders);
      const by = model.orders[order]!.user;
      const begun: [string[], string[]] = [world.try([{ order, by }]), [model.try(order, by)]];
      const payment = model.payments.findIndex((one) => one.order === order && one.end === "TRYING");
      if (payment === -1) return begun;
      return [
        [...begun[0], ...world.decide([{ payment, confirm: true }])],
        [...begun[1], model.decide(payment, true)],
      ];
    }
    case "decide": {
      const batch = some(one.batch, model.payments.length).map((item) => ({ payment: item.which, confirm: item.confirm }));
      return [world.decide(batch), batch.map(({ payment, confirm }) => model.decide(payment, confirm))];
    }
    case "close": {
      if (model.parties.length === 0) return [[], []];
      const index = back(one.which, model.parties.length);
      return [[world.close(index)], [model.close(index)]];
    }
    case "wait":
      model.nowMs += one.minutes * MINUTE;
      world.now = new Date(model.nowMs);
      return [[], []];
    case "sale": {
      const id = one.deal as DealId;
      world.deals.set(id, { ...world.deals.get(id)!, state: one.state });
      model.saleStates[one.deal] = one.state;
      return [[], []];
    }
  }
}

test("10,000 evenings of ordering, joining, paying, cancelling and closing agree with a model", { timeout: 120_000 }, () => {
  const met = new Set<string>();
  fc.assert(
    fc.property(fc.array(step, { minLength: 6, maxLength: 24, size: "max" }), (steps) => {
      const world = new World();
      const model = new Model();
      for (const one of steps) {
        const [answers, expected] = take(world, model, one);
        if (answers.join() !== expected.join()) assert.deepEqual(answers, expected, one.do);
        agree(world, model);
        for (const answer of answers) met.add(`${one.do} ${answer.split(" ")[0]}`);
      }
    }),
    { numRuns: 10_000 },
  );
  const reached = (kind: string): string[] =>
    [...met]
      .filter((one) => one.startsWith(kind))
      .map((one) => one.slice(kind.length + 1))
      .toSorted();
  // Nothing above is worth much if the steps never get there.
  assert.deepEqual(reached("place"), [
    "ALREADY_IN_GROUP",
    "DEAL_NOT_FOUND",
    "DEAL_NOT_ON_SALE",
    "GROUP_CLOSED",
    "GROUP_FULL",
    "GROUP_NOT_FOUND",
    "IDEMPOTENCY_KEY_REUSED",
    "NO_SUCH_TIER",
    "SOLD_OUT",
    "TOO_MANY_UNPAID",
    "USER_LIMIT_EXCEEDED",
    "again",
    "made",
  ]);
  assert.deepEqual(reached("try"), ["ORDER_NOT_FOUND", "ORDER_STATE", "begins", "shares"]);
  assert.deepEqual(reached("decide"), ["CANCELLING", "CONFIRMING"]);
  assert.deepEqual(reached("cancel"), ["CANCELLED", "ORDER_NOT_FOUND", "ORDER_STATE"]);
  assert.deepEqual(reached("expire"), ["CANCELLED", "CONFIRMED", "EXPIRED", "PAID", "PENDING_PAYMENT"]);
  assert.deepEqual(reached("close"), ["CLOSING", "FAILED", "FORMED", "OPEN", "PENDING"]);
});
