/**
 * Ops: what operators ask of the whole house. `verify` proves every invariant, `shards` shows who owns what and what waits,
 * `trace` tells the life of an order, `accountStatement` what an account held, `deadLetters` what was put aside.
 */
import type { Service, ServiceSchema } from "moleculer";
import { type Answer, call, type Ctx, handle } from "../../mixins/contract.ts";
import { type Platform, platformOf } from "../../mixins/platform.ts";
import { accountStatement } from "./account-statement.ts";
import { replayKept, resolveKept, retryNow, viewAttention } from "./attention.ts";
import { nodesOffering } from "../../mixins/nodes.ts";
import { removeLetter, replayLetter, viewLetters } from "./dead-letters.ts";
import { Mover } from "./mover.ts";
import { allMailboxes, drain } from "./nodes.ts";
import {
  abortMove,
  drainNode,
  dropDeadLetter,
  interruptMove,
  listAttention,
  lastMove,
  listAllMailboxes,
  listDeadLetters,
  listMoves,
  listRegions,
  listShards,
  moveSlots,
  reloadRegions,
  replayCallback,
  replayDeadLetter,
  resolveCallback,
  retryAttention,
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
  mover: Mover;
}
type This = Service<{}> & Vars;

const ops: ServiceSchema<{}, {}, Vars> = {
  name: "ops",
  actions: {
    verify: handle(verify, verifyAll),
    shards: handle(listShards, shards),
    trace: handle(traceNumber, traced),
    accountStatement: handle(stateAccount, stated),
    mailboxes: handle(listAllMailboxes, (ctx) => allMailboxes(ctx)),
    drain: handle(drainNode, (ctx) => drain(ctx, ctx.params.node)),
    moveShards: handle(moveSlots, move),
    abortMove: handle(abortMove, takeBack),
    interruptMove: handle(interruptMove, interrupt),
    moves: handle(listMoves, moves),
    lastMove: handle(lastMove, mine),
    deadLetters: handle(listDeadLetters, deadLetters),
    replayDeadLetter: handle(replayDeadLetter, replay),
    dropDeadLetter: handle(dropDeadLetter, drop),
    attention: handle(listAttention, attention),
    replayCallback: handle(replayCallback, replayOne),
    resolveCallback: handle(resolveCallback, resolveOne),
    retry: handle(retryAttention, retry),
    regions: handle(listRegions, async (ctx) => ({ items: await regionsOfNodes(ctx, false) })),
    reloadRegions: handle(reloadRegions, async (ctx) => ({ items: await regionsOfNodes(ctx, true) })),
  },
  created() {
    this.platform = platformOf(this.broker);
    this.verifier = new Verifier(this.platform);
    this.mover = new Mover(this.broker, this.platform, this.logger);
  },
  started() {
    watchUnfinished(this.platform);
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

/** Whichever node is at it gives it up first. Of one that does not answer the lock at the source tells whether it still is. */
async function takeBack(this: This, ctx: Ctx<typeof abortMove>): Promise<Answer<typeof abortMove>> {
  const nodes = await nodesOffering(ctx, interruptMove.name);
  await Promise.allSettled(nodes.map((nodeID) => call(ctx, interruptMove, ctx.params, { nodeID })));
  return this.mover.begin(ctx.params, "abort");
}

async function interrupt(this: This, ctx: Ctx<typeof interruptMove>): Promise<undefined> {
  await this.mover.interrupt(ctx.params);
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

async function resolveOne(this: This, ctx: Ctx<typeof resolveCallback>): Promise<Answer<typeof resolveCallback>> {
  const { id } = ctx.params;
  const by = ctx.meta.caller?.username ?? "the platform";
  await resolveKept(this.platform, id, by);
  this.logger.warn(`callback ${id} was resolved by ${by}`);
  return { resolved: true };
}

async function retry(this: This, ctx: Ctx<typeof retryAttention>): Promise<Answer<typeof retryAttention>> {
  const { id } = ctx.params;
  await retryNow(this.platform, id);
  this.logger.warn(`${id} is tried again, says ${ctx.meta.caller?.username ?? "the platform"}`);
  return { retrying: true };
}

/** The log keeps who gave up what. */
async function drop(this: This, ctx: Ctx<typeof dropDeadLetter>): Promise<Answer<typeof dropDeadLetter>> {
  const letter = await removeLetter(this.platform, ctx.params.id);
  this.logger.warn({ letter }, `dead letter ${letter.id} was dropped by ${ctx.meta.caller?.username ?? "the platform"}`);
  return letter;
}
