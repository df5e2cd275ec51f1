/** Routing tables: written anew, kept in databases and found there, told from node to node; and what cannot be moved. Moves: `tests/cluster/shards*`. */
import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { parseKeyspaces, withSlotsMoved } from "../db/keyspaces.ts";
import { connectForMove } from "../db/move-copy.ts";
import { makeMovingSchema } from "../db/move-fence.ts";
import { keepKeyspaces, newestKeyspaces } from "../db/routing.ts";
import { DomainError } from "../domain/error.ts";
import type { Keyspaces } from "../db/keyspaces.ts";
import { moveSlots } from "../services/ops/ops.contract.ts";
import { applyRouting } from "../services/routing/routing.contract.ts";
import { ADMIN } from "./support/market.ts";
import { callAs, testNode, type TestNode } from "./support/node.ts";
import { refused } from "./support/shop.ts";

describe("a routing table", () => {
  const yaml = `# who lives where
version: 4
keyspaces:
  user: { id: 0, name: users, databases: { user: 0-15 } }
  # split
  hz: { id: 3, name: 杭州, databases: { hz_a: 0-7, hz_b: 8-15 } } # here
`;
  it("is written anew with its comments, one version on", () => {
    const moved = withSlotsMoved(parseKeyspaces(yaml), "hz", [2, 3, 9], "hz_c");
    assert.equal(moved.version, 5);
    assert.match(moved.yaml, /# who lives where[\s\S]*# split[\s\S]*# here/);
    assert.match(moved.yaml, /databases: \{ hz_a: "?0-1,4-7"?, hz_c: "?2-3,9"?, hz_b: "?8,10-15"? \}/);
    assert.deepEqual(
      moved.databases().map(({ name, slots }) => [name, slots.length]),
      [
        ["user", 16],
        ["hz_a", 6],
        ["hz_c", 3],
        ["hz_b", 7],
      ],
    );
  });
});

describe("a node's routing table", () => {
  let at: TestNode;
  let first = "";
  let second = "";
  before(async () => {
    at = await testNode(["ops"]);
    [first = "", second = ""] = new Set(at.keyspaces.keyspaces.byCode("hz")?.databases);
  });
  after(() => at.stop());

  /** As a move does when it is decided, in one database. */
  async function keep(database: string, table: Keyspaces): Promise<void> {
    const client = await connectForMove(at.keyspaces.urlOf(database));
    try {
      await makeMovingSchema(client);
      await keepKeyspaces(client, table);
    } finally {
      await client.end();
    }
  }

  it("is the newest that is kept in a database which an older one names, and that in turn names others", async () => {
    const configured = at.keyspaces.keyspaces;
    const newest = (): Promise<Keyspaces> => newestKeyspaces(configured, at.keyspaces.urlOf);
    assert.equal((await newest()).version, 0);
    const once = withSlotsMoved(configured, "hz", [8, 9, 10, 11, 12, 13, 14, 15], first);
    const twice = withSlotsMoved(withSlotsMoved(once, "hz", [3], second), "hz", [3], first);
    await keep(first, once);
    assert.equal((await newest()).version, 1);
    await keep(first, twice);
    await keep(first, once);
    assert.equal((await newest()).version, 3, "an older one overwrites nothing");
    const handmade = parseKeyspaces(configured.yaml.replace("keyspaces:", "version: 9\n    keyspaces:"));
    assert.equal((await newestKeyspaces(handmade, at.keyspaces.urlOf)).version, 9, "who writes one by hand may raise its version");
  });

  it("is taken over from whoever tells a newer one, and never an older one", async () => {
    const { platform } = at.node;
    const before = platform.keyspaces;
    const newer = withSlotsMoved(before, "hz", [8], first);
    assert.equal((await callAs(at.node, applyRouting, { yaml: newer.yaml }, ADMIN)).version, before.version + 1);
    assert.equal((await callAs(at.node, applyRouting, { yaml: before.yaml }, ADMIN)).version, before.version + 1);
    assert.equal(platform.databaseOf({ city: 3, slot: 8 }).name, first);
  });

  it("is not changed by what cannot be moved, which is refused in a sentence", async () => {
    const ask = (city: string, slots: string, to: string) => callAs(at.node, moveSlots, { city, slots, to }, ADMIN);
    for (const [city, slots, to, what] of [
      ["hz", "16", "hz_x", /numbers or ranges/],
      ["hz", "8-15; drop", "hz_x", /numbers or ranges/],
      ["hz", "6-9", "hz_x", /several databases/],
      ["hz", "8", "Not A Name", /not a database/],
      ["hz", "8", "http://localhost/x", /not a database/],
      ["hz", "8", "postgresql://somebody:secret@127.0.0.1:1/x", /^127.0.0.1:1\/x cannot be used: (?!.*secret)/],
      ["hz", "8", at.keyspaces.keyspaces.byCode("sh")?.databases[0] ?? "", /is a database of sh/],
    ] as const) {
      await assert.rejects(
        ask(city, slots, to),
        (error) => error instanceof DomainError && error.type === "MOVE_REFUSED" && what.test(error.message),
      );
    }
    await assert.rejects(ask("nowhere", "8", "hz_x"), refused("CITY_NOT_FOUND"));
  });
});
