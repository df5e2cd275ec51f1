/**
 * Work of a shard that nobody waits for, in rounds: one at a time, and the next a while after the one before. What is asked for one by one meanwhile
 * is then done together: most of what a round costs, it costs however little it does. A quiet shard's round begins at once.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { shardKey, type Shard } from "../domain/ids.ts";

export class Rounds {
  readonly #round: (shard: Shard) => Promise<void>;
  readonly #gatherMs: number;
  readonly #running = new Map<string, { again: boolean; done: Promise<void> }>();
  readonly #stopping = new AbortController();

  /** A round does all there is; the next begins `gatherMs` after it. */
  constructor(round: (shard: Shard) => Promise<void>, gatherMs: number) {
    this.#round = round;
    this.#gatherMs = gatherMs;
  }

  /** Resolves, or rejects, with a round that has seen what is there now. */
  go(shard: Shard): Promise<void> {
    const key = shardKey(shard);
    const running = this.#running.get(key);
    if (running) {
      running.again = true;
      return running.done;
    }
    const going = { again: true, done: Promise.resolve() };
    this.#running.set(key, going);
    const run = async (): Promise<void> => {
      while (going.again && !this.#stopping.signal.aborted) {
        going.again = false;
        await this.#round(shard);
        await sleep(this.#gatherMs, undefined, { signal: this.#stopping.signal }).catch(() => undefined);
      }
    };
    going.done = run().finally(() => this.#running.delete(key));
    return going.done;
  }

  /** Ends the rounds under way and begins no other. */
  async stop(): Promise<void> {
    this.#stopping.abort();
    await Promise.allSettled([...this.#running.values()].map(({ done }) => done));
  }
}
