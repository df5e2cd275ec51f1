/** Ops: what operators ask of the whole house. `verify` proves every invariant, `shards` shows who owns what and what waits. */
import type { Service, ServiceSchema } from "moleculer";
import { type Answer, type Ctx, handle } from "../../mixins/contract.ts";
import { type Platform, platformOf } from "../../mixins/platform.ts";
import { registerGauges } from "./gauges.ts";
import { listMailboxes, listShards, verify } from "./ops.contract.ts";
import { watchUnfinished } from "./unfinished.ts";
import { viewShards } from "./shards.ts";
import { Verifier } from "./verify.ts";

interface Vars {
  platform: Platform;
  verifier: Verifier;
}
type This = Service<{}> & Vars;

const ops: ServiceSchema<{}, {}, Vars> = {
  name: "ops",
  actions: {
    verify: handle(verify, verifyAll),
    shards: handle(listShards, shards),
    mailboxes: handle(listMailboxes, mailboxes),
  },
  created() {
    this.platform = platformOf(this.broker);
    this.verifier = new Verifier(this.platform);
  },
  started() {
    registerGauges(this.platform);
    watchUnfinished(this.platform);
  },
  stopped() {
    return this.verifier.stop();
  },
};
export default ops;

function verifyAll(this: This): Promise<Answer<typeof verify>> {
  return this.verifier.run();
}

async function shards(this: This, ctx: Ctx<typeof listShards>): Promise<Answer<typeof listShards>> {
  return { items: await viewShards(ctx, this.platform) };
}

async function mailboxes(this: This): Promise<Answer<typeof listMailboxes>> {
  return this.platform
    .mailboxes()
    .map(({ shard, depth, lastBatchSize }) => ({ city: shard.city, slot: shard.slot, depth, batchSize: lastBatchSize }));
}
