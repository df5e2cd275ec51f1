/** One round at a time for each shard: whoever comes while it runs makes it go round once more, so that what is asked for one by one is done in batches. */
import { shardKey, type Shard } from "../domain/ids.ts";

export class Rounds {
  readonly #round: (shard: Shard) => Promise<void>;
  readonly #running = new Map<string, { again: boolean; done: Promise<void> }>();

  constructor(round: (shard: Shard) => Promise<void>) {
    this.#round = round;
  }

  go(shard: Shard): Promise<void> {
    const key = shardKey(shard);
    const running = this.#running.get(key);
    if (running) {
      running.again = true;
      return running.done;
    }
    const going = { again: false, done: Promise.resolve() };
    this.#running.set(key, going);
    const run = async (): Promise<void> => {
      do {
        going.again = false;
        await this.#round(shard);
      } while (going.again);
    };
    going.done = run().finally(() => this.#running.delete(key));
    return going.done;
  }
}
