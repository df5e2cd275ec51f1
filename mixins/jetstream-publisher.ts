/**
 * The event consumer that a database's relay has when events travel by NATS: it publishes them to the database's stream. To the relay it is a consumer
 * like any other, so the log is confirmed when JetStream has acknowledged, NATS being away is a database being away, and what was missed is
 * read from the table.
 *
 * A message is a batch. One message an event was tried: see docs/decisions/0007. Each names the message it follows, which JetStream checks: so nobody
 * else can have written between, and a stream that is not what it was (deleted, made anew, restored from a copy) is noticed with the next
 * message, a beat at the latest. Then a new chain begins, and who listens sees that and reads the table (`jetstream-lane.ts`).
 */
import { randomUUID } from "node:crypto";
import type { Logger } from "moleculer";
import { NatsError } from "nats";
import type { Database } from "../db/database.ts";
import type { EventRow } from "../db/replication.ts";
import { type EventStreams, natsTrouble, streamName } from "./jetstream.ts";
import { findPosition, type Position, savePosition } from "./jetstream-store.ts";
import type { EventConsumer } from "./journal-delivery.ts";
import { rowOf, type StoredEvent } from "./stored-event.ts";

/** Half of what NATS takes by default: 500 events of ours are 200 kB. */
const PAYLOAD_BYTES_MAX = 512 * 1_024;
/** The name its marks, position and parked events are kept under. */
export const PUBLISHER = "jetstream";
const WRONG_LAST_SEQUENCE = 10_071;
const TOO_LARGE = "MAX_PAYLOAD_EXCEEDED";

export class Publisher implements EventConsumer {
  readonly name = PUBLISHER;
  readonly types = "every";
  readonly #database: Database;
  readonly #streams: EventStreams;
  readonly #logger: Logger;
  /** The last message of the stream; undefined when that must be asked. */
  #head: Position | undefined;
  #alarmed = false;

  constructor(database: Database, streams: EventStreams, logger: Logger) {
    this.#database = database;
    this.#streams = streams;
    this.#logger = logger;
  }

  async handle(batch: readonly StoredEvent[]): Promise<void> {
    const payload = encodeBatch(batch);
    if (payload.length <= PAYLOAD_BYTES_MAX || batch.length === 1) return this.#publish(batch, payload);
    const half = batch.length >> 1;
    await this.handle(batch.slice(0, half));
    await this.handle(batch.slice(half));
  }

  /** A message without events: it tells those who listen up to where they must have come, also when nothing happens. */
  beat(): Promise<void> {
    return this.#publish([], encodeBatch([]));
  }

  async #publish(batch: readonly StoredEvent[], payload: string): Promise<void> {
    const head = (this.#head ??= await this.#open());
    const ack = await this.#streams
      .publish(this.#database, { chain: head.chain, after: head.seq, id: this.#idOf(batch), payload })
      .catch((error: unknown) => this.#fail(error));
    // Of a repeat JetStream tells the first one's number.
    this.#head = { chain: head.chain, seq: Math.max(head.seq, ack.seq) };
    await savePosition(this.#database, PUBLISHER, this.#head);
    if (this.#alarmed) this.#logger.info(`the events of ${this.#database.name} travel by NATS again`);
    this.#alarmed = false;
  }

  /** Looks at the stream. Its chain goes on if it has everything that was acknowledged. */
  async #open(): Promise<Position> {
    const known = await findPosition(this.#database, PUBLISHER);
    const { created, state } = await this.#streams.stream(this.#database).catch((error: unknown) => this.#fail(error));
    if (known?.chain.startsWith(created) && state.last_seq >= known.seq) return { chain: known.chain, seq: state.last_seq };
    if (known)
      this.#logger.error(`alarm: the stream ${streamName(this.#database)} has lost what it held; it is read from the events table`);
    return { chain: `${created} ${randomUUID()}`, seq: state.last_seq };
  }

  /** The source and the first and last event of each batch name it: a batch that is sent again is the same. */
  #idOf(batch: readonly StoredEvent[]): string {
    const [first, last] = [batch[0], batch.at(-1)];
    return first && last
      ? `${streamName(this.#database)} ${first.source}/${first.id} ${last.source}/${last.id} ${batch.length}`
      : randomUUID();
  }

  #fail(error: unknown): never {
    this.#head = undefined;
    if (error instanceof NatsError && String(error.code) === TOO_LARGE) throw error;
    const trouble = natsTrouble(error);
    // Of a stream that is not what it was one is told when it has been looked at.
    const isOther = error instanceof NatsError && error.api_error?.err_code === WRONG_LAST_SEQUENCE;
    if (!this.#alarmed && !isOther) {
      this.#logger.error(`alarm: the events of ${this.#database.name} wait in the database: ${trouble.message}`);
      this.#alarmed = true;
    }
    throw trouble;
  }
}

/** The columns in their order; the shard's city is the database's. `data` stays the text it is until somebody looks at it. */
const encodeBatch = (batch: readonly StoredEvent[]): string =>
  JSON.stringify(
    batch.map((event) => {
      const { slot, id, type, subject, actor, request_id, idem_key, data, at } = rowOf(event);
      return [slot, id, type, subject, actor, request_id, idem_key, data, at];
    }),
  );

/** Whether it is a message without events. */
export const isBeat = (payload: string): boolean => payload === encodeBatch([]);

type Encoded = [number, string, string, string, string | null, string | null, string | null, string, string];
export const decodeBatch = (payload: string): EventRow[] =>
  (JSON.parse(payload) as Encoded[]).map(([slot, id, type, subject, actor, request_id, idem_key, data, at]) => ({
    slot,
    id,
    type,
    subject,
    actor,
    request_id,
    idem_key,
    data,
    at,
  }));
