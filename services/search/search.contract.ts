import { action } from "../../mixins/contract.ts";
import { list, PAGE } from "../../mixins/page.ts";
import { Deal } from "../deal/deal.contract.ts";

export const SORTS = ["relevance", "price", "newest", "ending"] as const;
export const searchDeals = action("search.deals", {
  summary: "Search deals on sale: Chinese and English words in title, description and merchant name",
  params: {
    city: { type: "string", min: 1, max: 16, optional: true },
    q: { type: "string", max: 200, optional: true },
    sort: { type: "enum", values: SORTS, optional: true },
    ...PAGE,
  },
  answer: list("DealList", Deal),
  errors: ["CITY_NOT_FOUND"],
  rest: { method: "GET", path: "/deals", who: "anyone", status: 200, tag: "Merchants and deals" },
});
