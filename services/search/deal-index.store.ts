/**
 * Deals in Elasticsearch, for searching: documents in an index behind an alias, which a rebuild makes anew beside the old one. It finds; what is
 * shown of a deal, and whether it can be bought, is read in PostgreSQL, so an index that is behind sells nothing that is not on sale.
 *
 * Texts are cut into lexemes here, as for PostgreSQL (`domain/deal/words.ts`): the same search finds the same deals on both sides, and the server
 * needs no plug-in for Chinese.
 */
import { createRequire } from "node:module";
import type { Client } from "@elastic/elasticsearch";
import { COMMON_ERRORS } from "../../domain/common-errors.ts";
import { lexemesOf, type Term } from "../../domain/deal/words.ts";
import { raise } from "../../domain/error.ts";
import { shardOf } from "../../domain/ids.ts";
import type { DealRow } from "../deal/deal.store.ts";
import { type After, beginning, NEVER_MS, ORDERS, type Sort } from "./search.store.ts";

/** How deals are asked for; `terms` null asks for all. */
export interface Wanted {
  readonly city: number | undefined;
  readonly terms: readonly Term[] | null;
  readonly sort: Sort;
  readonly nowMs: number;
}
export interface Hit {
  readonly id: string;
  readonly key: string;
}

/** What the client is told: where the server is, and, in tests, the mock's connection. */
export type ServerOptions = ConstructorParameters<typeof Client>[0];

/** Loaded by the first index there is: the client is 41 MB and 0.3 s of every start, and most installations search by PostgreSQL alone. */
const elastic = (): typeof import("@elastic/elasticsearch") =>
  createRequire(import.meta.url)("@elastic/elasticsearch") as typeof import("@elastic/elasticsearch");

interface Document {
  /** With leading zeros, so that text sorts as the number does: a JSON number cannot hold it. */
  readonly id: string;
  readonly city: number;
  readonly state: string;
  readonly price: number;
  readonly startsMs: number;
  readonly endsMs: number;
  /** Title and merchant, which weigh more, and the description: lexemes with spaces between. */
  readonly title: string;
  readonly text: string;
}

const ALIAS = "tuanbar-deals";
const INDICES = `${ALIAS}-*`;
const ID_DIGITS = 19;
const LEXEMES = { type: "text", analyzer: "whitespace", index_prefixes: { min_chars: 1, max_chars: 8 } } as const;
const MAPPING = {
  dynamic: "strict",
  properties: {
    id: { type: "keyword" },
    city: { type: "short" },
    state: { type: "keyword" },
    price: { type: "long" },
    startsMs: { type: "long" },
    endsMs: { type: "long" },
    title: LEXEMES,
    text: LEXEMES,
  },
} as const;
/** As far as in PostgreSQL a word in the title outweighs one in the description. */
const TITLE_WEIGHT = 4;

/** A searcher does not wait for longer: PostgreSQL answers instead. */
const FIND_MS = 1_000;
const WRITE_MS = 30_000;
/** An index without the alias is what a rebuild under way writes to, or what a rebuild that died has left. No rebuild takes that long. */
const ABANDONED_MS = 24 * 3_600_000;

export class DealIndex {
  readonly #client: Client;

  constructor(options: ServerOptions) {
    this.#client = new (elastic().Client)({ ...options, maxRetries: 0, requestTimeout: WRITE_MS });
  }

  async find({ city, terms, sort, nowMs }: Wanted, after: After, limit: number): Promise<Hit[]> {
    const { direction } = ORDERS[sort];
    const first = beginning(sort);
    const isFirst = after.key === first.key && after.id === first.id;
    const { hits } = await answered(() =>
      this.#client.search<never>(
        {
          index: ALIAS,
          size: limit,
          _source: false,
          track_total_hits: false,
          query: {
            bool: {
              filter: [
                { term: { state: "ON_SALE" } },
                { range: { startsMs: { lte: nowMs } } },
                { range: { endsMs: { gt: nowMs } } },
                ...(city === undefined ? [] : [{ term: { city } }]),
              ],
              must: (terms ?? []).map(clauseOf),
            },
          },
          sort: [{ [FIELDS[sort]]: direction }, { id: direction }],
          ...(isFirst ? {} : { search_after: [keyToSort(sort, after.key), padded(after.id)] }),
        },
        { requestTimeout: FIND_MS },
      ),
    );
    return hits.hits.map(({ sort: [key, id] = [] }) => ({ id: BigInt(String(id)).toString(), key: sortToKey(sort, key) }));
  }

  /** Writes deals as they are now into every index there is: the one that is searched, and one that is being made. */
  async put(deals: readonly DealRow[]): Promise<void> {
    for (const index of Object.keys(await answered(() => this.#client.indices.get({ index: INDICES }))))
      await this.#write(index, deals, "index");
  }

  /** True where there is an index to search in. */
  exists(): Promise<boolean> {
    return answered(() => this.#client.indices.existsAlias({ name: ALIAS }));
  }

  /**
   * Makes the index anew from all deals on sale and then lets it be searched, in one step. Events go on being written to both: what is copied never
   * replaces what an event has written, because that is the newer. Returns how many deals were copied.
   */
  async rebuild(all: AsyncIterable<readonly DealRow[]>, nowMs: number): Promise<number> {
    const made = `${ALIAS}-${nowMs}`;
    await answered(() => this.#client.indices.create({ index: made, mappings: MAPPING }));
    let copied = 0;
    for await (const deals of all) {
      await this.#write(made, deals, "create");
      copied += deals.length;
    }
    await this.refresh();
    const before = Object.entries(await answered(() => this.#client.indices.get({ index: INDICES }))).filter(([name]) => name !== made);
    const served = before.filter(([, { aliases }]) => ALIAS in (aliases ?? {})).map(([name]) => name);
    await answered(() =>
      this.#client.indices.updateAliases({
        actions: [...served.map((index) => ({ remove: { index, alias: ALIAS } })), { add: { index: made, alias: ALIAS } }],
      }),
    );
    const abandoned = before.map(([name]) => name).filter((name) => Number(name.slice(ALIAS.length + 1)) < nowMs - ABANDONED_MS);
    for (const index of new Set([...served, ...abandoned])) await answered(() => this.#client.indices.delete({ index }));
    return copied;
  }

  /** Lets be found at once what was written; by itself that takes up to a second. */
  async refresh(): Promise<void> {
    await answered(() => this.#client.indices.refresh({ index: INDICES }));
  }

  close(): Promise<void> {
    return this.#client.close();
  }

  async #write(index: string, deals: readonly DealRow[], how: "index" | "create"): Promise<void> {
    if (deals.length === 0) return;
    const operations = deals.flatMap((deal) => [{ [how]: { _index: index, _id: deal.id } }, documentOf(deal)]);
    const { items } = await answered(() => this.#client.bulk({ operations }));
    for (const item of items) {
      const { status, error } = item[how] ?? {};
      if (error === undefined || (how === "create" && status === 409)) continue;
      // Too busy, or the index has just been replaced: neither is the deal's fault.
      if (status === 429 || status === 404 || status === 503) unavailable(error.reason ?? error.type);
      throw new Error(`Elasticsearch refuses deal ${item[how]?._id}: ${error.type} ${error.reason}`);
    }
  }
}

const FIELDS: Readonly<Record<Sort, string>> = { relevance: "_score", price: "price", newest: "id", ending: "endsMs" };

const clauseOf = ({ lexeme, beginning: isBeginning }: Term) => {
  const where = (field: "title" | "text", boost: number) =>
    isBeginning ? { prefix: { [field]: { value: lexeme, boost } } } : { term: { [field]: { value: lexeme, boost } } };
  return { bool: { should: [where("title", TITLE_WEIGHT), where("text", 1)], minimum_should_match: 1 } };
};

const padded = (id: string): string => id.padStart(ID_DIGITS, "0");

/** A cursor's key is an integer as text, on both sides; a score is a float, and its bits as an integer sort as it does. */
const bits = new DataView(new ArrayBuffer(4));
function sortToKey(sort: Sort, value: unknown): string {
  if (sort !== "relevance") return BigInt(String(value)).toString();
  bits.setFloat32(0, Number(value));
  return String(bits.getUint32(0));
}
function keyToSort(sort: Sort, key: string): string | number {
  if (sort === "newest") return padded(key);
  if (sort !== "relevance") return Number(key);
  bits.setUint32(0, Number(BigInt.asUintN(31, BigInt(key))));
  return bits.getFloat32(0);
}

const documentOf = (deal: DealRow): Document => ({
  id: padded(deal.id),
  city: shardOf(deal.id).city,
  state: deal.state,
  price: Number(deal.price),
  startsMs: deal.sale_starts_at?.getTime() ?? 0,
  endsMs: deal.sale_ends_at?.getTime() ?? Number(NEVER_MS),
  title: lexemesOf(`${deal.title} ${deal.merchant_name}`).join(" "),
  text: lexemesOf(deal.description).join(" "),
});

const unavailable = (cause: string | null | undefined): never =>
  raise(COMMON_ERRORS, "UNAVAILABLE", { what: `Elasticsearch (${cause ?? "no reason given"})`, retryAfterSeconds: 1 });

/** A server that is away, busy or without its index will be there later; any other error is a fault. */
async function answered<R>(ask: () => Promise<R>): Promise<R> {
  try {
    return await ask();
  } catch (error) {
    const isRefused = error instanceof elastic().errors.ResponseError && ![404, 429, 502, 503, 504].includes(error.statusCode ?? 0);
    if (error instanceof elastic().errors.ElasticsearchClientError && !isRefused) return unavailable(error.message);
    throw error;
  }
}
