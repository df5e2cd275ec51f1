/**
 * One hold of a relay on its replication slot, from taking it to losing it or letting it go: reads committed events into a window, lets every event consumer
 * take them, and confirms to PostgreSQL what all of them have handled. Nothing here outlives it: what comes after begins with what the database says.
 */
import { setMaxListeners } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";
import { type Database, DatabaseUnavailable, sqlState } from "../db/database.ts";
import { ReplicationStream, type EventRow, type ReplicationListener } from "../db/replication.ts";
import type { DeliveryWatch, EventConsumer } from "./journal-delivery.ts";
import { Doze } from "./journal-doze.ts";
import { Lane, type LaneWatch } from "./journal-lane.ts";
import { areVisible, saveMarks, takeMarks } from "./journal-store.ts";
import { Window } from "./journal-window.ts";
import { storedEvent } from "./stored-event.ts";

const PUBLICATION = "events";
/** Some 5 MB. Above it the socket is not read, so the server waits; below half of it reading goes on. */
const WINDOW_EVENTS_MAX = 5_000;
/** Of the relay's own clock. Log that holds nothing for us, written by other databases of the server, is confirmed at this pace too; an idle server hears nothing. */
const TICK_MS = 1_000;
/** Marks are read after a replication slot was lost, and then from a minute before: they may be old. */
const SAVE_MARKS_MS = 5_000;
const HEALTH_MS = 10_000;
/** Without an event. Who wakes reads some 12 s of log again, so a database that has an event every few seconds is better read than left and woken for. */
const DOZE_AFTER_MS = 5_000;

export class Session implements ReplicationListener {
  readonly #database: Database;
  readonly #slots: readonly number[];
  readonly #consumers: readonly EventConsumer[];
  readonly #types: ReadonlySet<string> | undefined;
  readonly #watch: DeliveryWatch;
  readonly #complain: (error: unknown) => void;
  readonly #lanes: Lane[] = [];
  readonly #window: Window;
  readonly #ending = new AbortController();
  #stream: ReplicationStream | undefined;
  #reason: Error | Doze = new Error("told to stop");
  #epoch = 0;
  #paused = true;
  #confirmed = 0n;
  #savedMs = 0;
  #lookedMs = Number.NEGATIVE_INFINITY;
  #checking: Promise<void> | undefined;
  /** When the last event came. */
  #newsMs = performance.now();
  #doze: Doze | undefined;

  constructor(
    database: Database,
    slots: readonly number[],
    consumers: readonly EventConsumer[],
    types: ReadonlySet<string> | undefined,
    watch: DeliveryWatch,
    complain: (error: unknown) => void,
  ) {
    this.#database = database;
    this.#slots = slots;
    this.#consumers = consumers;
    this.#types = types;
    this.#watch = watch;
    this.#complain = complain;
    this.#window = new Window(this.#lanes, (transactions) => areVisible(database, transactions));
    setMaxListeners(0, this.#ending.signal);
  }

  async open(replicationSlot: string): Promise<void> {
    this.#stream = await ReplicationStream.open(this.#database.url, replicationSlot, PUBLICATION, this);
  }

  /** With the replication slot in hand, and before anything of the log is handled or confirmed: who is how far. */
  async begin(): Promise<void> {
    const names = this.#consumers.map((consumer) => consumer.name);
    const { epoch, marks } = await takeMarks(this.#database, names, this.#slots);
    this.#epoch = epoch;
    const watch: LaneWatch = { ...this.#watch, unreachable: () => this.#checkDatabase() };
    for (const consumer of this.#consumers) {
      this.#lanes.push(
        new Lane(
          consumer,
          this.#database,
          marks.filter((mark) => mark.consumer === consumer.name && this.#slots.includes(mark.slot)),
          watch,
        ),
      );
    }
  }

  /** Resolves with the reason of its end: something went wrong, or nothing happens, and a doze may follow. */
  async run(stopping: AbortSignal, look: () => Promise<void>): Promise<Error | Doze> {
    const end = (): void => this.#ending.abort();
    if (stopping.aborted) end();
    stopping.addEventListener("abort", end);
    void this.#stream?.ended.then((reason) => this.#end(reason));
    const ticking = this.#tickUntilEnd(look);
    const lanes = this.#lanes.map((lane) => lane.run(this.#window, () => this.#moved(), this.#ending.signal));
    this.#moved();
    await Promise.all([ticking, ...lanes]);
    stopping.removeEventListener("abort", end);
    return this.#reason;
  }

  /** Confirms and saves what was handled, as far as that is still possible: what is not will come again. */
  async close(): Promise<void> {
    this.#ending.abort();
    await this.#checking;
    if (this.#lanes.length > 0) this.#confirm(this.#window.settle());
    await this.#saveMarks().catch(this.#complain);
    await this.#stream?.close();
    if (this.#reason !== this.#doze) await this.#doze?.end();
  }

  get waiting(): number {
    return this.#window.waiting;
  }

  wants(type: string): boolean {
    return this.#types?.has(type) ?? true;
  }

  row(row: EventRow, transaction: number): void {
    // A slot that is being copied here, or was copied away: its events are told from where it is served.
    if (!this.#slots.includes(row.slot)) return;
    this.#window.push(storedEvent(this.#database.city, row), transaction);
    for (const lane of this.#lanes) lane.wake();
    if (!this.#paused && this.#window.waiting >= WINDOW_EVENTS_MAX) {
      this.#paused = true;
      this.#stream?.pause();
    }
  }

  commit(end: bigint): void {
    this.#newsMs = performance.now();
    this.#window.commit(end);
  }

  idle(end: bigint, urgent: boolean): void {
    this.#window.idle(end);
    if (urgent && this.#lanes.length > 0) this.#confirm(this.#window.settle());
  }

  /** A lane got on: there may be room again. Returns what may be confirmed. */
  #moved(): bigint {
    const position = this.#window.settle();
    if (this.#paused && this.#window.waiting <= WINDOW_EVENTS_MAX / 2) {
      this.#paused = false;
      this.#stream?.resume();
    }
    return position;
  }

  #end(reason: Error | Doze): void {
    if (this.#ending.signal.aborted) return;
    this.#reason = reason;
    this.#ending.abort();
  }

  async #tickUntilEnd(look: () => Promise<void>): Promise<void> {
    while (!this.#ending.signal.aborted) {
      const nowMs = performance.now();
      // Also here: a lane that leaves the window to read the table makes room without getting on.
      const position = this.#moved();
      if (position > this.#confirmed) this.#confirm(position);
      try {
        if (nowMs - this.#savedMs > SAVE_MARKS_MS) await this.#saveMarks();
        if (nowMs - this.#lookedMs > HEALTH_MS) {
          this.#lookedMs = nowMs;
          await look();
        }
        await this.#tire(nowMs);
      } catch (error) {
        this.#complain(error);
      }
      await sleep(TICK_MS, undefined, { signal: this.#ending.signal }).catch(() => undefined);
    }
  }

  /** Ends when nothing has come for a while, everybody has handled everything, and nothing can be under way. */
  async #tire(nowMs: number): Promise<void> {
    const isQuiet = nowMs - this.#newsMs > DOZE_AFTER_MS && this.#window.waiting === 0 && this.#lanes.every(({ isCaughtUp }) => isCaughtUp);
    try {
      if (isQuiet) this.#doze ??= await Doze.begin(this.#database);
      if (isQuiet && this.#doze && (await this.#doze.isDue(this.#confirmed))) this.#end(this.#doze);
      if (!isQuiet) await this.#stayAwake();
    } catch (error) {
      await this.#stayAwake();
      throw error;
    }
  }

  async #stayAwake(): Promise<void> {
    await this.#doze?.end();
    this.#doze = undefined;
  }

  #confirm(position: bigint): void {
    this.#confirmed = position;
    this.#stream?.confirm(position);
  }

  async #saveMarks(): Promise<void> {
    this.#savedMs = performance.now();
    const changed = this.#lanes.flatMap((lane) => lane.takeChanged());
    if (changed.length > 0) await saveMarks(this.#database, this.#epoch, changed);
  }

  /**
   * A consumer cannot reach a database. If it is the one we read from, we let go: a PostgreSQL that shuts down waits for us to confirm what we
   * cannot handle without it (up to wal_sender_timeout, a minute).
   */
  #checkDatabase(): void {
    this.#checking ??= this.#database
      .query(ALIVE)
      .then(
        () => undefined,
        (error: unknown) => {
          if (isDown(error)) this.#end(error);
        },
      )
      .finally(() => (this.#checking = undefined));
  }
}

const ALIVE = { name: "journal/alive", text: "select 1" };

/** The server itself is away; having waited too long for a connection is something else. */
const isDown = (error: unknown): error is Error =>
  error instanceof DatabaseUnavailable &&
  (sqlState(error.cause)?.startsWith("57P") === true ||
    ["ECONNREFUSED", "ENOENT"].includes((error.cause as NodeJS.ErrnoException | undefined)?.code ?? ""));
