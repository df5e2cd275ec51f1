/** Search: deals on sale, in one city or in all, by words or without. Each database gives its part of a page; the parts are merged. */
import type { Service, ServiceSchema } from "moleculer";
import { COMMON_ERRORS } from "../../domain/common-errors.ts";
import { searchQuery } from "../../domain/deal/words.ts";
import { raise } from "../../domain/error.ts";
import { isId } from "../../domain/ids.ts";
import type { Database } from "../../db/database.ts";
import { handle, type Answer, type Ctx } from "../../mixins/contract.ts";
import { decodeCursor, page } from "../../mixins/page.ts";
import { platformOf, type Platform } from "../../mixins/platform.ts";
import { viewDeal } from "../deal/deal.store.ts";
import { searchDeals } from "./search.contract.ts";
import { beginning, ORDERS, searchAll, searchMatching, type After, type SearchRow, type Sort } from "./search.store.ts";

const search: ServiceSchema = {
  name: "search",
  actions: { deals: handle(searchDeals, deals) },
};
export default search;

async function deals(this: Service<{}>, ctx: Ctx<typeof searchDeals>): Promise<Answer<typeof searchDeals>> {
  const platform = platformOf(this.broker);
  const { city, q, sort: wanted, cursor, limit = 20 } = ctx.params;
  const parts = databasesOf(platform, city);
  const words = q?.trim() ? searchQuery(q) : null;
  const sort = sortOf(wanted, words);
  const after = cursor === undefined ? beginning(sort) : afterOf(cursor, sort);
  // A text without a word in it matches nothing, and costs nothing.
  if (words === undefined) return { items: [] };
  const found = await Promise.all(
    parts.map(async ({ database, code }) => {
      // One more than the page: that is how `page` knows there is another.
      const rows = await find(database, sort, words, after, limit + 1);
      return rows.map((row) => ({ row, code }));
    }),
  );
  const rows = found
    .flat()
    .sort((a, b) => compare(sort, a.row, b.row))
    .slice(0, limit + 1);
  return page(
    rows,
    limit,
    ({ row, code }) => viewDeal(row, code),
    ({ row }) => [sort, row.key, row.id],
  );
}

/** Without words nothing is more relevant than anything else: the newest come first. */
function sortOf(wanted: Sort | undefined, words: string | null | undefined): Sort {
  const sort = wanted ?? "relevance";
  return sort === "relevance" && words === null ? "newest" : sort;
}

const find = (database: Database, sort: Sort, words: string | null, after: After, limit: number): Promise<SearchRow[]> =>
  words !== null || sort === "relevance"
    ? searchMatching(database, sort, words ?? "", after, limit)
    : searchAll(database, sort, after, limit);

function compare(sort: Sort, a: SearchRow, b: SearchRow): number {
  const ahead = a.key === b.key ? BigInt(a.id) < BigInt(b.id) : BigInt(a.key) < BigInt(b.key);
  return ahead === (ORDERS[sort].direction === "asc") ? -1 : 1;
}

function databasesOf(platform: Platform, city: string | undefined): { readonly database: Database; readonly code: string }[] {
  if (city !== undefined && platform.keyspaces.byCode(city)?.kind !== "city") return raise(COMMON_ERRORS, "CITY_NOT_FOUND", { city });
  return platform.keyspaces.databases().flatMap(({ name, keyspace }) => {
    const database = platform.databases.get(name);
    return database && keyspace.kind === "city" && (city ?? keyspace.code) === keyspace.code ? [{ database, code: keyspace.code }] : [];
  });
}

/** A cursor goes on in the order it was made in; of another order, or made up, it is the caller's error. */
function afterOf(cursor: string, sort: Sort): After {
  const [made, key, id] = decodeCursor(cursor, 3);
  const sound = made === sort && typeof key === "string" && typeof id === "string";
  if (!sound || !(isId(key) || key === "0") || !isId(id)) {
    return raise(COMMON_ERRORS, "VALIDATION_ERROR", { errors: [{ field: "cursor", message: "not a cursor of this list in this order" }] });
  }
  return { key, id };
}
