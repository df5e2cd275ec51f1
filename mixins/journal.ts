/**
 * The journal: what happened, told to whoever must act on it. Services subscribe when they are created; the journal service runs one relay
 * per database (`journal-relay.ts`), which hands every event to every event consumer at least once and in order per shard.
 *
 *   journalOf(this.broker).subscribe({ name: "notify", types: ["order.moved"], handle: (batch) => tell(platform, batch) });
 *
 * A consumer's effect and its mark are one transaction: a natural key with `on conflict do nothing`, or `once` where there is none.
 * All event consumers of the platform live in the process of the journal service. One that is not there misses nothing: it reads the table when it is back.
 */
import type { Logger, ServiceBroker } from "moleculer";
import type { EventType } from "../domain/events.ts";
import { invariant } from "../domain/invariant.ts";
import type { Database } from "../db/database.ts";
import { Relay } from "./journal-relay.ts";
import type { EventConsumer } from "./journal-lane.ts";
import type { Metrics } from "./metrics.ts";

export { once } from "./journal-store.ts";
export type { EventConsumer } from "./journal-lane.ts";
export type { StoredEvent } from "./stored-event.ts";

export class Journal {
  readonly #consumers: EventConsumer[] = [];
  #relays: Map<Database, Relay> | undefined;
  #begin: (database: Database) => void = () => undefined;
  #following: Promise<unknown> = Promise.resolve();

  /** Before the relays start: they remember who was there. */
  subscribe<T extends EventType>(consumer: EventConsumer<T>): void {
    invariant(this.#relays === undefined, `${consumer.name} subscribes before the relays start`);
    invariant(!this.#consumers.some(({ name }) => name === consumer.name), `${consumer.name} is one event consumer`);
    // Lanes give a consumer the types it named and no others.
    this.#consumers.push(consumer);
  }

  get relays(): readonly Relay[] {
    return [...(this.#relays?.values() ?? [])];
  }

  /** Returns at once. Without consumers nothing is read: nobody could say that it was handled. */
  start(databases: Iterable<Database>, metrics: Metrics, logger: Logger): void {
    const consumers = [...this.#consumers];
    const relays = new Map<Database, Relay>();
    this.#relays = relays;
    if (consumers.length === 0) return;
    this.#begin = (database) => {
      const relay = new Relay(database, consumers, logger, laneWatch(metrics, logger));
      relays.set(database, relay);
      relay.start();
    };
    for (const database of databases) this.#begin(database);
  }

  /**
   * Slots have moved: the relay of a database that serves none any more ends, one whose slots have changed ends and begins anew, so that it reads
   * from the table what of its new slots passed by before it knew of them.
   */
  async follow(databases: Iterable<Database>): Promise<void> {
    const wanted = new Set(databases);
    this.#following = this.#following.then(async () => {
      const relays = this.#relays ?? new Map<Database, Relay>();
      for (const [database, relay] of relays) {
        if (wanted.has(database) && relay.slots.join() === database.slots.join()) continue;
        await relay.stop();
        relays.delete(database);
      }
      for (const database of wanted) if (!relays.has(database)) this.#begin(database);
    });
    await this.#following;
  }

  async stop(): Promise<void> {
    await this.#following;
    await Promise.all(this.relays.map((relay) => relay.stop()));
  }
}

const laneWatch = (metrics: Metrics, logger: Logger): ConstructorParameters<typeof Relay>[3] => ({
  handled: (consumer, events) => metrics.events.inc({ consumer, outcome: "handled" }, events),
  failed: (consumer, error, events) => logger.warn({ err: error }, `event consumer ${consumer}: ${events} events failed`),
  parked(consumer, event, error) {
    metrics.events.inc({ consumer, outcome: "parked" });
    logger.error({ err: error }, `alarm: event ${event.type} ${event.id} of shard ${event.source} is parked for ${consumer}`);
  },
});

const journals = new WeakMap<ServiceBroker, Journal>();

export function journalOf(broker: ServiceBroker): Journal {
  const made = journals.get(broker) ?? new Journal();
  journals.set(broker, made);
  return made;
}
