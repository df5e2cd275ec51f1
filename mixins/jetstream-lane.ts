/**
 * One event consumer's way through the events of one database when they travel by NATS. Every node that has the consumer takes from the same durable
 * consumer, which gives out one batch at a time: so the nodes share the work, and each shard's events keep their order.
 *
 * Acknowledged is what was handled or parked, and only then; a batch whose node dies comes to another after ACK_WAIT_MS. When a database is away
 * the batch is given back, to come again a little later, perhaps elsewhere.
 *
 * The batch itself tells whether one is missing before it: its number in its chain does not follow the last one handled (the stream was
 * emptied, lost, restored, or turned over while the consumer was away; the consumer is new). Then the table is read from the marks first. So it is
 * for slots that have come from another database, whose stream nobody may be reading any more.
 */
import type { Consumer, JsMsg } from "nats";
import type { Database } from "../db/database.ts";
import { ACK_WAIT_MS, chainOf, type EventStreams } from "./jetstream.ts";
import { decodeBatch } from "./jetstream-publisher.ts";
import { findArrived, findMarks, findPosition, moveMarks, type Position, savePosition, settleArrived } from "./jetstream-store.ts";
import { BATCH_EVENTS_MAX, Delivery, isPassing, rest, retryMs, type DeliveryWatch, type EventConsumer } from "./journal-delivery.ts";
import { readTable, SEEN_MS } from "./journal-table.ts";
import { storedEvent, type StoredEvent } from "./stored-event.ts";

export interface StreamLaneWatch extends DeliveryWatch {
  /** A batch came again: its node died, or gave it back. */
  redelivered(consumer: string): void;
  /** The lane does not get on, or gets on again (undefined). Told once a change. */
  troubled(consumer: string, database: string, error: unknown): void;
  /** The lane has fallen far behind, or has caught up (0). Told once a change. */
  late(consumer: string, database: string, seconds: number): void;
}

/** How long one request for a batch stands at the server. Between two the lane looks how far behind it is. */
const PULL_MS = 5_000;
/** Seconds are usual after a node died; a minute is somebody's business. */
const LATE_MS = 60_000;

export class StreamLane {
  readonly consumer: EventConsumer;
  readonly database: Database;
  readonly #streams: EventStreams;
  readonly #watch: StreamLaneWatch;
  readonly #delivery: Delivery;
  readonly #stopping = new AbortController();
  /** What this node handled last; another may have handled more. */
  #last: Position | undefined;
  #waiting = 0;
  #behindMs = 0;
  #trouble = "";
  #late = false;
  #running: Promise<void> | undefined;

  constructor(consumer: EventConsumer, database: Database, streams: EventStreams, watch: StreamLaneWatch) {
    this.consumer = consumer;
    this.database = database;
    this.#streams = streams;
    this.#watch = watch;
    this.#delivery = new Delivery(consumer, database, watch);
  }

  /** Batches that are published and not acknowledged, as last looked at. */
  get waiting(): number {
    return this.#waiting;
  }
  /** Age of the batch last taken; 0 when none waits. */
  get behindMs(): number {
    return this.#behindMs;
  }

  start(): void {
    this.#running ??= this.#run();
  }

  /** The batch under way is finished. */
  async stop(): Promise<void> {
    this.#stopping.abort();
    await this.#running;
  }

  async #run(): Promise<void> {
    const { signal } = this.#stopping;
    for (let attempt = 1; !signal.aborted; attempt++) {
      try {
        const durable = await this.#streams.consumer(this.database, this.consumer.name);
        await this.#welcome();
        for (;;) {
          const message = await this.#next(durable);
          if (signal.aborted) break;
          if (message) await this.#take(message);
          else await this.#look(durable);
          this.#complain(undefined);
          attempt = 1;
        }
      } catch (error) {
        this.#complain(error);
        await rest(retryMs(attempt) * chance(), signal);
      }
    }
  }

  /** Undefined when none came in time, or at a stop, which does not wait: a batch that comes too late is given back. */
  async #next(durable: Consumer): Promise<JsMsg | undefined> {
    const { signal } = this.#stopping;
    const messages = await durable.fetch({ max_messages: 1, expires: PULL_MS });
    const stop = (): void => messages.stop();
    signal.addEventListener("abort", stop);
    if (signal.aborted) stop();
    try {
      for await (const message of messages) {
        if (!signal.aborted) return message;
        message.nak();
      }
      return undefined;
    } finally {
      signal.removeEventListener("abort", stop);
    }
  }

  /** Also finds out that the stream is gone, which a request that stays without an answer does not tell. */
  async #look(durable: Consumer): Promise<void> {
    const { num_pending, num_ack_pending } = await durable.info();
    this.#waiting = num_pending + num_ack_pending;
    if (this.#waiting === 0) this.#fallBehind(0);
  }

  #fallBehind(ms: number): void {
    this.#behindMs = ms;
    const late = ms > LATE_MS;
    if (late !== this.#late) this.#watch.late(this.consumer.name, this.database.name, late ? Math.round(ms / 1_000) : 0);
    this.#late = late;
  }

  async #take(message: JsMsg): Promise<void> {
    const { info } = message;
    this.#waiting = info.pending + 1;
    this.#fallBehind(Math.max(0, Date.now() - info.timestampNanos / 1_000_000));
    if (message.redelivered) this.#watch.redelivered(this.consumer.name);
    const working = setInterval(() => message.working(), ACK_WAIT_MS / 3);
    try {
      if (!(await this.#handle(message))) return message.nak();
      await this.#streams.acknowledge(this.consumer.name, message);
      this.#waiting = info.pending;
    } catch (error) {
      if (!isPassing(error)) this.#watch.failed(this.consumer.name, error, 0);
      message.nak(Math.round(retryMs(info.deliveryCount) * chance()));
    } finally {
      clearInterval(working);
    }
  }

  /** True when the batch is handled; false when told to stop before. */
  async #handle(message: JsMsg): Promise<boolean> {
    const here: Position = { chain: chainOf(message), seq: message.seq };
    const last = follows(this.#last, here) ? this.#last : await findPosition(this.database, this.consumer.name);
    if (last?.chain === here.chain && here.seq <= last.seq) return true;
    const batch = decodeBatch(message.string()).map((row) => storedEvent(this.database.city, row));
    if (!follows(last, here) && !(await this.#replay(await this.#marks()))) return false;
    if (!(await this.#deliver(batch))) return false;
    await savePosition(this.database, this.consumer.name, here, marksOf(batch));
    this.#last = here;
    return true;
  }

  /** Before anything is taken: of the slots that have come, what comes by the stream comes later. */
  async #welcome(): Promise<void> {
    const arrived = await findArrived(this.database, this.consumer.name, this.database.slots);
    if (arrived.size > 0 && (await this.#replay(arrived))) await settleArrived(this.database, this.consumer.name, [...arrived.keys()]);
  }

  /** What was published before this batch was in the log by then, and is in the table a moment later. */
  async #replay(marks: ReadonlyMap<number, string>): Promise<boolean> {
    await rest(SEEN_MS, this.#stopping.signal);
    return readTable(this.database, marks, once, async (events) => {
      for (let at = 0; at < events.length; at += BATCH_EVENTS_MAX) {
        if (!(await this.#deliver(events.slice(at, at + BATCH_EVENTS_MAX)))) return false;
      }
      await moveMarks(this.database, this.consumer.name, marksOf(events));
      return !this.#stopping.signal.aborted;
    });
  }

  #marks(): Promise<ReadonlyMap<number, string>> {
    return findMarks(this.database, this.consumer.name, this.database.slots);
  }

  #deliver(events: readonly StoredEvent[]): Promise<boolean> {
    const concerned = events.filter((event) => this.#delivery.concerns(event));
    return this.#delivery.deliver(concerned, once, this.#stopping.signal);
  }

  #complain(error: unknown): void {
    const trouble = error === undefined ? "" : (error as Error).message;
    if (trouble !== this.#trouble) this.#watch.troubled(this.consumer.name, this.database.name, error);
    this.#trouble = trouble;
  }
}

/** Directly behind: nothing is missing between. */
const follows = (last: Position | undefined, { chain, seq }: Position): boolean => last?.chain === chain && last.seq + 1 === seq;

/** What fails in passing is thrown: the batch goes back. */
const once = <R>(work: () => Promise<R>): Promise<R> => work();

/** Each slot's last. */
const marksOf = (events: readonly StoredEvent[]): Map<number, string> => new Map(events.map((event) => [event.slot, event.id]));

/** A little of it, so that those who wait for one thing do not ask in step. */
const chance = (): number => 0.75 + Math.random() / 2;
