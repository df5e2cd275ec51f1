/** What a search index is made from: every deal on sale, city by city. Used by the service and by `npm run search -- rebuild`. */
import type { Database } from "../../db/database.ts";
import type { DealIndex } from "../search/deal-index.store.ts";
import { publishedDeals, type SearchRow } from "../search/search.store.ts";

/** Some 2 MB a request. */
const PORTION_DEALS = 1_000;

async function* allPublished(databases: Iterable<Database>): AsyncGenerator<readonly SearchRow[]> {
  for (const database of databases)
    for (const slot of database.slots)
      for (let after = "0"; ;) {
        const deals = await publishedDeals(database, slot, after, PORTION_DEALS);
        yield deals;
        const last = deals.at(-1);
        if (!last || deals.length < PORTION_DEALS) break;
        after = last.id;
      }
}

/** `databases` are those of cities. Returns how many deals are in the new index. */
export const rebuildFrom = (index: DealIndex, databases: Iterable<Database>): Promise<number> =>
  index.rebuild(allPublished(databases), Date.now());
