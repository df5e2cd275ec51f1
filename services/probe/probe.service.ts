/**
 * Probe: what every node tells of itself. Its mailboxes and regional policies to `ops`, its gauges to its metrics; and, on a node without a gateway, health and metrics
 * on a port of its own, since an orchestrator and a Prometheus ask each process.
 */
import { createServer, type Server, type ServerResponse } from "node:http";
import type { Service, ServiceSchema } from "moleculer";
import { collectDefaultMetrics } from "prom-client";
import { type Answer, type Ctx, handle } from "../../mixins/contract.ts";
import { Health } from "../../mixins/health.ts";
import type { Metrics } from "../../mixins/metrics.ts";
import { type Platform, platformOf } from "../../mixins/platform.ts";
import { registerGauges } from "./gauges.ts";
import { leave, listMailboxes, ownRegions } from "./probe.contract.ts";
import { serveNothing } from "./leaving.ts";

interface Settings {
  /** Undefined: no port; the gateway of this node answers the same questions. */
  readonly port?: number;
  readonly host: string;
}
interface Vars {
  settings: Settings;
  leaving: Promise<void> | undefined;
  platform: Platform;
  server: Server | undefined;
  health: Health | undefined;
}
type This = Service<{}> & Vars;

const probe: ServiceSchema<{}, {}, Vars> = {
  name: "probe",
  settings: { host: "127.0.0.1" },
  actions: { mailboxes: handle(listMailboxes, mailboxes), regions: handle(ownRegions, regions), leave: handle(leave, beginToLeave) },
  created() {
    this.platform = platformOf(this.broker);
    registerGauges(this.platform);
  },
  async started() {
    const { port, host } = this.settings;
    if (port === undefined) return;
    const { platform } = this;
    const { metrics } = platform;
    collectDefaultMetrics({ register: metrics.registry });
    const health = new Health(() => platform.databases.values(), { missing: () => [], expected: 0 });
    const server = createServer((req, res) => void answer(req.url ?? "", res, health, metrics));
    this.health = health;
    this.server = server;
    await new Promise<void>((resolve, reject) => server.once("error", reject).listen(port, host, resolve));
  },
  async stopped() {
    const { server, health } = this;
    if (!server || !health) return;
    health.draining = true;
    await new Promise((resolve) => {
      server.close(resolve);
      server.closeAllConnections();
    });
  },
};
export default probe;

async function mailboxes(this: This): Promise<Answer<typeof listMailboxes>> {
  return this.platform
    .mailboxes()
    .map(({ shard, depth, lastBatchSize }) => ({ city: shard.city, slot: shard.slot, depth, batchSize: lastBatchSize }));
}

async function regions(this: This, ctx: Ctx<typeof ownRegions>): Promise<Answer<typeof ownRegions>> {
  const { regions: book } = this.platform;
  const views = ctx.params.reload ? await book.reload() : book.list();
  return views.map((view) => ({ node: this.broker.nodeID, ...view }));
}

/** Answers at once: what asked for it may be a call that has to end before the node is done. */
async function beginToLeave(this: This): Promise<undefined> {
  if (this.health) this.health.draining = true;
  this.leaving ??= serveNothing(this.broker, this.logger);
  return undefined;
}

/** Nobody but an orchestrator asks here, on the port given for it: no limits, no problem documents. */
async function answer(url: string, res: ServerResponse, health: Health, metrics: Metrics): Promise<void> {
  const send = (status: number, type: string, body: string): void => void res.writeHead(status, { "Content-Type": type }).end(body);
  const json = (status: number, value: object): void => send(status, "application/json; charset=utf-8", JSON.stringify(value));
  switch (url.split("?")[0]) {
    case "/healthz":
      return json(200, { status: "ok" });
    case "/readyz": {
      const { ready, missing } = await health.readiness();
      return json(ready ? 200 : 503, ready ? { status: "ready" } : { status: "not ready", missing });
    }
    case "/metrics":
      return send(200, metrics.registry.contentType, await metrics.registry.metrics());
    default:
      return json(404, { status: "not found" });
  }
}
