/** The samples of a fresh installation, loaded into real keyspaces by the public actions. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { after, before, describe, test } from "node:test";
import { parse } from "yaml";
import { loadSamples } from "../samples/load.ts";
import { listCities } from "../services/deal/deal.contract.ts";
import { searchDeals } from "../services/search/search.contract.ts";
import { findUser, logIn } from "../services/user/user.contract.ts";
import { getWallet } from "../services/wallet/wallet.contract.ts";
import { USER_SETTINGS } from "./support/market.ts";
import { callAs, caller, testNode, type TestNode } from "./support/node.ts";

interface Sample {
  password: string;
  consumers: { username: string; topup: number }[];
  merchants: { city: string; ownerUsername: string; deals: unknown[] }[];
}
/** The test keyspaces have no bj: its merchants are put into sh. */
const yaml = readFileSync(new URL("../samples/city.yaml", import.meta.url), "utf8").replaceAll("city: bj", "city: sh");
const sample = parse(yaml) as Sample;
const deals = sample.merchants.reduce((sum, merchant) => sum + merchant.deals.length, 0);

describe("the samples", () => {
  let at: TestNode;
  before(async () => {
    at = await testNode(["user", "wallet", "merchant", "stock", "deal", "search"], {
      user: { ...USER_SETTINGS, adminPassword: "an-admin-password" },
      wallet: { testChannel: true },
    });
  });
  after(() => at.stop());

  const onSale = async (): Promise<string[]> => {
    const titles: string[] = [];
    for (let cursor: string | undefined; ;) {
      const { items, nextCursor } = await callAs(
        at.node,
        searchDeals,
        { limit: 100, ...(cursor === undefined ? {} : { cursor }) },
        undefined,
      );
      titles.push(...items.map((deal) => `${deal.merchantName} ${deal.title}`));
      if (!nextCursor) return titles.sort();
      cursor = nextCursor;
    }
  };
  const wallets = () =>
    Promise.all(
      sample.consumers.map(async ({ username }) => {
        const { id } = await callAs(at.node, findUser, { username }, undefined);
        return (await callAs(at.node, getWallet, {}, caller(id))).available;
      }),
    );

  test("are as many as they should be", () => {
    assert.ok(sample.merchants.length >= 12 && deals >= 40 && sample.consumers.length >= 3);
  });

  test("a load that broke off in the middle is healed by the next, and a third changes nothing", async () => {
    const half = {
      ...sample,
      consumers: sample.consumers.slice(0, 3),
      merchants: [...sample.merchants.slice(0, 4), { ...sample.merchants[4], city: "xx" }],
    };
    await assert.rejects(loadSamples(at.node.broker, JSON.stringify(half)));
    assert.deepEqual(await loadSamples(at.node.broker, yaml), {
      consumers: sample.consumers.length,
      merchants: sample.merchants.length,
      deals,
    });
    const once = [await onSale(), await wallets()];
    assert.equal(once[0]?.length, deals);
    assert.deepEqual(
      once[1],
      sample.consumers.map(({ topup }) => topup),
    );
    await loadSamples(at.node.broker, yaml);
    assert.deepEqual([await onSale(), await wallets()], once);
  });

  test("everybody in them can log in with the password of the file", async () => {
    const names = [sample.consumers[0]?.username, sample.merchants[0]?.ownerUsername];
    for (const username of names) await callAs(at.node, logIn, { username: username ?? "", password: sample.password }, undefined);
    const owner = await callAs(at.node, findUser, { username: names[1] ?? "" }, undefined);
    assert.deepEqual(owner.roles, ["consumer", "merchant"]);
  });

  test("every city of them is served by the routing table that is shipped", async () => {
    const shipped = Object.keys(
      (parse(readFileSync(new URL("../keyspaces.yaml", import.meta.url), "utf8")) as { keyspaces: object }).keyspaces,
    );
    const cities = (parse(readFileSync(new URL("../samples/city.yaml", import.meta.url), "utf8")) as Sample).merchants.map(
      ({ city }) => city,
    );
    for (const city of new Set(cities)) assert.ok(shipped.includes(city), city);
    assert.ok((await callAs(at.node, listCities, {}, undefined)).length > 0);
  });
});
