/**
 * Gathers look-ups: keys asked for while one query runs go together into the next, so that a thousand single look-ups a millisecond are a
 * handful of statements. The reading twin of the mailbox, without a transaction.
 */
export class Gather<K, V> {
  readonly #load: (keys: readonly K[]) => Promise<ReadonlyMap<string, V>>;
  readonly #nameOf: (key: K) => string;
  #waiting: { readonly key: K; readonly resolve: (value: V | undefined) => void; readonly reject: (error: unknown) => void }[] = [];
  #running = false;

  constructor(nameOf: (key: K) => string, load: (keys: readonly K[]) => Promise<ReadonlyMap<string, V>>) {
    this.#nameOf = nameOf;
    this.#load = load;
  }

  find(key: K): Promise<V | undefined> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ key, resolve, reject });
      if (!this.#running) {
        this.#running = true;
        setImmediate(() => void this.#run());
      }
    });
  }

  async #run(): Promise<void> {
    while (this.#waiting.length > 0) {
      const batch = this.#waiting.splice(0, 512);
      try {
        const found = await this.#load(batch.map(({ key }) => key));
        for (const { key, resolve } of batch) resolve(found.get(this.#nameOf(key)));
      } catch (error) {
        for (const { reject } of batch) reject(error);
      }
    }
    this.#running = false;
  }
}
