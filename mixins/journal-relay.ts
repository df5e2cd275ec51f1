/**
 * The relay of one database: holds its replication slot, reads committed events into a window, lets every event consumer take them at its own pace, and
 * confirms to PostgreSQL what all of them have handled. PostgreSQL lets one process hold a replication slot: that is the leader election,
 * and a relay that finds it taken looks again every second. Where nothing happens it lets go and dozes until something does (`journal-doze.ts`).
 *
 * A replication slot that is missing, or lost because it kept more log than the server allows, is made anew; what was in the gap is read from the
 * events table (`journal-lane.ts`). Nothing here is believed after a break: a new session begins with what the database says.
 */
import { setMaxListeners } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";
import type { Logger } from "moleculer";
import { type Database, DatabaseUnavailable, sqlState } from "../db/database.ts";
import { ReplicationStream, type EventRow, type ReplicationListener } from "../db/replication.ts";
import type { DeliveryWatch, EventConsumer } from "./journal-delivery.ts";
import { Doze } from "./journal-doze.ts";
import { Lane, type LaneWatch } from "./journal-lane.ts";
import {
  areVisible,
  createReplicationSlot,
  distrustMarks,
  dropReplicationSlot,
  journalHealth,
  lookAtReplicationSlot,
  replicationSlotName,
  saveMarks,
  takeMarks,
} from "./journal-store.ts";
import { Window } from "./journal-window.ts";
import { storedEvent } from "./stored-event.ts";

const PUBLICATION = "events";
/** Some 5 MB. Above it the socket is not read, so the server waits; below half of it reading goes on. */
const WINDOW_EVENTS_MAX = 5_000;
const WAITING_FOR_SLOT_MS = 1_000;
const RETRY_MS_MIN = 250;
const RETRY_MS_MAX = 5_000;
/** Of the relay's own clock. Log that holds nothing for us, written by other databases of the server, is confirmed at this pace too; an idle server hears nothing. */
const TICK_MS = 1_000;
/** Marks are read after a replication slot was lost, and then from a minute before: they may be old. */
const SAVE_MARKS_MS = 5_000;
const HEALTH_MS = 10_000;
/** Without an event. Who wakes reads some 12 s of log again, so a database that has an event every few seconds is better read than left and woken for. */
const DOZE_AFTER_MS = 5_000;
/** A quarter of what the embedded PostgreSQL keeps for a replication slot before it gives it up. */
const LAG_BYTES_ALARM = 256 * 2 ** 20;

/** OBJECT_IN_USE: another process reads the slot. */
const SLOT_IN_USE = "55006";
/** DUPLICATE_OBJECT: another process made the slot at the same moment. */
const SLOT_EXISTS = "42710";

export type RelayState = "starting" | "standing by" | "reading" | "dozing" | "stopped";

export class Relay {
  readonly database: Database;
  /** Those it began with: events of others are another relay's. */
  readonly slots: readonly number[];
  readonly #consumers: readonly EventConsumer[];
  /** Undefined: every type there is. */
  readonly #types: ReadonlySet<string> | undefined;
  readonly #logger: Logger;
  readonly #watch: DeliveryWatch;
  readonly #stopping = new AbortController();
  #running: Promise<void> | undefined;
  #state: RelayState = "starting";
  #current: Session | undefined;
  #health = { lagBytes: 0, parked: 0 };
  #alarmed = false;
  #complaint = "";

  constructor(database: Database, consumers: readonly EventConsumer[], logger: Logger, watch: DeliveryWatch) {
    this.database = database;
    this.slots = database.slots;
    this.#consumers = consumers;
    this.#types = consumers.some((consumer) => consumer.types === "every")
      ? undefined
      : new Set(consumers.flatMap((consumer) => consumer.types));
    this.#logger = logger;
    this.#watch = watch;
  }

  get state(): RelayState {
    return this.#state;
  }
  /** Whether the events of the database are this relay's to tell, not another process's. */
  get isInCharge(): boolean {
    return this.#state === "reading" || this.#state === "dozing";
  }
  /** As last looked at, every ten seconds while in charge. */
  get health(): { readonly lagBytes: number; readonly parked: number } {
    return this.#health;
  }

  /** Events read that not every event consumer has handled. */
  get waiting(): number {
    return this.#current?.waiting ?? 0;
  }

  /** Returns at once: a node does not wait for its relays. */
  start(): void {
    this.#running ??= this.#run();
  }

  /** What is being handled is finished and confirmed. */
  async stop(): Promise<void> {
    this.#stopping.abort();
    await this.#running;
  }

  async #run(): Promise<void> {
    let delayMs = RETRY_MS_MIN;
    while (!this.#stopping.signal.aborted) {
      const startedMs = performance.now();
      const waitMs = await this.#takeCharge().then(
        () => delayMs,
        (error: unknown) => this.#explain(error, delayMs),
      );
      if (this.#stopping.signal.aborted) break;
      delayMs = performance.now() - startedMs > RETRY_MS_MAX ? RETRY_MS_MIN : Math.min(delayMs * 2, RETRY_MS_MAX);
      // A little chance keeps two that wait for one slot from asking in step.
      await sleep(waitMs * (0.8 + 0.4 * Math.random()), undefined, { signal: this.#stopping.signal }).catch(() => undefined);
    }
    this.#state = "stopped";
  }

  /** Says what is wrong, once while it stays the same; returns how long to wait. */
  #explain(error: unknown, delayMs: number): number {
    if (error instanceof InCharge || sqlState(error) === SLOT_IN_USE) {
      if (this.#state !== "standing by") this.#logger.info(`the events of ${this.database.name} are read by another process; standing by`);
      this.#state = "standing by";
      return WAITING_FOR_SLOT_MS;
    }
    this.#complain(error);
    this.#state = "starting";
    return delayMs;
  }

  #complain(error: unknown): void {
    const complaint = error instanceof Error ? error.message : String(error);
    if (complaint !== this.#complaint) this.#logger.warn(`the relay of ${this.database.name}: ${complaint}; trying again`);
    this.#complaint = complaint;
  }

  /** From taking the replication slot to losing it: reads, and dozes between. Rejects when it cannot be taken. */
  async #takeCharge(): Promise<void> {
    const replicationSlot = await replicationSlotName(this.database);
    await this.#ensureReplicationSlot(replicationSlot);
    let doze: Doze | undefined;
    try {
      do {
        doze = await this.#read(replicationSlot, doze);
        if (doze) await this.#doze(replicationSlot, doze);
      } while (doze && !this.#stopping.signal.aborted);
    } finally {
      await doze?.end();
    }
  }

  /** One hold on the replication slot. Resolves when that is lost, or with the doze that may follow. `from` is the doze that is over when it is held. */
  async #read(replicationSlot: string, from: Doze | undefined): Promise<Doze | undefined> {
    const session = new Session(this.database, this.slots, this.#consumers, this.#types, this.#watch, (error) => this.#complain(error));
    await session.open(replicationSlot);
    try {
      await from?.end();
      await session.begin();
      this.#current = session;
      this.#state = "reading";
      this.#complaint = "";
      const end = await session.run(this.#stopping.signal, () => this.#look(replicationSlot));
      if (end instanceof Doze) return end;
      if (!this.#stopping.signal.aborted) this.#logger.warn(`reading the events of ${this.database.name} was interrupted: ${end.message}`);
      return undefined;
    } finally {
      this.#current = undefined;
      await session.close();
    }
  }

  async #doze(replicationSlot: string, doze: Doze): Promise<void> {
    this.#state = "dozing";
    // That the database is away, the doze notices itself.
    const watch: LaneWatch = { ...this.#watch, unreachable: () => undefined };
    const beats = this.#consumers
      .filter((consumer) => consumer.beat !== undefined)
      .map((consumer) => new Lane(consumer, this.database, [], watch));
    await doze.last(replicationSlot, beats, () => this.#look(replicationSlot), this.#stopping.signal);
  }

  async #ensureReplicationSlot(name: string): Promise<void> {
    const found = await lookAtReplicationSlot(this.database, name);
    if (found === "busy") throw new InCharge();
    if (found === "free") return;
    await distrustMarks(this.database);
    if (found === "lost") {
      this.#logger.error(
        `alarm: the replication slot ${name} had fallen too far behind and was given up by PostgreSQL; reading the events table instead`,
      );
      await dropReplicationSlot(this.database, name);
    }
    await createReplicationSlot(this.database, name).catch((error: unknown) => {
      if (sqlState(error) !== SLOT_EXISTS) throw error;
    });
  }

  async #look(replicationSlot: string): Promise<void> {
    const before = this.#health;
    this.#health = await journalHealth(this.database, replicationSlot);
    const alarming = this.#health.lagBytes > LAG_BYTES_ALARM;
    if (alarming && !this.#alarmed) {
      this.#logger.error(`alarm: the relay of ${this.database.name} is ${Math.round(this.#health.lagBytes / 2 ** 20)} MB of log behind`);
    }
    if (!alarming && this.#alarmed)
      this.#logger.info(`the relay of ${this.database.name} has caught up (was ${Math.round(before.lagBytes / 2 ** 20)} MB behind)`);
    this.#alarmed = alarming;
  }
}

/** Another process reads the events, or dozes. */
class InCharge extends Error {}

/** What lives as long as one hold on a replication slot. */
class Session implements ReplicationListener {
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
