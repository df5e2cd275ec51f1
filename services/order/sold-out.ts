/**
 * Leases of sold-out deals. A gateway that has one refuses a deal's orders by itself for half a second, all but those of people who have
 * ordered this deal before: one of their keys may have a stored answer. That stays true only while no new order is made, so this node sells
 * none of the deal until the leases it gave have run out, should units come back. Both ends measure from their own side of the call (the
 * gateway from asking, this node from being asked), so no clocks are compared.
 *
 * Where two nodes drain one shard for a moment, one may sell what the other has leased: then a repeat of an order, made within that half
 * second, hears SOLD_OUT, and its order all the same on the next try.
 */
import { LRUCache } from "lru-cache";
import { LEASE_MS } from "./order.contract.ts";

/** Deals that are sold out within one half second. */
const DEALS_MAX = 40_000;

export class Leases {
  readonly #held = new LRUCache<string, true>({ max: DEALS_MAX, ttl: LEASE_MS });

  grant(dealId: string): void {
    this.#held.set(dealId, true);
  }

  /** It turned out that there is something to sell. */
  withdraw(dealId: string): void {
    this.#held.delete(dealId);
  }

  isHeld(dealId: string): boolean {
    return this.#held.size > 0 && this.#held.has(dealId);
  }
}
