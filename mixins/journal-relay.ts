/**
 * The relay of one database: while it holds the database's replication slot it carries committed events to their consumers (`journal-session.ts`).
 * PostgreSQL lets one process hold a replication slot: that is the leader election, and a relay that finds it taken looks again every second. Where
 * nothing happens it lets go and dozes until something does (`journal-doze.ts`).
 *
 * A replication slot that is missing, or lost because it kept more log than the server allows, is made anew; what was in the gap is read from the
 * events table (`journal-lane.ts`). Nothing here is believed after a break: a new session begins with what the database says.
 */
import { setTimeout as sleep } from "node:timers/promises";
import type { Logger } from "moleculer";
import { type Database, sqlState } from "../db/database.ts";
import type { DeliveryWatch, EventConsumer } from "./journal-delivery.ts";
import { Doze } from "./journal-doze.ts";
import { Lane, type LaneWatch } from "./journal-lane.ts";
import { Session } from "./journal-session.ts";
import {
  createReplicationSlot,
  distrustMarks,
  dropReplicationSlot,
  journalHealth,
  lookAtReplicationSlot,
  replicationSlotName,
} from "./journal-store.ts";

const WAITING_FOR_SLOT_MS = 1_000;
const RETRY_MS_MIN = 250;
const RETRY_MS_MAX = 5_000;
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
