/** Merchants, deals and their stock on a real node, with the races and the half-way ends that matter. */
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import fc from "fast-check";
import { apportion, bucketsFor, restock, spreadStock, sumStock } from "../domain/deal/buckets.ts";
import { draftFaults } from "../domain/deal/draft.ts";
import { DEFAULT_RULES } from "../domain/region/policy.ts";
import { moveDeal } from "../domain/deal/moves.ts";
import { DEAL } from "../domain/deal/state.ts";
import { DomainError } from "../domain/error.ts";
import { cityOf, shardOf, slotOf, type DealId, type Id, type MerchantId } from "../domain/ids.ts";
import { next } from "../domain/transition.ts";
import type { Caller } from "../mixins/contract.ts";
import { closeDeal, createDeal, getDeal, listCities, pauseDeal, publishDeal, restockDeal } from "../services/deal/deal.contract.ts";
import { createMerchant, getMerchant } from "../services/merchant/merchant.contract.ts";
import { employUser, findUser } from "../services/user/user.contract.ts";
import { ADMIN, draft, FORM, merchantIn, onSale, registered, USER_SETTINGS, type DealForm } from "./support/market.ts";
import { callAs, caller, testNode, type TestNode } from "./support/node.ts";

const refused = (code: string) => (error: unknown) => error instanceof DomainError && error.type === code;
const codes = (results: readonly PromiseSettledResult<unknown>[]): string[] =>
  results
    .map((result) =>
      result.status === "fulfilled" ? "ok" : result.reason instanceof DomainError ? result.reason.type : String(result.reason),
    )
    .sort();

describe("the catalogue", () => {
  let at: TestNode;
  let owner: Caller & { readonly merchantId: MerchantId };
  before(async () => {
    at = await testNode(["user", "merchant", "stock", "deal"], { user: USER_SETTINGS, merchant: { sweepEveryMs: 50, stuckAfterMs: 300 } });
    owner = await merchantIn(at.node, "sh");
  });
  after(() => at.stop());

  const rows = <Row extends object>(id: string, name: string, text: string, values: unknown[] = [slotOf(id), id]) =>
    at.node.platform.databaseOf(shardOf(id)).query<Row>({ name: `test/${name}`, text }, values);
  const open = (form: { name?: string; city?: string; ownerUsername: string }, key?: string) =>
    callAs(at.node, createMerchant, { name: "酒馆", city: "sh", commissionBps: 500, ...form }, ADMIN, key);
  const merchantsOf = async (username: string, city = "sh") => {
    const databases = at.keyspaces.keyspaces.databases().filter(({ keyspace }) => keyspace.code === city);
    const found = await Promise.all(
      databases.map(async ({ name }) => {
        const database = at.node.platform.databases.get(name);
        assert.ok(database);
        const text = "select id, state from merchants where owner_username = $1";
        return database.query<{ id: Id; state: string }>({ name: "test/merchants", text }, [username]);
      }),
    );
    return found.flat();
  };

  describe("merchants", () => {
    test("are opened in their city, and their owner works for them", async () => {
      const { username } = await registered(at.node);
      const merchant = await open({ ownerUsername: username, city: "hz" });
      assert.equal(cityOf(merchant.id), 3);
      assert.deepEqual(await callAs(at.node, getMerchant, { id: merchant.id }, undefined), { id: merchant.id, name: "酒馆", city: "hz" });
      const user = await callAs(at.node, findUser, { username }, undefined);
      assert.deepEqual([user.roles, user.merchantId], [["consumer", "merchant"], merchant.id]);
      const events = await rows<{ type: string; actor: string }>(
        merchant.id,
        "events",
        "select type, actor from events where slot = $1 and subject = $2",
      );
      assert.deepEqual(events, [{ type: "merchant.created", actor: ADMIN.userId }]);
    });

    test("are opened once for a key, whatever else the second request says", async () => {
      const { username } = await registered(at.node);
      const results = await Promise.all(Array.from({ length: 20 }, () => open({ ownerUsername: username }, "one-key")));
      assert.equal(new Set(results.map((merchant) => merchant.id)).size, 1);
      assert.equal((await merchantsOf(username)).length, 1);
      const again = await open({ ownerUsername: username }, "one-key");
      assert.equal((again as { replayed?: true }).replayed, true);
      for (const other of [{ name: "x" }, { city: "hz" }]) {
        await assert.rejects(open({ ownerUsername: username, ...other }, "one-key"), refused("IDEMPOTENCY_KEY_REUSED"));
      }
    });

    test("of ten who want one owner at once one is opened, and nothing is left of the others", async () => {
      const { username } = await registered(at.node);
      const results = await Promise.allSettled(Array.from({ length: 10 }, () => open({ ownerUsername: username })));
      assert.deepEqual(codes(results), [...Array<string>(9).fill("ALREADY_A_MERCHANT"), "ok"]);
      assert.deepEqual(
        (await merchantsOf(username)).map(({ state }) => state),
        ["OPEN"],
      );
    });

    test("need a city that is served, an owner who exists, and a name that can be stored", async () => {
      const { username } = await registered(at.node);
      for (const city of ["xx", "user"]) await assert.rejects(open({ ownerUsername: username, city }), refused("CITY_NOT_FOUND"));
      await assert.rejects(open({ ownerUsername: "nobody-here" }), refused("USER_NOT_FOUND"));
      await assert.rejects(open({ ownerUsername: username, name: "a\0b" }), refused("VALIDATION_ERROR"));
      assert.deepEqual(await merchantsOf(username), []);
    });

    test("that were opened half are seen by nobody, and finished without anybody asking", async () => {
      const [waiting, taken] = [await registered(at.node), await registered(at.node)];
      const half = async (username: string, ownerId: string) => {
        const [minted] = await rows<{ ids: MerchantId[] }>("4112", "mint", "select mint_ids(1, 0, 1) as ids", []);
        const id = minted?.ids[0] as MerchantId;
        const text = `insert into merchants (slot, id, name, commission_bps, owner_id, owner_username, state) values ($1, $2, 'half', 1, $3, $4, 'OPENING')`;
        await rows(id, "half", text, [0, id, ownerId, username]);
        return id;
      };
      await callAs(at.node, employUser, { username: taken.username, merchantId: "4112" as MerchantId }, undefined);
      const id = await half(waiting.username, waiting.userId);
      await half(taken.username, taken.userId);
      await assert.rejects(callAs(at.node, getMerchant, { id }, undefined), refused("MERCHANT_NOT_FOUND"));
      for (let tries = 0; tries < 100 && (await merchantsOf(waiting.username))[0]?.state !== "OPEN"; tries++)
        await new Promise((resolve) => setTimeout(resolve, 30));
      assert.equal((await callAs(at.node, getMerchant, { id }, undefined)).name, "half");
      assert.equal((await callAs(at.node, findUser, { username: waiting.username }, undefined)).merchantId, id);
      for (let tries = 0; tries < 100 && (await merchantsOf(taken.username)).length > 0; tries++)
        await new Promise((resolve) => setTimeout(resolve, 30));
      assert.deepEqual(await merchantsOf(taken.username), []);
    });

    test("with ids of other kinds and places are not found", async () => {
      for (const id of [owner.userId, "4080", "1", "9223372036854775807"]) {
        await assert.rejects(callAs(at.node, getMerchant, { id: id as Id }, undefined), refused("MERCHANT_NOT_FOUND"));
      }
    });
  });

  describe("deals", () => {
    test("are drafted with defaults, in their merchant's shard, with stock that its flows explain", async () => {
      const deal = await draft(at.node, owner, { stock: 1_003 });
      assert.deepEqual(shardOf(deal.id), shardOf(owner.merchantId));
      assert.equal(deal.status, "DRAFT");
      assert.deepEqual(
        [deal.groupTtlMinutes, deal.voucherValidDays, deal.refundAnytime, deal.refundExpired, deal.description],
        [1_440, 90, true, true, ""],
      );
      assert.deepEqual(deal.stock, { total: 1_003, available: 1_003, held: 0, sold: 0 });
      assert.deepEqual(await callAs(at.node, getDeal, { id: deal.id }, owner), deal);
      const stock = await rows<{ total: number }>(
        deal.id,
        "stock",
        "select total from stock where slot = $1 and deal_id = $2 order by bucket",
      );
      const flows = await rows<{ total: number }>(
        deal.id,
        "flows",
        "select total, cause from stock_flows where slot = $1 and deal_id = $2 order by bucket",
      );
      assert.deepEqual(stock, [{ total: 251 }, { total: 251 }, { total: 251 }, { total: 250 }]);
      assert.deepEqual(
        flows,
        stock.map(({ total }) => ({ total, cause: "created" })),
      );
    });

    test("keep everything a merchant said", async () => {
      const said = {
        ...FORM,
        title: "🍺 'quoted' <b>",
        description: "第一行\n第二行 \\ '",
        tiers: [
          { size: 2, price: 1_990 },
          { size: 100, price: 1 },
        ],
        perUserLimit: 5,
        groupTtlMinutes: 60,
        autoFillBps: 8_000,
        saleStartsAt: "2026-01-01T00:00:00.000Z",
        saleEndsAt: "2090-01-01T00:00:00.500Z",
        voucherValidDays: 7,
        refundAnytime: false,
        refundExpired: false,
      } satisfies DealForm;
      const { stock, ...rest } = said;
      const deal = await draft(at.node, owner, said);
      assert.deepEqual({ ...deal, ...rest, stock: undefined }, { ...deal, stock: undefined });
      assert.equal(deal.stock.total, stock);
    });

    test("are drafted once for a key, fifty times at once", async () => {
      const make = (form: DealForm) => callAs(at.node, createDeal, form, owner, "one-deal");
      const results = await Promise.all(Array.from({ length: 50 }, () => make(FORM)));
      assert.equal(new Set(results.map((deal) => deal.id)).size, 1);
      assert.equal(results.filter((deal) => (deal as { replayed?: true }).replayed).length, 49);
      await assert.rejects(make({ ...FORM, stock: 1 }), refused("IDEMPOTENCY_KEY_REUSED"));
    });

    test("that break a rule are refused with every fault named", async () => {
      const faults = async (form: Partial<DealForm>, ...fields: string[]) =>
        assert.rejects(draft(at.node, owner, form), (error) => {
          assert.ok(error instanceof DomainError && error.type === "VALIDATION_ERROR", String(error));
          assert.deepEqual(
            (error.data as { errors: { field: string }[] }).errors.map(({ field }) => field),
            fields,
          );
          return true;
        });
      await faults({ tiers: [{ size: 3, price: 2_000 }] }, "tiers[0].price");
      await faults(
        {
          tiers: [
            { size: 3, price: 100 },
            { size: 3, price: 100 },
          ],
        },
        "tiers[1].size",
      );
      await faults(
        {
          tiers: [
            { size: 5, price: 100 },
            { size: 3, price: 101 },
          ],
        },
        "tiers[1].size",
        "tiers[1].price",
      );
      await faults({ saleStartsAt: "2030-01-01T00:00:00Z", saleEndsAt: "2030-01-01T00:00:00Z" }, "saleEndsAt");
      await faults({ title: "a\0b", description: "\0" }, "title", "description");
    });

    test("are for merchants", async () => {
      for (const who of [caller("16", ["merchant"]), caller("16", ["merchant"], "16"), caller("16", ["merchant"], "4112")]) {
        await assert.rejects(draft(at.node, who), refused("FORBIDDEN"));
      }
    });

    test("move along their states, and answer the state they are in when asked for it again", async () => {
      const { id } = await draft(at.node, owner);
      const states: string[] = [];
      for (const action of [publishDeal, publishDeal, pauseDeal, pauseDeal, publishDeal, closeDeal, closeDeal]) {
        states.push((await callAs(at.node, action, { id }, owner)).status);
      }
      assert.deepEqual(states, ["ON_SALE", "ON_SALE", "PAUSED", "PAUSED", "ON_SALE", "CLOSED", "CLOSED"]);
      for (const action of [publishDeal, pauseDeal]) await assert.rejects(callAs(at.node, action, { id }, owner), refused("DEAL_STATE"));
      const { id: fresh } = await draft(at.node, owner);
      await assert.rejects(callAs(at.node, pauseDeal, { id: fresh }, owner), refused("DEAL_STATE"));
      const events = await rows<{ data: { from: string; to: string } }>(
        id,
        "moves",
        "select data from events where slot = $1 and subject = $2 and type = 'deal.moved' order by id",
      );
      assert.deepEqual(
        events.map(({ data }) => `${data.from}→${data.to}`),
        ["DRAFT→ON_SALE", "ON_SALE→PAUSED", "PAUSED→ON_SALE", "ON_SALE→CLOSED"],
      );
    });

    test("moved by many at once move along one path that is in the table", async () => {
      const { id } = await onSale(at.node, owner);
      const moves = Array.from({ length: 60 }, (_, index) =>
        callAs(at.node, [publishDeal, pauseDeal, closeDeal][index % 31 === 30 ? 2 : index % 2] ?? publishDeal, { id }, owner),
      );
      await Promise.allSettled(moves);
      const events = await rows<{ data: { from: "DRAFT"; to: string } }>(
        id,
        "moves",
        "select data from events where slot = $1 and subject = $2 and type = 'deal.moved' order by id",
      );
      let state = "DRAFT";
      for (const { data } of events) {
        assert.equal(data.from, state);
        assert.ok(Object.values(DEAL[data.from]).includes(data.to as never));
        state = data.to;
      }
      assert.equal((await callAs(at.node, getDeal, { id }, undefined)).status, state);
    });

    test("are hidden while drafts, and never another merchant's to touch", async () => {
      const { id } = await draft(at.node, owner);
      const stranger = await merchantIn(at.node, "sh");
      for (const who of [undefined, stranger]) await assert.rejects(callAs(at.node, getDeal, { id }, who), refused("DEAL_NOT_FOUND"));
      await callAs(at.node, publishDeal, { id }, owner);
      assert.equal((await callAs(at.node, getDeal, { id }, undefined)).id, id);
      for (const action of [publishDeal, pauseDeal, closeDeal])
        await assert.rejects(callAs(at.node, action, { id }, stranger), refused("DEAL_NOT_FOUND"));
      await assert.rejects(callAs(at.node, restockDeal, { id, quantity: 1 }, stranger), refused("DEAL_NOT_FOUND"));
      await assert.rejects(callAs(at.node, restockDeal, { id, quantity: 1 }, caller("16")), refused("DEAL_NOT_FOUND"));
    });

    test("with ids of other kinds and places are not found", async () => {
      for (const id of [owner.userId, owner.merchantId, "4080", "1", "9223372036854775807"] as Id[]) {
        for (const action of [getDeal, publishDeal])
          await assert.rejects(callAs(at.node, action, { id }, owner), refused("DEAL_NOT_FOUND"));
        await assert.rejects(callAs(at.node, restockDeal, { id, quantity: 1 }, owner), refused("DEAL_NOT_FOUND"));
      }
    });

    test("cities are those of the routing table", async () => {
      assert.deepEqual(await callAs(at.node, listCities, {}, undefined), [
        { code: "sh", name: "上海 Shanghai" },
        { code: "hz", name: "杭州 Hangzhou" },
      ]);
    });
  });

  describe("restocking", () => {
    const restocked = (id: Id, quantity: number, key?: string) => callAs(at.node, restockDeal, { id, quantity }, owner, key);

    test("twenty at once add up, each once", async () => {
      const { id } = await onSale(at.node, owner, { stock: 1_000 });
      const results = await Promise.all(Array.from({ length: 20 }, (_, index) => restocked(id, index % 2 === 0 ? 10 : -3)));
      assert.equal(results.length, 20);
      assert.deepEqual((await callAs(at.node, getDeal, { id }, undefined)).stock, { total: 1_070, available: 1_070, held: 0, sold: 0 });
      const [sums] = await rows(
        id,
        "sums",
        "select sum(total)::integer as total, sum(held)::integer as held, sum(sold)::integer as sold from stock_flows where slot = $1 and deal_id = $2",
      );
      assert.deepEqual(sums, { total: 1_070, held: 0, sold: 0 });
    });

    test("one key twenty times at once is one restock", async () => {
      const { id } = await onSale(at.node, owner);
      const results = await Promise.all(Array.from({ length: 20 }, () => restocked(id, 7, "restock-once")));
      assert.deepEqual(new Set(results.map((stock) => stock.total)), new Set([107]));
      await assert.rejects(restocked(id, 8, "restock-once"), refused("IDEMPOTENCY_KEY_REUSED"));
    });

    test("takes back what is unsold, from all buckets together, and nothing that is held or sold", async () => {
      const { id } = await onSale(at.node, owner, { stock: 400 });
      await rows(id, "hold", "update stock set held = 40 + bucket, sold = 10 where slot = $1 and deal_id = $2 and bucket < 3");
      await assert.rejects(
        restocked(id, -248),
        (error) => refused("STOCK_TOO_LOW")(error) && (error as DomainError & { data: { available: number } }).data.available === 247,
      );
      assert.deepEqual(await restocked(id, -247), { total: 153, available: 0, held: 123, sold: 30 });
      await assert.rejects(restocked(id, -1), refused("STOCK_TOO_LOW"));
      assert.deepEqual(await restocked(id, 5), { total: 158, available: 5, held: 123, sold: 30 });
    });

    test("of twenty who want the last hundred units in tens, ten get them", async () => {
      const { id } = await onSale(at.node, owner, { stock: 100 });
      const results = await Promise.allSettled(Array.from({ length: 20 }, () => restocked(id, -10)));
      assert.deepEqual(codes(results), [...Array<string>(10).fill("STOCK_TOO_LOW"), ...Array<string>(10).fill("ok")]);
    });

    test("has an end", async () => {
      const { id } = await onSale(at.node, owner);
      for (let times = 0; times < 9; times++) await restocked(id, 10_000_000);
      await assert.rejects(restocked(id, 10_000_000), refused("VALIDATION_ERROR"));
    });
  });
});

const counts = fc
  .record({ held: fc.nat(1_000), sold: fc.nat(1_000), free: fc.nat(1_000) })
  .map(({ held, sold, free }) => ({ total: held + sold + free, held, sold }));

test("units are shared out whole, and nothing is lost", () => {
  fc.assert(
    fc.property(fc.nat(100_000_000), fc.array(fc.nat(100_000_000), { minLength: 1, maxLength: 8 }), (units, weights) => {
      const whole = weights.reduce((a, b) => a + b, 0);
      fc.pre(whole > 0);
      const parts = apportion(units, weights);
      assert.equal(
        parts.reduce((a, b) => a + b, 0),
        units,
      );
      for (const [index, part] of parts.entries()) assert.ok(part >= 0 && (units > whole || part <= (weights[index] ?? 0)));
    }),
  );
  assert.deepEqual([bucketsFor(255), bucketsFor(256)], [1, 4]);
  assert.deepEqual(spreadStock(1), [1]);
  assert.deepEqual(spreadStock(258), [65, 65, 64, 64]);
});

test("a restock changes the sum by its quantity and never digs into what is held or sold", () => {
  fc.assert(
    fc.property(fc.array(counts, { minLength: 1, maxLength: 4 }), fc.integer({ min: -5_000, max: 5_000 }), (buckets, quantity) => {
      fc.pre(quantity !== 0);
      const { available } = sumStock(buckets);
      const changes = restock("1" as DealId, buckets, quantity);
      if (changes instanceof DomainError) return assert.ok(-quantity > available);
      assert.equal(
        changes.reduce((a, b) => a + b, 0),
        quantity,
      );
      return buckets.forEach((bucket, index) => assert.ok(bucket.total + (changes[index] ?? 0) >= bucket.held + bucket.sold));
    }),
  );
});

test("tiers that get larger and no dearer have no fault, and any others do", () => {
  const tiers = fc.array(fc.record({ size: fc.integer({ min: 2, max: 100 }), price: fc.integer({ min: 1, max: 50 }) }), { maxLength: 4 });
  fc.assert(
    fc.property(tiers, fc.integer({ min: 1, max: 50 }), (list, price) => {
      const good = list.every(
        (tier, index) =>
          tier.price <= price && list.slice(0, index).every((smaller) => smaller.size < tier.size && smaller.price >= tier.price),
      );
      assert.equal(draftFaults({ title: "t", stock: 1, price, tiers: list }, DEFAULT_RULES).length === 0, good);
    }),
  );
});

test("a move goes where the table says, or stays where it was asked to go", () => {
  for (const state of ["DRAFT", "ON_SALE", "PAUSED", "CLOSED"] as const) {
    for (const [event, target] of [
      ["publish", "ON_SALE"],
      ["pause", "PAUSED"],
      ["close", "CLOSED"],
    ] as const) {
      const moved = moveDeal("1" as DealId, state, event);
      if (state === target || next(DEAL, state, event)) assert.equal(moved, target);
      else assert.ok(moved instanceof DomainError);
    }
  }
});
