/** What may happen to a bar, one step at a time: what is done there, what the model says must be answered, and how it looks afterwards. */
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import type fc from "fast-check";
import type { Bar } from "./bar.ts";
import { openCharge, type Life, type Mood, type Order, type Way } from "./model.ts";

export type Command = fc.AsyncCommand<Life, Bar>;

/** Every answer that was ever given to a kind of step: a life in which nothing happens proves nothing. */
export const reached = new Map<string, number>();
const count = (key: string): void => void reached.set(key, (reached.get(key) ?? 0) + 1);

/** What says nothing of the request, only of the moment. */
const LATER: ReadonlySet<string> = new Set(["OVERLOADED", "TIMEOUT", "UNAVAILABLE"]);
const TRIES_MAX = 5;

export abstract class Step implements Command {
  abstract check(life: Readonly<Life>): boolean;
  /** Asks the bar. Asked again with the same key, it is as if it had been asked once. */
  abstract ask(life: Life, bar: Bar, key: string): Promise<string>;
  /** Does it in the model too; what must have been answered. */
  abstract expect(life: Life, said: string): string;
  /** A step may be in the middle when the node crashes, unless its outcome would be anybody's guess. */
  survives(_life: Readonly<Life>): boolean {
    return true;
  }
  /** Waits for what follows by itself. */
  follow(_life: Life, _bar: Bar): Promise<void> {
    return Promise.resolve();
  }
  async run(life: Life, bar: Bar): Promise<void> {
    await this.end(life, bar, await this.insist(life, bar, randomUUID()));
  }
  /** As a careful client does it: what a busy machine did not get done in time is asked for again, with the same key. */
  async insist(life: Life, bar: Bar, key: string): Promise<string> {
    for (let tries = 1; ; tries++) {
      const said = await this.ask(life, bar, key);
      if (!LATER.has(said) || tries === TRIES_MAX) return said;
      count(`${this.constructor.name} ${said}`);
      await bar.recover();
    }
  }
  async end(life: Life, bar: Bar, said: string): Promise<void> {
    assert.equal(said, this.expect(life, said), `${this.toString()} is answered`);
    await this.follow(life, bar);
    assert.deepEqual(life.differences(await bar.look(), false), [], `after ${this.toString()}`);
    count(`${this.constructor.name} ${said.replace(/\d+/, "#")}`);
  }
  abstract toString(): string;
}

export class Place extends Step {
  readonly user: number;
  readonly quantity: number;
  readonly way: Way;
  constructor(user: number, quantity: number, way: Way) {
    super();
    this.user = user;
    this.quantity = quantity;
    this.way = way;
  }
  /** The newest group, or one before it. */
  #way(life: Readonly<Life>): Way {
    if (typeof this.way !== "object") return this.way;
    return { join: life.parties.length - 1 - (this.way.join % life.parties.length) };
  }
  override check(life: Readonly<Life>): boolean {
    return life.orders.length < 6 && (typeof this.way !== "object" || life.parties.length > 0);
  }
  override ask(life: Life, bar: Bar, key: string): Promise<string> {
    return bar.place(this.user, this.quantity, this.#way(life), key);
  }
  override expect(life: Life): string {
    return life.place(this.user, this.quantity, this.#way(life));
  }
  override toString(): string {
    return `order(user ${this.user}, ${this.quantity}, ${JSON.stringify(this.way)})`;
  }
}

/** Of the orders a step may be about, one, counted back from the newest. */
export abstract class OfOrder extends Step {
  readonly which: number;
  constructor(which: number) {
    super();
    this.which = which;
  }
  abstract about(order: Readonly<Order>, life: Readonly<Life>): boolean;
  override check(life: Readonly<Life>): boolean {
    return life.orders.some((order) => this.about(order, life));
  }
  find(life: Readonly<Life>): { index: number; order: Order } {
    const some = [...life.orders.entries()].filter(([, order]) => this.about(order, life));
    const [index, order] = some[some.length - 1 - (this.which % some.length)] as [number, Order];
    return { index, order };
  }
  override toString(): string {
    return `${this.constructor.name}(${this.which})`;
  }
}

/** Unpaid, given up, or waiting for its group: whoever has vouchers has no reason to pay. */
const mayWantToPay = ({ fate }: Readonly<Order>): boolean => fate !== "CONFIRMED";

export class PayFromWallet extends OfOrder {
  override about = mayWantToPay;
  override ask(life: Life, bar: Bar, key: string): Promise<string> {
    const { index, order } = this.find(life);
    return bar.pay(index, order, "wallet", key);
  }
  override expect(life: Life): string {
    return life.payFromWallet(this.find(life).order);
  }
  /** Whether a charge was closed by a call that nobody heard of is anybody's guess. */
  override survives(life: Readonly<Life>): boolean {
    return life.answers || openCharge(this.find(life).order) === undefined;
  }
}
export class PayByChannel extends OfOrder {
  override about = (order: Readonly<Order>): boolean => mayWantToPay(order) && order.charges.length < 3;
  override ask(life: Life, bar: Bar, key: string): Promise<string> {
    const { index, order } = this.find(life);
    return bar.pay(index, order, "simpay", key);
  }
  override expect(life: Life): string {
    return life.payByChannel(this.find(life).order);
  }
  override follow(_life: Life, bar: Bar): Promise<void> {
    return bar.freeze();
  }
  override survives(life: Readonly<Life>): boolean {
    return life.answers;
  }
}
export class Click extends OfOrder {
  override about = ({ charges }: Readonly<Order>): boolean => charges.at(-1)?.told === true;
  override async ask(life: Life, bar: Bar): Promise<string> {
    return String(await bar.click(this.find(life).index));
  }
  override expect(life: Life, said: string): string {
    const { order } = this.find(life);
    const charge = order.charges.at(-1);
    return String(charge !== undefined && life.click(order, charge, said === "true"));
  }
  /** The customer is not ours. */
  override survives(): boolean {
    return false;
  }
}
export class Cancel extends OfOrder {
  override about = mayWantToPay;
  override ask(life: Life, bar: Bar, key: string): Promise<string> {
    const { index, order } = this.find(life);
    return bar.cancel(index, order, key);
  }
  override expect(life: Life): string {
    return life.cancel(this.find(life).order);
  }
}
export class Expire extends OfOrder {
  override about = ({ fate }: Readonly<Order>): boolean => fate === "UNPAID";
  override async ask(life: Life, bar: Bar): Promise<string> {
    await bar.expire(this.find(life).index);
    return "done";
  }
  override expect(life: Life): string {
    life.expire(this.find(life).order);
    return "done";
  }
}
/** The deadline of an open group. */
export class Close extends Step {
  override check(life: Readonly<Life>): boolean {
    return this.#find(life) !== -1;
  }
  #find = (life: Readonly<Life>): number => life.parties.findIndex(({ state }) => state === "OPEN");
  override async ask(life: Life, bar: Bar): Promise<string> {
    const party = this.#find(life);
    const unpaid = [...life.orders.entries()].filter(([, order]) => order.party === party && order.fate === "UNPAID");
    await bar.close(
      party,
      unpaid.map(([index]) => index),
    );
    return "done";
  }
  override expect(life: Life): string {
    life.close(this.#find(life));
    return "done";
  }
  override toString(): string {
    return "Close()";
  }
}
export abstract class OfUnit extends OfOrder {
  readonly unit: number;
  constructor(which: number, unit: number) {
    super(which);
    this.unit = unit;
  }
  override about(order: Readonly<Order>): boolean {
    return order.units.length > 0;
  }
  at = (order: Order): number => this.unit % order.units.length;
  override toString(): string {
    return `${this.constructor.name}(${this.which}, ${this.unit})`;
  }
}
export class Redeem extends OfUnit {
  override ask(life: Life, bar: Bar, key: string): Promise<string> {
    const { index, order } = this.find(life);
    return bar.redeem(index, order, this.at(order), key);
  }
  override expect(life: Life): string {
    const { order } = this.find(life);
    return life.redeem(order, this.at(order));
  }
}
export class Reverse extends OfUnit {
  override ask(life: Life, bar: Bar, key: string): Promise<string> {
    const { index, order } = this.find(life);
    return bar.reverse(index, order, this.at(order), key);
  }
  override expect(life: Life): string {
    const { order } = this.find(life);
    return life.reverse(order, this.at(order));
  }
}
/** The time in which a redemption may be reversed is over; that of settlement has not come. */
export class WindowOver extends OfOrder {
  override about = ({ units }: Readonly<Order>): boolean =>
    units.some(({ state }) => state === "USED") && units.every(({ state, late }) => state !== "USED" || !late);
  override async ask(life: Life, bar: Bar): Promise<string> {
    await bar.age(this.find(life).index, 61);
    return "done";
  }
  override expect(life: Life): string {
    for (const unit of this.find(life).order.units) if (unit.state === "USED") unit.late = true;
    return "done";
  }
  /** Twice would be two hours. */
  override survives(): boolean {
    return false;
  }
}
export class Settle extends OfOrder {
  override about = ({ units }: Readonly<Order>): boolean => units.some(({ state }) => state === "USED");
  override async ask(life: Life, bar: Bar): Promise<string> {
    await bar.settle(this.find(life).index);
    return "done";
  }
  override expect(life: Life): string {
    life.settle(this.find(life).order);
    return "done";
  }
}
export class Refund extends OfOrder {
  readonly quantity: number | undefined;
  constructor(which: number, quantity: number | undefined) {
    super(which);
    this.quantity = quantity;
  }
  override about = ({ fate }: Readonly<Order>): boolean => fate === "CONFIRMED" || fate === "PAID";
  override ask(life: Life, bar: Bar, key: string): Promise<string> {
    const { index, order } = this.find(life);
    return bar.refund(index, order, this.quantity, key);
  }
  override expect(life: Life): string {
    return life.refund(this.find(life).order, this.quantity);
  }
  override toString(): string {
    return `Refund(${this.which}, ${this.quantity ?? "all"})`;
  }
}
export class Approve extends OfOrder {
  override about = ({ units }: Readonly<Order>): boolean => units.some(({ claw }) => claw === "asked");
  override async ask(life: Life, bar: Bar, key: string): Promise<string> {
    await bar.approve(this.find(life).index, key);
    return "done";
  }
  override expect(life: Life): string {
    life.clawBack(this.find(life).order);
    return "done";
  }
}
export class Lapse extends OfOrder {
  override about = ({ units }: Readonly<Order>): boolean => units.some(({ state }) => state === "ISSUED");
  override async ask(life: Life, bar: Bar): Promise<string> {
    await bar.lapse(this.find(life).index);
    return "done";
  }
  override expect(life: Life): string {
    life.lapse(this.find(life).order);
    return "done";
  }
}
/** A part of what the bar is owed, all of it, or a fen more. */
export class PayOut extends Step {
  readonly part: number;
  constructor(part: number) {
    super();
    this.part = part;
  }
  #amount = ({ payable }: Readonly<Life>): number => Math.max(1, this.part > 4 ? payable + 1 : Math.ceil((payable * this.part) / 4));
  override check(life: Readonly<Life>): boolean {
    return life.payouts.length < 4 && (life.payable !== 0 || this.part === 5);
  }
  override ask(life: Life, bar: Bar, key: string): Promise<string> {
    return bar.payOut(this.#amount(life), key);
  }
  override expect(life: Life): string {
    return life.payOut(this.#amount(life));
  }
  override async follow(life: Life, bar: Bar): Promise<void> {
    const newest = life.payouts.at(-1);
    if (newest) await bar.followPayout(newest.state);
  }
  override toString(): string {
    return `PayOut(${this.part})`;
  }
}
/** A callback of simpay arrives, now or long after it was sent: once, five times at once, or with other amounts and the same signature. */
export class Hear extends Step {
  readonly which: number;
  readonly how: "once" | "often" | "forged";
  constructor(which: number, how: "once" | "often" | "forged") {
    super();
    this.which = which;
    this.how = how;
  }
  #told: { order: number; charge: number } | undefined;
  override check(life: Readonly<Life>): boolean {
    return life.orders.some(({ charges }) => charges.some(({ there }) => there === "PAID"));
  }
  override async ask(_life: Life, bar: Bar): Promise<string> {
    const all = bar.callbacks();
    const callback = all[all.length - 1 - (this.which % all.length)];
    assert.ok(callback, "simpay has told of what was paid");
    this.#told = this.how === "forged" ? undefined : await bar.subject(callback);
    if (this.how === "forged") await bar.hearForged(callback);
    else await bar.hear(callback, this.how === "often" ? 5 : 1);
    return this.how;
  }
  override expect(life: Life): string {
    const order = life.orders[this.#told?.order ?? -1];
    const charge = order?.charges[this.#told?.charge ?? -1];
    if (order && charge) life.hear(order, charge);
    return this.how;
  }
  override toString(): string {
    return `Hear(${this.which}, ${this.how})`;
  }
}
export class Weather extends Step {
  readonly mood: Mood;
  constructor(mood: Mood) {
    super();
    this.mood = mood;
  }
  override check(life: Readonly<Life>): boolean {
    return life.mood !== this.mood;
  }
  override ask(_life: Life, bar: Bar): Promise<string> {
    bar.lane.mood = this.mood;
    return Promise.resolve(this.mood);
  }
  override expect(life: Life): string {
    life.mood = this.mood;
    return this.mood;
  }
  override toString(): string {
    return `Weather(${this.mood})`;
  }
}
export class Heal extends Step {
  override check(): boolean {
    return true;
  }
  override async ask(_life: Life, bar: Bar): Promise<string> {
    await bar.heal();
    return "well";
  }
  override expect(life: Life): string {
    life.heal();
    return "well";
  }
  override follow(life: Life, bar: Bar): Promise<void> {
    return bar.agreesToTheFen(life);
  }
  override toString(): string {
    return "Heal()";
  }
}

/** The node is gone in the middle of a step, and another one comes; whoever asked and was not answered asks again, with the same key. */
export class Crash implements Command {
  readonly during: Step;
  readonly afterMs: number;
  constructor(during: Step, afterMs: number) {
    this.during = during;
    this.afterMs = afterMs;
  }
  check(life: Readonly<Life>): boolean {
    return this.during.check(life) && this.during.survives(life);
  }
  async run(life: Life, bar: Bar): Promise<void> {
    const key = randomUUID();
    const lost = this.during.ask(life, bar, key).catch(() => "lost");
    await sleep(this.afterMs);
    await bar.lane.crash();
    await lost;
    await bar.recover();
    await this.during.end(life, bar, await this.during.insist(life, bar, key));
    count("Crash");
  }
  toString(): string {
    return `Crash(${this.during.toString()}, ${this.afterMs} ms)`;
  }
}
