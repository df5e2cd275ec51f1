/**
 * Work nobody waits for: calls to an outside system, so many under way at once and so many a second, one at a time for each key. What does not fit
 * is dropped: rows say what is left to do, and a sweep brings it again.
 */
import { RateLimiterMemory, RateLimiterQueue } from "rate-limiter-flexible";

export interface Pace {
  readonly atOnceMax: number;
  readonly perSecondMax: number;
}
/** Beyond what a few rounds of a sweep bring. */
const WAITING_MAX = 16_384;

export class Background {
  readonly #atOnceMax: number;
  readonly #tickets: RateLimiterQueue;
  readonly #onError: (key: string, error: unknown) => void;
  readonly #waiting = new Map<string, () => Promise<unknown>>();
  readonly #running = new Map<string, Promise<void>>();
  #stopping = false;

  constructor({ atOnceMax, perSecondMax }: Pace, onError: (key: string, error: unknown) => void) {
    this.#atOnceMax = atOnceMax;
    this.#tickets = new RateLimiterQueue(new RateLimiterMemory({ points: perSecondMax, duration: 1 }), { maxQueueSize: atOnceMax });
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
      if (this.#running.size >= this.#atOnceMax) return;
      this.#waiting.delete(key);
      const running = this.#tickets
        .removeTokens(1)
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
}
