/** Stock (库存): how many units of a deal there are. Orders hold and sell them in their own drains; merchants change the total here. */
import type { Service, ServiceSchema } from "moleculer";
import { DEAL_ERRORS } from "../../domain/deal/errors.ts";
import { raise } from "../../domain/error.ts";
import { shardOf, type DealId } from "../../domain/ids.ts";
import { handle, type Answer, type Ctx } from "../../mixins/contract.ts";
import { keyOf } from "../../mixins/idempotency.ts";
import { platformOf } from "../../mixins/platform.ts";
import { RedisStockGate } from "../../mixins/stock-gate.redis.ts";
import { restockDeal } from "../deal/deal.contract.ts";
import { Repairer } from "./repair.ts";
import { makeRestockDrain, type RestockCommand } from "./restock.ts";

interface Vars {
  /** Where the gate is in Redis. */
  repairer: Repairer | undefined;
}

const stock: ServiceSchema<{}, {}, Vars> = {
  name: "stock",
  actions: { restock: handle(restockDeal, restock) },
  created() {
    const platform = platformOf(this.broker);
    platform.offer(restockDeal.name, makeRestockDrain(platform));
    const { redis, stockGate } = platform;
    this.repairer = redis && stockGate instanceof RedisStockGate ? new Repairer(platform, redis, stockGate, this.logger) : undefined;
  },
  started() {
    this.repairer?.start();
  },
  stopped() {
    return this.repairer?.stop();
  },
};
export default stock;

async function restock(this: Service<{}>, ctx: Ctx<typeof restockDeal>): Promise<Answer<typeof restockDeal>> {
  const platform = platformOf(this.broker);
  const { quantity } = ctx.params;
  const dealId = ctx.params.id as DealId;
  const shard = shardOf(dealId);
  if (!platform.servesCity(shard.city)) return raise(DEAL_ERRORS, "DEAL_NOT_FOUND", { dealId });
  const merchantId = ctx.meta.caller?.merchantId;
  const command: RestockCommand = { ...keyOf(ctx, restockDeal.name), dealId, merchantId, requestId: ctx.meta.requestId, quantity };
  return platform.post(shard, restockDeal.name, command, { merchantId });
}
