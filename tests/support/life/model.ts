/**
 * What ought to be: one bar, one deal and its shoppers, as the rules of the trade say it, in plain objects. It keeps no counters and no books of its
 * own: units, counters and money by account are derived from the orders whenever they are asked for, so they cannot be wrong in the same way as ours.
 */

/** How the channel behaves. `deaf`: it does what it is asked and nobody hears. `busy` refuses for now, `no` for good. */
export type Mood = "up" | "wrong" | "returns" | "down" | "deaf" | "busy" | "no";
const ANSWERS: readonly Mood[] = ["up", "wrong", "returns"];

/** More stock than limits let anybody buy: the stock gate answers out of turn, and selling out has tests of its own. */
export const DEAL = { stock: 100, price: 1_025, groupSize: 2, groupPrice: 975, perUserLimit: 4, commissionBps: 600 } as const;
/** Whoever is in this place has nothing in the wallet. */
export const POOR = 2;
export const SHOPPERS = 3;
export const WALLET_FEN = 1_000_000;
const UNPAID_MAX = 5;

export interface Terms {
  readonly anytime: boolean;
  readonly expired: boolean;
}

interface Unit {
  state: "ISSUED" | "USED" | "SETTLED" | "BACK" | "FORFEIT";
  /** Nobody may reverse it any more. */
  late: boolean;
  /** A refund of a used unit: asked for, and taken back from the bar. */
  claw: "none" | "asked" | "done";
}
interface Charge {
  /** At the channel. */
  there: "ABSENT" | "OPEN" | "PAID" | "CLOSED";
  /** Ours. SURPLUS: money for nothing, all of it goes back. DIFFERS: not the money that was asked for. */
  ours: "OPEN" | "PAID" | "FAILED" | "SURPLUS" | "DIFFERS";
  /** The buyer was told where to pay. */
  told: boolean;
  /** The channel takes other money than it was asked for. */
  wrong: boolean;
}
export interface Order {
  readonly user: number;
  readonly quantity: number;
  readonly price: number;
  readonly party: number | undefined;
  fate: "UNPAID" | "PAID" | "CONFIRMED" | "CANCELLED" | "EXPIRED" | "FAILED";
  way: "wallet" | "simpay" | undefined;
  readonly charges: Charge[];
  units: Unit[];
}
interface Party {
  state: "PENDING" | "OPEN" | "FORMED" | "FAILED";
}
interface Payout {
  readonly amount: number;
  state: "UNDER_WAY" | "SUCCEEDED" | "FAILED" | "RETURNED";
}
export type Way = "alone" | "open" | { readonly join: number };

/** What a look at the tables shows. */
export interface Seen {
  readonly orders: readonly string[];
  readonly groups: readonly string[];
  /** By order, its vouchers in the order of their units. */
  readonly units: readonly (readonly string[])[];
  readonly held: number;
  readonly sold: number;
  readonly counters: Readonly<Record<string, number>>;
}

const commissionOf = (gross: number): number => Math.floor((gross * DEAL.commissionBps + 5_000) / 10_000);

export class Life {
  readonly terms: Terms;
  mood: Mood = "up";
  readonly orders: Order[] = [];
  readonly parties: Party[] = [];
  readonly payouts: Payout[] = [];

  constructor(terms: Terms) {
    this.terms = terms;
  }

  get answers(): boolean {
    return ANSWERS.includes(this.mood);
  }

  // -- what people ask for: each method does it here, and says what must be answered ----------------------------------------

  place(user: number, quantity: number, way: Way): string {
    const joins = typeof way === "object" ? way.join : undefined;
    const party = joins === undefined ? undefined : this.parties[joins];
    const members = this.#live().filter((order) => joins !== undefined && order.party === joins);
    const mine = this.#live().filter((order) => order.user === user);
    if (joins !== undefined && (!party || party.state === "PENDING")) return "GROUP_NOT_FOUND";
    if (party?.state === "FORMED") return "GROUP_FULL";
    if (party && party.state !== "OPEN") return "GROUP_CLOSED";
    if (members.some((member) => member.user === user)) return "ALREADY_IN_GROUP";
    if (party && members.length >= DEAL.groupSize) return "GROUP_FULL";
    if (mine.reduce((sum, order) => sum + unitsOf(order), 0) + quantity > DEAL.perUserLimit) return "USER_LIMIT_EXCEEDED";
    if (mine.filter(({ fate }) => fate === "UNPAID").length >= UNPAID_MAX) return "TOO_MANY_UNPAID";
    const opens = way === "open" ? this.parties.push({ state: "PENDING" }) - 1 : joins;
    const price = opens === undefined ? DEAL.price : DEAL.groupPrice;
    this.orders.push({ user, quantity, price, party: opens, fate: "UNPAID", way: undefined, charges: [], units: [] });
    return "made";
  }

  payFromWallet(order: Order): string {
    const settled = this.#paidAlready(order);
    if (settled) return settled;
    const charge = openCharge(order);
    if (charge && !this.answers) {
      if (this.mood === "deaf" && charge.there === "OPEN") charge.there = "CLOSED";
      return "PAYMENT_OPEN";
    }
    if (charge?.there === "PAID") {
      this.hear(order, charge);
      if (isPaid(order)) return "CONFIRMED";
    } else if (charge) {
      charge.ours = "FAILED";
      if (charge.there === "OPEN") charge.there = "CLOSED";
    }
    if (order.user === POOR) return "INSUFFICIENT_FUNDS";
    this.#pay(order, "wallet");
    return "CONFIRMED";
  }

  payByChannel(order: Order): string {
    const settled = this.#paidAlready(order);
    if (settled) return settled;
    const known = openCharge(order);
    if (known?.told) return "PROCESSING";
    const charge: Charge = known ?? { there: "ABSENT", ours: "OPEN", told: false, wrong: false };
    if (!known) order.charges.push(charge);
    if (this.mood === "no" && !known) charge.ours = "FAILED";
    if (this.mood === "deaf" && !known) charge.there = "OPEN";
    if (!this.answers) return charge.ours === "FAILED" ? "CHANNEL_REFUSED" : "PROCESSING";
    if (charge.there === "PAID") {
      this.hear(order, charge);
      return isPaid(order) ? "CONFIRMED" : "CHANNEL_REFUSED";
    }
    if (charge.there === "CLOSED") {
      charge.ours = "FAILED";
      return "CHANNEL_REFUSED";
    }
    if (charge.there === "ABSENT") Object.assign(charge, { there: "OPEN", wrong: this.mood === "wrong" });
    charge.told = true;
    return "PROCESSING";
  }

  /**
   * A customer pays on the channel's own page, if that still takes money; of an order that is over nobody knows, because its charge is being closed:
   * then what the channel says counts (`taken`).
   */
  click(order: Order, charge: Charge, taken: boolean): boolean {
    if (charge.there === "OPEN" && order.fate !== "UNPAID" && !taken) charge.there = "CLOSED";
    if (charge.there === "OPEN") charge.there = "PAID";
    return charge.there === "PAID";
  }

  /** We hear that a charge was paid: by callback, or because somebody asked. Once is enough. */
  hear(order: Order, charge: Charge): void {
    if (charge.there !== "PAID" || !(charge.ours === "OPEN" || charge.ours === "FAILED")) return;
    if (charge.wrong) charge.ours = "DIFFERS";
    else if (charge.ours === "OPEN" && order.fate === "UNPAID") {
      charge.ours = "PAID";
      this.#pay(order, "simpay");
    } else charge.ours = "SURPLUS";
  }

  cancel(order: Order): string {
    if (order.fate !== "UNPAID") return "ORDER_STATE";
    this.#release(order, "CANCELLED");
    return "CANCELLED";
  }

  /** Its time is over. */
  expire(order: Order): void {
    if (order.fate === "UNPAID") this.#release(order, "EXPIRED");
  }

  /** The time of an open group is over: whoever has not paid is out, whoever has gets all of it back. */
  close(index: number): void {
    const party = this.parties[index];
    for (const order of this.orders.filter((one) => one.party === index)) {
      this.expire(order);
      if (order.fate === "PAID") order.fate = "FAILED";
    }
    if (party) party.state = "FAILED";
  }

  redeem(order: Order, at: number): string {
    const unit = order.units[at];
    if (unit?.state !== "ISSUED") return "VOUCHER_STATE";
    Object.assign(unit, { state: "USED", late: false });
    return "REDEEMED";
  }

  reverse(order: Order, at: number): string {
    const unit = order.units[at];
    if (unit?.state !== "USED") return "VOUCHER_STATE";
    if (unit.late) return "REVERSAL_TOO_LATE";
    unit.state = "ISSUED";
    return "ISSUED";
  }

  settle(order: Order): void {
    for (const unit of order.units) if (unit.state === "USED") unit.state = "SETTLED";
  }

  /** Unused units first, the last ones of them; used ones, which their bar must agree to, only when there are no others. */
  refund(order: Order, quantity: number | undefined): string {
    const unused = order.units.filter(({ state }) => state === "ISSUED");
    const used = order.units.filter(({ state, claw }) => state === "SETTLED" && claw === "none");
    const may = unused.length > 0 ? (this.terms.anytime ? unused : []) : used;
    const wanted = quantity ?? may.length;
    if (wanted === 0 || wanted > may.length) return "NOT_REFUNDABLE";
    for (const unit of may.slice(may.length - wanted)) Object.assign(unit, unused.length > 0 ? { state: "BACK" } : { claw: "asked" });
    return `REQUESTED ${wanted * order.price}`;
  }

  /** The bar agrees, or says nothing for a day. */
  clawBack(order: Order): void {
    for (const unit of order.units) if (unit.claw === "asked") unit.claw = "done";
  }

  lapse(order: Order): void {
    for (const unit of order.units) if (unit.state === "ISSUED") unit.state = this.terms.expired ? "BACK" : "FORFEIT";
  }

  payOut(amount: number): string {
    if (amount > this.payable) return "INSUFFICIENT_FUNDS";
    const ends = { up: "SUCCEEDED", wrong: "SUCCEEDED", returns: "RETURNED", no: "FAILED" } as const;
    this.payouts.push({ amount, state: this.mood in ends ? ends[this.mood as keyof typeof ends] : "UNDER_WAY" });
    return "REQUESTED";
  }

  /** The channel is well again, everything that was late has come, and everybody has been waited for. */
  heal(): void {
    this.mood = "up";
    for (const order of this.orders) {
      for (const charge of order.charges) {
        this.hear(order, charge);
        if (charge.ours === "OPEN" && (order.fate !== "UNPAID" || charge.there === "CLOSED")) charge.ours = "FAILED";
        if (charge.ours === "FAILED" && charge.there === "OPEN") charge.there = "CLOSED";
        // Nobody could be told where to pay it: asked again, it is made after all.
        if (charge.ours === "OPEN") Object.assign(charge, { there: "OPEN", told: true, wrong: charge.there !== "ABSENT" && charge.wrong });
      }
      this.clawBack(order);
    }
    for (const payout of this.payouts) if (payout.state === "UNDER_WAY") payout.state = "SUCCEEDED";
  }

  // -- what follows ----------------------------------------------------------------------------------------------------------

  get payable(): number {
    return this.books().get("payable") ?? 0;
  }

  /** What each user's wallet holds once everything that is on its way has arrived. */
  wallet(user: number): number {
    const mine = this.orders.filter((order) => order.user === user && order.way === "wallet");
    return mine.reduce((fen, order) => fen - amountOf(order) + backOf(order), user === POOR ? 0 : WALLET_FEN);
  }

  /** Money by account of the city, credits less debits. Accounts of the bar go without its number. */
  books(): Map<string, number> {
    const books = new Map<string, number>();
    const move = (from: string, to: string, fen: number): void => {
      books.set(from, (books.get(from) ?? 0) - fen);
      books.set(to, (books.get(to) ?? 0) + fen);
    };
    for (const order of this.orders) {
      const outside = order.way === "simpay" ? "channel:simpay" : "transit:user";
      if (order.way) move(outside, "escrow", amountOf(order) - backOf(order));
      for (const unit of order.units) {
        const fee = commissionOf(order.price);
        if (unit.state === "FORFEIT") move("escrow", "breakage", order.price);
        // What was settled and taken back is as if it had not been.
        if (unit.state !== "SETTLED" || unit.claw === "done") continue;
        move("escrow", "payable", order.price - fee);
        move("escrow", "commission", fee);
      }
      for (const { ours } of order.charges) if (ours === "DIFFERS") move("channel:simpay", "suspense:long", amountOf(order) - 1);
    }
    for (const { state, amount } of this.payouts) {
      if (state === "SUCCEEDED") move("payable", "payout:simpay", amount);
      if (state === "UNDER_WAY") move("payable", "payout_in_transit", amount);
    }
    return new Map([...books].filter(([, fen]) => fen !== 0).sort(([a], [b]) => (a < b ? -1 : 1)));
  }

  /** How many payments and refunds there are, by what became of them, when nothing is under way. */
  tally(): Record<string, number> {
    const charges = this.orders.flatMap((order) => order.charges);
    const wallets = this.orders.filter(({ way }) => way === "wallet").length;
    const of = (ours: Charge["ours"]): number => charges.filter((charge) => charge.ours === ours).length;
    return { paid: of("PAID") + wallets, surplus: of("SURPLUS"), differs: of("DIFFERS"), open: of("OPEN") };
  }

  /** Where the tables say something else. Money on its way leaves two answers open, unless everything has `ended`. */
  differences(seen: Seen, ended: boolean): string[] {
    const wrong: string[] = [];
    const same = (what: string, is: unknown, ...allowed: unknown[]): void => {
      if (!allowed.includes(is)) wrong.push(`${what} is ${String(is)}, not ${allowed.join(" or ")}`);
    };
    same("the number of orders", seen.orders.length, this.orders.length);
    for (const [index, order] of this.orders.entries()) {
      same(`order ${index}`, seen.orders[index], ...statesOf(order, ended));
      same(`the number of vouchers of order ${index}`, seen.units[index]?.length ?? 0, order.units.length);
      for (const [at, { state }] of order.units.entries())
        same(`voucher ${index}.${at}`, seen.units[index]?.[at], ...(ended ? VOUCHER[state].slice(-1) : VOUCHER[state]));
    }
    same("the number of groups", seen.groups.length, this.parties.length);
    for (const [index, { state }] of this.parties.entries()) same(`group ${index}`, seen.groups[index], state);
    const units = (held: boolean): number =>
      this.#live().reduce((sum, order) => sum + ((order.fate === "UNPAID") === held ? unitsOf(order) : 0), 0);
    same("units held", seen.held, units(true));
    same("units sold", seen.sold, units(false));
    for (let user = 0; user < SHOPPERS; user++) {
      const mine = this.#live().filter((order) => order.user === user);
      same(
        `the units of user ${user}`,
        seen.counters[`units ${user}`] ?? 0,
        mine.reduce((sum, order) => sum + unitsOf(order), 0),
      );
      same(`the unpaid orders of user ${user}`, seen.counters[`unpaid ${user}`] ?? 0, mine.filter(({ fate }) => fate === "UNPAID").length);
    }
    return wrong;
  }

  #live = (): Order[] => this.orders.filter(({ fate }) => fate === "UNPAID" || fate === "PAID" || fate === "CONFIRMED");

  #paidAlready(order: Order): string | undefined {
    if (isPaid(order)) return "CONFIRMED";
    return order.fate === "UNPAID" ? undefined : "ORDER_STATE";
  }

  #pay(order: Order, way: "wallet" | "simpay"): void {
    order.way = way;
    order.fate = "PAID";
    const party = order.party === undefined ? undefined : this.parties[order.party];
    if (!party) return confirm(order);
    if (party.state === "PENDING") party.state = "OPEN";
    const paid = this.orders.filter((one) => one.party === order.party && one.fate === "PAID");
    if (paid.length < DEAL.groupSize) return;
    party.state = "FORMED";
    for (const member of paid) confirm(member);
  }

  #release(order: Order, fate: "CANCELLED" | "EXPIRED"): void {
    order.fate = fate;
    const party = order.party === undefined ? undefined : this.parties[order.party];
    if (party?.state === "PENDING") party.state = "FAILED";
  }
}

/** The states of a voucher, the last of them when everything has ended. */
const VOUCHER: Readonly<Record<Unit["state"], readonly string[]>> = {
  ISSUED: ["ISSUED"],
  USED: ["REDEEMED"],
  SETTLED: ["SETTLED"],
  BACK: ["REFUNDING", "REFUNDED"],
  FORFEIT: ["EXPIRED"],
};

export const isPaid = ({ fate }: Order): boolean => fate === "PAID" || fate === "CONFIRMED" || fate === "FAILED";
export const openCharge = ({ charges }: Order): Charge | undefined => charges.find(({ ours }) => ours === "OPEN");
const amountOf = ({ quantity, price }: Order): number => quantity * price;
const unitsOf = ({ quantity, units }: Order): number => quantity - units.filter(({ state }) => state === "BACK").length;

/** What of an order's money goes, or has gone, back. */
function backOf(order: Order): number {
  if (order.fate === "FAILED") return amountOf(order);
  return order.price * order.units.filter(({ state, claw }) => state === "BACK" || claw === "done").length;
}

function confirm(order: Order): void {
  order.fate = "CONFIRMED";
  order.units = Array.from({ length: order.quantity }, (): Unit => ({ state: "ISSUED", late: false, claw: "none" }));
}

function statesOf({ fate, units }: Order, ended: boolean): string[] {
  if (fate === "UNPAID") return ["PENDING_PAYMENT"];
  if (fate === "FAILED") return ended ? ["REFUNDED"] : ["PAID", "REFUNDED"];
  if (fate !== "CONFIRMED") return [fate];
  if (units.every(({ state }) => state === "BACK")) return ended ? ["REFUNDED"] : ["CONFIRMED", "REFUNDED"];
  return units.some(({ state }) => state === "ISSUED") ? ["CONFIRMED"] : ["COMPLETED"];
}
