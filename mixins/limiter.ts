/**
 * So many in a window of time. `rate-limiter-flexible` keeps the windows: in Redis where there is one, for all nodes together, and in this process where
 * there is none, or while it does not answer.
 */
import { RateLimiterMemory, RateLimiterRedis, RateLimiterRes, type RateLimiterAbstract } from "rate-limiter-flexible";
import type { RedisLink } from "./redis.ts";

export interface Window {
  /** Of all keys of this limiter in Redis. */
  readonly name: string;
  readonly points: number;
  readonly seconds: number;
}

const KEYS_SEPARATOR = "|";

export class Limiter {
  readonly points: number;
  readonly #local: RateLimiterMemory;
  readonly #shared: RateLimiterRedis | undefined;
  readonly #redis: RedisLink | undefined;

  constructor({ name, points, seconds }: Window, redis: RedisLink | undefined) {
    this.points = points;
    this.#redis = redis;
    const options = { keyPrefix: `limit:${name}${KEYS_SEPARATOR}`, points, duration: seconds };
    this.#local = new RateLimiterMemory(options);
    this.#shared = redis === undefined ? undefined : new RateLimiterRedis({ ...options, storeClient: redis.client });
  }

  /** Takes one. With more points consumed than there are, it was refused: an answer like any other. */
  take = (key: string): Promise<RateLimiterRes> => this.#ask((limiter) => limiter.consume(key).catch(refused));
  /** What is taken, without taking any; null: nothing. */
  look = (key: string): Promise<RateLimiterRes | null> => this.#ask((limiter) => limiter.get(key));
  /** Takes one whether there is any or not. */
  count = async (key: string): Promise<void> => void (await this.#ask((limiter) => limiter.penalty(key)));

  /** The library's own insurance would do the same, but its failures would not reach the link, and each request would wait out a dead Redis. */
  async #ask<T>(question: (limiter: RateLimiterAbstract) => Promise<T>): Promise<T> {
    const shared = this.#shared;
    if (shared === undefined || this.#redis?.usable !== true) return question(this.#local);
    return this.#redis.run(() => question(shared)).catch(() => question(this.#local));
  }
}

/** A limit that is used up rejects with its state. */
function refused(error: unknown): RateLimiterRes {
  if (error instanceof RateLimiterRes) return error;
  throw error;
}
