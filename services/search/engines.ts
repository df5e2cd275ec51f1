/** Who answers a search: PostgreSQL, or Elasticsearch with PostgreSQL behind it. Both give the same deals in the same form. */
import type { Logger } from "moleculer";
import { type Term, queryOf } from "../../domain/deal/words.ts";
import { shardOf } from "../../domain/ids.ts";
import { invariant } from "../../domain/invariant.ts";
import type { Database } from "../../db/database.ts";
import type { Metrics } from "../../mixins/metrics.ts";
import type { Platform } from "../../mixins/platform.ts";
import type { DealIndex, Hit } from "./deal-index.store.ts";
import { type After, ORDERS, searchAll, searchFound, searchMatching, type SearchRow, type Sort } from "./search.store.ts";

/** A database of a city in which is searched. */
export interface Part {
  readonly database: Database;
  readonly code: string;
}
export interface Question {
  readonly parts: readonly Part[];
  /** The one city in which is searched; undefined: all. */
  readonly city: number | undefined;
  readonly terms: readonly Term[] | null;
  readonly sort: Sort;
  readonly after: After;
  readonly limit: number;
}
export interface Found {
  readonly row: SearchRow;
  readonly code: string;
}
/** Deals in the order asked for, as many as asked for if there are. */
export type Engine = (question: Question) => Promise<Found[]>;

/** Each database gives its part of a page; the parts are merged. */
export const askPostgres: Engine = async ({ parts, terms, sort, after, limit }) => {
  const found = await Promise.all(
    parts.map(async ({ database, code }) => {
      const rows =
        terms !== null || sort === "relevance"
          ? await searchMatching(database, sort, queryOf(terms ?? []), after, limit)
          : await searchAll(database, sort, after, limit);
      return rows.map((row) => ({ row, code }));
    }),
  );
  return found
    .flat()
    .sort((a, b) => compare(sort, a.row, b.row))
    .slice(0, limit);
};

function compare(sort: Sort, a: Hit, b: Hit): number {
  const ahead = a.key === b.key ? BigInt(a.id) < BigInt(b.id) : BigInt(a.key) < BigInt(b.key);
  return ahead === (ORDERS[sort].direction === "asc") ? -1 : 1;
}

/** An index may be a second behind: deals that were just paused are found and not shown, and others asked for in their place, so many times. */
const ROUNDS_MAX = 5;

/** The index finds, PostgreSQL tells what can be bought and what it is. */
export const askIndex =
  (index: DealIndex): Engine =>
  async ({ parts, city, terms, sort, after, limit }) => {
    const found: Found[] = [];
    const nowMs = Date.now();
    for (let round = 0; round < ROUNDS_MAX; round++) {
      const hits = await index.find({ city, terms, sort, nowMs }, after, limit);
      const shown = new Map(
        (await Promise.all(parts.map((part) => showHits(part, hits)))).flat().map((one) => [one.row.id as string, one]),
      );
      found.push(...hits.flatMap(({ id }) => shown.get(id) ?? []));
      const last = hits.at(-1);
      if (found.length >= limit || hits.length < limit || !last) break;
      after = last;
    }
    return found.slice(0, limit);
  };

async function showHits({ database, code }: Part, hits: readonly Hit[]): Promise<Found[]> {
  const its = hits.filter(({ id }) => {
    const { city, slot } = shardOf(id);
    return city === database.city && database.slots.includes(slot);
  });
  return its.length === 0 ? [] : (await searchFound(database, its)).map((row) => ({ row, code }));
}

/** After a failure Elasticsearch is left alone for so long: its callers would each wait for their second. */
const REST_MS = 5_000;

/** PostgreSQL answers while Elasticsearch does not. */
export function withFallback(first: Engine, metrics: Metrics, logger: Logger): Engine {
  let restUntilMs = 0;
  return async (question) => {
    if (performance.now() >= restUntilMs) {
      try {
        return await first(question);
      } catch (error) {
        restUntilMs = performance.now() + REST_MS;
        logger.warn({ err: error }, "Elasticsearch does not answer; PostgreSQL searches");
      }
    }
    metrics.searchFallbacks.inc();
    return askPostgres(question);
  };
}

/** The databases of a city, or of all cities. */
export function partsOf({ keyspaces, databases }: Platform, code: string | undefined): Part[] {
  return keyspaces.databases().flatMap(({ name, keyspace }) => {
    const database = databases.get(name);
    invariant(database !== undefined, "a node has every database of the routing table");
    return keyspace.kind === "city" && (code ?? keyspace.code) === keyspace.code ? [{ database, code: keyspace.code }] : [];
  });
}
