/**
 * Ops: what operators ask of the whole house. `verify` proves every invariant, `shards` shows who owns what and what waits,
 * `trace` tells the life of an order, `accountStatement` what an account held, `deadLetters` what was put aside.
 */
import type { Service, ServiceSchema } from "moleculer";
import { type Answer, type Ctx, handle } from "../../mixins/contract.ts";
import { type Platform, platformOf } from "../../mixins/platform.ts";
import { accountStatement } from "./account-statement.ts";
import { replayKept, viewAttention } from "./attention.ts";
import { removeLetter, replayLetter, viewLetters } from "./dead-letters.ts";
import {
  dropDeadLetter,
  listAttention,
  listDeadLetters,
  listRegions,
  listShards,
  ownRegions,
  reloadRegions,
  replayCallback,
  replayDeadLetter,
  stateAccount,
  traceNumber,
  verify,
} from "./ops.contract.ts";
import { regionsOfNodes } from "./regions.ts";
import { watchUnfinished } from "./unfinished.ts";
import { viewShards } from "./shards.ts";
import { trace } from "./trace.ts";
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
    trace: handle(traceNumber, traced),
    accountStatement: handle(stateAccount, stated),
    deadLetters: handle(listDeadLetters, deadLetters),
    replayDeadLetter: handle(replayDeadLetter, replay),
    dropDeadLetter: handle(dropDeadLetter, drop),
    attention: handle(listAttention, attention),
    replayCallback: handle(replayCallback, replayOne),
    regions: handle(listRegions, async (ctx) => ({ items: await regionsOfNodes(ctx, false) })),
    reloadRegions: handle(reloadRegions, async (ctx) => ({ items: await regionsOfNodes(ctx, true) })),
    ownRegions: handle(ownRegions, own),
  },
  created() {
    this.platform = platformOf(this.broker);
    this.verifier = new Verifier(this.platform);
  },
  started() {
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

function traced(this: This, ctx: Ctx<typeof traceNumber>): Promise<Answer<typeof traceNumber>> {
  return trace(this.platform, ctx.params.id);
}

function stated(this: This, ctx: Ctx<typeof stateAccount>): Promise<Answer<typeof stateAccount>> {
  return accountStatement(this.platform, { limit: 20, ...ctx.params });
}

function deadLetters(this: This, ctx: Ctx<typeof listDeadLetters>): Promise<Answer<typeof listDeadLetters>> {
  return viewLetters(this.platform, { limit: 20, ...ctx.params });
}

function replay(this: This, ctx: Ctx<typeof replayDeadLetter>): Promise<Answer<typeof replayDeadLetter>> {
  return replayLetter(this.platform, ctx.params.id);
}

function attention(this: This, ctx: Ctx<typeof listAttention>): Promise<Answer<typeof listAttention>> {
  return viewAttention(this.platform, { limit: 20, ...ctx.params });
}

async function replayOne(this: This, ctx: Ctx<typeof replayCallback>): Promise<Answer<typeof replayCallback>> {
  const { id } = ctx.params;
  await replayKept(this.platform, id);
  this.logger.warn(`callback ${id} is worked off again, says ${ctx.meta.caller?.username ?? "the platform"}`);
  return { replaying: true };
}

/** The log keeps who gave up what. */
async function drop(this: This, ctx: Ctx<typeof dropDeadLetter>): Promise<Answer<typeof dropDeadLetter>> {
  const letter = await removeLetter(this.platform, ctx.params.id);
  this.logger.warn({ letter }, `dead letter ${letter.id} was dropped by ${ctx.meta.caller?.username ?? "the platform"}`);
  return letter;
}

async function own(this: This, ctx: Ctx<typeof ownRegions>): Promise<Answer<typeof ownRegions>> {
  const { regions } = this.platform;
  const views = ctx.params.reload ? await regions.reload() : regions.list();
  return views.map((view) => ({ node: this.broker.nodeID, ...view }));
}
