/** What may happen to a bar, one step at a time: what is done there, what the model says must be answered, and how it looks afterwards. */
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import fc from "fast-check";
import type { Bar } from "./bar.ts";
import { openCharge, type Life, type Mood, type Order, type Way } from "./model.ts";

type Command = fc.AsyncCommand<Life, Bar>;

/** Every answer that was ever given to a kind of step: a life in which nothing happens proves nothing. */
export const reached = new Map<string, number>();

abstract class Step implements Command {
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
    await this.end(life, bar, await this.ask(life, bar, randomUUID()));
  }
  async end(life: Life, bar: Bar, said: string): Promise<void> {
    assert.equal(said, this.expect(life, said), `${this.toString()} is answered`);
    await this.follow(life, bar);
    assert.deepEqual(life.differences(await bar.look(), false), [], `after ${this.toString()}`);
    const key = `${this.constructor.name} ${said.replace(/\d+/, "#")}`;
    reached.set(key, (reached.get(key) ?? 0) + 1);
  }
  abstract toString(): string;
}

class Place extends Step {
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
abstract class OfOrder extends Step {
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

class PayFromWallet extends OfOrder {
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
class PayByChannel extends OfOrder {
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
class Click extends OfOrder {
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
class Cancel extends OfOrder {
  override about = mayWantToPay;
  override ask(life: Life, bar: Bar, key: string): Promise<string> {
    const { index, order } = this.find(life);
    return bar.cancel(index, order, key);
  }
  override expect(life: Life): string {
    return life.cancel(this.find(life).order);
  }
}
class Expire extends OfOrder {
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
class Close extends Step {
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
abstract class OfUnit extends OfOrder {
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
class Redeem extends OfUnit {
  override ask(life: Life, bar: Bar, key: string): Promise<string> {
    const { index, order } = this.find(life);
    return bar.redeem(index, order, this.at(order), key);
  }
  override expect(life: Life): string {
    const { order } = this.find(life);
    return life.redeem(order, this.at(order));
  }
}
class Reverse extends OfUnit {
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
class WindowOver extends OfOrder {
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
class Settle extends OfOrder {
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
class Refund extends OfOrder {
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
class Approve extends OfOrder {
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
class Lapse extends OfOrder {
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
class PayOut extends Step {
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
class Hear extends Step {
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
class Weather extends Step {
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
class Crash implements Command {
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
    await this.during.end(life, bar, await this.during.ask(life, bar, key));
    reached.set("Crash", (reached.get("Crash") ?? 0) + 1);
  }
  toString(): string {
    return `Crash(${this.during.toString()}, ${this.afterMs} ms)`;
  }
}

const which = fc.oneof({ weight: 3, arbitrary: fc.constant(0) }, fc.nat(5));
const way = fc.constantFrom<Way>("alone", "alone", "open", { join: 0 }, { join: 0 }, { join: 1 });
const quantity = fc.constantFrom(1, 2, 2, 3);
const ofOrder = (Of: new (which: number) => OfOrder): fc.Arbitrary<Step> => which.map((n) => new Of(n));
const step = fc.oneof(
  ...(
    [
      [14, fc.tuple(fc.nat(2), quantity, way).map(([user, count, how]) => new Place(user, count, how))],
      [6, ofOrder(PayFromWallet)],
      [7, ofOrder(PayByChannel)],
      [7, ofOrder(Click)],
      [
        7,
        fc
          .tuple(which, fc.constantFrom("once" as const, "once" as const, "often" as const, "forged" as const))
          .map(([n, how]) => new Hear(n, how)),
      ],
      [2, ofOrder(Cancel)],
      [2, ofOrder(Expire)],
      [2, fc.constant(null).map(() => new Close())],
      [7, fc.tuple(which, fc.nat(2)).map(([n, unit]) => new Redeem(n, unit))],
      [3, fc.tuple(which, fc.nat(2)).map(([n, unit]) => new Reverse(n, unit))],
      [1, ofOrder(WindowOver)],
      [5, ofOrder(Settle)],
      [4, fc.tuple(which, fc.constantFrom(undefined, 1, 1, 2)).map(([n, count]) => new Refund(n, count))],
      [3, ofOrder(Approve)],
      [2, ofOrder(Lapse)],
      [3, fc.integer({ min: 1, max: 5 }).map((part) => new PayOut(part))],
      [1, fc.constant(null).map(() => new Heal())],
    ] satisfies [number, fc.Arbitrary<Step>][]
  ).map(([weight, arbitrary]) => ({ weight, arbitrary: arbitrary as fc.Arbitrary<Step> })),
);
const weather = fc.constantFrom<Mood>("up", "up", "wrong", "returns", "down", "deaf", "busy", "no").map((mood) => new Weather(mood));

/** What people do one after the other; between two of their steps nothing else happens, or lives would hardly ever come to settling and paying back. */
const buys = fc.tuple(fc.nat(1), quantity).map(([user, count]) => [new Place(user, count, "alone"), new PayFromWallet(0)]);
const buysOutside = fc
  .tuple(fc.nat(2), quantity, fc.constantFrom<Way>("alone", "alone", "open", { join: 0 }))
  .map(([user, count, how]) => [new Place(user, count, how), new PayByChannel(0), new Click(0), new Hear(0, "once")]);
const gathers = fc
  .constantFrom<[number, number]>([0, 1], [1, 0])
  .map(([first, second]) => [
    new Place(first, 1, "open"),
    new PayFromWallet(0),
    new Place(second, 1, { join: 0 }),
    ...(first === 0 ? [new PayFromWallet(0)] : [new PayByChannel(0), new Click(0), new Hear(0, "often")]),
  ]);
const changesHisMind = fc
  .tuple(fc.nat(2), fc.boolean(), fc.boolean())
  .map(([user, cancels, heard]) => [
    new Place(user, 1, "alone"),
    new PayByChannel(0),
    new Click(0),
    cancels ? new Cancel(0) : new Expire(0),
    ...(heard ? [new Hear(0, "often")] : []),
  ]);
const uses = fc.tuple(which, fc.nat(2)).map(([n, unit]) => [new Redeem(n, unit), new Settle(n)]);
const regrets = fc
  .tuple(which, fc.nat(2), fc.boolean())
  .map(([n, unit, agreed]) => [
    new Redeem(n, unit),
    new Settle(n),
    new Refund(n, undefined),
    ...(agreed ? [new Approve(0), new PayOut(4)] : []),
  ]);

/** `crashes`: how many of a hundred steps the node does not survive. */
export const lives = (steps: number, crashes: number): fc.Arbitrary<readonly Command[]> =>
  fc
    .array(
      fc.oneof(
        { weight: 50 - crashes, arbitrary: step.map((one): Command[] => [one]) },
        { weight: 8, arbitrary: weather.map((one): Command[] => [one]) },
        { weight: 10, arbitrary: buys },
        { weight: 10, arbitrary: buysOutside },
        { weight: 6, arbitrary: gathers },
        { weight: 5, arbitrary: changesHisMind },
        { weight: 8, arbitrary: uses },
        { weight: 8, arbitrary: regrets },
        { weight: crashes, arbitrary: fc.tuple(step, fc.nat(14)).map(([during, ms]): Command[] => [new Crash(during, ms)]) },
      ),
      { minLength: Math.ceil(steps / 2), maxLength: steps, size: "max" },
    )
    .map((scenes) => scenes.flat());
