/** Tells the merchant what happened, again and again until it answers 200, as real channels do; and badly, when a fault says so. */
import { changeAt } from "./book.ts";
import type { FaultName } from "./faults.ts";
import type { Log, Place } from "./log.ts";
import type { Change, Line, Stored } from "./records.ts";
import { sign, WINDOW_MS, type Signed } from "./signature.ts";
import { view } from "./views.ts";

const S = 1_000;
const MIN = 60 * S;
const H = 60 * MIN;
/** Between one attempt and the next. WeChat Pay's published schedule has the same steps; after the last nobody is told any more. */
export const RETRY_DELAYS_MS: readonly number[] = [
  15 * S,
  15 * S,
  30 * S,
  3 * MIN,
  10 * MIN,
  20 * MIN,
  ...[30, 30, 30, 60, 60, 60].map((minutes) => minutes * MIN),
  ...[3, 3, 3, 6, 6].map((hours) => hours * H),
];
const DAY_MS = 24 * H;
/** A callback that is overtaken waits for the next one, but not for ever. */
const HELD_MS = 30 * S;
const COPIES = 100;
/** Sent at once: a merchant that is down must not take simpay with it. */
const IN_FLIGHT_MAX = 64;
/** Real channels wait about as long for the 200. */
const ANSWER_MS = 5_000;

interface Owed {
  readonly id: string;
  readonly place: Place;
  readonly faults: readonly FaultName[];
  attempt: number;
}

/** What a start learns from the log: callbacks nobody has answered for yet. */
export class OwedIndex {
  readonly owed = new Map<string, Owed>();

  index(line: Line, place: Place): void {
    if ("records" in line) {
      if (line.callbackId !== undefined)
        this.owed.set(line.callbackId, { id: line.callbackId, place, faults: line.records.at(-1)?.faults ?? [], attempt: 0 });
    } else if (line.event === "callback.sent") {
      const owed = this.owed.get(line.callbackId);
      if (line.outcome !== "refused") this.owed.delete(line.callbackId);
      else if (owed) owed.attempt = line.attempt;
    }
  }
}

export interface CallbackOptions {
  readonly log: Log<Line>;
  readonly secret: string;
  readonly baseUrl: () => string;
  readonly tokenOf: (number: string) => string;
  /** Every delay is divided by it. */
  readonly timeFactor: number;
}

export class Callbacks {
  readonly #o: CallbackOptions;
  readonly #timers = new Map<string, NodeJS.Timeout>();
  readonly #queue: Owed[] = [];
  readonly #held = new Set<Owed>();
  readonly #leaving = new AbortController();
  readonly #sending = new Set<Promise<void>>();

  constructor(options: CallbackOptions) {
    this.#o = options;
  }

  /** After a restart: at once, the merchant may have missed the ones before. */
  resume(index: OwedIndex): void {
    for (const owed of index.owed.values()) this.#later(owed, 0);
  }

  /** A callback is owed from now on. */
  owe(id: string, place: Place, faults: readonly FaultName[]): void {
    const owed: Owed = { id, place, faults, attempt: 0 };
    if (faults.includes("loseCallback")) this.#wrote(owed, "lost");
    else if (faults.includes("lateCallback")) this.#later(owed, DAY_MS);
    else if (faults.includes("reorderCallback")) {
      this.#held.add(owed);
      this.#later(owed, HELD_MS);
    } else this.#later(owed, 0);
  }

  async stop(): Promise<void> {
    this.#leaving.abort();
    for (const timer of this.#timers.values()) clearTimeout(timer);
    this.#timers.clear();
    this.#queue.length = 0;
    await Promise.all(this.#sending);
  }

  #later(owed: Owed, delayMs: number): void {
    clearTimeout(this.#timers.get(owed.id));
    const timer = setTimeout(() => {
      this.#timers.delete(owed.id);
      this.#held.delete(owed);
      this.#queue.push(owed);
      this.#pump();
    }, delayMs / this.#o.timeFactor);
    this.#timers.set(owed.id, timer);
  }

  #pump(): void {
    while (this.#sending.size < IN_FLIGHT_MAX) {
      const owed = this.#queue.shift();
      if (!owed) return;
      const sending = this.#deliver(owed).finally(() => {
        this.#sending.delete(sending);
        this.#pump();
      });
      this.#sending.add(sending);
    }
  }

  async #deliver(owed: Owed): Promise<void> {
    // What a callback tells must survive us: a merchant that heard of a payment nobody remembers was lied to.
    await this.#o.log.durable();
    const change = changeAt(this.#o.log, owed.place);
    const subject = change.records.at(-1);
    if (!subject) return;
    const body = this.#body(owed.id, change, subject);
    const { secret } = this.#o;
    const first = owed.attempt === 0;
    if (owed.faults.includes("forgedCallback")) await this.#forge(change, subject);
    // A genuine signature, but too old: somebody kept it and sends it now.
    if (first && owed.faults.includes("staleCallback"))
      await this.#post(subject.notifyUrl, body, sign(secret, "callback", body, Date.now() - 2 * WINDOW_MS));
    const signed = sign(secret, "callback", body, Date.now());
    const delivered = await this.#post(subject.notifyUrl, body, signed);
    if (this.#leaving.signal.aborted) return;
    if (delivered && owed.faults.includes("replayedCallback")) await this.#post(subject.notifyUrl, body, signed);
    if (first && owed.faults.includes("repeatCallback")) {
      const copies = Array.from({ length: COPIES - 1 }, () =>
        this.#post(subject.notifyUrl, body, sign(secret, "callback", body, Date.now())),
      );
      await Promise.all(copies);
    }
    owed.attempt += 1;
    const delay = RETRY_DELAYS_MS[owed.attempt - 1];
    if (delivered) this.#wrote(owed, "delivered");
    else if (delay === undefined) this.#wrote(owed, "given up");
    else {
      this.#wrote(owed, "refused");
      this.#later(owed, delay);
    }
    for (const held of this.#held) this.#later(held, 0);
  }

  #body(id: string, change: Change, subject: Stored): string {
    const { baseUrl, tokenOf } = this.#o;
    return JSON.stringify({ id, event: change.event, at: new Date(change.at).toISOString(), data: view(subject, baseUrl(), tokenOf) });
  }

  /** Ten times the money, signed with a key that is not the merchant's. */
  async #forge(change: Change, subject: Stored): Promise<void> {
    const richer: Stored =
      subject.type === "charge" && subject.paid
        ? { ...subject, paid: { ...subject.paid, amount: subject.paid.amount * 10 } }
        : { ...subject, amount: subject.amount * 10 };
    const body = this.#body(`forged.${subject.channelNumber}`, change, richer);
    await this.#post(subject.notifyUrl, body, sign(`not ${this.#o.secret}`, "callback", body, Date.now()));
  }

  async #post(url: string, body: string, signed: Signed): Promise<boolean> {
    try {
      const answer = await fetch(url, {
        method: "POST",
        headers: { "content-type": "application/json", ...signed },
        body,
        redirect: "error",
        signal: AbortSignal.any([AbortSignal.timeout(ANSWER_MS), this.#leaving.signal]),
      });
      await answer.body?.cancel();
      return answer.status === 200;
    } catch (error) {
      // Nobody there, too slow, or we are leaving: not told, whatever the reason.
      if (error instanceof Error) return false;
      throw error;
    }
  }

  #wrote(owed: Owed, outcome: Extract<Line, { event: "callback.sent" }>["outcome"]): void {
    this.#o.log.append({ event: "callback.sent", callbackId: owed.id, attempt: owed.attempt, outcome });
  }
}
