/**
 * How a batch is handed to an event consumer, whichever way it came. It ends in one of three ways. Handled. Thrown back, when a database cannot be
 * reached or is contended (or a refusal says that a repeat may succeed): that is nobody's poison. Or, at any other error, halved until the poison
 * stands alone; that one is tried five times in all and then parked, and the rest goes on.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { type Database, DatabaseUnavailable, isContention } from "../db/database.ts";
import { DomainError } from "../domain/error.ts";
import type { EventType } from "../domain/events.ts";
import { parkEvent } from "./journal-parked.ts";
import type { StoredEvent } from "./stored-event.ts";

/** Somebody who must hear of events, sooner or later, at least once. Idempotent: effect and mark are one transaction. */
export interface EventConsumer<T extends EventType = EventType> {
  /** For good: its marks and its parked events are kept under it. */
  readonly name: string;
  readonly types: readonly T[] | "every";
  handle(batch: readonly StoredEvent<T>[]): Promise<void>;
  /** Called when it begins to listen, and then whenever it was told nothing for a while. */
  beat?(): Promise<void>;
}

/** What is told of deliveries. */
export interface DeliveryWatch {
  handled(consumer: string, events: number): void;
  failed(consumer: string, error: unknown, events: number): void;
  parked(consumer: string, event: StoredEvent, error: unknown): void;
}

/** One statement of 500 rows takes some 10 ms: enough to make a commit cheap, little enough to halve in nine steps. */
export const BATCH_EVENTS_MAX = 500;
export const TRIES_MAX = 5;
const RETRY_MS_MIN = 100;
const RETRY_MS_MAX = 5_000;

const HANDLED = Symbol("handled");

/** Does work that may fail in passing: repeats it, or lets the error through. Undefined when told to stop before there was an answer. */
export type Persist = <R extends {} | null>(work: () => Promise<R>) => Promise<R | undefined>;

export class Delivery {
  readonly #consumer: EventConsumer;
  readonly #types: ReadonlySet<string> | undefined;
  readonly #home: Database;
  readonly #watch: DeliveryWatch;

  /** `home` is the database the events come from: there they are parked. */
  constructor(consumer: EventConsumer, home: Database, watch: DeliveryWatch) {
    this.#consumer = consumer;
    this.#types = consumer.types === "every" ? undefined : new Set(consumer.types);
    this.#home = home;
    this.#watch = watch;
  }

  concerns(event: StoredEvent): boolean {
    return this.#types?.has(event.type) ?? true;
  }

  /** True when every event is handled or parked; false when told to stop before. `batch` holds what concerns the consumer. */
  async deliver(batch: readonly StoredEvent[], persist: Persist, stopping: AbortSignal): Promise<boolean> {
    const [first] = batch;
    if (!first) return true;
    for (let attempt = 1; ; attempt++) {
      const error = await persist(() => this.#attempt(batch));
      if (error === undefined) return false;
      if (error === HANDLED) return true;
      this.#watch.failed(this.#consumer.name, error, batch.length);
      if (batch.length > 1) {
        const half = batch.length >> 1;
        return (await this.deliver(batch.slice(0, half), persist, stopping)) && this.deliver(batch.slice(half), persist, stopping);
      }
      if (attempt === TRIES_MAX) {
        const parked = await persist(() => parkEvent(this.#home, this.#consumer.name, first, error, attempt).then(() => true));
        if (!parked) return false;
        this.#watch.parked(this.#consumer.name, first, error);
        return true;
      }
      await rest(retryMs(attempt), stopping);
    }
  }

  /** HANDLED, or what is wrong with the batch; what passes by itself is thrown. */
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
}

/** Not the events' fault: it goes away by itself. */
export const isPassing = (error: unknown): boolean =>
  error instanceof DatabaseUnavailable || isContention(error) || (error instanceof DomainError && error.retryable);

export const retryMs = (attempt: number): number => Math.min(RETRY_MS_MIN * 2 ** Math.min(attempt - 1, 10), RETRY_MS_MAX);

/** Sleeps; a stop ends it early. */
export const rest = (ms: number, stopping: AbortSignal): Promise<void> => sleep(ms, undefined, { signal: stopping }).catch(() => undefined);
