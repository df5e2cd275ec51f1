/** Deals (团单): what merchants offer. A deal lives in its merchant's shard. */
import type { Service, ServiceSchema } from "moleculer";
import { COMMON_ERRORS } from "../../domain/common-errors.ts";
import { draftFaults } from "../../domain/deal/draft.ts";
import { DEAL_ERRORS } from "../../domain/deal/errors.ts";
import { visibleTo } from "../../domain/deal/moves.ts";
import type { DealEvent } from "../../domain/deal/state.ts";
import { raise } from "../../domain/error.ts";
import { shardOf, type DealId, type Shard } from "../../domain/ids.ts";
import { handle, type Answer, type Ctx } from "../../mixins/contract.ts";
import { keyOf } from "../../mixins/idempotency.ts";
import { platformOf } from "../../mixins/platform.ts";
import { closeDeal, createDeal, getDeal, listCities, pauseDeal, publishDeal } from "./deal.contract.ts";
import { makeCreateDrain, makeMoveDrain, type CreateDealCommand, type MoveDealCommand } from "./deal.drain.ts";
import { findDeals, viewDeal } from "./deal.store.ts";

const deal: ServiceSchema = {
  name: "deal",
  actions: {
    create: handle(createDeal, create),
    publish: handle(publishDeal, move("publish")),
    pause: handle(pauseDeal, move("pause")),
    close: handle(closeDeal, move("close")),
    get: handle(getDeal, get),
    cities: handle(listCities, cities),
  },
  created() {
    const platform = platformOf(this.broker);
    platform.offer("deal.create", makeCreateDrain(platform));
    platform.offer("deal.move", makeMoveDrain(platform));
  },
};
export default deal;

async function create(this: Service<{}>, ctx: Ctx<typeof createDeal>): Promise<Answer<typeof createDeal>> {
  const platform = platformOf(this.broker);
  const merchantId = ctx.meta.caller?.merchantId;
  if (merchantId === undefined || !platform.servesCity(shardOf(merchantId).city))
    return raise(COMMON_ERRORS, "FORBIDDEN", { need: "a merchant" });
  const errors = draftFaults(ctx.params, platform.rulesOf(shardOf(merchantId).city));
  if (errors.length > 0) return raise(COMMON_ERRORS, "VALIDATION_ERROR", { errors });
  const command: CreateDealCommand = { ...keyOf(ctx, createDeal.name), merchantId, requestId: ctx.meta.requestId, form: ctx.params };
  return platform.post(shardOf(merchantId), createDeal.name, command, { merchantId });
}

function move(event: DealEvent) {
  return async function (this: Service<{}>, ctx: Ctx<typeof publishDeal>): Promise<Answer<typeof publishDeal>> {
    const dealId = ctx.params.id as DealId;
    const { caller, requestId } = ctx.meta;
    const { merchantId, userId: actor } = caller ?? {};
    // Without a caller it came by no gateway: an operator's console.
    const command: MoveDealCommand = { dealId, event, merchantId, byPlatform: caller === undefined, actor, requestId };
    return platformOf(this.broker).post(shardOfDeal(this, dealId), "deal.move", command, { merchantId });
  };
}

async function get(this: Service<{}>, ctx: Ctx<typeof getDeal>): Promise<Answer<typeof getDeal>> {
  const platform = platformOf(this.broker);
  const dealId = ctx.params.id as DealId;
  const shard = shardOfDeal(this, dealId);
  const row = (await findDeals(platform.databaseOf(shard), shard, [dealId])).get(dealId);
  if (!row || !visibleTo({ merchantId: row.merchant_id, state: row.state }, ctx.meta.caller?.merchantId)) {
    return raise(DEAL_ERRORS, "DEAL_NOT_FOUND", { dealId });
  }
  return viewDeal(row, platform.keyspaces.byId(shard.city)?.code ?? "");
}

async function cities(this: Service<{}>): Promise<Answer<typeof listCities>> {
  return platformOf(this.broker).keyspaces.cities.map(({ code, name }) => ({ code, name }));
}

/** An id with the address of no city is no deal's. */
function shardOfDeal(service: Service<{}>, dealId: DealId): Shard {
  const shard = shardOf(dealId);
  return platformOf(service.broker).servesCity(shard.city) ? shard : raise(DEAL_ERRORS, "DEAL_NOT_FOUND", { dealId });
}
