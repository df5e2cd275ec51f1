import { test } from "node:test";
import { testNode } from "./support/node.ts";
import { World } from "./support/world.ts";
import { Snapshot } from "../services/ops/snapshot.ts";
import { CHECKS } from "../services/ops/checks/index.ts";
import { Verifier } from "../services/ops/verify.ts";
import pg from "pg";
const N = Number(process.env.N ?? 200000);
test("x", { timeout: 3_000_000 }, async () => {
  const node = await testNode(["ops"]);
  try { const t0 = performance.now();
  const per = Math.floor(N / 32);
  const at = new Date(Date.now() - 3_600_000);
  for (let slot = 0; slot < 16; slot++) {
    const world = new World(node.keyspaces, at);
    for (const city of [1, 3]) {
    const deal = world.deal({ city, slot }, { price: 9900, stock: per * 3, limit: 99 });
    const users = Array.from({ length: Math.ceil(per / 10) }, () => world.user(slot, 10_000_000));
    for (let i = 0; i < per; i++) {
      const user = users[i % users.length]!;
      if (i % 10 === 0) { world.end(world.order(deal, user, 1), "EXPIRED"); continue; }
      if (i % 10 < 4) { world.pay(world.order(deal, user, 1)); continue; }
      if (i % 2 === 0) {
        const other = users[(i + 1) % users.length]!;
        const g = world.openGroup(deal, 2, user);
        const a = world.order(deal, user, 1, g), b = world.order(deal, other, 1, g);
        world.pay(a); world.pay(b); world.form(g, [a, b]); i++;
      } else world.pay(world.order(deal, user, 1));
    }
    }
    await world.write();
    // user slots are shared by the two cities: continue chain
  }
  console.log("made", (performance.now() - t0) / 1000);
  console.log(JSON.stringify(node.keyspaces.keyspaces.databases().map(d => d.name)));
  await node.node.stop();
  } finally { }
});
