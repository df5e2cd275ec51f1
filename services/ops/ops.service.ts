/** Ops: what operators ask of the whole house. `verify` proves every invariant, `shards` shows who owns what and what waits. */
import type { Service, ServiceSchema } from "moleculer";
import { type Answer, call, type Ctx, handle } from "../../mixins/contract.ts";
import { type Platform, platformOf } from "../../mixins/platform.ts";
import { registerGauges } from "./gauges.ts";
import { nodesOffering } from "../../mixins/nodes.ts";
import { Mover } from "./mover.ts";
import { abortMove, lastMove, listMailboxes, listMoves, listShards, moveSlots, verify } from "./ops.contract.ts";
import { viewShards } from "./shards.ts";
import { Verifier } from "./verify.ts";

interface Vars {
  platform: Platform;
  verifier: Verifier;
  mover: Mover;
}
type This = Service<{}> & Vars;

const ops: ServiceSchema<{}, {}, Vars> = {
  name: "ops",
  actions: {
    verify: handle(verify, verifyAll),
    shards: handle(listShards, shards),
    mailboxes: handle(listMailboxes, mailboxes),
    moveShards: handle(moveSlots, move),
    abortMove: handle(abortMove, takeBack),
    moves: handle(listMoves, moves),
    lastMove: handle(lastMove, mine),
  },
  created() {
    this.platform = platformOf(this.broker);
    this.verifier = new Verifier(this.platform);
    this.mover = new Mover(this.broker, this.platform, this.logger);
  },
  started() {
    registerGauges(this.platform);
  },
  async stopped() {
    await Promise.all([this.verifier.stop(), this.mover.stop()]);
  },
};
export default ops;

function verifyAll(this: This): Promise<Answer<typeof verify>> {
  return this.verifier.run();
}

async function shards(this: This, ctx: Ctx<typeof listShards>): Promise<Answer<typeof listShards>> {
  return { items: await viewShards(ctx, this.platform, ctx.params.sizes === true) };
}

function move(this: This, ctx: Ctx<typeof moveSlots>): Promise<Answer<typeof moveSlots>> {
  return this.mover.begin(ctx.params, "move");
}

function takeBack(this: This, ctx: Ctx<typeof abortMove>): Promise<Answer<typeof abortMove>> {
  return this.mover.begin(ctx.params, "abort");
}

/** Of every node, since the one that moves need not be the one that is asked. */
async function moves(this: This, ctx: Ctx<typeof listMoves>): Promise<Answer<typeof listMoves>> {
  const nodes = await nodesOffering(ctx, lastMove.name);
  const answers = await Promise.allSettled(nodes.map((nodeID) => call(ctx, lastMove, {}, { nodeID })));
  const items = answers.flatMap((answer) => (answer.status === "fulfilled" ? answer.value : []));
  return { items: items.toSorted((a, b) => (a.startedAt < b.startedAt ? 1 : -1)) };
}

async function mine(this: This): Promise<Answer<typeof lastMove>> {
  const { last } = this.mover;
  return last ? [last] : [];
}

async function mailboxes(this: This): Promise<Answer<typeof listMailboxes>> {
  return this.platform
    .mailboxes()
    .map(({ shard, depth, lastBatchSize }) => ({ city: shard.city, slot: shard.slot, depth, batchSize: lastBatchSize }));
}
