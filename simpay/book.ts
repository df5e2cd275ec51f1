/** What has been charged, refunded and paid out. Every change is one line of the log; memory holds where the newest line of each number stands. */
import { createHmac, randomInt } from "node:crypto";
import { KEPT_FAULTS, STATEMENT_FAULTS, type FaultName, type Faults } from "./faults.ts";
import type { Log, Place } from "./log.ts";
import type { Change, Charge, EventName, Kind, Line, Payout, Refund, Stored } from "./records.ts";

/** What simpay will not do, and nothing was done. */
export class Refused extends Error {
  readonly status: number;
  readonly code: string;
  constructor(status: number, code: string, message: string) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

export interface BookOptions {
  readonly log: Log<Line>;
  readonly faults: Faults;
  /** Makes the tokens of pay pages. */
  readonly secret: string;
  /** How long a refund or a payout is under way; a returned payout comes back after as long again. */
  readonly settleMs: number;
  /** A callback is owed. */
  readonly onCallback: (callbackId: string, place: Place, faults: readonly FaultName[]) => void;
}

type Ask<T extends Stored, K extends keyof T> = Pick<T, K> & { readonly faults: readonly FaultName[] };
export type ChargeAsk = Ask<Charge, "number" | "amount" | "currency" | "subject" | "notifyUrl" | "returnUrl" | "expiresAt">;
export type RefundAsk = Ask<Refund, "number" | "chargeNumber" | "amount" | "currency" | "notifyUrl">;
export type PayoutAsk = Ask<Payout, "number" | "amount" | "currency" | "account" | "notifyUrl">;

/** Money moved: there is a line on the statement, and the merchant is told. */
const MONEY_EVENTS: readonly EventName[] = ["charge.paid", "refund.succeeded", "payout.succeeded", "payout.returned"];

/** Days are Chinese days, as on every Chinese channel's statement. */
export const dayOf = (at: number): string => new Date(at + 8 * 3_600_000).toISOString().slice(0, 10);

export class Book {
  readonly #o: BookOptions;
  readonly #index: BookIndex;
  readonly #timers = new Map<string, NodeJS.Timeout>();

  /** `recovered`: every line of the log, shown to `recover` before. */
  constructor(options: BookOptions, recovered: BookIndex) {
    this.#o = options;
    this.#index = recovered;
    for (const key of recovered.due) this.#settleLater(key);
  }

  charge(ask: ChargeAsk): Charge {
    const known = this.find("charge", ask.number);
    if (known) return same(known, ask, ["amount", "currency", "subject", "notifyUrl", "returnUrl", "expiresAt"]);
    const charge: Charge = { type: "charge", ...ask, ...this.#birth(ask.number, ask.faults), status: "PENDING", refunded: 0 };
    this.#write("charge.created", [charge]);
    return charge;
  }

  /** As it is now: a charge nobody paid in time is closed when somebody looks. */
  find(type: "charge", number: string): Charge | undefined;
  find(type: "refund", number: string): Refund | undefined;
  find(type: "payout", number: string): Payout | undefined;
  find(type: Kind, number: string): Stored | undefined {
    const place = this.#index.places.get(`${type} ${number}`);
    if (place === undefined) return undefined;
    const record = changeAt(this.#o.log, place).records.find((one) => one.type === type && one.number === number);
    if (record?.type !== "charge" || record.status !== "PENDING" || (record.expiresAt ?? Infinity) > this.#o.log.now()) return record;
    return this.#closed(record);
  }

  close(number: string): Charge {
    const charge = this.#charge(number);
    if (charge.status === "PAID") throw new Refused(409, "CHARGE_PAID", "it is paid; refund it instead");
    return charge.status === "CLOSED" ? charge : this.#closed(charge);
  }

  /** The customer's click. Clicking twice pays once. */
  pay(number: string): Charge {
    const charge = this.#charge(number);
    if (charge.status === "CLOSED") throw new Refused(409, "CHARGE_CLOSED", "it is closed");
    if (charge.status === "PAID") return charge;
    const { amount, currency, faults } = charge;
    const paid: Charge = {
      ...charge,
      status: "PAID",
      paid: {
        amount: !faults.includes("wrongAmount") ? amount : amount > 1 ? amount - 1 : 2,
        currency: !faults.includes("wrongCurrency") ? currency : currency === "USD" ? "CNY" : "USD",
        at: this.#o.log.now(),
      },
    };
    this.#write("charge.paid", [paid]);
    return paid;
  }

  refund(ask: RefundAsk): Refund {
    const known = this.find("refund", ask.number);
    if (known) return same(known, ask, ["chargeNumber", "amount", "currency", "notifyUrl"]);
    const charge = this.#charge(ask.chargeNumber);
    if (!charge.paid) throw new Refused(409, "CHARGE_NOT_PAID", "there is nothing to give back");
    if (charge.paid.currency !== ask.currency) throw new Refused(409, "WRONG_CURRENCY", `it was paid in ${charge.paid.currency}`);
    const left = charge.paid.amount - charge.refunded;
    if (ask.amount > left) throw new Refused(409, "REFUND_TOO_MUCH", `${left} fen are left to refund`);
    if (this.#o.faults.strikes("refuseRefund", this.#o.faults.call("refuseRefund", ask.number), ask.faults)) {
      // The number stays free: a person may try again with it, as with a real channel whose merchant account was short.
      this.#write("refund.refused", [], { number: ask.number, chargeNumber: ask.chargeNumber, amount: ask.amount });
      throw new Refused(409, "REFUND_REFUSED", "the merchant's balance does not cover it");
    }
    const refund: Refund = { type: "refund", ...ask, ...this.#birth(ask.number, ask.faults), status: "PROCESSING" };
    this.#write("refund.created", [{ ...charge, refunded: charge.refunded + ask.amount }, refund]);
    this.#settleLater(`refund ${ask.number}`);
    return refund;
  }

  payout(ask: PayoutAsk): Payout {
    const known = this.find("payout", ask.number);
    if (known) return same(known, ask, ["amount", "currency", "account", "notifyUrl"]);
    const payout: Payout = { type: "payout", ...ask, ...this.#birth(ask.number, ask.faults), status: "PROCESSING" };
    this.#write("payout.created", [payout]);
    this.#settleLater(`payout ${ask.number}`);
    return payout;
  }

  /** What counts on a day's statement, in the order it happened. One line at a time: a day may have a million. */
  *happenedOn(day: string): Generator<Change> {
    for (const place of this.#index.days.get(day) ?? []) yield changeAt(this.#o.log, place);
  }

  /** What the address of a pay page must hold, so that nobody can guess another's. */
  token(number: string): string {
    return createHmac("sha256", this.#o.secret).update(`pay page\n${number}`).digest("base64url").slice(0, 22);
  }

  stop(): void {
    for (const timer of this.#timers.values()) clearTimeout(timer);
    this.#timers.clear();
  }

  #charge(number: string): Charge {
    const charge = this.find("charge", number);
    if (!charge) throw new Refused(404, "CHARGE_NOT_FOUND", "no charge has this number");
    return charge;
  }

  #closed(charge: Charge): Charge {
    const closed: Charge = { ...charge, status: "CLOSED" };
    this.#write("charge.closed", [closed]);
    return closed;
  }

  #birth(number: string, certain: readonly FaultName[]): Pick<Stored, "channelNumber" | "createdAt" | "faults"> {
    const { log, faults } = this.#o;
    const createdAt = log.now();
    // Random in the middle: after somebody emptied the data directory the sequence begins again, and no number may come twice.
    const channelNumber = `${dayOf(createdAt).replaceAll("-", "")}${String(randomInt(1_000_000)).padStart(6, "0")}${String(log.nextSeq).padStart(10, "0")}`;
    // Struck once and kept with the record: a plan that changes later does not change what was promised.
    const struck = KEPT_FAULTS.filter((fault) => faults.strikes(fault, number, certain));
    const onStatement = STATEMENT_FAULTS.filter((fault) => certain.includes(fault));
    return { channelNumber, createdAt, faults: [...struck, ...onStatement] };
  }

  #write(event: EventName, records: readonly Stored[], detail?: Change["detail"]): void {
    const subject = records.at(-1);
    const callbackId = subject && MONEY_EVENTS.includes(event) ? `${subject.channelNumber}.${event}` : undefined;
    const entry = { event, records, ...(callbackId === undefined ? {} : { callbackId }), ...(detail ? { detail } : {}) };
    const { line, place } = this.#o.log.append(entry);
    indexLine(this.#index, line, place);
    if (callbackId !== undefined && subject) this.#o.onCallback(callbackId, place, subject.faults);
  }

  #settleLater(key: string): void {
    const timer = setTimeout(() => {
      this.#timers.delete(key);
      this.#settle(key);
    }, this.#o.settleMs);
    this.#timers.set(key, timer);
  }

  #settle(key: string): void {
    const [type, number = ""] = key.split(" ");
    const at = this.#o.log.now();
    if (type === "refund") {
      const refund = this.find("refund", number);
      if (refund?.status === "PROCESSING") this.#write("refund.succeeded", [{ ...refund, status: "SUCCEEDED", doneAt: at }]);
      return;
    }
    const payout = this.find("payout", number);
    if (payout?.status === "PROCESSING") {
      this.#write("payout.succeeded", [{ ...payout, status: "SUCCEEDED", doneAt: at }]);
      if (this.#index.due.has(key)) this.#settleLater(key);
    } else if (payout?.status === "SUCCEEDED") this.#write("payout.returned", [{ ...payout, status: "RETURNED", returnedAt: at }]);
  }
}

/** What a start learns from the log. */
export interface BookIndex {
  readonly places: Map<string, Place>;
  readonly days: Map<string, Place[]>;
  /** What is under way, and comes to its end by itself. */
  readonly due: Set<string>;
}
export const emptyIndex = (): BookIndex => ({ places: new Map(), days: new Map(), due: new Set() });

export function indexLine(into: BookIndex, line: Line, place: Place): void {
  if (!("records" in line)) return;
  for (const record of line.records) {
    const key = `${record.type} ${record.number}`;
    into.places.set(key, place);
    if (isUnderWay(record)) into.due.add(key);
    else into.due.delete(key);
  }
  if (!MONEY_EVENTS.includes(line.event)) return;
  const day = dayOf(line.at);
  const places = into.days.get(day);
  if (places) places.push(place);
  else into.days.set(day, [place]);
}

const isUnderWay = (record: Stored): boolean =>
  record.type !== "charge" &&
  (record.status === "PROCESSING" || (record.status === "SUCCEEDED" && record.type === "payout" && record.faults.includes("returnPayout")));

export function changeAt(log: Log<Line>, place: Place): Change {
  const line = log.read(place);
  if (!("records" in line)) throw new Error(`line ${line.seq} holds no record`);
  return line;
}

/** A number that is used again must be the same request: then the answer is the same too. */
function same<T extends Stored, A extends { readonly number: string }>(known: T, ask: A, keys: readonly (keyof T & keyof A)[]): T {
  const other = keys.find((key) => (known[key] as unknown) !== (ask[key] as unknown));
  if (other === undefined) return known;
  throw new Refused(409, "NUMBER_REUSED", `${ask.number} was used with another ${String(other)}`);
}
