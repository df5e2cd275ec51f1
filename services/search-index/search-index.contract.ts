import { action, shape } from "../../mixins/contract.ts";

export const rebuildIndex = action("search-index.rebuild", {
  summary: "Make the search index anew from what is on sale; searches go on in the old one until it is whole",
  params: {},
  answer: shape("Rebuild", { running: "boolean" }),
  retrySafe: true,
  rest: { method: "POST", path: "/ops/search/rebuild", who: "admin", status: 202, tag: "Operating" },
});
