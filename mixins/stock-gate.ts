/**
 * The stock gate: in front of the mailboxes, so that a stampede at a deal with nothing left costs no transaction. It may refuse, it never
 * grants: PostgreSQL alone decides what is sold. It knows of each deal what the last commits left in its buckets (facts, told by the drains)
 * and which commands it has let in that are not answered yet (entries). A command for more than is left is refused; one that would find a
 * drain's worth of others before it for the same units is told to come again. (To call it sold out because of those before it would be a lie
 * as often as one of them is refused for another reason: units were left over in a race of shoppers against their own limits.)
 *
 * Facts carry the version of their row, so one that comes late changes nothing; an entry carries the id of its request, so one that is
 * counted twice (a script that was sent again, a client's second click) counts once. Facts that nobody has confirmed for a second refuse
 * nobody: whatever was lost on the way here (a message, a Redis, a node) is forgotten within that second.
 *
 * Two implementations stand behind one conformance test: this process's memory, and Redis (`stock-gate.redis.ts`) where several nodes share.
 */
import { LRUCache } from "lru-cache";
import { COMMON_ERRORS } from "../domain/common-errors.ts";
import { refusal, type DomainError } from "../domain/error.ts";
import { invariant } from "../domain/invariant.ts";
import { LIMITS } from "../domain/limits.ts";

/** What a commit left in one bucket. */
export interface StockFact {
  readonly dealId: string;
  readonly bucket: number;
  readonly available: number;
  /** Of its row; raised with every change. */
  readonly version: number;
  /** How many buckets the deal has, where that is known. Told with all of them at once, it makes the deal known, and fresh. */
  readonly of?: number;
}

/** A command that wants to pass. */
export interface Entry {
  readonly dealId: string;
  /** The same for every repeat of one request. */
  readonly requestId: string;
  readonly quantity: number;
}

export interface StockGate {
  /** The units left, fewer than are asked for; undefined: it may try, and `leave` is owed. Throws OVERLOADED where enough are trying already. */
  enter(entry: Entry): number | undefined | Promise<number | undefined>;
  /** Its command has been answered, whatever the answer. */
  leave(entry: Entry): void;
  /** What PostgreSQL has committed. */
  note(facts: readonly StockFact[]): void;
  /** Deals whose sale is over: nothing of them is kept. */
  forget(dealIds: readonly string[]): void;
  close(): Promise<void>;
}

/** How long facts refuse without being confirmed. */
export const FRESH_MS = 1_000;
/** An older fact is taken for a late one this long; then the database has gone back in time (a restored backup), and it is right. */
export const HISTORY_MS = 15_000;
/** An entry whose node died is dropped after this: its caller has long stopped waiting. */
export const ENTRY_MS = LIMITS.requestMs + 2_000;

export const crowd = (): DomainError => refusal(COMMON_ERRORS, "OVERLOADED", { retryAfterSeconds: 1 });

export const checkQuantity = (quantity: number): void =>
  invariant(Number.isInteger(quantity) && quantity >= 1 && quantity <= LIMITS.quantityMax, "a gate counts whole units, one at least");

/**
 * Where the gate is open because its memory is gone, fewer are let in than a mailbox would take: the shoppers a closed gate keeps off come
 * all at once then. One drain's worth of a deal waits or is being decided; the others are told to come back.
 */
export class OpenDoor {
  /** Requests inside, by deal. */
  readonly #inside = new Map<string, Set<string>>();

  enter({ dealId, requestId }: Entry): void {
    const inside = this.#inside.get(dealId) ?? new Set();
    if (inside.size >= LIMITS.gateCrowdMax) throw crowd();
    this.#inside.set(dealId, inside.add(requestId));
  }

  leave({ dealId, requestId }: Entry): void {
    const inside = this.#inside.get(dealId);
    if (inside?.delete(requestId) && inside.size === 0) this.#inside.delete(dealId);
  }
}

/** Deals remembered at once: 40,000 deals that sell within one second are beyond any city. */
const DEALS_MAX = 40_000;

interface Bucket {
  available: number;
  version: number;
}
interface Deal {
  readonly buckets: Map<number, Bucket>;
  of: number;
  freshMs: number;
  /** Quantity by request, of those inside; the sum of them beside it. */
  readonly inside: Map<string, number>;
  entered: number;
}

/** In this process's memory: synchronous, and nothing of it can be gone while the process is there. */
export class LocalStockGate implements StockGate {
  readonly #deals = new LRUCache<string, Deal>({ max: DEALS_MAX });
  readonly #clock: () => number;

  /** `clock`: milliseconds that only go forward. */
  constructor(clock: () => number = () => performance.now()) {
    this.#clock = clock;
  }

  enter({ dealId, requestId, quantity }: Entry): number | undefined {
    checkQuantity(quantity);
    const deal = this.#deal(dealId);
    if (deal.inside.has(requestId)) return undefined;
    if (deal.buckets.size === deal.of && this.#clock() - deal.freshMs < FRESH_MS) {
      let left = 0;
      for (const { available } of deal.buckets.values()) left += available;
      if (left < quantity) return left;
      if (deal.entered >= left + LIMITS.gateCrowdMax) throw crowd();
    }
    deal.inside.set(requestId, quantity);
    deal.entered += quantity;
    return undefined;
  }

  leave({ dealId, requestId }: Entry): void {
    const deal = this.#deals.get(dealId);
    const quantity = deal?.inside.get(requestId);
    if (!deal || quantity === undefined) return;
    deal.inside.delete(requestId);
    deal.entered -= quantity;
  }

  note(facts: readonly StockFact[]): void {
    for (const [dealId, some] of Map.groupBy(facts, (fact) => fact.dealId)) {
      const deal = this.#deal(dealId);
      const nowMs = this.#clock();
      const isHistory = nowMs - deal.freshMs > HISTORY_MS;
      for (const { bucket, available, version } of some) {
        const known = deal.buckets.get(bucket);
        if (!known || version >= known.version || isHistory) deal.buckets.set(bucket, { available, version });
      }
      const of = some[0]?.of;
      if (of !== undefined && some.length === of) {
        deal.of = of;
        deal.freshMs = nowMs;
      }
    }
  }

  forget(dealIds: readonly string[]): void {
    for (const dealId of dealIds) this.#deals.delete(dealId);
  }

  close(): Promise<void> {
    return Promise.resolve();
  }

  #deal(dealId: string): Deal {
    const known = this.#deals.get(dealId);
    if (known) return known;
    const deal: Deal = { buckets: new Map(), of: -1, freshMs: -Infinity, inside: new Map(), entered: 0 };
    this.#deals.set(dealId, deal);
    return deal;
  }
}
