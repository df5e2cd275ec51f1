/**
 * Work nobody waits for: calls to an outside system, so many under way at once and so many a second, one at a time for each key. What does not fit
 * is dropped: rows say what is left to do, and a sweep brings it again.
 */
import { setTimeout as sleep } from "node:timers/promises";
import type { Limiter } from "./limiter.ts";

export interface Pace {
  readonly atOnceMax: number;
  /** How many may begin in a window, and as whose they count there: with those of other nodes, where the limiter is shared. */
  readonly limiter: Limiter;
  readonly key: string;
}
/** Beyond what a few rounds of a sweep bring. */
const WAITING_MAX = 16_384;

export class Background {
  readonly #pace: Pace;
  /** Begins are let through one after the other. */
  #lastTicket: Promise<unknown> = Promise.resolve();
  readonly #onError: (key: string, error: unknown) => void;
  readonly #waiting = new Map<string, () => Promise<unknown>>();
  readonly #running = new Map<string, Promise<void>>();
  #stopping = false;

  constructor(pace: Pace, onError: (key: string, error: unknown) => void) {
    this.#pace = pace;
    this.#onError = onError;
  }

  /** A key that waits or runs already is left to it. */
  add(key: string, work: () => Promise<unknown>): void {
    if (this.#stopping || this.#running.has(key) || this.#waiting.size >= WAITING_MAX) return;
    this.#waiting.set(key, work);
    this.#pump();
  }

  /** Ends what runs and takes no more; what waits is left to the sweep. */
  async stop(): Promise<void> {
    this.#stopping = true;
    this.#waiting.clear();
    await Promise.all(this.#running.values());
  }

  #pump(): void {
    for (const [key, work] of this.#waiting) {
      if (this.#running.size >= this.#pace.atOnceMax) return;
      this.#waiting.delete(key);
      const ticket = this.#lastTicket.then(() => this.#ticket());
      this.#lastTicket = ticket.catch(() => undefined); // told below
      const running = ticket
        .then(work)
        .then(
          () => undefined,
          (error: unknown) => this.#onError(key, error),
        )
        .finally(() => {
          this.#running.delete(key);
          this.#pump();
        });
      this.#running.set(key, running);
    }
  }

  async #ticket(): Promise<void> {
    const { limiter, key } = this.#pace;
    for (;;) {
      const { consumedPoints, msBeforeNext } = await limiter.take(key);
      if (consumedPoints <= limiter.points) return;
      await sleep(msBeforeNext);
    }
  }
}
