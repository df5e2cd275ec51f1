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
import type { Failpoints } from "./failpoints.ts";
import type { EventStreams } from "./jetstream.ts";
import { StreamLane, type StreamLaneWatch } from "./jetstream-lane.ts";
import { Publisher } from "./jetstream-publisher.ts";
import type { EventConsumer } from "./journal-delivery.ts";
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

/** Asked anew each time: slots move between databases. */
export type Databases = () => Iterable<Database>;

/** What was told when it was started, for the databases that come later. */
interface Started {
  readonly databases: Databases;
  readonly metrics: Metrics;
  readonly logger: Logger;
}

/** Who reads one database's events on this node, and of which slots. */
interface Served {
  readonly slots: readonly number[];
  relay: Relay | undefined;
  publisher: EventConsumer | undefined;
  readonly lanes: StreamLane[];
}

export class Journal {
  readonly #consumers: EventConsumer[] = [];
  readonly #served = new Map<Database, Served>();
  readonly #everywhere: Runner[] = [];
  #streams: EventStreams | undefined;
  #failpoints: Failpoints | undefined;
  #started: Started | undefined;
  #listening: Started | undefined;
  #following: Promise<void> = Promise.resolve();
  #stopped = false;

  /** Before the relays start: they remember who was there. */
  subscribe<T extends EventType>(consumer: EventConsumer<T>): void {
    invariant(this.#started === undefined && this.#listening === undefined, `${consumer.name} subscribes before the relays start`);
    invariant(!this.#consumers.some(({ name }) => name === consumer.name), `${consumer.name} is one event consumer`);
    // Lanes give a consumer the types it named and no others.
    this.#consumers.push(this.#passed(consumer));
  }

  /** Tells of each batch that is handed over. Before anybody subscribes. */
  passBy(failpoints: Failpoints | undefined): void {
    this.#failpoints = failpoints;
  }

  /** Events travel by NATS. Before anything starts. */
  travelBy(streams: EventStreams): void {
    invariant(this.#started === undefined, "the way is chosen before the relays start");
    this.#streams = streams;
  }

  get relays(): readonly Relay[] {
    return [...this.#served.values()].flatMap(({ relay }) => relay ?? []);
  }
  /** Event consumers of this node that take from NATS. */
  get lanes(): readonly StreamLane[] {
    return [...this.#served.values()].flatMap(({ lanes }) => lanes);
  }

  /** Starts the relays. Returns at once. Without NATS and without consumers nothing is read: nobody could say that it was handled. */
  start(databases: Databases, metrics: Metrics, logger: Logger): void {
    this.#started = { databases, metrics, logger };
    if (!this.#streams) this.#run(new Replays(databases, () => this.#consumers, logger));
    for (const database of databases()) this.#read(database, this.#started);
  }

  /** With NATS: this node's event consumers begin to take. Returns at once. */
  listen(databases: Databases, metrics: Metrics, logger: Logger): void {
    invariant(this.#streams !== undefined, "without NATS the relays hand events over themselves");
    this.#listening = { databases, metrics, logger };
    measureLanes(() => this.lanes, metrics);
    this.#run(new Replays(databases, (database) => this.#here(database), logger));
    for (const database of databases()) this.#take(database, this.#listening);
  }

  /**
   * Slots have moved: who reads a database that serves none any more ends; who reads one whose slots have changed ends and begins anew, so that
   * it reads from the table what of its new slots passed by before it knew of them.
   */
  follow(): Promise<void> {
    const following = this.#following.then(async () => {
      const wanted = new Set([...(this.#started?.databases() ?? []), ...(this.#listening?.databases() ?? [])]);
      for (const [database, served] of this.#served) {
        if (wanted.has(database) && served.slots.join() === database.slots.join()) continue;
        await stopAll([...(served.relay ? [served.relay] : []), ...served.lanes]);
        this.#served.delete(database);
      }
      for (const database of wanted) {
        if (this.#served.has(database) || this.#stopped) continue;
        if (this.#started) this.#read(database, this.#started);
        if (this.#listening) this.#take(database, this.#listening);
      }
    });
    // Whoever asked hears of a failure; the next one begins all the same.
    this.#following = following.catch(() => undefined);
    return following;
  }

  /** What is being handled is finished and confirmed. */
  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#following;
    await stopAll([...this.relays, ...this.lanes, ...this.#everywhere]);
  }

  #passed<T extends EventType>(consumer: EventConsumer<T>): EventConsumer<T> {
    return this.#failpoints?.consumer(consumer) ?? consumer;
  }

  #run(runner: Runner): void {
    this.#everywhere.push(runner);
    runner.start();
  }

  #servedOf(database: Database): Served {
    const known = this.#served.get(database) ?? { slots: database.slots, relay: undefined, publisher: undefined, lanes: [] };
    this.#served.set(database, known);
    return known;
  }

  #read(database: Database, { metrics, logger }: Started): void {
    const publisher = this.#streams && this.#passed(new Publisher(database, this.#streams, logger));
    const consumers = publisher ? [publisher] : this.#consumers;
    if (consumers.length === 0) return;
    const relay = new Relay(database, consumers, logger, deliveryWatch(metrics, logger));
    Object.assign(this.#servedOf(database), { relay, publisher });
    relay.start();
  }

  #take(database: Database, { metrics, logger }: Started): void {
    const streams = this.#streams;
    invariant(streams !== undefined, "lanes take from NATS");
    const watch = streamWatch(metrics, logger);
    for (const consumer of this.#consumers) {
      const lane = new StreamLane(consumer, database, streams, watch);
      this.#servedOf(database).lanes.push(lane);
      lane.start();
    }
  }

  /** Publishing again is for the node whose relay is in charge of the database. */
  #here(database: Database): readonly EventConsumer[] {
    const served = this.#served.get(database);
    return served?.publisher && served.relay?.isInCharge ? [...this.#consumers, served.publisher] : this.#consumers;
  }
}

const stopAll = (runners: readonly Runner[]): Promise<unknown> => Promise.all(runners.map((runner) => runner.stop()));

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

function measureLanes(lanes: () => readonly StreamLane[], metrics: Metrics): void {
  const each = (name: string, help: string, read: (lane: StreamLane) => number): void =>
    metrics.gauge(
      name,
      help,
      (set) => {
        for (const lane of lanes()) set(read(lane), { consumer: lane.consumer.name, database: lane.database.name });
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
