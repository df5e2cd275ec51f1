/**
 * What must not pile up for ever goes once it is old: once an hour, a thousand rows of a slot at a time, some milliseconds each. Between two the
 * databases have a rest, so that the buyers notice nothing. How long things are kept, `LIMITS` says; what goes, and how, is its owner's.
 */
import type { Logger } from "moleculer";
import type { Database, Queryable, Statement } from "../db/database.ts";
import { ID_EPOCH_MS, USER_CITY } from "../domain/ids.ts";
import { isPassing, rest } from "./journal-delivery.ts";

const EVERY_MS = 60 * 60_000;
const REST_MS = 100;
/** Of one statement and slot. */
export const PRUNED_ROWS_MAX = 1_000;

/** One pass over all databases: how many rows of what went. */
export type Prune = (databases: readonly Database[], stopping: AbortSignal) => Promise<Readonly<Record<string, number>>>;

/** Removes once and again, until there is nothing left to remove; how many rows that were. */
export async function removeAll(once: () => Promise<number>, stopping: AbortSignal): Promise<number> {
  let all = 0;
  for (;;) {
    const rows = await once();
    all += rows;
    if (rows === 0) return all;
    await rest(REST_MS, stopping);
    if (stopping.aborted) return all;
  }
}

/** Sends a statement that removes rows and tells how many. */
export const remove = async (tx: Queryable, statement: Statement, values: readonly unknown[]): Promise<number> =>
  (await tx.query<{ rows: number }>(statement, values))[0]?.rows ?? 0;

/**
 * Removes rows of a table by slots, how many of each, and how many days they are kept (`$1` to `$3`). `which` finds rows of a slot by an index, the first so
 * many are looked at; of those, the ones go for which `old` holds, where `which` does not tell by itself that they are.
 */
export const pruning = (table: string, which: string, old = "true"): Statement => ({
  name: `prune/${table.replaceAll("_", "-")}`,
  text: `
    with gone as (
      delete from ${table} t
       using unnest($1::smallint[]) as k(slot)
       cross join lateral (select slot, ctid as row from ${table} where slot = k.slot and ${which} limit $2) o
       where t.slot = o.slot and t.ctid = o.row and ${old}
      returning 1)
    select count(*)::integer as rows from gone`,
});
/** When that many days ago was. */
export const KEPT_SINCE = "now() - make_interval(days => $3)";
/** The same as an id, which begins with its time (`domain/ids.ts`). */
export const idBefore = (days: string): string =>
  `(((extract(epoch from now() - make_interval(days => ${days})) * 1000)::bigint - ${ID_EPOCH_MS}) << 22)`;

/** In every database of a kind: what a statement of `pruning` removes. */
export const pruneOld =
  (what: string, of: "user" | "city" | "every", statement: Statement, keptDays: number, ...more: readonly unknown[]): Prune =>
  async (databases, stopping) => {
    let rows = 0;
    for (const database of databases.filter(({ city }) => of === "every" || (city === USER_CITY) === (of === "user")))
      rows += await removeAll(() => remove(database, statement, [database.slots, PRUNED_ROWS_MAX, keptDays, ...more]), stopping);
    return { [what]: rows };
  };

export class Pruner {
  readonly #prunes: readonly Prune[];
  readonly #databases: () => Iterable<Database>;
  readonly #logger: Logger;
  readonly #stopping = new AbortController();
  #running: Promise<void> | undefined;

  constructor(prunes: readonly Prune[], databases: () => Iterable<Database>, logger: Logger) {
    this.#prunes = prunes;
    this.#databases = databases;
    this.#logger = logger;
  }

  /** Beginning an hour after the start: several nodes doing it at once only find less to do. */
  start(): void {
    this.#running ??= this.#run();
  }

  async stop(): Promise<void> {
    this.#stopping.abort();
    await this.#running;
  }

  async #run(): Promise<void> {
    const { signal } = this.#stopping;
    for (;;) {
      await rest(EVERY_MS, signal);
      for (const prune of this.#prunes) {
        if (signal.aborted) return;
        try {
          const gone = Object.entries(await prune([...this.#databases()], signal)).filter(([, rows]) => rows > 0);
          if (gone.length > 0) this.#logger.info(`old enough to go: ${gone.map(([what, rows]) => `${rows} ${what}`).join(", ")}`);
        } catch (error) {
          if (!isPassing(error)) this.#logger.warn({ err: error }, "what is old could not be pruned; trying again in an hour");
        }
      }
    }
  }
}
