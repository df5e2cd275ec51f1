/**
 * The journal: what happened, told to whoever must act on it. Services subscribe when they are created; the journal service runs one relay
 * per database (`journal-relay.ts`), which hands every event to every event consumer at least once and in order per shard.
 *
 *   journalOf(this.broker).subscribe({ name: "notify", types: ["order.moved"], handle: (batch) => tell(platform, batch) });
 *
 * A consumer's effect and its mark are one transaction: a natural key with `on conflict do nothing`, or `once` where there is none.
 * Without NATS all event consumers live in the process of the journal service. With NATS relays publish to JetStream, and every node that has
 * event consumers takes from there. One that is not there misses nothing: it reads the table when it is back.
 */
import type { Logger, ServiceBroker } from "moleculer";
import type { EventType } from "../domain/events.ts";
import { invariant } from "../domain/invariant.ts";
import type { Database } from "../db/database.ts";
import type { EventStreams } from "./jetstream.ts";
import { StreamLane, type StreamLaneWatch } from "./jetstream-lane.ts";
import { Publisher } from "./jetstream-publisher.ts";
import type { EventConsumer } from "./journal-delivery.ts";
import { Pruner } from "./journal-prune.ts";
import { Relay } from "./journal-relay.ts";
import { Replays } from "./journal-replays.ts";
import type { Metrics } from "./metrics.ts";

export { once } from "./journal-store.ts";
export type { EventConsumer } from "./journal-delivery.ts";
export type { StoredEvent } from "./stored-event.ts";

/** What runs until the journal is stopped. */
interface Runner {
  start(): void;
  stop(): Promise<void>;
}

export class Journal {
  readonly #consumers: EventConsumer[] = [];
  readonly #runners: Runner[] = [];
  readonly #publishers = new Map<Database, Publisher>();
  #streams: EventStreams | undefined;
  #relays: readonly Relay[] | undefined;
  #lanes: readonly StreamLane[] | undefined;

  /** Before the relays start: they remember who was there. */
  subscribe<T extends EventType>(consumer: EventConsumer<T>): void {
    invariant(this.#relays === undefined && this.#lanes === undefined, `${consumer.name} subscribes before the relays start`);
    invariant(!this.#consumers.some(({ name }) => name === consumer.name), `${consumer.name} is one event consumer`);
    // Lanes give a consumer the types it named and no others.
    this.#consumers.push(consumer);
  }

  /** Events travel by NATS. Before anything starts. */
  travelBy(streams: EventStreams): void {
    invariant(this.#relays === undefined, "the way is chosen before the relays start");
    this.#streams = streams;
  }

  get relays(): readonly Relay[] {
    return this.#relays ?? [];
  }
  /** Event consumers of this node that take from NATS. */
  get lanes(): readonly StreamLane[] {
    return this.#lanes ?? [];
  }

  /** Starts the relays. Returns at once. Without NATS and without consumers nothing is read: nobody could say that it was handled. */
  start(databases: Iterable<Database>, metrics: Metrics, logger: Logger): void {
    const all = [...databases];
    const consumersOf = (database: Database): readonly EventConsumer[] => {
      if (!this.#streams) return this.#consumers;
      const publisher = new Publisher(database, this.#streams, logger);
      this.#publishers.set(database, publisher);
      return [publisher];
    };
    this.#relays =
      this.#streams || this.#consumers.length > 0
        ? all.map((database) => new Relay(database, consumersOf(database), logger, deliveryWatch(metrics, logger)))
        : [];
    this.#run([...this.#relays, new Pruner(all, logger)]);
    if (!this.#streams) this.#run([new Replays(all, () => this.#consumers, logger)]);
  }

  /** With NATS: this node's event consumers begin to take. Returns at once. */
  listen(databases: Iterable<Database>, metrics: Metrics, logger: Logger): void {
    const streams = this.#streams;
    invariant(streams !== undefined, "without NATS the relays hand events over themselves");
    const all = [...databases];
    const watch = streamWatch(metrics, logger);
    this.#lanes = this.#consumers.flatMap((consumer) => all.map((database) => new StreamLane(consumer, database, streams, watch)));
    measureLanes(this.#lanes, metrics);
    this.#run([...this.#lanes, new Replays(all, (database) => this.#here(database), logger)]);
  }

  /** What is being handled is finished and confirmed. */
  async stop(): Promise<void> {
    await Promise.all(this.#runners.map((runner) => runner.stop()));
  }

  #run(runners: readonly Runner[]): void {
    this.#runners.push(...runners);
    for (const runner of runners) runner.start();
  }

  /** Publishing again is for the node whose relay reads the database. */
  #here(database: Database): readonly EventConsumer[] {
    const publisher = this.#publishers.get(database);
    const reads = this.relays.some((relay) => relay.database === database && relay.state === "reading");
    return publisher && reads ? [...this.#consumers, publisher] : this.#consumers;
  }
}

const deliveryWatch = (metrics: Metrics, logger: Logger): ConstructorParameters<typeof Relay>[3] => ({
  handled: (consumer, events) => metrics.events.inc({ consumer, outcome: "handled" }, events),
  failed: (consumer, error, events) => logger.warn({ err: error }, `event consumer ${consumer}: ${events} events failed`),
  parked(consumer, event, error) {
    metrics.events.inc({ consumer, outcome: "parked" });
    logger.error({ err: error }, `alarm: event ${event.type} ${event.id} of shard ${event.source} is parked for ${consumer}`);
  },
});

const streamWatch = (metrics: Metrics, logger: Logger): StreamLaneWatch => ({
  ...deliveryWatch(metrics, logger),
  redelivered: (consumer) => metrics.redelivered.inc({ consumer }),
  troubled(consumer, database, error) {
    if (error === undefined) logger.info(`event consumer ${consumer} takes the events of ${database}`);
    else logger.warn({ err: error }, `event consumer ${consumer} cannot take the events of ${database}; trying again`);
  },
  late(consumer, database, seconds) {
    if (seconds === 0) logger.info(`event consumer ${consumer} has caught up with the events of ${database}`);
    else logger.error(`alarm: event consumer ${consumer} is ${seconds} s behind the events of ${database}`);
  },
});

function measureLanes(lanes: readonly StreamLane[], metrics: Metrics): void {
  const each = (name: string, help: string, read: (lane: StreamLane) => number): void =>
    metrics.gauge(
      name,
      help,
      (set) => {
        for (const lane of lanes) set(read(lane), { consumer: lane.consumer.name, database: lane.database.name });
      },
      ["consumer", "database"],
    );
  each("tuanbar_stream_waiting_batches", "Batches published that the event consumer has not acknowledged", (lane) => lane.waiting);
  each(
    "tuanbar_stream_behind_seconds",
    "Age of the batch the event consumer took last, 0 when none waits",
    (lane) => lane.behindMs / 1_000,
  );
}

const journals = new WeakMap<ServiceBroker, Journal>();

export function journalOf(broker: ServiceBroker): Journal {
  const made = journals.get(broker) ?? new Journal();
  journals.set(broker, made);
  return made;
}
