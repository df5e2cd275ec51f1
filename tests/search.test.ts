/** Search over PostgreSQL on a real node: words of both languages, orders, pages, and texts nobody would search for. */
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { DomainError } from "../domain/error.ts";
import { dealVector, lexemesOf, queryOf, searchTerms } from "../domain/deal/words.ts";
import type { Caller } from "../mixins/contract.ts";
import { encodeCursor } from "../mixins/page.ts";
import { type DealId, shardOf } from "../domain/ids.ts";
import { closeDeal, pauseDeal } from "../services/deal/deal.contract.ts";
import { findDeals } from "../services/deal/deal.store.ts";
import { DealIndex } from "../services/search/deal-index.store.ts";
import { beginning } from "../services/search/search.store.ts";
import { rebuildIndex } from "../services/search-index/search-index.contract.ts";
import { searchDeals, type SORTS } from "../services/search/search.contract.ts";
import { ADMIN, draft, merchantIn, onSale, USER_SETTINGS } from "./support/market.ts";
import { testElasticsearch } from "./support/elasticsearch.ts";
import { callAs, testNode, type TestNode } from "./support/node.ts";
import { until } from "./support/until.ts";

const DEALS: readonly (readonly [title: string, description: string, price: number])[] = [
  ["精酿啤酒两杯 Craft Beer ×2（IPA／世涛任选）", "十二个龙头每日轮换", 1_990],
  ["IPA 品鉴套餐 Tasting Flight 六款", "新英格兰浑浊 IPA", 12_800],
  ["十三香小龙虾三斤＋冰啤四瓶", "当日鲜活，蒜蓉、麻辣任选", 19_800],
  ["周末 Brunch 双人餐", "Eggs Benedict 与手冲咖啡；don't miss it", 8_800],
  ["威士忌品鉴", "配一杯精酿 IPA 收尾", 18_800],
];

const MOVED = { name: "test/moved", text: `select count(*) as events from events where type = 'deal.moved'` };

/** The same for both: who finds the deals is nobody's business but the operator's. */
for (const engine of ["PostgreSQL", "Elasticsearch"] as const) {
  describe(`search by ${engine}`, () => {
    const server = engine === "Elasticsearch" ? testElasticsearch() : undefined;
    const settings = server ? { elasticsearch: server.options } : {};
    let at: TestNode;
    let shanghai: Caller;
    const hangzhou: Caller[] = [];
    before(async () => {
      await server?.clear();
      at = await testNode(["user", "merchant", "deal", "search", "search-index", "journal"], {
        user: USER_SETTINGS,
        search: settings,
        "search-index": settings,
      });
      shanghai = await merchantIn(at.node, "sh", "老码头（杨浦店）");
      // Where a merchant goes is hazard: as many as it takes until both databases of the city have one.
      for (const places = new Set(); places.size < 2 || hangzhou.length < 6;) {
        const merchant = await merchantIn(at.node, "hz", `西湖酒馆 ${hangzhou.length}`);
        places.add(at.node.platform.databaseOf(shardOf(merchant.merchantId)));
        hangzhou.push(merchant);
      }
      for (const [title, description, price] of DEALS) await onSale(at.node, shanghai, { title, description, price, tiers: [] });
    });
    after(() => at.stop());

    type Query = { city?: string; q?: string; sort?: (typeof SORTS)[number]; limit?: number; cursor?: string };
    const search = async (query: Query) => {
      await followed();
      return callAs(at.node, searchDeals, query, undefined);
    };
    /** An index hears of deals by their events: waits until every event there is was handled. */
    const followed = async (): Promise<void> => {
      if (!server) return;
      const { platform } = at.node;
      await until(async () => {
        const cities = [...platform.databases.values()].filter(({ city }) => platform.servesCity(city));
        const happened = await Promise.all(cities.map((database) => database.query<{ events: string }>(MOVED)));
        const { values } = await platform.metrics.events.get();
        const handled = values.find(({ labels }) => labels.consumer === "search-index" && labels.outcome === "handled")?.value ?? 0;
        return handled >= happened.reduce((sum, [row]) => sum + Number(row?.events), 0);
      });
      const index = new DealIndex(server.options);
      await until(() => index.exists());
      await index.close();
      await server.refresh();
    };
    const titles = async (query: Query) => (await search(query)).items.map((deal) => deal.title);
    const pages = async (query: Query): Promise<string[]> => {
      const ids: string[] = [];
      for (let cursor: string | undefined; ;) {
        const { items, nextCursor } = await search({ ...query, ...(cursor === undefined ? {} : { cursor }) });
        ids.push(...items.map((deal) => deal.id));
        if (!nextCursor) return ids;
        cursor = nextCursor;
      }
    };

    test("finds Chinese words and parts of them, English words and their beginnings, and merchants", async () => {
      const [beer, flight, crayfish, brunch, whisky] = DEALS.map(([title]) => title);
      const finds = async (q: string, expected: readonly (string | undefined)[]) =>
        assert.deepEqual(new Set<string | undefined>(await titles({ city: "sh", q })), new Set(expected), q);
      await finds("精酿", [beer, whisky]);
      await finds("小龙虾", [crayfish]);
      await finds("龙虾", [crayfish]);
      await finds("虾", [crayfish]);
      await finds("IPA", [beer, flight, whisky]);
      await finds("ｉｐａ", [beer, flight, whisky]);
      await finds("brunch", [brunch]);
      await finds("BRUN", [brunch]);
      await finds("don't", [brunch]);
      await finds("精酿 IPA", [beer, whisky]);
      await finds("精酿小龙虾", []);
      await finds("杨浦", [beer, flight, crayfish, brunch, whisky]);
      await finds("西湖", []);
      await finds("runch", []);
    });

    test("puts what is in the title before what is in the description", async () => {
      const found = await titles({ city: "sh", q: "IPA", sort: "relevance" });
      assert.equal(found.at(-1), "威士忌品鉴");
      assert.equal((await titles({ city: "sh", q: "精酿" }))[0], DEALS[0]?.[0]);
    });

    test("sorts by price and by age, and by age when there is no word to be relevant to", async () => {
      const byPrice = [...DEALS].sort((a, b) => a[2] - b[2]).map(([title]) => title);
      assert.deepEqual(await titles({ city: "sh", sort: "price" }), byPrice);
      assert.deepEqual(await titles({ city: "sh", sort: "price", q: "杨浦" }), byPrice);
      const byAge = DEALS.map(([title]) => title).toReversed();
      assert.deepEqual(await titles({ city: "sh", sort: "newest" }), byAge);
      assert.deepEqual(await titles({ city: "sh", sort: "relevance" }), byAge);
      assert.deepEqual(await titles({ city: "sh", q: "  " }), byAge);
    });

    test("shows deals with their stock, merchant and city", async () => {
      const [deal] = (await search({ city: "sh", q: "小龙虾" })).items;
      assert.deepEqual(deal?.stock, { total: 100, available: 100, held: 0, sold: 0 });
      assert.equal(deal?.merchantName, "老码头（杨浦店）");
      assert.equal(deal?.city, "sh");
    });

    test("shows only what can be bought now: no drafts, nothing paused or closed, before or after its sale", async () => {
      const word = "Zinfandel";
      const day = 86_400_000;
      const on = (ms: number) => new Date(Date.now() + ms).toISOString();
      await draft(at.node, shanghai, { title: `${word} draft` });
      const paused = await onSale(at.node, shanghai, { title: `${word} paused` });
      const closed = await onSale(at.node, shanghai, { title: `${word} closed` });
      await callAs(at.node, pauseDeal, { id: paused.id }, shanghai);
      await callAs(at.node, closeDeal, { id: closed.id }, shanghai);
      await onSale(at.node, shanghai, { title: `${word} tomorrow`, saleStartsAt: on(day) });
      await onSale(at.node, shanghai, { title: `${word} yesterday`, saleEndsAt: on(-day) });
      await onSale(at.node, shanghai, { title: `${word} today`, saleStartsAt: on(-day), saleEndsAt: on(day) });
      for (const sort of ["relevance", "price", "newest", "ending"] as const) {
        assert.deepEqual(await titles({ q: word.toLowerCase(), sort }), [`${word} today`]);
        const all = await titles({ sort, limit: 100 });
        assert.deepEqual(
          all.filter((title) => title.startsWith(word)),
          [`${word} today`],
        );
      }
    });

    test("pages through all cities and databases in every order, without a gap and without a repeat", async () => {
      const word = "Langusten";
      const ends = (index: number) => (index % 3 === 0 ? {} : { saleEndsAt: new Date(Date.UTC(2090, 0, 1 + (index % 7))).toISOString() });
      const owners = [shanghai, ...hangzhou];
      const made = await Promise.all(
        Array.from({ length: 60 }, (_, index) =>
          onSale(at.node, owners[index % owners.length] ?? shanghai, {
            title: `${word} ${index % 4 === 0 ? word : ""} ${index}`,
            price: 1_000 + (index % 5) * 100,
            tiers: [],
            ...ends(index),
          }),
        ),
      );
      const byId = new Map<string, (typeof made)[number]>(made.map((deal) => [deal.id, deal]));
      for (const sort of ["relevance", "price", "newest", "ending"] as const) {
        const whole = await pages({ q: word, sort, limit: 100 });
        assert.deepEqual(new Set(whole), new Set<string>(byId.keys()));
        assert.deepEqual(await pages({ q: word, sort, limit: 7 }), whole, sort);
        const deals = whole.map((id) => byId.get(id));
        if (sort === "price")
          assert.deepEqual(
            deals.map((deal) => deal?.price),
            deals.map((deal) => deal?.price).sort((a, b) => Number(a) - Number(b)),
          );
        if (sort === "ending") {
          const at = deals.map((deal) => deal?.saleEndsAt ?? "9999");
          assert.deepEqual(at, at.toSorted());
        }
        if (sort !== "relevance") {
          const all = await pages({ sort, limit: 7 });
          assert.equal(new Set(all).size, all.length);
          assert.deepEqual(
            all.filter((id) => byId.has(id)),
            whole,
          );
        }
      }
      const inHangzhou = await pages({ city: "hz", q: word, limit: 5 });
      assert.equal(inHangzhou.length, made.filter((deal) => deal.city === "hz").length);
      assert.ok(
        new Set(inHangzhou.map((id) => (Number(id.slice(-4)) % 16 < 8 ? "a" : "b"))).size > 1,
        "both databases of the city are in the list",
      );
    });

    test("never fails, whatever the text", async () => {
      const texts = [
        "!!!",
        "'",
        "''",
        "\\",
        "\\'",
        "a & b | !c",
        "a <-> b:*",
        "'); drop table deals; --",
        ":*",
        "()",
        "a".repeat(200),
        "啤".repeat(200),
        "🍺",
        "\0",
        "e\u0301",
        "\ud800",
        "%",
        "1 2 3",
        "“”",
        "３３０ｍｌ",
      ];
      for (const q of texts)
        for (const sort of ["relevance", "price"] as const) assert.ok(Array.isArray((await search({ q, sort })).items), q);
      for (const nothing of ["!!!", "'", "🍺", "\0"]) assert.deepEqual(await search({ q: nothing }), { items: [] });
    });

    test("is asked itself, every time", async () => {
      assert.equal((await at.node.platform.metrics.searchFallbacks.get()).values[0]?.value, 0);
    });

    test("refuses unknown cities and cursors that are not of this list in this order", async () => {
      const refused = (code: string) => (error: unknown) => error instanceof DomainError && error.type === code;
      for (const city of ["xx", "user"]) await assert.rejects(search({ city }), refused("CITY_NOT_FOUND"));
      const { nextCursor } = await search({ sort: "price", limit: 1 });
      const made = [
        ["newest", "x", "y"],
        ["newest", 1, 2],
        ["newest", "1; drop", "16"],
        ["newest", "9".repeat(30), "16"],
        ["newest", "16", ""],
      ];
      for (const cursor of [nextCursor ?? "", "x", ...made.map(encodeCursor)]) {
        await assert.rejects(search({ sort: "newest", cursor }), refused("VALIDATION_ERROR"), cursor);
      }
    });
  });
}

describe("a search index", () => {
  const server = testElasticsearch();
  let at: TestNode;
  let owner: Caller;
  before(async () => {
    await server.clear();
    const settings = { elasticsearch: server.options };
    at = await testNode(["user", "merchant", "deal", "search", "search-index", "journal"], {
      user: USER_SETTINGS,
      search: settings,
      "search-index": settings,
    });
    owner = await merchantIn(at.node, "hz");
    const index = new DealIndex(server.options);
    await until(() => index.exists());
    await index.close();
  });
  after(() => at?.stop());

  const titles = async (q: string) => (await callAs(at.node, searchDeals, { q }, undefined)).items.map(({ title }) => title);
  const fallbacks = async () => (await at.node.platform.metrics.searchFallbacks.get()).values[0]?.value;
  const deals = (): AsyncIterable<never[]> => (async function* () {})();

  test("is made anew beside the old one, which is then gone, with every deal on sale in it", async () => {
    const deal = await onSale(at.node, owner, { title: "Rioja" });
    await until(async () => (await server.refresh(), (await titles("rioja")).length === 1));
    const [before] = await server.indices();
    await callAs(at.node, rebuildIndex, {}, ADMIN);
    await until(async () => {
      const names = await server.indices();
      return names.length === 1 && names[0] !== before;
    });
    assert.deepEqual(await titles("rioja"), ["Rioja"]);
    await callAs(at.node, closeDeal, { id: deal.id }, owner);
    assert.deepEqual(await titles("rioja"), [], "PostgreSQL tells what is on sale, also before the index has heard");
    assert.equal(await fallbacks(), 0);
  });

  test("keeps what an event wrote while it was being made", async () => {
    const index = new DealIndex(server.options);
    const { id } = await onSale(at.node, owner, { title: "Malbec" });
    const rows = [...(await findDeals(at.node.platform.databaseOf(shardOf(id)), shardOf(id), [id as DealId])).values()];
    const stale = rows.map((row) => ({ ...row, title: "stale" }));
    await index.rebuild(
      (async function* () {
        await index.put(rows);
        yield stale;
      })(),
      Date.now(),
    );
    assert.deepEqual(await titles("malbec"), ["Malbec"]);
    assert.deepEqual(await titles("stale"), []);
    await index.close();
  });

  test("that is not there, or whose server is not, is replaced by PostgreSQL, and that is counted", async () => {
    await onSale(at.node, owner, { title: "Tempranillo" });
    await server.clear();
    assert.equal(await fallbacks(), 0);
    assert.deepEqual(await titles("tempranillo"), ["Tempranillo"]);
    assert.equal(await fallbacks(), 1);
    server.down(true);
    assert.deepEqual(await titles("tempranillo"), ["Tempranillo"]);
    assert.equal(await fallbacks(), 2);
    server.down(false);
    const index = new DealIndex(server.options);
    assert.equal(await index.exists(), false);
    assert.equal(await index.rebuild(deals(), Date.now()), 0);
    assert.equal(await index.exists(), true);
    await index.close();
  });

  test("that cannot be reached leaves its events waiting, not parked", async () => {
    if (server.isReal) return;
    server.down(true);
    await onSale(at.node, owner, { title: "Grenache" });
    await new Promise((resolve) => setTimeout(resolve, 500));
    server.down(false);
    const index = new DealIndex(server.options);
    const wanted = { city: undefined, terms: searchTerms("grenache") ?? null, sort: "relevance", nowMs: Date.now() } as const;
    await until(async () => (await server.refresh(), (await index.find(wanted, beginning("relevance"), 10)).length === 1));
    const parked = (await at.node.platform.metrics.events.get()).values.filter(({ labels }) => labels.outcome === "parked");
    assert.deepEqual(parked, []);
    await index.close();
  });
});

test("Chinese is indexed as characters and pairs, everything else as words", () => {
  assert.deepEqual(lexemesOf("小龙虾 IPA／Café330ml"), ["小", "小龙", "龙", "龙虾", "虾", "ipa", "cafe330ml"]);
});

test("a vector is written out with weights, and nothing in it is syntax", () => {
  assert.equal(
    dealVector({ title: "IPA 精酿", merchantName: "Joe's", description: "ipa" }),
    "'ipa':1A,6B '精':2A '精酿':3A '酿':4A 'joe''s':5A",
  );
});

test("a query is all words of the text", () => {
  const query = (text: string): string | undefined => {
    const terms = searchTerms(text);
    return terms && queryOf(terms);
  };
  assert.equal(query("精酿, IPA!"), "'精酿' & 'ipa':*");
  assert.equal(query("虾"), "'虾'");
  assert.equal(query("上海精酿"), "'上海' & '精酿'");
  assert.equal(query("!&|"), undefined);
  assert.equal(searchTerms("abc ".repeat(50) + Array.from({ length: 90 }, (_, index) => index).join(" "))?.length, 32);
});
