/**
 * The stock gate: in front of the mailboxes, remembers which deals have nothing left, so that a stampede at a sold-out deal costs no
 * transaction. It may refuse, it never grants, and it forgets within a second: whoever comes then finds out anew (stock may have come back
 * through another node). PostgreSQL alone decides what is sold.
 */
import { LRUCache } from "lru-cache";
import { LIMITS } from "../domain/limits.ts";

/** How long a refusal may be out of date. */
const MEMORY_MS = 1_000;
/** Deals remembered at once: 40,000 sold-out deals a second is beyond any city. */
const DEALS_MAX = 40_000;

export class StockGate {
  readonly #available = new LRUCache<string, number>({ max: DEALS_MAX, ttl: MEMORY_MS });

  /** What a drain left of a deal's stock. Only a rest that some order could exceed is worth remembering. */
  note(dealId: string, available: number): void {
    if (available < LIMITS.quantityMax) this.#available.set(dealId, available);
    else this.#available.delete(dealId);
  }

  /** Units came back (cancelled, expired, restocked): let the next one through. */
  open(dealId: string): void {
    this.#available.delete(dealId);
  }

  /** The units left where they are known to be fewer than `quantity`; undefined where the order may try. */
  shortOf(dealId: string, quantity: number): number | undefined {
    const available = this.#available.get(dealId);
    return available !== undefined && available < quantity ? available : undefined;
  }
}
