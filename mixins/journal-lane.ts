/**
 * A lane: one event consumer's way through the events of one database, batch after batch, each slot's events in order. Lanes do not wait for each other.
 *
 * A batch ends in one of three ways. Handled. Tried again, for as long as it takes, when a database cannot be reached or is contended (or a
 * refusal says that a repeat may succeed): that is nobody's poison. Or, at any other error, halved until the poison stands alone; that one is tried five times in all and then parked.
 *
 * What passed by while nobody listened (a replication slot lost or new, a consumer new or away) is read from the table first.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { type Database, DatabaseUnavailable, isContention } from "../db/database.ts";
import { DomainError } from "../domain/error.ts";
import type { EventType } from "../domain/events.ts";
import { type Mark, pageOfEvents, parkEvent, replayFrom } from "./journal-store.ts";
import type { Reader, Window } from "./journal-window.ts";
import type { StoredEvent } from "./stored-event.ts";

/** Somebody who must hear of events, sooner or later, at least once. Idempotent: effect and mark are one transaction. */
export interface EventConsumer<T extends EventType = EventType> {
  /** For good: its marks and its parked events are kept under it. */
  readonly name: string;
  readonly types: readonly T[];
  handle(batch: readonly StoredEvent<T>[]): Promise<void>;
}

/** What is told of a lane. */
export interface LaneWatch {
  handled(consumer: string, events: number): void;
  failed(consumer: string, error: unknown, events: number): void;
  parked(consumer: string, event: StoredEvent, error: unknown): void;
  /** A database did not answer: the relay looks whether it is its own. */
  unreachable(): void;
}

/** One statement of 500 rows takes some 10 ms: enough to make a commit cheap, little enough to halve in nine steps. */
const BATCH_EVENTS_MAX = 500;
/** A slot's share of one page of the table. */
const PAGE_EVENTS_MAX = 250;
/**
 * Having caught up a lane rests, so that under load it pays for 40 transactions a second, not for one after each commit of a drain. An event
 * that comes in quiet is handled at once, and one that is behind does not rest.
 */
const REST_MS = 25;
const TRIES_MAX = 5;
const RETRY_MS_MIN = 100;
const RETRY_MS_MAX = 5_000;
/** A replay this short keeps the window waiting for it, which is exact; a longer one lets the others go on. */
const SHORT_REPLAY_PAGES = 10;
/** A transaction is in the log before it can be seen in the table: by microseconds, unless its process is kept from running. */
const SEEN_MS = 1_000;

const HANDLED = Symbol("handled");

export class Lane implements Reader {
  readonly #consumer: EventConsumer;
  readonly #types: ReadonlySet<string>;
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
    this.#types = new Set(consumer.types);
    this.#database = database;
    this.#watch = watch;
    this.#marks = new Map(marks.map((mark) => [mark.slot, mark.eventId]));
    this.#due = new Set(marks.filter((mark) => !mark.replayed).map((mark) => mark.slot));
  }

  /** There may be something new in the window. */
  wake(): void {
    this.#wake();
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
      if (this.#due.size > 0) await this.#replay(window, stopping);
      while (!stopping.aborted) {
        const from = this.position ?? window.start;
        const { batch, to } = this.#take(window, from);
        if (!(await this.#deliver(batch, stopping))) return;
        this.position = to;
        moved();
        if (to !== window.end) continue;
        if (batch.length > 0) await rest(REST_MS, stopping);
        if (to === window.end && !stopping.aborted) await new Promise<void>((resolve) => (this.#wake = resolve));
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
      if (event && this.#types.has(event.type)) batch.push(event);
    }
    return { batch, to };
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
  async #readTable(pagesMax: number, stopping: AbortSignal): Promise<boolean> {
    const due = new Map([...this.#marks].filter(([slot]) => this.#due.has(slot)));
    const after = await this.#persist(() => replayFrom(this.#database, due), stopping);
    for (let pages = 0; after && after.size > 0; pages++) {
      const events =
        pages < pagesMax
          ? await this.#persist(() => pageOfEvents(this.#database, this.#database.city, after, PAGE_EVENTS_MAX), stopping)
          : undefined;
      if (!events) return false;
      const concerned = events.filter((event) => this.#types.has(event.type));
      for (let at = 0; at < concerned.length; at += BATCH_EVENTS_MAX) {
        if (!(await this.#deliver(concerned.slice(at, at + BATCH_EVENTS_MAX), stopping))) return false;
      }
      const bySlot = Map.groupBy(events, (event) => event.slot);
      for (const slot of after.keys()) {
        const read = bySlot.get(slot) ?? [];
        const last = read.at(-1);
        if (last && read.length === PAGE_EVENTS_MAX) after.set(slot, last.id);
        else after.delete(slot);
      }
    }
    return after !== undefined;
  }

  /** True when every event is handled or parked; false when told to stop before. */
  async #deliver(batch: readonly StoredEvent[], stopping: AbortSignal): Promise<boolean> {
    const [first] = batch;
    if (!first) return true;
    for (let attempt = 1; ; attempt++) {
      const error = await this.#persist(() => this.#attempt(batch), stopping);
      if (error === undefined) return false;
      if (error === HANDLED) break;
      this.#watch.failed(this.#consumer.name, error, batch.length);
      if (batch.length > 1) {
        const half = batch.length >> 1;
        return (await this.#deliver(batch.slice(0, half), stopping)) && this.#deliver(batch.slice(half), stopping);
      }
      if (attempt === TRIES_MAX) {
        const text = error.stack ?? error.message;
        const parked = await this.#persist(
          () => parkEvent(this.#database, this.#consumer.name, first, text, attempt).then(() => true),
          stopping,
        );
        if (!parked) return false;
        this.#watch.parked(this.#consumer.name, first, error);
        break;
      }
      await rest(retryMs(attempt), stopping);
    }
    for (const event of batch) {
      this.#marks.set(event.slot, event.id);
      this.#changed.add(event.slot);
    }
    return true;
  }

  /** HANDLED, or what is wrong with the batch; a database that is away is thrown. */
  async #attempt(batch: readonly StoredEvent[]): Promise<Error | typeof HANDLED> {
    try {
      await this.#consumer.handle(batch);
      this.#watch.handled(this.#consumer.name, batch.length);
      return HANDLED;
    } catch (error) {
      if (isPassing(error)) throw error;
      return error instanceof Error ? error : new Error(`the consumer threw ${String(error)}`);
    }
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

/** Not the events' fault: it goes away by itself. */
const isPassing = (error: unknown): boolean =>
  error instanceof DatabaseUnavailable || isContention(error) || (error instanceof DomainError && error.retryable);

const retryMs = (attempt: number): number => Math.min(RETRY_MS_MIN * 2 ** (attempt - 1), RETRY_MS_MAX);

/** Sleeps; a stop ends it early. */
const rest = (ms: number, stopping: AbortSignal): Promise<void> => sleep(ms, undefined, { signal: stopping }).catch(() => undefined);
