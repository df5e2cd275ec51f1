import { invariant } from "./invariant.ts";

declare const unit: unique symbol;
/** Money: integer fen (1/100 yuan), never negative. Minted only by `fen`. */
export type Fen = bigint & { readonly [unit]: "fen" };

/** Ten trillion yuan in fen: JSON carries it as an integer without loss (2^53 is nine times more), int8 holds the sum of nine thousand of them. */
export const FEN_MAX = 10n ** 15n;

/** The most one amount in a request may be: a hundred million yuan. */
export const REQUEST_FEN_MAX = 10_000_000_000;

export function fen(value: bigint | number | string): Fen {
  const n = BigInt(value);
  invariant(n >= 0n, "money is never negative");
  invariant(n <= FEN_MAX, "money stays below FEN_MAX");
  return n as Fen;
}

export const sum = (parts: Iterable<Fen>): Fen => {
  let total = 0n;
  for (const part of parts) total += part;
  return fen(total);
};

/** For JSON: an integer a client can read exactly. */
export const toJson = (amount: bigint): number => {
  invariant(amount <= FEN_MAX && amount >= -FEN_MAX, "an amount is exact in JSON");
  return Number(amount);
};

/**
 * Shares `total` by `weights` with the largest remainder method (Hamilton): every share gets its whole part, then the leftover fen go one
 * each to the largest remainders, the earlier share first on a tie. The parts sum to the total exactly.
 */
export function share(total: Fen, weights: readonly bigint[]): Fen[] {
  const whole = weights.reduce((a, b) => a + b, 0n);
  invariant(whole > 0n, "weights are not all zero");
  const parts = weights.map((weight) => (total * weight) / whole);
  const left = Number(total - parts.reduce((a, b) => a + b, 0n));
  const byRemainder = weights.map((weight, index) => ({ index, remainder: (total * weight) % whole }));
  byRemainder.sort((a, b) => (a.remainder === b.remainder ? a.index - b.index : a.remainder > b.remainder ? -1 : 1));
  for (const { index } of byRemainder.slice(0, left)) parts[index] = (parts[index] ?? 0n) + 1n;
  const shares = parts.map(fen);
  invariant(sum(shares) === total, "sharing conserves money");
  return shares;
}

/** `amount × bps / 10,000`, half up. The remainder is whoever's the caller says it is: `amount - basisPoints(amount, bps)`. */
export function basisPoints(amount: Fen, bps: number): Fen {
  invariant(Number.isInteger(bps) && bps >= 0 && bps <= 10_000, "basis points are 0 to 10,000");
  return fen((amount * BigInt(bps) + 5_000n) / 10_000n);
}
