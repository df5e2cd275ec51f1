/** Journals on test databases: events to append, and a consumer whose effects show every repetition. */
import { setTimeout as sleep } from "node:timers/promises";
import { Database } from "../../db/database.ts";
import type { OrderId, UserId } from "../../domain/ids.ts";
import type { NatsSettings } from "../../mixins/bus.ts";
import { appendEvents } from "../../mixins/events.ts";
import { EventStreams } from "../../mixins/jetstream.ts";
import { Journal, once, type EventConsumer, type StoredEvent } from "../../mixins/journal.ts";
import { Metrics } from "../../mixins/metrics.ts";

export const openDatabase = (name: string, city: number, url: string): Database =>
  new Database({ name, city, slots: Array.from({ length: 16 }, (_, slot) => slot), url, onError: () => undefined });

/** Appends `count` events of one slot in one transaction; their quantities are `from`, `from + 1` … */
export const append = (database: Database, slot: number, count: number, from = 1): Promise<void> =>
  database.transaction((tx) =>
    appendEvents(
      tx,
      { city: database.city, slot },
      Array.from({ length: count }, (_, index) => ({
        type: "order.created" as const,
        subject: "1000",
        requestId: "request",
        idemKey: "团购 key",
        data: {
          orderId: "1000" as OrderId,
          consumerId: "4096" as UserId,
          merchantId: "1" as never,
          dealId: "1" as never,
          quantity: from + index,
          amount: 9_900,
        },
      })),
    ),
  );

/** A table without any key: what was done twice stands there twice. */
export async function makeEffects(database: Database): Promise<void> {
  await database.query({
    name: "effects/make",
    text: "create table effects (consumer text, source text, event_id bigint, quantity integer)",
  });
}

export interface Effects {
  readonly events: number;
  /** Different events among them: less than `events` where something was done twice. */
  readonly distinct: number;
}
export async function effectsOf(database: Database, consumer: string): Promise<Effects> {
  const [row] = await database.query<{ events: number; distinct: number }>(
    {
      name: "effects/count",
      text: `select count(*)::integer as events, count(distinct (source, event_id))::integer as distinct from effects where consumer = $1`,
    },
    [consumer],
  );
  return { events: row?.events ?? 0, distinct: row?.distinct ?? 0 };
}

/** Effect and mark in one transaction of another database. `after` runs when both are committed, before the relay hears of it. */
export const effectConsumer = (
  name: string,
  target: Database,
  after: (batch: readonly StoredEvent<"order.created">[]) => Promise<void> | void = () => undefined,
): EventConsumer<"order.created"> => ({
  name,
  types: ["order.created"],
  async handle(batch) {
    await target.transaction(async (tx) => {
      const fresh = await once(tx, name, batch);
      await tx.query(
        {
          name: "effects/add",
          text: `insert into effects select $1, source, event_id, quantity from unnest($2::text[], $3::bigint[], $4::integer[]) as e(source, event_id, quantity)`,
        },
        [name, fresh.map((e) => e.source), fresh.map((e) => e.id), fresh.map((e) => e.data.quantity)],
      );
    });
    await after(batch);
  },
});

/** All that were started: a test that fails has not stopped its own, and the file would never end. */
const started: RunningJournal[] = [];
export const stopJournals = async (): Promise<void> => void (await Promise.all(started.splice(0).map((one) => one.stop())));

export const natsAt = (url: string): NatsSettings => ({ servers: [new URL(url).host] });

export interface RunningJournal {
  readonly journal: Journal;
  /** What was logged, as `level: text`. */
  readonly log: string[];
  readonly metrics: Metrics;
  /** Also ends its connection to NATS. */
  stop(): Promise<void>;
}

export function startJournal(
  databases: readonly Database[],
  consumers: readonly EventConsumer<"order.created">[],
  nats?: { readonly url: string; /** What the node does; both unless one is named. */ readonly part?: "publishes" | "listens" },
): RunningJournal {
  const log: string[] = [];
  const write =
    (level: string) =>
    (...parts: unknown[]): void =>
      void log.push(`${level}: ${parts.filter((part) => typeof part === "string").join(" ")}`);
  const logger = Object.fromEntries(["fatal", "error", "warn", "info", "debug", "trace"].map((level) => [level, write(level)])) as never;
  const journal = new Journal();
  const metrics = new Metrics();
  for (const consumer of consumers) journal.subscribe(consumer);
  const streams = nats && new EventStreams(natsAt(nats.url), "test", logger);
  if (streams) journal.travelBy(streams);
  if (nats?.part !== "listens") journal.start(() => databases, metrics, logger);
  if (streams && nats?.part !== "publishes") journal.listen(() => databases, metrics, logger);
  const running: RunningJournal = {
    journal,
    log,
    metrics,
    async stop() {
      await journal.stop();
      await streams?.close();
    },
  };
  started.push(running);
  return running;
}

/**
 * Waits until it holds; says what for when it does not in time. A replication slot is made when every transaction of the server has ended that writes, also
 * those in which another file fills its million rows: its relay begins half a minute later.
 */
export async function until(what: string, holds: () => boolean | Promise<boolean>, patienceMs = 60_000): Promise<void> {
  const deadline = performance.now() + patienceMs;
  while (!(await holds())) {
    if (performance.now() > deadline) throw new Error(`not in ${patienceMs} ms: ${what}`);
    await sleep(20);
  }
}
