/**
 * NATS JetStream as the way events travel between nodes: one connection, a stream per database, and in it a durable consumer per event consumer. All of
 * them are made when they are missing and corrected when they are set up otherwise; nothing in them is missed when they are lost, since the
 * events table has it (`jetstream-lane.ts`).
 */
import { createHash } from "node:crypto";
import type { Logger } from "moleculer";
import {
  AckPolicy,
  connect,
  type Consumer,
  type ConsumerConfig,
  DeliverPolicy,
  DiscardPolicy,
  headers,
  type JetStreamManager,
  type JsMsg,
  type NatsConnection,
  nanos,
  NatsError,
  type PubAck,
  RetentionPolicy,
  StorageType,
  type StreamConfig,
  type StreamInfo,
} from "nats";
import { COMMON_ERRORS } from "../domain/common-errors.ts";
import { type DomainError, refusal } from "../domain/error.ts";
import type { Database } from "../db/database.ts";
import { natsOptions, type NatsSettings } from "./bus.ts";

/** Carries the chain: which sequence numbers the message's own belongs to. */
const CHAIN_HEADER = "Tuanbar-Chain";
const REQUEST_MS = 5_000;
/**
 * A ring, not an archive: some half a million events. Whoever falls out of it reads the table, so nothing is lost when it is full, and the disk is
 * bounded while an event consumer is away.
 */
const STREAM_BYTES_MAX = 256 * 2 ** 20;
const STREAM_AGE_MS = 24 * 60 * 60_000;
/** A stream survives the loss of a server where the bus names three. */
const COPIES_MAX = 3;
/** The same batch published twice within this, since no acknowledgement came, is one. */
const DUPLICATES_MS = 120_000;
/** A node that says nothing for this long has its batch given to another; one that works says so every third of it. */
export const ACK_WAIT_MS = 10_000;

const CONSUMER: Partial<ConsumerConfig> = {
  ack_policy: AckPolicy.Explicit,
  deliver_policy: DeliverPolicy.All,
  // One batch at a time, whichever node has it: so each shard's events keep their order also when a batch comes again.
  max_ack_pending: 1,
  ack_wait: nanos(ACK_WAIT_MS),
  // Poison is taken out of its batch and parked, event by event; a batch as a whole is never given up.
  max_deliver: -1,
};

export class EventStreams {
  readonly #settings: NatsSettings;
  readonly #logger: Logger;
  readonly #name: string;
  #connecting: Promise<NatsConnection> | undefined;
  #manager: JetStreamManager | undefined;
  #closed = false;

  constructor(settings: NatsSettings, name: string, logger: Logger) {
    this.#settings = settings;
    this.#name = name;
    this.#logger = logger;
  }

  /** The database's stream, as it should be. */
  async stream(database: Database): Promise<StreamInfo> {
    const manager = await this.#jetStreamManager();
    const name = streamName(database);
    const wanted: Partial<StreamConfig> = {
      subjects: [subjectOf(database)],
      retention: RetentionPolicy.Limits,
      discard: DiscardPolicy.Old,
      storage: StorageType.File,
      max_bytes: STREAM_BYTES_MAX,
      max_age: nanos(STREAM_AGE_MS),
      duplicate_window: nanos(DUPLICATES_MS),
      num_replicas: this.#settings.servers.length >= COPIES_MAX ? COPIES_MAX : 1,
    };
    const found = await manager.streams.info(name).catch(unlessMissing);
    if (!found) {
      this.#logger.info(`the stream ${name} is made`);
      return manager.streams.add({ ...wanted, name });
    }
    if (fits(found.config, wanted)) return found;
    this.#logger.warn(`the stream ${name} was set up otherwise; corrected`);
    return manager.streams.update(name, wanted);
  }

  /** The durable consumer of an event consumer, as it should be. Several nodes take from it. */
  async consumer(database: Database, consumer: string): Promise<Consumer> {
    await this.stream(database);
    const manager = await this.#jetStreamManager();
    const stream = streamName(database);
    const found = await manager.consumers.info(stream, consumer).catch(unlessMissing);
    if (!found) await manager.consumers.add(stream, { ...CONSUMER, durable_name: consumer });
    else if (!fits(found.config, CONSUMER)) {
      this.#logger.warn(`the consumer ${consumer} of the stream ${stream} was set up otherwise; corrected`);
      await manager.consumers.update(stream, consumer, CONSUMER);
    }
    return (await this.#connection()).jetstream().consumers.get(stream, consumer);
  }

  /** Resolves when JetStream has it on file. `after`: the sequence number it must follow, or it is refused. */
  async publish(database: Database, message: { chain: string; after: number; id: string; payload: string }): Promise<PubAck> {
    const connection = await this.#connection();
    const carried = headers();
    carried.set(CHAIN_HEADER, message.chain);
    return connection.jetstream().publish(subjectOf(database), message.payload, {
      headers: carried,
      msgID: message.id,
      timeout: REQUEST_MS,
      expect: { streamName: streamName(database), lastSequence: message.after },
    });
  }

  /** Resolves when JetStream knows that the event consumer has it: it will not come again. */
  async acknowledge(_consumer: string, message: JsMsg): Promise<void> {
    await message.ackAck();
  }

  /** What was sent is still sent. */
  async close(): Promise<void> {
    this.#closed = true;
    const connection = await this.#connecting?.catch(() => undefined);
    // Draining waits for the server, which may be away.
    if (connection && !connection.isClosed()) await connection.close();
  }

  async #jetStreamManager(): Promise<JetStreamManager> {
    const connection = await this.#connection();
    // Its check asks the server for the account's limits once more each time; what is wrong shows in the first request as well.
    return (this.#manager ??= await connection.jetstreamManager({ timeout: REQUEST_MS, checkAPI: false }));
  }

  /** Made at the first need, and from then on kept by the client, which reconnects for ever; a server that will not have us closes it. */
  #connection(): Promise<NatsConnection> {
    if (this.#closed) return Promise.reject(new Error("the connection to NATS is closed"));
    return (this.#connecting ??= this.#connect());
  }

  async #connect(): Promise<NatsConnection> {
    const forget = (): void => {
      this.#connecting = undefined;
      this.#manager = undefined;
    };
    try {
      const connection = await connect({ ...natsOptions(this.#settings, this.#name), timeout: REQUEST_MS });
      void connection.closed().then(forget);
      return connection;
    } catch (error) {
      forget();
      throw error;
    }
  }
}

export const chainOf = (message: { readonly headers?: { get(key: string): string } | undefined }): string =>
  message.headers?.get(CHAIN_HEADER) ?? "";

/** NATS allows no dots, blanks and wildcards here; names that had to be changed stay different by their hash. */
export function streamName(database: Database): string {
  const plain = database.name.replaceAll(/[^A-Za-z0-9_-]/g, "_");
  return `events_${plain}${plain === database.name ? "" : `_${createHash("sha256").update(database.name).digest("hex").slice(0, 8)}`}`;
}
const subjectOf = (database: Database): string => `events.${streamName(database).slice("events_".length)}`;

/** Whatever NATS says: it is the way, and events wait in the database until it is open again. */
export const natsTrouble = (error: unknown): DomainError => {
  const why = error instanceof NatsError && error.api_error ? error.api_error.description : (error as Error).message;
  return refusal(COMMON_ERRORS, "UNAVAILABLE", { what: `NATS (${why})`, retryAfterSeconds: 1 });
};

/** 404: no such stream or consumer. */
function unlessMissing(error: unknown): undefined {
  if (error instanceof NatsError && error.api_error?.code === 404) return undefined;
  throw error;
}

const fits = (found: object, wanted: object): boolean =>
  Object.entries(wanted).every(([key, value]) => JSON.stringify((found as Record<string, unknown>)[key]) === JSON.stringify(value));
