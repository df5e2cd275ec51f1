/**
 * Deals on sale, by what they are sorted by. These are the only reads that do not name a slot: a city is one list to those who search it.
 * The slots are named all the same: while some move, or before they are cleared away, a database also holds slots it does not serve. As `slot + 0`,
 * which no index can begin with: by the primary key PostgreSQL would read whole partitions and sort them.
 * Without words a sort walks its own index and stops at the page's end; with words the word index finds the hits first, and they are sorted.
 */
import type { Database, Queryable, Statement } from "../../db/database.ts";
import { DEAL_COLUMNS, dealJoins, type DealRow } from "../deal/deal.store.ts";
import type { SORTS } from "./search.contract.ts";

export type Sort = (typeof SORTS)[number];
export type SearchRow = DealRow & { readonly key: string };

/** `key` and then `id` are the order; `key` crosses as an int8 in text, so that it survives a cursor to the last digit. */
interface Order {
  readonly key: string;
  readonly direction: "asc" | "desc";
  /** How the key after which a page begins is compared, where the index has it in another form than the cursor; $2 is the key, $3 the id. */
  readonly indexed: string;
  readonly from: string;
  /** Before every row there can be. */
  readonly first: string;
}

const INT8_MAX = "9223372036854775807";
/** Ten thousand years: what `infinity` is in a cursor, in milliseconds. */
export const NEVER_MS = "253402300800000";

const END_MS = `case when deals.sale_ends_at is null then ${NEVER_MS} else (extract(epoch from deals.sale_ends_at) * 1000)::bigint end`;
export const ORDERS: Readonly<Record<Sort, Order>> = {
  // The rank in millionths: a real would not compare equal to itself after its way through a cursor.
  relevance: { key: "(ts_rank(deals.words, $4::tsquery) * 1000000)::bigint", direction: "desc", indexed: "", from: "", first: INT8_MAX },
  price: { key: "deals.price", direction: "asc", indexed: "deals.price", from: "$2::bigint", first: "0" },
  // Ids sort by time; the key is the id once more, to have the form of the others.
  newest: { key: "deals.id", direction: "desc", indexed: "deals.id", from: "$2::bigint", first: INT8_MAX },
  ending: {
    key: END_MS,
    direction: "asc",
    indexed: "coalesce(deals.sale_ends_at, 'infinity')",
    from: `case when $2::bigint >= ${NEVER_MS} then 'infinity'::timestamptz else to_timestamp($2::bigint / 1000.0) end`,
    first: "0",
  },
};

const ON_SALE = `
  deals.state = 'ON_SALE' and coalesce(deals.sale_starts_at, '-infinity') <= now() and coalesce(deals.sale_ends_at, 'infinity') > now()`;

/** The page's deals, in its order; `page` has (slot, id, key). */
const show = (direction: Order["direction"]): string => `
  select ${DEAL_COLUMNS}, page.key
    from page join deals d on d.slot = page.slot and d.id = page.id ${dealJoins("any slot")}
   order by page.key ${direction}, page.id ${direction}`;

const allOf = (sort: Sort, { key, direction, indexed, from }: Order): Statement => ({
  name: `search/all-${sort}`,
  text: `
    with page as materialized (
      select deals.slot, deals.id, ${key} as key from deals
       where deals.slot + 0 = any($4::integer[]) and ${ON_SALE} and (${indexed}, deals.id) ${direction === "asc" ? ">" : "<"} (${from}, $3::bigint)
       order by ${indexed} ${direction}, deals.id ${direction} limit $1)
    ${show(direction)}`,
});

const matching = (sort: Sort, { key, direction }: Order): Statement => ({
  name: `search/matching-${sort}`,
  text: `
    with hits as materialized (select deals.slot, deals.id, ${key} as key from deals where deals.words @@ $4::tsquery and deals.slot + 0 = any($5::integer[]) and ${ON_SALE}),
         page as materialized (
           select slot, id, key from hits
            where (key, id) ${direction === "asc" ? ">" : "<"} ($2::bigint, $3::bigint)
            order by key ${direction}, id ${direction} limit $1)
    ${show(direction)}`,
});

const MATCHING: Readonly<Record<Sort, Statement>> = {
  relevance: matching("relevance", ORDERS.relevance),
  price: matching("price", ORDERS.price),
  newest: matching("newest", ORDERS.newest),
  ending: matching("ending", ORDERS.ending),
};
const ALL: Readonly<Record<Exclude<Sort, "relevance">, Statement>> = {
  price: allOf("price", ORDERS.price),
  newest: allOf("newest", ORDERS.newest),
  ending: allOf("ending", ORDERS.ending),
};

/** Where a page begins: behind the row with this key and id. */
export interface After {
  readonly key: string;
  readonly id: string;
}
export const beginning = (sort: Sort): After => ({ key: ORDERS[sort].first, id: ORDERS[sort].first });

type Served = Queryable & Pick<Database, "slots">;

export const searchMatching = (served: Served, sort: Sort, query: string, after: After, limit: number): Promise<SearchRow[]> =>
  served.query<SearchRow>(MATCHING[sort], [limit, after.key, after.id, query, served.slots]);

export const searchAll = (served: Served, sort: Exclude<Sort, "relevance">, after: After, limit: number): Promise<SearchRow[]> =>
  served.query<SearchRow>(ALL[sort], [limit, after.key, after.id, served.slots]);

const BY_IDS: Statement = {
  name: "search/by-ids",
  text: `
    with page as materialized (
      select deals.slot, deals.id, k.key
        from unnest($1::bigint[], $2::bigint[]) as k(id, key)
       cross join lateral (select * from deals d where d.slot = (k.id & 15)::smallint and d.id = k.id offset 0) deals
       where ${ON_SALE})
    ${show("asc")}`,
};
/** Of deals that were found elsewhere, those that can be bought now, with the keys they were found by. */
export const searchFound = (tx: Queryable, found: readonly { readonly id: string; readonly key: string }[]): Promise<SearchRow[]> =>
  tx.query<SearchRow>(BY_IDS, [found.map(({ id }) => id), found.map(({ key }) => key)]);

const PUBLISHED: Statement = {
  name: "search/published",
  text: `
    with page as materialized (
      select slot, id, id as key from deals where slot = $1 and id > $2 and state = 'ON_SALE' order by id limit $3)
    ${show("asc")}`,
};
/** Deals of a slot that are on sale, now or later, by their ids: what a search index is made from. */
export const publishedDeals = (tx: Queryable, slot: number, afterId: string, limit: number): Promise<SearchRow[]> =>
  tx.query<SearchRow>(PUBLISHED, [slot, afterId, limit]);
