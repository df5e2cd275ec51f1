/** Search: deals on sale, in one city or in all, by words or without. PostgreSQL searches, or Elasticsearch where there is one: `engines.ts`. */
import type { Service, ServiceSchema } from "moleculer";
import { COMMON_ERRORS } from "../../domain/common-errors.ts";
import { searchTerms } from "../../domain/deal/words.ts";
import { raise } from "../../domain/error.ts";
import { isId } from "../../domain/ids.ts";
import { handle, type Answer, type Ctx } from "../../mixins/contract.ts";
import { decodeCursor, page } from "../../mixins/page.ts";
import { platformOf, type Platform } from "../../mixins/platform.ts";
import { viewDeal } from "../deal/deal.store.ts";
import { DealIndex, type ServerOptions } from "./deal-index.store.ts";
import { askIndex, askPostgres, type Engine, partsOf, withFallback } from "./engines.ts";
import { searchDeals } from "./search.contract.ts";
import { beginning, type After, type Sort } from "./search.store.ts";

/** Without `elasticsearch` PostgreSQL searches by itself. */
export interface SearchSettings {
  readonly elasticsearch?: ServerOptions;
  /** Settings are told to every other node, but for these: there may be a password in them. */
  readonly $secureSettings?: readonly string[];
}
interface Vars {
  platform: Platform;
  index: DealIndex | undefined;
  ask: Engine;
}
type This = Service<SearchSettings> & Vars;

const search: ServiceSchema<SearchSettings, {}, Vars> = {
  name: "search",
  settings: { $secureSettings: ["elasticsearch"] },
  actions: { deals: handle(searchDeals, deals) },
  created() {
    const { elasticsearch } = this.settings;
    this.platform = platformOf(this.broker);
    this.index = elasticsearch && new DealIndex(elasticsearch);
    this.ask = this.index ? withFallback(askIndex(this.index), this.platform.metrics, this.logger) : askPostgres;
  },
  stopped() {
    return this.index?.close();
  },
};
export default search;

async function deals(this: This, ctx: Ctx<typeof searchDeals>): Promise<Answer<typeof searchDeals>> {
  const { city: code, q, sort: wanted, cursor, limit = 20 } = ctx.params;
  const city = code === undefined ? undefined : this.platform.keyspaces.byCode(code);
  if (code !== undefined && city?.kind !== "city") return raise(COMMON_ERRORS, "CITY_NOT_FOUND", { city: code });
  const terms = q?.trim() ? searchTerms(q) : null;
  const sort = sortOf(wanted, terms === null);
  const after = cursor === undefined ? beginning(sort) : afterOf(cursor, sort);
  // A text without a word in it matches nothing, and costs nothing.
  if (terms === undefined) return { items: [] };
  // One more than the page: that is how `page` knows there is another.
  const found = await this.ask({ parts: partsOf(this.platform, code), city: city?.id, terms, sort, after, limit: limit + 1 });
  return page(
    found,
    limit,
    ({ row, code: of }) => viewDeal(row, of),
    ({ row }) => [sort, row.key, row.id],
  );
}

/** Without words nothing is more relevant than anything else: the newest come first. */
function sortOf(wanted: Sort | undefined, isWordless: boolean): Sort {
  const sort = wanted ?? "relevance";
  return sort === "relevance" && isWordless ? "newest" : sort;
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
