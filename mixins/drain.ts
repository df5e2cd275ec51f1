/**
 * A drain is a transaction: lock → decide → write, commit, answer all. A batch may hold commands of several kinds; each kind has one drain
 * function, and they run in one fixed order so that two nodes that drain one shard at once take their locks in the same order.
 *
 * When a batch fails: contention is retried whole; a batch poisoned by one command is halved until the poison stands alone and only it fails;
 * a COMMIT without an answer is resolved by the transaction's id (`db/database.ts`), never by doing the work again blindly.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { COMMON_ERRORS } from "../domain/common-errors.ts";
import { DomainError, refusal } from "../domain/error.ts";
import type { Id, Shard } from "../domain/ids.ts";
import { invariant } from "../domain/invariant.ts";
import {
  type Database,
  DatabaseUnavailable,
  isConstraint,
  isContention,
  isTooSlow,
  type Statement,
  type Transaction,
  type Writable,
} from "../db/database.ts";
import type { Command } from "./mailbox.ts";

/** What a drain function works with: the transaction, where and when it is, and ids to give away. */
export interface Work extends Writable {
  readonly shard: Shard;
  /**
   * The database's clock at the start of the transaction: the only time that counts. It comes with the answer to the first statement: asked for
   * behind the locks it costs nothing, before them a round trip.
   */
  now(): Promise<Date>;
  /** Ids of this shard, minted by its database. Cheap: they are fetched in blocks. */
  mint(count: number): Promise<Id[]>;
  /** Runs after the commit, before the answers: for what may only be told once it is true. */
  afterCommit(run: () => void): void;
}

/** One kind of command: takes a batch, gives one outcome each, in order. A refusal is an outcome; a throw fails the batch. */
export type DrainFunction<I, O> = (work: Work, inputs: readonly I[]) => Promise<readonly (O | DomainError)[]>;

const OPEN: Statement = {
  name: "drain/open",
  text: `select extract(epoch from now()) * 1000 as now_ms, pg_current_xact_id()::text as xid, array_to_string(mint_ids($1, $2, $3), ',') as ids`,
};
const MINT: Statement = { name: "drain/mint", text: `select array_to_string(mint_ids($1, $2, $3), ',') as ids` };

/** As text: the driver takes a list apart letter by letter. */
const idsIn = (text: string): Id[] => text.split(",") as Id[];

/** A command may carry a list (a phase of many payments), and each item may want an id: a second trip to mint costs more than ids nobody takes. */
const IDS_AHEAD_MIN = 64;

/** Contention resolves itself or it is not contention: three tries, a few milliseconds apart. */
const CONTENTION_TRIES = 3;

export class Drainer {
  readonly #database: Database;
  readonly #kinds: ReadonlyMap<string, DrainFunction<unknown, unknown>>;
  readonly #onFault: (error: unknown, kind: string) => void;

  /** `kinds` in lock order. */
  constructor(
    database: Database,
    kinds: ReadonlyMap<string, DrainFunction<unknown, unknown>>,
    onFault: (error: unknown, kind: string) => void,
  ) {
    this.#database = database;
    this.#kinds = kinds;
    this.#onFault = onFault;
  }

  /** Drains one batch and settles every command of it. Never rejects. `passOn`: what comes behind this batch may begin, whose COMMIT is sent. */
  async drain(shard: Shard, commands: readonly Command[], passOn?: () => void): Promise<void> {
    let tries = 0;
    let reread = false;
    for (;;) {
      try {
        const outcomes = await this.#once(shard, commands, passOn);
        for (const [index, command] of commands.entries()) command.settle(outcomes[index]);
        return;
      } catch (error) {
        if (isContention(error) && ++tries < CONTENTION_TRIES) {
          await sleep(2 ** tries + Math.random() * 5);
        } else if (isContention(error) || isTooSlow(error)) {
          return settleAll(commands, refusal(COMMON_ERRORS, "OVERLOADED", { retryAfterSeconds: 1 }));
        } else if (error instanceof DatabaseUnavailable) {
          return settleAll(commands, refusal(COMMON_ERRORS, "UNAVAILABLE", { what: "the database", retryAfterSeconds: 2 }));
        } else if (error instanceof DomainError && error.retryable) {
          // Its slot is fenced: this database may not be written to any more, or not yet.
          return settleAll(commands, error);
        } else if (isConstraint(error) && !reread) {
          // Another node may have written between our read and our write; reading again tells.
          reread = true;
        } else if (commands.length > 1) {
          const half = commands.length >> 1;
          await this.drain(shard, commands.slice(0, half));
          return this.drain(shard, commands.slice(half));
        } else {
          this.#onFault(error, commands[0]?.kind ?? "");
          return settleAll(commands, error instanceof Error ? error : new Error(String(error)));
        }
      }
    }
  }

  async #once(shard: Shard, commands: readonly Command[], onCommitting: (() => void) | undefined): Promise<unknown[]> {
    const outcomes = new Array<unknown>(commands.length).fill(undefined);
    const afterCommit: (() => void)[] = [];
    await this.#database.transaction(
      async (tx) => {
        const { work, opened } = openWork(tx, shard, Math.max(commands.length, IDS_AHEAD_MIN), afterCommit);
        // What is behind a failed statement fails because of it: the first error is the one that tells.
        await this.#decide(work, commands, outcomes).catch((error: unknown) => opened.then(() => Promise.reject(error)));
        await opened;
      },
      { slot: shard.slot, onCommitting },
    );
    for (const run of afterCommit) this.#tell(run, commands[0]?.kind ?? "");
    return outcomes;
  }

  async #decide(work: Work, commands: readonly Command[], outcomes: unknown[]): Promise<void> {
    const batches = Map.groupBy(commands.keys(), (index) => commands[index]?.kind);
    for (const [kind, drainKind] of this.#kinds) {
      const indices = batches.get(kind);
      if (indices === undefined) continue;
      const answers = await drainKind(
        work,
        indices.map((index) => commands[index]?.input),
      );
      invariant(answers.length === indices.length, `${kind} answers every command of its batch`);
      for (const [at, index] of indices.entries()) outcomes[index] = answers[at];
    }
  }

  /** What fails after the commit must not undo it: the batch is done, and doing it again would do it twice. */
  #tell(run: () => void, kind: string): void {
    try {
      run();
    } catch (error) {
      this.#onFault(error, kind);
    }
  }
}

const settleAll = (commands: readonly Command[], error: Error): void => {
  for (const command of commands) command.settle(error);
};

/** Opens with the drain's first statements rather than before them: on a busy event loop a round trip is milliseconds in which the shard stands still. */
function openWork(tx: Transaction, shard: Shard, idsAhead: number, afterCommit: (() => void)[]): { work: Work; opened: Promise<Date> } {
  let ids: Id[] = [];
  const open = async (): Promise<Date> => {
    const [row] = await tx.query<{ now_ms: string; xid: string; ids: string }>(OPEN, [shard.city, shard.slot, idsAhead]);
    invariant(row !== undefined, "a select without from gives a row");
    tx.begun = { xid: row.xid, atMs: Number(row.now_ms) };
    ids = idsIn(row.ids);
    return new Date(Number(row.now_ms));
  };
  const opened = open();
  opened.catch(() => undefined); // the drain hears of it at its end
  const work: Work = {
    shard,
    now: () => opened,
    query: (statement, values) => tx.query(statement, values),
    change: (statement, values) => tx.change(statement, values),
    copy: (statement, slot, rows) => tx.copy(statement, slot, rows),
    async mint(count) {
      await opened;
      while (ids.length < count) {
        const [minted] = await tx.query<{ ids: string }>(MINT, [shard.city, shard.slot, count - ids.length + idsAhead]);
        invariant(minted !== undefined, "a select without from gives a row");
        ids = ids.concat(idsIn(minted.ids));
      }
      const taken = ids.slice(0, count);
      ids = ids.slice(count);
      return taken;
    },
    afterCommit: (run) => void afterCommit.push(run),
  };
  return { work, opened };
}
