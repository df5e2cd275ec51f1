/**
 * Takes statements from step to step: RECEIVED → matched in every database → MATCHED → what is off booked → DONE. Each step is done once, whoever
 * was killed in between: a part that was matched says so in its database, a booking has its difference's id. One statement is one node's at a time,
 * by a lease it renews; and now and then it asks for what a day's edge has hidden.
 */
import { setTimeout as sleep } from "node:timers/promises";
import type { Logger, ServiceBroker } from "moleculer";
import { shardOf, type Id, USER_CITY } from "../../domain/ids.ts";
import { RECON_CLASSES } from "../../domain/recon/difference.ts";
import type { Database } from "../../db/database.ts";
import { call } from "../../mixins/contract.ts";
import { commit } from "../../mixins/failpoints.ts";
import type { Platform } from "../../mixins/platform.ts";
import { matchPart } from "./match.store.ts";
import { bookDifferences, repairDifference } from "./recon.contract.ts";
import {
  claimStatement,
  findLate,
  findToBook,
  LEASE_SECONDS,
  moveStatement,
  releaseLease,
  renewLease,
  type ClassCount,
  type StatementRow,
} from "./recon.store.ts";
import { dropLines, stageClient } from "./stage.ts";

const EVERY_MS = 1_000;
const LATE_EVERY_MS = 60_000;
const BOOKED_AT_ONCE = 500;

export class ReconWorker {
  readonly #broker: ServiceBroker;
  readonly #platform: Platform;
  readonly #logger: Logger;
  readonly #stopping = new AbortController();
  #running: Promise<void> = Promise.resolve();
  #wake = new AbortController();
  #lateAtMs = 0;

  constructor(broker: ServiceBroker, platform: Platform, logger: Logger) {
    this.#broker = broker;
    this.#platform = platform;
    this.#logger = logger;
  }

  start(): void {
    this.#running = this.#run();
  }

  /** There is something to do now. */
  wake(): void {
    this.#wake.abort();
  }

  async stop(): Promise<void> {
    this.#stopping.abort();
    this.wake();
    await this.#running;
  }

  async #run(): Promise<void> {
    while (!this.#stopping.signal.aborted) {
      const worked = await this.#once().catch((error: unknown) => {
        this.#logger.warn(`reconciling: ${error instanceof Error ? error.message : String(error)}`);
        return false;
      });
      if (worked || this.#stopping.signal.aborted) continue;
      this.#wake = new AbortController();
      await sleep(EVERY_MS, undefined, { signal: this.#wake.signal }).catch(() => undefined);
    }
  }

  async #once(): Promise<boolean> {
    if (performance.now() - this.#lateAtMs > LATE_EVERY_MS) {
      this.#lateAtMs = performance.now();
      await this.#askForLate();
    }
    let worked = await this.#bookAll();
    for (const database of this.#platform.databases.values()) {
      if (database.city !== USER_CITY) continue;
      const statement = await claimStatement(database);
      if (statement === undefined) continue;
      worked = true;
      await this.#withLease(database, statement);
    }
    return worked;
  }

  async #withLease(database: Database, statement: StatementRow): Promise<void> {
    const shard = shardOf(statement.id);
    const renewal = setInterval(
      () =>
        void renewLease(database, shard, statement.id).catch((error: unknown) =>
          this.#logger.warn(`a lease is not renewed: ${String(error)}`),
        ),
      (LEASE_SECONDS * 1_000) / 3,
    );
    try {
      await this.#step(database, statement);
    } finally {
      clearInterval(renewal);
    }
    await releaseLease(database, shard, statement.id);
  }

  async #step(database: Database, statement: StatementRow): Promise<void> {
    const { id, state } = statement;
    const shard = shardOf(id);
    if (state === "RECEIVING") {
      // Nobody renews its lease any more: whoever received it is gone, and with it what had come.
      await moveStatement(database, shard, { id, from: state, to: "FAILED", error: "it was cut off: send it again" });
      await dropLines(this.#platform, id);
    } else if (state === "RECEIVED") {
      const counts = await this.#match(statement);
      await moveStatement(database, shard, { id, from: state, to: "MATCHED", counts });
    } else if (state === "MATCHED") {
      while (await this.#bookAll());
      await dropLines(this.#platform, id);
      await moveStatement(database, shard, { id, from: state, to: "DONE" });
    }
  }

  /** Two databases at a time: as many as there are cores, and not more at once than their servers notice. */
  async #match(statement: StatementRow): Promise<ClassCount[]> {
    const waiting = [...this.#platform.databases.values()];
    const found: ClassCount[] = [];
    const work = async (): Promise<void> => {
      for (let next = waiting.shift(); next; next = waiting.shift()) found.push(...(await this.#matchIn(next, statement)));
    };
    await Promise.all([work(), work()]);
    return RECON_CLASSES.map((one) => {
      const parts = found.filter((part) => part.class === one);
      const amount = parts.reduce((sum, part) => sum + BigInt(part.amount), 0n);
      return { class: one, count: parts.reduce((sum, { count }) => sum + count, 0), amount: String(amount) };
    });
  }

  async #matchIn(database: Database, statement: StatementRow): Promise<readonly ClassCount[]> {
    const { id: statementId, channel, source, day, from_at: from, to_at: to, created_at: came } = statement;
    const kinds = this.#platform.channels.get(channel)?.statementKinds ?? [];
    const client = stageClient(database);
    await client.connect();
    try {
      await client.query("begin");
      const counts = await matchPart(client, { statementId, channel, source, day, from, to, came, kinds, city: database.city });
      await commit(this.#platform.failpoints, "recon.match", client);
      return counts;
    } finally {
      await client.end();
    }
  }

  /** True where there was something. */
  async #bookAll(): Promise<boolean> {
    let booked = false;
    for (const database of this.#platform.databases.values()) {
      const due = await findToBook(database, BOOKED_AT_ONCE);
      booked ||= due.length > 0;
      for (const [slot, rows] of Map.groupBy(due, (row) => row.slot))
        await call(this.#broker, bookDifferences, { city: database.city, slot, ids: rows.map(({ id }) => id as Id) });
    }
    return booked;
  }

  async #askForLate(): Promise<void> {
    for (const database of this.#platform.databases.values())
      for (const { id } of await findLate(database)) await call(this.#broker, repairDifference, { id: id as Id });
  }
}
