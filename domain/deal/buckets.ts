/** How a deal's stock lies in its buckets: several for a big one, so that two nodes that drain one shard at once find a free one each. */
import { refusal, type DomainError } from "../error.ts";
import type { DealId } from "../ids.ts";
import { invariant } from "../invariant.ts";
import { DEAL_ERRORS } from "./errors.ts";

/** Below this a bucket would hold less than one order may ask for (99 units), and be sold out while its neighbours are not. */
const SPREAD_UNITS_MIN = 256;
const BUCKETS_MAX = 4;
/** A hundred million units of one deal: far from int4's end in every bucket and every sum. */
export const STOCK_UNITS_MAX = 100_000_000;

/** Decided once, when the deal is created. */
export const bucketsFor = (units: number): number => (units < SPREAD_UNITS_MIN ? 1 : BUCKETS_MAX);

/** Shares whole units by weight: largest remainder, the earlier bucket first on a tie. The parts sum to `units`; none exceeds its weight unless `units` exceeds all. */
export function apportion(units: number, weights: readonly number[]): number[] {
  const whole = weights.reduce((a, b) => a + b, 0);
  invariant(Number.isSafeInteger(units) && units >= 0, "units are whole and not negative");
  invariant(whole > 0, "weights are not all zero");
  // In bigint: the product of two stocks is beyond 2^53.
  const exact = weights.map((weight) => BigInt(units) * BigInt(weight));
  const parts = exact.map((product) => Number(product / BigInt(whole)));
  const left = units - parts.reduce((a, b) => a + b, 0);
  const byRemainder = exact.map((product, index) => ({ index, remainder: Number(product % BigInt(whole)) }));
  byRemainder.sort((a, b) => b.remainder - a.remainder || a.index - b.index);
  for (const { index } of byRemainder.slice(0, left)) parts[index] = (parts[index] ?? 0) + 1;
  return parts;
}

/** The totals of a new deal's buckets. */
export const spreadStock = (units: number): number[] => apportion(units, new Array<number>(bucketsFor(units)).fill(1));

interface Counts {
  readonly total: number;
  readonly held: number;
  readonly sold: number;
}
const availableIn = (bucket: Counts): number => bucket.total - bucket.held - bucket.sold;

export interface StockSum extends Counts {
  readonly available: number;
}

export function sumStock(buckets: readonly Counts[]): StockSum {
  const add = (count: (bucket: Counts) => number): number => buckets.reduce((units, bucket) => units + count(bucket), 0);
  return { total: add((one) => one.total), available: add(availableIn), held: add((one) => one.held), sold: add((one) => one.sold) };
}

/**
 * What a restock changes in each bucket's total. New units are shared out evenly; units are taken back in proportion to what is available,
 * so that no bucket is emptied while another is full. Only what is neither held nor sold can be taken.
 */
export function restock(dealId: DealId, buckets: readonly Counts[], quantity: number): number[] | DomainError {
  const { available } = sumStock(buckets);
  if (quantity > 0)
    return apportion(
      quantity,
      buckets.map(() => 1),
    );
  if (-quantity > available) return refusal(DEAL_ERRORS, "STOCK_TOO_LOW", { dealId, available });
  return apportion(-quantity, buckets.map(availableIn)).map((units) => -units);
}
