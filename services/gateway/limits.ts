/** Rate limits: per address, per user, and tighter where guessing pays. Of all gateways together where there is Redis. */
import { isIPv6 } from "node:net";
import type { RateLimiterRes } from "rate-limiter-flexible";
import { COMMON_ERRORS } from "../../domain/common-errors.ts";
import { DomainError, raise } from "../../domain/error.ts";
import type { ErrorCode } from "../../domain/errors.ts";
import { Limiter } from "../../mixins/limiter.ts";
import type { RedisLink } from "../../mixins/redis.ts";
import type { Exchange } from "./exchange.ts";

const WINDOW_SECONDS = 60;

/** Requests a minute. */
export const RATES = {
  /** An office tower or a mobile carrier's exit behind one address, at a shopping hour; also `npm run demo`, a whole city on the loopback. */
  address: 12_000,
  /** Ten a second: nobody taps faster for a minute. */
  user: 600,
  /** Names and passwords: a login costs 20 ms of hashing, so one address takes a fifth of a core at most. */
  auth: 600,
  /** Wrong passwords for one name from one address. Not for the name alone: then anybody could lock anybody out. */
  loginGuess: 10,
  /** Codes that were no voucher of this bar: a typing error now and then, never a search. */
  voucherGuess: 20,
} as const;
export type LimitName = keyof typeof RATES;

export class Limits {
  readonly #limiters: Readonly<Record<LimitName, Limiter>>;

  constructor(rates: Partial<Record<LimitName, number>> = {}, redis?: RedisLink) {
    const limiter = (name: LimitName): Limiter => new Limiter({ name, points: rates[name] ?? RATES[name], seconds: WINDOW_SECONDS }, redis);
    this.#limiters = {
      address: limiter("address"),
      user: limiter("user"),
      auth: limiter("auth"),
      loginGuess: limiter("loginGuess"),
      voucherGuess: limiter("voucherGuess"),
    };
  }

  /** Takes one request off a limit, or throws RATE_LIMITED. The answer's headers tell of the limit that is nearest its end. */
  async take(name: LimitName, key: string, exchange: Exchange): Promise<void> {
    const taken = await this.#limiters[name].take(key);
    if (taken.consumedPoints > this.#limiters[name].points) this.#refuse(name, taken, exchange);
    this.#tell(name, taken, exchange);
  }

  /** Throws RATE_LIMITED when a limit that only counts failures is used up. */
  async mayTry(name: LimitName, key: string, exchange: Exchange): Promise<void> {
    const used = await this.#limiters[name].look(key);
    if (used !== null && used.consumedPoints >= this.#limiters[name].points) this.#refuse(name, used, exchange);
  }

  countFailure(name: LimitName, key: string): Promise<void> {
    return this.#limiters[name].count(key);
  }

  #refuse(name: LimitName, state: RateLimiterRes, exchange: Exchange): never {
    this.#tell(name, state, exchange);
    return raise(COMMON_ERRORS, "RATE_LIMITED", { retryAfterSeconds: secondsLeft(state) });
  }

  #tell(name: LimitName, state: RateLimiterRes, exchange: Exchange): void {
    const { points } = this.#limiters[name];
    const remaining = Math.max(0, points - state.consumedPoints);
    const told = exchange.limitHeaders[REMAINING_AT];
    if (told !== undefined && Number(told) <= remaining) return;
    exchange.limitHeaders = [
      ...["RateLimit-Limit", String(points)],
      ...["RateLimit-Remaining", String(remaining)],
      ...["RateLimit-Reset", String(secondsLeft(state))],
      ...["RateLimit-Policy", `${points};w=${WINDOW_SECONDS}`],
    ];
  }
}
const REMAINING_AT = 3;
const secondsLeft = (state: RateLimiterRes): number => Math.max(1, Math.ceil(state.msBeforeNext / 1000));

/** Errors that mean a wrong guess, and the limit their contract's callers have for them. */
const GUESSES: readonly { readonly error: ErrorCode; readonly limit: LimitName }[] = [
  { error: "VOUCHER_NOT_FOUND", limit: "voucherGuess" },
  { error: "BAD_CREDENTIALS", limit: "loginGuess" },
];
export type Guess = (typeof GUESSES)[number];
/** What may be guessed through an action, if anything. */
export const guessOf = (errors: readonly ErrorCode[]): Guess | undefined => GUESSES.find(({ error }) => errors.includes(error));
export const isWrong = (guess: Guess, error: unknown): boolean => error instanceof DomainError && error.type === guess.error;

/** Whose requests count together: an IPv4 address, or an IPv6 network of 64 bits, because a customer has all of those. */
export function addressKey(address: string): string {
  if (address.startsWith("::ffff:")) return address.slice(7);
  if (!isIPv6(address)) return address;
  const [head = "", tail] = address.split("::");
  const groups = head === "" ? [] : head.split(":");
  const tailGroups = tail === undefined || tail === "" ? [] : tail.split(":");
  const zeros = tail === undefined ? 0 : 8 - groups.length - tailGroups.length;
  return [...groups, ...Array.from({ length: Math.max(0, zeros) }, () => "0"), ...tailGroups].slice(0, 4).join(":");
}
