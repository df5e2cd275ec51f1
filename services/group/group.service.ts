/** Group (团): people buying one deal together until it is full or its clock runs out. Seats are taken by `order` and `payment`. */
import type { Service, ServiceSchema } from "moleculer";
import { DEAL_ERRORS } from "../../domain/deal/errors.ts";
import { raise } from "../../domain/error.ts";
import { mask } from "../../domain/group/close.ts";
import { GROUP_ERRORS } from "../../domain/group/errors.ts";
import { cityOf, shardOf } from "../../domain/ids.ts";
import { handle, type Answer, type Ctx } from "../../mixins/contract.ts";
import { platformOf, type Platform } from "../../mixins/platform.ts";
import { sweep, type Sweep } from "../../mixins/sweep.ts";
import { listOpenGroups } from "../deal/deal.contract.ts";
import { findDealFacts } from "../order/order.store.ts";
import { makeCloseDrain } from "./close.drain.ts";
import { closeGroups, getGroup } from "./group.contract.ts";
import { dueGroups, findGroup, openGroupsOfDeal, seatsOf } from "./group.store.ts";

interface Vars {
  platform: Platform;
  sweeper: Sweep;
}
type This = Service<{}> & Vars;

/** Groups a deal's page shows at most; there is no second page: nobody scrolls through strangers' groups. */
const OPEN_GROUPS_MAX = 100;

const group: ServiceSchema<{}, {}, Vars> = {
  name: "group",
  actions: {
    get: handle(getGroup, get),
    listOpen: handle(listOpenGroups, listOpen),
    close: handle(closeGroups, close),
  },
  created() {
    this.platform = platformOf(this.broker);
    this.platform.offer("group.close", makeCloseDrain(this.platform, this.broker));
  },
  started() {
    this.sweeper = sweep(this, "due groups", { find: dueGroups, act: closeGroups });
  },
  stopped() {
    return this.sweeper.stop();
  },
};
export default group;

/** A group whose opener has not paid is not there yet; one that failed before it opened never was. */
async function get(this: This, ctx: Ctx<typeof getGroup>): Promise<Answer<typeof getGroup>> {
  const { id } = ctx.params;
  const shard = shardOf(id);
  const database = this.platform.servesCity(cityOf(id)) ? this.platform.databaseOf(shard) : undefined;
  const found = database && (await findGroup(database, shard, id));
  if (!found || found.state === "PENDING" || found.deadline === undefined) return raise(GROUP_ERRORS, "GROUP_NOT_FOUND", { groupId: id });
  const seats = await seatsOf(database, shard, [id]);
  return {
    id: found.id,
    dealId: found.dealId,
    size: found.size,
    taken: found.taken,
    held: found.held,
    filled: found.filled,
    status: found.state,
    deadline: found.deadline.toISOString(),
    members: seats.filter((seat) => seat.state === "TAKEN" || seat.state === "REFUNDED").map((seat) => mask(seat.username)),
  };
}

async function listOpen(this: This, ctx: Ctx<typeof listOpenGroups>): Promise<Answer<typeof listOpenGroups>> {
  const { id } = ctx.params;
  const shard = shardOf(id);
  const database = this.platform.servesCity(cityOf(id)) ? this.platform.databaseOf(shard) : undefined;
  const deal = database && (await findDealFacts(database, shard, [id])).values().next().value;
  if (!deal || deal.state === "DRAFT") return raise(DEAL_ERRORS, "DEAL_NOT_FOUND", { dealId: id });
  const groups = await openGroupsOfDeal(database, shard, id, OPEN_GROUPS_MAX);
  return {
    items: groups.map((found) => ({
      id: found.id,
      size: found.size,
      taken: found.taken,
      missing: found.size - found.taken - found.filled - found.held,
      deadline: found.deadline?.toISOString() ?? "",
      leader: mask(found.leaderName),
    })),
  };
}

async function close(this: This, ctx: Ctx<typeof closeGroups>): Promise<undefined> {
  const { city, slot, ids } = ctx.params;
  await Promise.all(ids.map((groupId) => this.platform.post({ city, slot }, "group.close", groupId)));
}
