/** Routing (路由): every node's part in moving shards. Holds their mailboxes when told, and takes newer routing tables over. */
import type { Service, ServiceSchema } from "moleculer";
import type { Shard } from "../../domain/ids.ts";
import { parseKeyspaces } from "../../db/keyspaces.ts";
import { fencedSlots } from "../../db/move-fence.ts";
import { type Answer, call, type Ctx, handle } from "../../mixins/contract.ts";
import { nodesOffering } from "../../mixins/nodes.ts";
import { type Platform, platformOf } from "../../mixins/platform.ts";
import { Holds } from "./holds.ts";
import { applyRouting, holdSlots, releaseSlots, tellRouting } from "./routing.contract.ts";

interface Vars {
  platform: Platform;
  holds: Holds;
  asking: NodeJS.Timeout | undefined;
}
type This = Service<{}> & Vars;

/** A node that came or came back is asked when its services are known; several come at once. */
const ASK_AFTER_MS = 300;

const routing: ServiceSchema<{}, {}, Vars> = {
  name: "routing",
  actions: {
    hold: handle(holdSlots, hold),
    release: handle(releaseSlots, release),
    apply: handle(applyRouting, apply),
    tell: handle(tellRouting, tell),
  },
  events: {
    "$services.changed": function (this: This) {
      clearTimeout(this.asking);
      this.asking = setTimeout(() => void askOthers(this), ASK_AFTER_MS);
    } as never,
  },
  created() {
    this.platform = platformOf(this.broker);
    this.holds = new Holds(this.platform, (database) => fencedSlots(database), this.logger);
  },
  started() {
    return this.holds.start();
  },
  stopped() {
    clearTimeout(this.asking);
    this.holds.stop();
  },
};
export default routing;

const shardsOf = ({ city, slots }: { readonly city: number; readonly slots: readonly number[] }): Shard[] =>
  slots.map((slot) => ({ city, slot }));

async function hold(this: This, ctx: Ctx<typeof holdSlots>): Promise<undefined> {
  await this.holds.hold(shardsOf(ctx.params), ctx.params.leaseMs);
  return undefined;
}

async function release(this: This, ctx: Ctx<typeof releaseSlots>): Promise<undefined> {
  this.holds.release(shardsOf(ctx.params));
  return undefined;
}

async function apply(this: This, ctx: Ctx<typeof applyRouting>): Promise<Answer<typeof applyRouting>> {
  this.platform.route(parseKeyspaces(ctx.params.yaml));
  return inForce(this.platform);
}

async function tell(this: This): Promise<Answer<typeof tellRouting>> {
  return inForce(this.platform);
}

const inForce = ({ keyspaces: { version, yaml } }: Platform): Answer<typeof tellRouting> => ({ version, yaml });

/** A node that was away while slots moved learns here what it missed. */
async function askOthers(service: This): Promise<void> {
  const { broker, platform } = service;
  const others = (await nodesOffering(broker, tellRouting.name)).filter((nodeID) => nodeID !== broker.nodeID);
  const answers = await Promise.allSettled(others.map((nodeID) => call(broker, tellRouting, {}, { nodeID })));
  const newest = answers
    .flatMap((answer) => (answer.status === "fulfilled" ? [answer.value] : []))
    .toSorted((a, b) => b.version - a.version)[0];
  if (newest === undefined || newest.version <= platform.keyspaces.version) return;
  try {
    platform.route(parseKeyspaces(newest.yaml));
  } catch (error) {
    service.logger.error({ err: error }, "the routing table of another node cannot be taken over");
  }
}
