/** Search index (搜索索引): keeps the deals in Elasticsearch as they are sold, where there is one. Stands beside the journal, whose events feed it. */
import { setTimeout as sleep } from "node:timers/promises";
import type { Service, ServiceSchema } from "moleculer";
import { shardKey, shardOf } from "../../domain/ids.ts";
import { handle, type Answer } from "../../mixins/contract.ts";
import { journalOf, type StoredEvent } from "../../mixins/journal.ts";
import { platformOf, type Platform } from "../../mixins/platform.ts";
import { findDeals } from "../deal/deal.store.ts";
import { DealIndex, type ServerOptions } from "../search/deal-index.store.ts";
import { rebuildFrom } from "./rebuild.ts";
import { rebuildIndex } from "./search-index.contract.ts";

interface Settings {
  /** Without it there is nothing to keep. */
  readonly elasticsearch?: ServerOptions;
  readonly $secureSettings?: readonly string[];
}
interface Vars {
  platform: Platform;
  index: DealIndex | undefined;
  rebuilding: Promise<void> | undefined;
  stopping: AbortController;
}
type This = Service<Settings> & Vars;

/** The first index is made when the server is there to make it. */
const FIRST_EVERY_MS = 5_000;

const searchIndex: ServiceSchema<Settings, {}, Vars> = {
  name: "search-index",
  settings: { $secureSettings: ["elasticsearch"] },
  actions: { rebuild: handle(rebuildIndex, rebuild) },
  created() {
    const { elasticsearch } = this.settings;
    this.platform = platformOf(this.broker);
    this.stopping = new AbortController();
    this.index = elasticsearch && new DealIndex(elasticsearch);
    const { index, platform } = this;
    if (index)
      journalOf(this.broker).subscribe({ name: "search-index", types: ["deal.moved"], handle: (batch) => follow(platform, index, batch) });
  },
  started() {
    if (this.index) this.rebuilding = makeFirst(this, this.index);
  },
  async stopped() {
    this.stopping.abort();
    await this.rebuilding;
    await this.index?.close();
  },
};
export default searchIndex;

/** Deals are read as they are now, so an event that comes twice or late writes what is true. */
async function follow(platform: Platform, index: DealIndex, batch: readonly StoredEvent<"deal.moved">[]): Promise<void> {
  const ids = [...new Set(batch.map(({ data }) => data.dealId))];
  for (const some of Map.groupBy(ids, (id) => shardKey(shardOf(id))).values()) {
    const [first] = some;
    if (first === undefined) continue;
    const deals = await findDeals(platform.databaseOf(shardOf(first)), shardOf(first), some);
    await index.put([...deals.values()]);
  }
}

/** Answers at once; the next one is told that it runs, and what became of it is in the log. What PostgreSQL searches in is never out of date. */
async function rebuild(this: This): Promise<Answer<typeof rebuildIndex>> {
  const { index } = this;
  if (!index) return { running: false };
  this.rebuilding ??= once(this, index).catch((error: unknown) =>
    this.logger.error({ err: error }, "alarm: the search index was not rebuilt"),
  );
  return { running: true };
}

async function makeFirst(service: This, index: DealIndex): Promise<void> {
  const { signal } = service.stopping;
  while (!signal.aborted) {
    try {
      if (!(await index.exists())) await once(service, index);
      break;
    } catch (error) {
      service.logger.warn({ err: error }, "the search index cannot be made yet");
      await sleep(FIRST_EVERY_MS, undefined, { signal }).catch(() => undefined);
    }
  }
  service.rebuilding = undefined;
}

async function once(service: This, index: DealIndex): Promise<void> {
  const cities = [...service.platform.databases.values()].filter(({ city }) => service.platform.servesCity(city));
  try {
    service.logger.info(`the search index is made of ${await rebuildFrom(index, cities)} deals`);
  } finally {
    service.rebuilding = undefined;
  }
}
