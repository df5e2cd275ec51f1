/**
 * Recon (对账): channels' statements against our payments, refunds and payouts, and both against the books. Runs where the gateway does, because
 * statements are streamed in; what it finds is booked in the shards it is about. What nothing explains of money in suspense, a person decides here.
 */
import type { Service, ServiceSchema } from "moleculer";
import { COMMON_ERRORS } from "../../domain/common-errors.ts";
import { raise } from "../../domain/error.ts";
import { dayAt, dayOf } from "../../domain/recon/difference.ts";
import { RECON_ERRORS } from "../../domain/recon/errors.ts";
import { isId, shardOf } from "../../domain/ids.ts";
import { nulFaults } from "../../domain/text.ts";
import { type Answer, call, type Ctx, handle } from "../../mixins/contract.ts";
import { keyOf, type Replayable, storedAnswers } from "../../mixins/idempotency.ts";
import { type Platform, platformOf } from "../../mixins/platform.ts";
import { type RawRequest, serveRaw } from "../../mixins/raw-routes.ts";
import { refundsRequested } from "../payment/payment.contract.ts";
import { askedLines, repair } from "./asking.ts";
import { bookDrain } from "./book.drain.ts";
import { reportPage } from "./page.ts";
import { begin, channelOf, checkDay, checkType, receive } from "./receive.ts";
import {
  assignSuspense,
  bookDifferences,
  getStatement,
  queryRecent,
  receiveStatement,
  repairDifference,
  resolveSuspense,
  showReport,
} from "./recon.contract.ts";
import { makeResolveDrain, type ResolveCommand } from "./resolve.drain.ts";
import { assignCase } from "./suspense.store.ts";
import { viewDifference, viewStatement } from "./view.ts";
import { ReconWorker } from "./worker.ts";

interface Vars {
  platform: Platform;
  worker: ReconWorker;
  /** Queries that go on after they were answered. */
  asking: Set<Promise<void>>;
}
type This = Service<{}> & Vars;

const recon: ServiceSchema<{}, {}, Vars> = {
  name: "recon",
  actions: {
    statement: handle(getStatement, shown),
    query: handle(queryRecent, asked),
    repair: handle(repairDifference, repaired),
    assign: handle(assignSuspense, assigned),
    resolve: handle(resolveSuspense, resolved),
    book: handle(bookDifferences, booked),
  },
  created() {
    this.platform = platformOf(this.broker);
    this.platform.offer("recon.book", bookDrain);
    const resolveDrain = makeResolveDrain(
      (channel) => this.platform.channels.has(channel),
      (shard) => refundsRequested(this.broker, shard),
    );
    this.platform.offer("recon.resolve", storedAnswers(resolveDrain));
    this.worker = new ReconWorker(this.broker, this.platform, this.logger);
    this.asking = new Set();
    serveRaw(this.broker, receiveStatement, (request) => received(this, request));
    serveRaw(this.broker, showReport, (request) => reported(this, request));
  },
  started() {
    this.worker.start();
  },
  async stopped() {
    await this.worker.stop();
    await Promise.all(this.asking);
  },
};
export default recon;

async function received({ platform, worker }: This, { req, res, query, caller }: RawRequest): Promise<void> {
  // What is refused before it was read is read and dropped, so that the answer is heard.
  res.once("finish", () => req.resume());
  checkType(req.headers["content-type"]);
  const { channel: name, date: day } = query as { channel: string; date: string };
  const channel = channelOf(platform, name);
  checkDay(day);
  const statement = await begin(platform, { channel: name, source: "STATEMENT", day, ...dayOf(day), requestedBy: caller?.userId });
  await receive(platform, statement, channel.readStatement(req));
  worker.wake();
  const body = JSON.stringify({ id: statement.id });
  res.writeHead(202, { "Content-Type": "application/json; charset=utf-8", "Content-Length": body.length }).end(body);
}

async function reported({ broker }: This, { pathValues, res }: RawRequest): Promise<void> {
  const id = pathValues[0] ?? "";
  if (!isId(id)) return raise(RECON_ERRORS, "STATEMENT_NOT_FOUND", { id: id.slice(0, 30) });
  const page = reportPage(await call(broker, getStatement, { id: id as Answer<typeof getStatement>["id"], limit: 100 }));
  res.writeHead(200, {
    "Content-Type": "text/html; charset=utf-8",
    "Content-Length": Buffer.byteLength(page),
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  });
  res.end(page);
}

function shown(this: This, ctx: Ctx<typeof getStatement>): Promise<Answer<typeof getStatement>> {
  return viewStatement(this.platform, { limit: 20, ...ctx.params });
}

/** The answer is the id; asking takes as long as the channel takes. */
async function asked(this: This, ctx: Ctx<typeof queryRecent>): Promise<Answer<typeof queryRecent>> {
  const channel = channelOf(this.platform, ctx.params.channel);
  const to = new Date();
  const span = { from: new Date(to.getTime() - ctx.params.hours * 3_600_000), to };
  const of = { channel: channel.name, source: "QUERY", day: dayAt(to.getTime()), requestedBy: ctx.meta.caller?.userId, ...span } as const;
  const statement = await begin(this.platform, of);
  const asking = receive(this.platform, statement, askedLines(this.platform, channel, span))
    .then(
      () => this.worker.wake(),
      (error: unknown) => this.logger.warn(`asking ${channel.name}: ${error instanceof Error ? error.message : String(error)}`),
    )
    .finally(() => this.asking.delete(asking));
  this.asking.add(asking);
  return { id: statement.id as Answer<typeof queryRecent>["id"] };
}

async function repaired(this: This, ctx: Ctx<typeof repairDifference>): Promise<Answer<typeof repairDifference>> {
  return viewDifference(await repair(this.broker, this.platform, ctx.params.id, ctx.meta.caller?.userId));
}

async function assigned(this: This, ctx: Ctx<typeof assignSuspense>): Promise<Answer<typeof assignSuspense>> {
  const { id, assignee } = ctx.params;
  const errors = nulFaults({ assignee });
  if (errors.length > 0) return raise(COMMON_ERRORS, "VALIDATION_ERROR", { errors });
  const shard = shardOf(id);
  const isThere = await assignCase(this.platform.databaseOf(shard), shard, id, assignee);
  if (!isThere) return raise(RECON_ERRORS, "SUSPENSE_NOT_FOUND", { id });
  return { id, assignee };
}

/** Who decided what, and why, is kept with the money, and in the log. */
async function resolved(this: This, ctx: Ctx<typeof resolveSuspense>): Promise<Replayable<Answer<typeof resolveSuspense>>> {
  const { id, outcome, note } = ctx.params;
  const errors = nulFaults({ note });
  if (errors.length > 0) return raise(COMMON_ERRORS, "VALIDATION_ERROR", { errors });
  const command: ResolveCommand = { ...keyOf(ctx, resolveSuspense.name), id, outcome, note, requestId: ctx.meta.requestId };
  const answer = await this.platform.post<ResolveCommand, Replayable<Answer<typeof resolveSuspense>>>(
    shardOf(id),
    "recon.resolve",
    command,
  );
  this.logger.warn(`${id}, in suspense, is ${outcome} by ${ctx.meta.caller?.username ?? "the platform"}: ${note}`);
  return answer;
}

async function booked(this: This, ctx: Ctx<typeof bookDifferences>): Promise<undefined> {
  const { city, slot, ids } = ctx.params;
  await this.platform.post({ city, slot }, "recon.book", { ids });
}
