/**
 * What a relay has read and not every event consumer has handled yet: a sliding window with a position per reader. Bounded by the relay, which
 * stops reading its socket when the window is full. Also knows up to where the log may be confirmed.
 *
 * The log tells of a commit before the server shows it to others: between the two a consumer that reads what an event speaks of reads how it was
 * before, and would never be told again. So a reader waits until what it takes is `visible`.
 */
import type { StoredEvent } from "./stored-event.ts";

/** A reader's place: the number of the next event it has not handled; undefined while it reads the table and holds nothing back. */
export interface Reader {
  position: number | undefined;
}

export class Window {
  readonly #readers: readonly Reader[];
  readonly #areVisible: (transactions: readonly number[]) => Promise<boolean>;
  readonly #events: StoredEvent[] = [];
  /** The number of the first event kept. */
  #start = 0;
  /** Ends of transactions not confirmed yet: the position in the log, and the number of the event behind the transaction's last. */
  #commits: { readonly log: bigint; readonly before: number }[] = [];
  /** Events of the transaction whose end has not come. */
  #open = false;
  /** The server has nothing for us before this. */
  #idle = 0n;
  #confirmable = 0n;
  /** Transactions that nobody has looked for yet, in the order they came. */
  #unseen: number[] = [];
  /** The number behind the last event that everybody can read. */
  #seen = 0;
  #looking: Promise<boolean> | undefined;

  /** `areVisible`: whether others read what these transactions wrote. */
  constructor(readers: readonly Reader[], areVisible: (transactions: readonly number[]) => Promise<boolean>) {
    this.#readers = readers;
    this.#areVisible = areVisible;
  }

  get start(): number {
    return this.#start;
  }
  get end(): number {
    return this.#start + this.#events.length;
  }
  /** Events that some reader has not handled. */
  get waiting(): number {
    return this.end - this.#slowest();
  }

  push(event: StoredEvent, transaction: number): void {
    this.#events.push(event);
    this.#open = true;
    if (this.#unseen.at(-1) !== transaction) this.#unseen.push(transaction);
  }

  /** True when everybody can read all events before `to`; false when it is worth asking again. Readers that ask at once are answered by one look. */
  async visible(to: number): Promise<boolean> {
    if (to > this.#seen) await (this.#looking ??= this.#look().finally(() => (this.#looking = undefined)));
    return to <= this.#seen;
  }

  async #look(): Promise<boolean> {
    const [end, looked] = [this.end, [...this.#unseen]];
    const isVisible = await this.#areVisible(looked);
    if (isVisible) {
      this.#seen = end;
      this.#unseen.splice(0, looked.length);
    }
    return isVisible;
  }

  commit(log: bigint): void {
    this.#open = false;
    this.#commits.push({ log, before: this.end });
  }

  idle(log: bigint): void {
    this.#idle = log;
  }

  at(position: number): StoredEvent | undefined {
    return this.#events[position - this.#start];
  }

  /** The position in the log before which every reader has handled everything. Lets go of what nobody needs any more. */
  settle(): bigint {
    const slowest = this.#slowest();
    const done = this.#commits.findIndex((commit) => commit.before > slowest);
    const settled = this.#commits.splice(0, done === -1 ? this.#commits.length : done);
    const last = settled.at(-1);
    if (last && last.log > this.#confirmable) this.#confirmable = last.log;
    // With nothing under way the log before the server's own position holds nothing for us, whoever wrote it.
    if (this.#commits.length === 0 && !this.#open && this.#idle > this.#confirmable) this.#confirmable = this.#idle;
    // At once: an event that is kept past two collections of young garbage is old garbage, of which there were 10 MB a second.
    this.#events.splice(0, slowest - this.#start);
    this.#start = slowest;
    return this.#confirmable;
  }

  #slowest(): number {
    return this.#readers.reduce((slowest, { position }) => Math.min(slowest, position ?? slowest), this.end);
  }
}
