/** Merchants (商户): bars and restaurants, each in one city and one slot, with everything it owns. */
import type { Service, ServiceSchema } from "moleculer";
import { DEAL_ERRORS } from "../../domain/deal/errors.ts";
import { raise } from "../../domain/error.ts";
import { shardOf, type MerchantId } from "../../domain/ids.ts";
import { LIMITS } from "../../domain/limits.ts";
import { handle, type Answer, type Ctx } from "../../mixins/contract.ts";
import { platformOf } from "../../mixins/platform.ts";
import { createMerchant, getMerchant } from "./merchant.contract.ts";
import { drainClaim, drainInsert, drainSettle } from "./merchant.drain.ts";
import { findMerchants } from "./merchant.store.ts";
import { finishStuckOpenings, openMerchant } from "./opening.ts";

interface MerchantSettings {
  /** How often openings that got stuck are looked for. */
  readonly sweepEveryMs: number;
  /** How old an opening must be to count as stuck: longer than the request that may still be working on it. */
  readonly stuckAfterMs: number;
}
interface Parts {
  settings: MerchantSettings;
  sweeper: NodeJS.Timeout;
  sweeping: Promise<void> | undefined;
}
type This = Service<{}> & Parts;

const merchant: ServiceSchema<{}, {}, Parts> = {
  name: "merchant",
  settings: { sweepEveryMs: 15_000, stuckAfterMs: 2 * LIMITS.requestMs },
  dependencies: ["user"],
  actions: {
    create: handle(createMerchant, openMerchant),
    get: handle(getMerchant, get),
  },
  created() {
    const platform = platformOf(this.broker);
    platform.offer("merchant.claim", drainClaim);
    platform.offer("merchant.insert", drainInsert);
    platform.offer("merchant.settle", drainSettle);
  },
  started() {
    this.sweeper = setInterval(() => sweep(this), this.settings.sweepEveryMs).unref();
  },
  async stopped() {
    clearInterval(this.sweeper);
    await this.sweeping;
  },
};
export default merchant;

/** One sweep at a time: while one is slow, its successors are skipped. */
function sweep(service: This): void {
  service.sweeping ??= finishStuckOpenings(service, service.settings.stuckAfterMs)
    .then(() => undefined)
    .catch((error: unknown) =>
      service.logger.warn(`openings could not be looked for: ${error instanceof Error ? error.message : String(error)}`),
    )
    .finally(() => {
      service.sweeping = undefined;
    });
}

async function get(this: Service<{}>, ctx: Ctx<typeof getMerchant>): Promise<Answer<typeof getMerchant>> {
  const platform = platformOf(this.broker);
  const merchantId = ctx.params.id as MerchantId;
  const shard = shardOf(merchantId);
  const found = platform.servesCity(shard.city)
    ? (await findMerchants(platform.databaseOf(shard), shard, [merchantId])).get(merchantId)
    : undefined;
  if (found?.state !== "OPEN") return raise(DEAL_ERRORS, "MERCHANT_NOT_FOUND", { merchantId });
  return { id: found.id, name: found.name, city: platform.keyspaces.byId(shard.city)?.code ?? "" };
}
