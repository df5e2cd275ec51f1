/**
 * The least PostgreSQL can do for orders: the statements of the order drain, in batches of a given size, one after the other, on one
 * connection; no HTTP, no event consumers. Told by its parent what to do; what it burns itself does not count, only PostgreSQL beside it.
 */
import { randomBytes } from "node:crypto";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { startEmbeddedPostgres } from "../../db/embedded.ts";
import { loadKeyspaces } from "../../db/keyspaces.ts";
import { shardOf, type DealId } from "../../domain/ids.ts";
import { LIMITS } from "../../domain/limits.ts";
import type { PlaceCommand, Placed } from "../../domain/order/place.ts";
import { makeNode } from "../../moleculer.config.ts";
import { openDataDir } from "../../scripts/data-dir.ts";
import { makePlaceDrain } from "../../services/order/place.drain.ts";
import { shopperId } from "../load/shoppers.ts";

export interface Batches {
  readonly dataDir: string;
  readonly dealId: string;
  readonly size: number;
  readonly warmSeconds: number;
  readonly seconds: number;
  readonly shoppers: number;
}
export type BatchReport = { readonly window: "open" } | { readonly window: "closed"; readonly orders: number; readonly seconds: number };

const report = (what: BatchReport): void => void process.send?.(what);

async function run({ dataDir: path, dealId, size, warmSeconds, seconds, shoppers }: Batches): Promise<void> {
  const dataDir = openDataDir(path);
  const postgres = await startEmbeddedPostgres({ dataDir: dataDir.path, log: (line) => process.stderr.write(`${line}\n`) });
  const node = await makeNode({
    nodeID: `bench-${process.pid}`,
    keyspaces: loadKeyspaces(join(fileURLToPath(new URL("../..", import.meta.url)), "keyspaces.yaml")),
    urlOf: (database) => postgres.url(database),
    services: [],
    trade: { orderTtlSeconds: 3_600, reversalMinutes: 60, settlementDelayMinutes: 60 },
    logLevel: "warn",
  });
  node.platform.offer("order.place", makePlaceDrain(node.platform));
  let sent = 0;
  // All of a batch is posted in one turn of the event loop, so it is drained as one.
  const batch = (): Promise<Placed[]> =>
    Promise.all(
      Array.from({ length: size }, () => {
        const command: PlaceCommand = {
          consumerId: shopperId(sent++ % shoppers),
          username: "bench",
          dealId: dealId as DealId,
          quantity: 1,
          groupSize: undefined,
          groupId: undefined,
          idemKey: `${RUN}-${sent}`,
          bodyHash: BODY_HASH,
          requestId: undefined,
        };
        return node.platform.post<PlaceCommand, Placed>(shardOf(dealId), "order.place", command);
      }),
    );
  // Nobody may have more unpaid orders: on a machine that makes 30,000 a second the window is shorter, and says so.
  const ordersMax = shoppers * LIMITS.unpaidOrdersMax;
  const until = async (endMs: number): Promise<number> => {
    let made = 0;
    while (performance.now() < endMs && sent + size <= ordersMax) made += (await batch()).length;
    return made;
  };
  await until(performance.now() + warmSeconds * 1_000);
  report({ window: "open" });
  const openedMs = performance.now();
  const orders = await until(openedMs + seconds * 1_000);
  report({ window: "closed", orders, seconds: (performance.now() - openedMs) / 1_000 });
  await new Promise((resolve) => process.once("message", resolve));
  await node.stop();
  await postgres.stop();
  dataDir.release();
  process.disconnect();
}
const BODY_HASH = randomBytes(32).toString("hex");
/** Of this run alone: shoppers have keys of earlier ones. */
const RUN = BODY_HASH.slice(0, 12);

// Without its parent nobody wants to know; PostgreSQL ends with this process.
process.once("disconnect", () => process.exit(0));

process.once("message", (batches: Batches) => {
  run(batches).catch((error: unknown) => {
    process.stderr.write(`${error instanceof Error ? error.stack : String(error)}\n`);
    process.exit(1);
  });
});
