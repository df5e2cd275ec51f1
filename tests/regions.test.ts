import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, it, test } from "node:test";
import fc from "fast-check";
import { fen } from "../domain/money.ts";
import { DEFAULT_POLICY, DEFAULT_RULES, DISCOUNT_BPS_MAX, rulesOf, unitDiscount, type RegionPolicy } from "../domain/region/policy.ts";
import { regionFaults } from "../regions/conformance.ts";
import { ManifestError, Regions } from "../regions/registry.ts";
import { createDeal } from "../services/deal/deal.contract.ts";
import { listRegions, reloadRegions, verify } from "../services/ops/ops.contract.ts";
import { getOrder, placeOrder } from "../services/order/order.contract.ts";
import { DomainError } from "../domain/error.ts";
import { shardOf } from "../domain/ids.ts";
import { makeDeal, userId } from "./support/deals.ts";
import { callAs, caller, testNode, type TestNode } from "./support/node.ts";

const manifest = new URL("../regions/manifest.yaml", import.meta.url).pathname;
const shipped = await Promise.all(
  ["cn-sh", "cn-bj"].map(async (name) => ((await import(`../regions/${name}.ts`)) as { default: RegionPolicy }).default),
);

for (const policy of [DEFAULT_POLICY, ...shipped])
  test(`the policy of ${policy.region} conforms`, () => {
    assert.deepEqual(regionFaults(policy, { region: policy.region, version: policy.version }), []);
  });

test("the shipped regions have their days, by their own clock", () => {
  const [shanghai, beijing] = shipped as [RegionPolicy, RegionPolicy];
  // 16:00 in London is midnight in Shanghai.
  assert.equal(rulesOf(shanghai, { now: new Date("2027-05-04T15:59:59Z") }).groupBps, 0);
  assert.equal(rulesOf(shanghai, { now: new Date("2027-05-04T16:00:00Z") }).groupBps, 500);
  assert.equal(rulesOf(beijing, { now: new Date("2027-09-07T15:59:59Z") }).aloneBps, 300);
  assert.equal(rulesOf(beijing, { now: new Date("2027-09-07T16:00:00Z") }).aloneBps, 0);
  assert.equal(rulesOf(beijing, { now: new Date(0) }).ttlMinutesMax, 20_160);
});

test("a discount is half up in fen and never the whole price", () => {
  assert.equal(unitDiscount(fen(1990), 500), 100n);
  assert.equal(unitDiscount(fen(1989), 500), 99n);
  assert.equal(unitDiscount(fen(1), 9_000), 0n);
  fc.assert(
    fc.property(fc.bigInt({ min: 1n, max: 10n ** 10n }), fc.integer({ min: 0, max: DISCOUNT_BPS_MAX }), (price, bps) => {
      const off = unitDiscount(fen(price), bps);
      const exact = price * BigInt(bps);
      assert.ok(off >= 0n && off < price);
      if (off < price - 1n) assert.ok(2n * (off * 10_000n - exact) <= 10_000n && 2n * (off * 10_000n - exact) > -10_000n);
    }),
  );
});

const policyText = (of: {
  region?: string;
  version?: string;
  api?: number;
  discount?: string;
  groups?: string;
  before?: string;
}): string => `
  ${of.before ?? ""}
  export default {
    api: ${of.api ?? 1}, region: "${of.region ?? "cn-sh"}", version: "${of.version ?? "1.0.0"}",
    admission: () => ({ ordersPerSecond: 3 }),
    discount: (facts) => { ${of.discount ?? "return { aloneBps: 250, groupBps: 1000 };"} },
    groups: () => (${of.groups ?? "{ sizeMax: 5, ttlMinutesMin: 10, ttlMinutesMax: 60 }"}),
  };`;

class Folder {
  readonly path = mkdtempSync(join(tmpdir(), "tuanbar-regions-"));
  readonly manifest = join(this.path, "manifest.yaml");
  policy(name: string, of: Parameters<typeof policyText>[0] = {}): void {
    writeFileSync(join(this.path, name), policyText(of));
  }
  list(...entries: readonly { region?: string; module: string; version?: string; order?: number }[]): void {
    const lines = entries.map(
      ({ region = "cn-sh", module, version = "1.0.0", order = 1 }) =>
        `  - { region: ${region}, module: ${module}, version: ${version}, order: ${order} }`,
    );
    writeFileSync(this.manifest, `regions:\n${lines.join("\n")}\n`);
  }
}

describe("loading regions", () => {
  const folder = new Folder();
  after(() => rmSync(folder.path, { recursive: true, force: true }));
  const faults: string[] = [];
  const load = (): Promise<Regions> => {
    faults.length = 0;
    return Regions.load(folder.manifest, { fault: (region, kind, detail) => faults.push(`${region} ${kind} ${detail}`) });
  };

  it("takes the shipped manifest as it is", async () => {
    const regions = await Regions.load(manifest, { fault: (...fault) => assert.fail(fault.join(" ")) });
    assert.deepEqual(
      regions.list().map(({ region, state }) => [region, state]),
      [
        ["cn-sh", "ACTIVE"],
        ["cn-bj", "ACTIVE"],
        ["default", "ACTIVE"],
      ],
    );
    assert.equal(regions.rulesFor("cn-sh").ordersPerSecond, 100_000);
    assert.equal(regions.rulesFor("cn-hz"), DEFAULT_RULES);
    assert.equal(regions.rulesFor(undefined), DEFAULT_RULES);
  });

  const broken: readonly (readonly [string, Parameters<typeof policyText>[0], RegExp])[] = [
    ["is of another version than the manifest says", { version: "2.0.0" }, /version 2\.0\.0, the manifest says 1\.0\.0/],
    ["is of another region", { region: "us-ny" }, /of region us-ny/],
    ["is written for another interface", { api: 2 }, /interface 2/],
    ["throws", { discount: 'throw new Error("no luck");' }, /no luck/],
    [
      "throws one day a year",
      {
        discount:
          'if (facts.now.getUTCMonth() === 1 && facts.now.getUTCDate() === 29) throw new Error("leap"); return { aloneBps: 0, groupBps: 0 };',
      },
      /2028-02-29.*leap/,
    ],
    ["gives a discount of nonsense", { discount: "return { aloneBps: 0.5, groupBps: -1 };" }, /aloneBps is 0\.5/],
    ["gives everything away", { discount: "return { aloneBps: 10000, groupBps: 0 };" }, /aloneBps is 10000/],
    ["answers with a promise", { discount: "return Promise.resolve({ aloneBps: 0, groupBps: 0 });" }, /aloneBps is undefined/],
    ["throws dice", { discount: "return { aloneBps: Math.floor(Math.random() * 9000), groupBps: 0 };" }, /two answers/],
    ["has bounds the wrong way round", { groups: "{ sizeMax: 5, ttlMinutesMin: 60, ttlMinutesMax: 10 }" }, /ttlMinutesMin is above/],
    ["never returns", { discount: "for (;;);" }, /not answered within/],
    ["cannot be loaded", { before: "import 'no-such-package';" }, /cannot be loaded/],
    ["ends the process", { before: "process.exit(0);" }, /ends the process/],
  ];
  for (const [what, policy, why] of broken)
    it(`refuses a policy that ${what}, alarms, and sells on by the default rules`, async () => {
      folder.policy("one.mjs", policy);
      folder.list({ module: "./one.mjs" });
      const regions = await load();
      assert.equal(regions.rulesFor("cn-sh"), DEFAULT_RULES);
      assert.equal(faults.length, 1);
      assert.match(faults[0] ?? "", /^cn-sh refused/);
      assert.match(faults[0] ?? "", why);
      assert.equal(regions.list().at(-1)?.state, "REFUSED");
    });

  it("takes the last sound one where a region is listed twice", async () => {
    folder.policy("one.mjs", { version: "1.0.0" });
    folder.policy("two.mjs", { version: "1.1.0" });
    folder.policy("three.mjs", { version: "1.2.0", discount: "throw 1;" });
    folder.list(
      { module: "./three.mjs", version: "1.2.0", order: 3 },
      { module: "./two.mjs", version: "1.1.0", order: 2 },
      { module: "./one.mjs", order: 1 },
    );
    assert.equal((await load()).rulesFor("cn-sh").version, "1.1.0");
  });

  it("takes a change without a restart, and keeps what was there where the new one is not sound", async () => {
    folder.policy("one.mjs");
    folder.list({ module: "./one.mjs" });
    const regions = await load();
    assert.equal(regions.rulesFor("cn-sh").aloneBps, 250);
    folder.policy("one.mjs", { version: "1.0.1", discount: "return { aloneBps: 300, groupBps: 0 };" });
    folder.list({ module: "./one.mjs", version: "1.0.1" });
    await regions.reload();
    assert.equal(regions.rulesFor("cn-sh").aloneBps, 300);
    folder.policy("one.mjs", { version: "1.0.2", discount: "return 7;" });
    folder.list({ module: "./one.mjs", version: "1.0.2" });
    await regions.reload();
    assert.equal(regions.rulesFor("cn-sh").version, "1.0.1");
    writeFileSync(folder.manifest, "regions: 7");
    await assert.rejects(regions.reload(), ManifestError);
    assert.equal(regions.rulesFor("cn-sh").version, "1.0.1");
  });

  for (const [what, later, kind] of [
    ["throws", 'throw new Error("later");', "threw"],
    ["talks nonsense", "return {};", "nonsense"],
    [
      "takes too long",
      "const end = performance.now() + 50; while (performance.now() < end); return { aloneBps: 250, groupBps: 0 };",
      "slow",
    ],
  ] as const)
    it(`lets the default policy stand in for one that ${what} while it serves, until it is sound again`, async () => {
      const flag = `broken_${kind}`;
      folder.policy("one.mjs", { discount: `if (globalThis.${flag}) { ${later} } return { aloneBps: 250, groupBps: 0 };` });
      folder.list({ module: "./one.mjs" });
      const regions = await load();
      assert.equal(regions.rulesFor("cn-sh").aloneBps, 250);
      (globalThis as Record<string, unknown>)[flag] = true;
      await new Promise((resolve) => setTimeout(resolve, 1_050));
      assert.equal(regions.rulesFor("cn-sh"), DEFAULT_RULES);
      assert.match(faults[0] ?? "", new RegExp(`^cn-sh ${kind}`));
      assert.equal(regions.list()[0]?.state, "FALLBACK");
      (globalThis as Record<string, unknown>)[flag] = false;
      await new Promise((resolve) => setTimeout(resolve, 1_050));
      assert.equal(regions.rulesFor("cn-sh").aloneBps, 250);
    });
});

describe("selling by regional rules", () => {
  const folder = new Folder();
  let node: TestNode;
  before(async () => {
    folder.policy("sh.mjs");
    folder.list({ module: "./sh.mjs" });
    node = await testNode(["probe", "deal", "group", "order", "ops"], {}, { regionsFile: folder.manifest });
  });
  after(async () => {
    await node.stop();
    rmSync(folder.path, { recursive: true, force: true });
  });
  const place = (deal: Awaited<ReturnType<typeof makeDeal>>, n: number, of: object = {}) =>
    callAs(node.node, placeOrder, { dealId: deal, quantity: 3, ...of }, caller(userId(n)));

  it("takes the discount off every unit, and the order keeps which policy gave it", async () => {
    const deal = await makeDeal(node, { stock: 50, price: 1990, tiers: [{ size: 3, price: 1590 }] });
    const alone = await place(deal, 1);
    // 2.5 % of 1990 is 49.75.
    assert.deepEqual(
      [alone.unitPrice, alone.discount, alone.amount, alone.region, alone.regionVersion, alone.discountBps],
      [1990, 150, 5820, "cn-sh", "1.0.0", 250],
    );
    const group = await place(deal, 2, { groupSize: 3 });
    assert.deepEqual([group.unitPrice, group.discount, group.amount, group.discountBps], [1590, 477, 4293, 1000]);
    folder.policy("sh.mjs", { version: "1.1.0", discount: "return { aloneBps: 0, groupBps: 0 };" });
    folder.list({ module: "./sh.mjs", version: "1.1.0" });
    const { items } = await callAs(node.node, reloadRegions, {}, caller("16", ["admin"]));
    assert.deepEqual(
      items.map(({ region, version, state }) => [region, version, state]),
      [
        ["cn-sh", "1.1.0", "ACTIVE"],
        ["default", "1.0.0", "ACTIVE"],
      ],
    );
    assert.deepEqual(await callAs(node.node, listRegions, {}, caller("16", ["admin"])), { items });
    assert.deepEqual(await callAs(node.node, getOrder, { id: alone.id }, caller(userId(1))), alone);
    const later = await place(deal, 3);
    assert.deepEqual([later.amount, later.regionVersion], [5970, "1.1.0"]);
  });

  it("lets in what the region admits, and tells the others to come again", async () => {
    const deal = await makeDeal(node, { stock: 500 });
    await new Promise((resolve) => setTimeout(resolve, 1_000));
    const results = await Promise.allSettled(Array.from({ length: 30 }, (_, n) => place(deal, 100 + n)));
    const refused = results.filter((result) => result.status === "rejected");
    assert.ok(refused.length >= 24, `${refused.length} of 30 refused at 3 a second`);
    assert.ok(refused.every(({ reason }) => reason instanceof DomainError && reason.type === "OVERLOADED"));
  });

  it("has no rules but the default ones where a region has no policy", async () => {
    const deal = await makeDeal(node, { stock: 50, city: 3 });
    const order = await place(deal, 4);
    assert.deepEqual([order.region, order.discount], ["default", 0]);
  });

  it("bounds groups where deals are drafted and where groups are opened", async () => {
    const old = await makeDeal(node, {
      stock: 50,
      tiers: [
        { size: 5, price: 1500 },
        { size: 6, price: 1400 },
      ],
      groupTtlMinutes: 600,
    });
    await new Promise((resolve) => setTimeout(resolve, 1_000));
    await assert.rejects(place(old, 5, { groupSize: 6 }), (error) => error instanceof DomainError && error.type === "NO_SUCH_TIER");
    const { groupId = "" } = await place(old, 6, { groupSize: 5 });
    const [row] = await node.node.platform
      .databaseOf(shardOf(groupId))
      .query<{ ttl_minutes: number }>({ name: "test/ttl", text: "select ttl_minutes from groups where slot = $1 and id = $2" }, [
        shardOf(groupId).slot,
        groupId,
      ]);
    assert.equal(row?.ttl_minutes, 60);
    const [merchant] = await node.node.platform
      .databaseOf(shardOf(old))
      .query<{ merchant_id: string }>({ name: "test/owner", text: "select merchant_id from deals where slot = $1 and id = $2" }, [
        shardOf(old).slot,
        old,
      ]);
    const form = { title: "t", price: 1990, tiers: [{ size: 6, price: 1500 }], stock: 5, groupTtlMinutes: 61 };
    await assert.rejects(callAs(node.node, createDeal, form, caller("16", ["merchant"], merchant?.merchant_id)), (error) => {
      assert.ok(error instanceof DomainError);
      const { errors } = error.data as { errors: { field: string; message: string }[] };
      assert.deepEqual(errors, [
        { field: "tiers[0].size", message: "at most 5 in this region" },
        { field: "groupTtlMinutes", message: "from 10 to 60 in this region" },
      ]);
      return true;
    });
  });

  it("adds up", async () => {
    const { checks } = await callAs(node.node, verify, {}, caller("16", ["admin"]));
    assert.deepEqual(
      checks.filter(({ ok, name }) => !ok && name !== "events.order-index"),
      [],
    );
  });
});
