/**
 * A lane: one event consumer's way through the events of one database, batch after batch, each slot's events in order. Lanes do not wait for each other.
 * How a batch ends, `journal-delivery.ts` knows; what fails in passing is tried again here for as long as it takes.
 *
 * What passed by while nobody listened (a replication slot lost or new, a consumer new or away) is read from the table first.
 */
import { type Database, DatabaseUnavailable } from "../db/database.ts";
import { BATCH_EVENTS_MAX, Delivery, isPassing, rest, retryMs, type DeliveryWatch, type EventConsumer } from "./journal-delivery.ts";
import type { Mark } from "./journal-store.ts";
import { readTable, SEEN_MS } from "./journal-table.ts";
import type { Reader, Window } from "./journal-window.ts";
import type { StoredEvent } from "./stored-event.ts";

/** What is told of a lane. */
export interface LaneWatch extends DeliveryWatch {
  /** A database did not answer: the relay looks whether it is its own. */
  unreachable(): void;
}

/**
 * Behind a batch a lane rests, so that under load it pays for 20 transactions a second, not for one after each commit of a drain. An event that comes
 * in quiet is handled at once, and a lane that is behind, whose batch was full, does not rest. The road not taken: to rest only where nothing new has
 * come meanwhile, which in a stampede never is: 70 transactions a second, and 4 % of the main thread.
 */
const REST_MS = 50;
/** A commit that is in the log is visible in microseconds, where no standby server has to answer first. */
const LOOK_AGAIN_MS = 5;
/** A consumer that wants a beat gets one when nothing came for this long. */
export const BEAT_MS = 5_000;
/** A replay this short keeps the window waiting for it, which is exact; a longer one lets the others go on. */
const SHORT_REPLAY_PAGES = 10;

export class Lane implements Reader {
  readonly #consumer: EventConsumer;
  readonly #delivery: Delivery;
  readonly #database: Database;
  readonly #watch: LaneWatch;
  readonly #marks: Map<number, string>;
  readonly #changed = new Set<number>();
  /** Slots whose table is still to be read. */
  readonly #due: Set<number>;
  position: number | undefined = 0;
  #wake: () => void = () => undefined;

  constructor(consumer: EventConsumer, database: Database, marks: readonly Mark[], watch: LaneWatch) {
    this.#consumer = consumer;
    this.#delivery = new Delivery(consumer, database, watch);
    this.#database = database;
    this.#watch = watch;
    this.#marks = new Map(marks.map((mark) => [mark.slot, mark.eventId]));
    this.#due = new Set(marks.filter((mark) => !mark.replayed).map((mark) => mark.slot));
  }

  /** There may be something new in the window. */
  wake(): void {
    this.#wake();
  }

  /** False while the table is to be read first. */
  get isCaughtUp(): boolean {
    return this.#due.size === 0;
  }

  /** Marks that moved since the last call. */
  takeChanged(): Mark[] {
    const changed = [...this.#changed].map((slot) => ({
      consumer: this.#consumer.name,
      slot,
      eventId: this.#marks.get(slot) ?? "0",
      replayed: !this.#due.has(slot),
    }));
    this.#changed.clear();
    return changed;
  }

  /** Runs until `stopping`; a statement under way is waited for, since it may take effect. */
  async run(window: Window, moved: () => void, stopping: AbortSignal): Promise<void> {
    const onStop = (): void => this.#wake();
    stopping.addEventListener("abort", onStop);
    try {
      await this.#beat(stopping);
      if (this.#due.size > 0) await this.#replay(window, stopping);
      while (!stopping.aborted) {
        const from = this.position ?? window.start;
        const { batch, to } = this.#take(window, from);
        if (batch.length > 0 && !(await this.#readable(window, to, stopping))) return;
        if (!(await this.#deliver(batch, stopping))) return;
        for (let at = from; at < to; at++) this.#mark(window.at(at));
        this.position = to;
        moved();
        if (batch.length > 0 && batch.length < BATCH_EVENTS_MAX) await rest(REST_MS, stopping);
        if (to === window.end && !stopping.aborted && !(await this.#woken())) await this.#beat(stopping);
      }
    } finally {
      stopping.removeEventListener("abort", onStop);
    }
  }

  /** The next events that concern the consumer, and the position behind them. */
  #take(window: Window, from: number): { batch: StoredEvent[]; to: number } {
    const batch: StoredEvent[] = [];
    let to = from;
    for (; to < window.end && batch.length < BATCH_EVENTS_MAX; to++) {
      const event = window.at(to);
      if (event && this.#delivery.concerns(event)) batch.push(event);
    }
    return { batch, to };
  }

  /** Waits until everybody can read what the events before `to` speak of; false when told to stop. */
  async #readable(window: Window, to: number, stopping: AbortSignal): Promise<boolean> {
    while (!stopping.aborted) {
      if (await this.#persist(() => window.visible(to), stopping)) return true;
      await rest(LOOK_AGAIN_MS, stopping);
    }
    return false;
  }

  /** Also past what did not concern the consumer: a mark that stood still would make a replay long, and hold on to old events for ever. */
  #mark(event: StoredEvent | undefined): void {
    if (!event) return;
    this.#marks.set(event.slot, event.id);
    this.#changed.add(event.slot);
  }

  /** Waits for news: true when there are any, or a stop; false when it is time for a beat. */
  async #woken(): Promise<boolean> {
    let timer: NodeJS.Timeout | undefined;
    const woken = await new Promise<boolean>((resolve) => {
      this.#wake = () => resolve(true);
      if (this.#consumer.beat) timer = setTimeout(resolve, BEAT_MS, false);
    });
    clearTimeout(timer);
    return woken;
  }

  async #beat(stopping: AbortSignal): Promise<void> {
    await this.#persist(async () => (await this.#consumer.beat?.(), true), stopping);
  }

  /**
   * Reads the table from the marks on. The lane stands at the beginning of the window meanwhile, so that whatever is committed behind the reading
   * comes by there. When that takes too long it leaves the window, catches up, and then does the same again for what little is left.
   */
  async #replay(window: Window, stopping: AbortSignal): Promise<void> {
    let complete = await this.#readTable(SHORT_REPLAY_PAGES, stopping);
    if (!complete) {
      this.position = undefined;
      await this.#readTable(Number.POSITIVE_INFINITY, stopping);
      this.position = window.start;
      await rest(SEEN_MS, stopping);
      complete = await this.#readTable(Number.POSITIVE_INFINITY, stopping);
    }
    if (!complete) return;
    for (const slot of this.#due) this.#changed.add(slot);
    this.#due.clear();
  }

  /** True when it has read to the end of the table. */
  #readTable(pagesMax: number, stopping: AbortSignal): Promise<boolean> {
    const due = new Map([...this.#marks].filter(([slot]) => this.#due.has(slot)));
    let pages = 0;
    return readTable(
      this.#database,
      due,
      (work) => this.#persist(work, stopping),
      async (events) => {
        const concerned = events.filter((event) => this.#delivery.concerns(event));
        for (let at = 0; at < concerned.length; at += BATCH_EVENTS_MAX) {
          if (!(await this.#deliver(concerned.slice(at, at + BATCH_EVENTS_MAX), stopping))) return false;
        }
        for (const event of events) this.#mark(event);
        return ++pages < pagesMax;
      },
    );
  }

  #deliver(batch: readonly StoredEvent[], stopping: AbortSignal): Promise<boolean> {
    return this.#delivery.deliver(batch, (work) => this.#persist(work, stopping), stopping);
  }

  /** Repeats until there is an answer; undefined when told to stop before. */
  async #persist<R extends {} | null>(work: () => Promise<R>, stopping: AbortSignal): Promise<R | undefined> {
    for (let attempt = 1; !stopping.aborted; attempt++) {
      try {
        return await work();
      } catch (error) {
        if (!isPassing(error)) this.#watch.failed(this.#consumer.name, error, 0);
        if (error instanceof DatabaseUnavailable) this.#watch.unreachable();
        await rest(retryMs(attempt), stopping);
      }
    }
    return undefined;
  }
}
