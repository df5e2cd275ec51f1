/**
 * What a relay does whose database is quiet: it lets go of its replication slot and dozes. A walsender looks for news of its client, a system call,
 * behind every record that any database of the server writes: 3.7 µs of CPU for an order sold elsewhere. In place of moving the slot on, which reads
 * all of that as well, it makes a new one now and then: see docs/decisions/0017 and 0021.
 *
 * It stands on the cut: a moment in which nobody is appending events. All ids given before it are committed or never will be, all of that in the
 * log before its position. So when the log is handled up to there, and no id was given since, there is nothing to read.
 *
 * While it dozes, the connection it polls by holds an advisory lock in place of the slot: others go on standing by.
 */
import { invariant } from "../domain/invariant.ts";
import { type Database, sqlState } from "../db/database.ts";
import { LoneConnection } from "../db/lone-connection.ts";
import { rest } from "./journal-delivery.ts";
import type { Lane } from "./journal-lane.ts";
import {
  advanceReplicationSlot,
  type Cut,
  lastEventId,
  LOCKED,
  renewReplicationSlot,
  slotRests,
  takeCut,
  takeDozeLock,
} from "./journal-store.ts";
import { Window } from "./journal-window.ts";

/**
 * How much later, at most, the first event behind a quiet time is told. A poll takes 0.4 ms of CPU, two thirds of it here: five a second are what an
 * idle stream costs.
 */
const POLL_MS = 200;
/** Between two looks at the slot. */
const LOOK_MS = 10_000;
/**
 * The slot is made anew when the log behind it is larger: who wakes reads that much, and what others write in 10 s, at most. A renewal is 4 ms of CPU and
 * a dozen small writes, as much as reading 8,000 orders: not worth it where little happens.
 */
const KEPT_BYTES_MAX = 32 * 2 ** 20;

export class Doze {
  readonly #connection: LoneConnection;
  #cut: Cut | undefined;

  private constructor(connection: LoneConnection) {
    this.#connection = connection;
  }

  /** Undefined where another process dozes, or looks whether one does. */
  static async begin(database: Database): Promise<Doze | undefined> {
    const doze = new Doze(await LoneConnection.open(database, "tuanbar-doze"));
    let taken = false;
    try {
      taken = await takeDozeLock(doze.#connection);
    } finally {
      if (!taken) await doze.end();
    }
    return taken ? doze : undefined;
  }

  /** Whether who has handled the log up to `confirmed` has nothing left to read. Asked again and again, it comes true in quiet. */
  async isDue(confirmed: bigint): Promise<boolean> {
    if (this.#cut?.lastId !== (await lastEventId(this.#connection))) this.#cut = await takeCut(this.#connection);
    return this.#cut !== undefined && this.#cut.position <= confirmed;
  }

  /**
   * Resolves when an id was given, be it to an event that is rolled back, or when told to stop. Rejects when the slot is missing, lost, or read by
   * somebody, or the database is away. `beats`: lanes of event consumers that want one also when nothing happens. `look` is called now and then.
   */
  async last(replicationSlot: string, beats: readonly Lane[], look: () => Promise<void>, stopping: AbortSignal): Promise<void> {
    const ending = new AbortController();
    const signal = AbortSignal.any([stopping, ending.signal]);
    const window = new Window(beats, () => Promise.resolve(true));
    const beating = beats.map((lane) => lane.run(window, () => undefined, signal));
    try {
      await this.#poll(replicationSlot, look, stopping);
    } finally {
      ending.abort();
      await Promise.all(beating);
    }
  }

  async #poll(replicationSlot: string, look: () => Promise<void>, stopping: AbortSignal): Promise<void> {
    const asleep = this.#cut;
    invariant(asleep !== undefined, "a doze stands on a cut");
    // Just now it has been read up to here, and looked at.
    let lookedMs = performance.now();
    while (!stopping.aborted && (await lastEventId(this.#connection)) === asleep.lastId) {
      if (performance.now() - lookedMs > LOOK_MS) {
        lookedMs = performance.now();
        await this.#renew(replicationSlot, asleep.lastId);
        await look();
      }
      await rest(POLL_MS, stopping);
    }
  }

  /** Where another id was given meanwhile, nothing is done: the next poll tells. Rejects also where the slot is missing, or read by somebody. */
  async #renew(replicationSlot: string, lastId: string): Promise<void> {
    if (await slotRests(this.#connection, replicationSlot, KEPT_BYTES_MAX)) return;
    try {
      await renewReplicationSlot(this.#connection, replicationSlot, lastId);
    } catch (error) {
      if (sqlState(error) !== LOCKED) throw error;
      // Somebody's transaction lasts, a copy of slots that move perhaps. The server keeps log for a while only, so the slot must not stand still.
      const cut = await takeCut(this.#connection);
      if (cut?.lastId === lastId) await advanceReplicationSlot(this.#connection, replicationSlot, cut.position);
    }
  }

  /** Who stands by may take the slot. */
  end(): Promise<void> {
    return this.#connection.close();
  }
}
