/**
 * Dead letters that a person wants replayed: every node looks for those of its own event consumers, hands them over once, and deletes what was
 * handled. The letter is locked meanwhile, so of several nodes one does it; one that dies before the commit leaves it to the next, and the
 * consumer's own mark makes the second time harmless.
 */
import type { Logger } from "moleculer";
import { invariant } from "../domain/invariant.ts";
import type { Database } from "../db/database.ts";
import { type EventConsumer, isPassing, rest } from "./journal-delivery.ts";
import { dropLetter, failReplay, takeWaitingLetter } from "./journal-parked.ts";
import { storedEvent } from "./stored-event.ts";

const LOOK_MS = 1_000;

export class Replays {
  readonly #databases: () => Iterable<Database>;
  readonly #consumersOf: (database: Database) => readonly EventConsumer[];
  readonly #logger: Logger;
  readonly #stopping = new AbortController();
  #running: Promise<void> | undefined;

  /** `consumersOf`: the event consumers of a database's events that live on this node at the moment. */
  constructor(databases: () => Iterable<Database>, consumersOf: (database: Database) => readonly EventConsumer[], logger: Logger) {
    this.#databases = databases;
    this.#consumersOf = consumersOf;
    this.#logger = logger;
  }

  start(): void {
    this.#running ??= this.#run();
  }

  async stop(): Promise<void> {
    this.#stopping.abort();
    await this.#running;
  }

  async #run(): Promise<void> {
    const { signal } = this.#stopping;
    while (!signal.aborted) {
      for (const database of this.#databases()) {
        try {
          while (!signal.aborted && (await this.#replayOne(database)));
        } catch (error) {
          if (!isPassing(error)) this.#logger.warn({ err: error }, `replaying dead letters of ${database.name} failed; trying again`);
        }
      }
      await rest(LOOK_MS, signal);
    }
  }

  /** False when none waits. What fails in passing is thrown: the letter waits on. */
  #replayOne(database: Database): Promise<boolean> {
    const consumers = this.#consumersOf(database);
    if (consumers.length === 0) return Promise.resolve(false);
    return database.transaction(async (tx) => {
      const letter = await takeWaitingLetter(
        tx,
        consumers.map(({ name }) => name),
      );
      if (!letter) return false;
      const consumer = consumers.find(({ name }) => name === letter.consumer);
      invariant(consumer !== undefined, "only letters of consumers that are here are taken");
      const what = `event ${letter.row.type} ${letter.eventId} of shard ${letter.source}`;
      const wrong = await consumer.handle([storedEvent(database.city, letter.row)]).then(() => undefined, asError);
      if (wrong && isPassing(wrong)) throw wrong;
      if (wrong) {
        await failReplay(tx, letter, wrong);
        this.#logger.error({ err: wrong }, `alarm: ${what} was replayed for ${consumer.name} and failed again`);
      } else {
        await dropLetter(tx, letter);
        this.#logger.info(`${what} was replayed for ${consumer.name}`);
      }
      return true;
    });
  }
}

const asError = (error: unknown): Error => (error instanceof Error ? error : new Error(`the consumer threw ${String(error)}`));
