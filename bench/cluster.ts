/** `npm run bench -- cluster`: the whole of `npm run cluster` under load, with batching on the bus and without, and while its nodes die and come back. */
import { randomUUID } from "node:crypto";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { slotOf } from "../domain/ids.ts";
import { sendCommand } from "../scripts/cluster/control.ts";
import { Api, logInAdmin, openDeal, openShop, verify } from "./api.ts";
import { Evidence } from "./evidence.ts";
import type { Generator } from "./load/client.ts";
import type { Run, RunResult } from "./load/generator.ts";
import { stampedeOrders, type Plan } from "./load/plans.ts";
import { machineOf, nodeVersion, packageVersions } from "./machine.ts";
import type { Measured } from "./measure.ts";
import { cpuAccount, measurable, postgresOf } from "./processes.ts";
import { figuresOf, median, type Figure, type Result } from "./report.ts";
import { inDataDir, ServerProcess, type Place } from "./server-process.ts";

export interface ClusterOptions {
  /** How often batching is on and off, in turns. */
  readonly rounds: number;
  /** Of each measured window, and of the warm-up before it. */
  readonly seconds: number;
  readonly warmSeconds: number;
  /** Keep the data directory. */
  readonly keep: boolean;
  readonly signal: AbortSignal;
  readonly say: (line: string) => void;
}

export async function benchCluster(root: string, options: ClusterOptions): Promise<Result> {
  return inDataDir(root, options, async (place, generator) => {
    const faults: string[] = [];
    const bench = new ClusterBench(place, generator, faults, options);
    await bench.all();
    return {
      at: new Date().toISOString(),
      machine: machineOf(place.dataDir),
      versions: { node: nodeVersion, ...packageVersions(root) },
      settings: {
        ...{ rounds: options.rounds, "window seconds": options.seconds, "warm-up seconds": options.warmSeconds },
        ...{ shoppers: SHOPPERS, connections: CONNECTIONS },
      },
      figures: bench.figures,
      faults,
    };
  });
}

/** Nobody may have more than 5 unpaid orders with one merchant: at one merchant so many can place 60,000, and then go on to the next. */
const SHOPPERS = 12_000;
/** More than the generator, which is one thread, can send: for so many a second there are merchants wherever it sends as fast as it is answered. */
const ORDERS_PER_SECOND_MAX = 50_000;
const CONNECTIONS = 256;
const STOCK = 1_000_000;
const SOLD_OUT_STOCK = 100;
const REFUSED_SHOPPERS = 2_000;
const FAULT_WARM_SECONDS = 2;
/** After the kill: noticing takes 3 s, and the worker is back after that. */
const KILL_SECONDS = 12;
/** Of the rate measured before: a rolling restart under full load would measure how nodes start without a CPU. */
const RESTART_LOAD = 0.4;
const RESTART_CONNECTIONS = 64;
const RESTART_SECONDS_MAX = 180;
/** Those a client repeats: 503 with Retry-After. */
const LATER = new Set(["UNAVAILABLE", "OVERLOADED"]);
const SETTLE_MS_MAX = 120_000;
const LAG_BYTES_QUIET = 100_000;
/** What was being paid when its node was killed is given up after 20 s. */
const WHOLE_MS_MAX = 60_000;

interface Process {
  readonly name: string;
  readonly pid: number;
  readonly port: number;
}

/** One start of the cluster, with a way to its gateways and to its databases. */
class Running {
  readonly #server: ServerProcess;
  readonly #place: Place;
  readonly #processes: readonly Process[];
  readonly #adminToken: string;
  readonly api: Api;
  readonly evidence: Evidence;
  readonly gateways: readonly number[];

  private constructor(server: ServerProcess, place: Place, processes: readonly Process[], api: Api, adminToken: string) {
    this.#server = server;
    this.#place = place;
    this.#processes = processes;
    this.#adminToken = adminToken;
    this.api = api;
    this.gateways = gatewaysOf(processes);
    this.evidence = new Evidence(place.dataDir, "npm run cluster");
  }

  static async start(place: Place, batching: "on" | "off"): Promise<Running> {
    mkdirSync(place.dataDir, { recursive: true, mode: 0o711 });
    writeFileSync(join(place.dataDir, "samples-loaded"), "none: a benchmark\n");
    const isUp = (): Promise<boolean> => processesOf(place.dataDir).then((all) => all.length > 0);
    const server = await ServerProcess.start(["scripts/cluster.ts"], place, { BUS_BATCHING: batching }, isUp);
    const processes = await processesOf(place.dataDir);
    const api = new Api(gatewaysOf(processes)[0] ?? 0);
    return new Running(server, place, processes, api, await logInAdmin(api, place.adminPassword));
  }

  /** nginx. */
  get door(): { readonly ports: readonly number[]; readonly ca: string } {
    return { ports: [this.#server.port], ca: readFileSync(join(this.#place.dataDir, "tls", "ca.pem"), "utf8") };
  }

  hotDeal = async (stock = STOCK): Promise<string> => openDeal(this.api, await openShop(this.api, this.#adminToken, "sh"), { stock });

  /** One hot deal after the other, as many as sell for so long. */
  async stampede(seconds: number, perSecond = ORDERS_PER_SECOND_MAX): Promise<Plan & { kind: "stampede" }> {
    const deals: string[] = [];
    for (let left = seconds * perSecond; left > 0; left -= stampedeOrders(SHOPPERS)) deals.push(await this.hotDeal());
    return { kind: "stampede", deals, firstShopper: 0, shoppers: SHOPPERS };
  }

  command(...words: readonly string[]): Promise<number> {
    return sendCommand(this.#place.dataDir, words, () => undefined);
  }

  /** The worker whose calls a deal's are. */
  async ownerOf(dealId: string): Promise<Process> {
    const { items } = await this.api.get<{ items: { city: string; slot: number; owner: string }[] }>("/ops/shards", this.#adminToken);
    const slot = slotOf(dealId);
    const owner = items.find((shard) => shard.city === "sh" && shard.slot === slot)?.owner;
    const found = this.#processes.find(({ name }) => name === owner);
    if (found === undefined) throw new Error(`nobody owns the shard of ${dealId}`);
    return found;
  }

  /** CPU seconds by what processes are: gateways together, workers together. */
  cpu(generator: number): Record<string, number> {
    const sums: Record<string, number> = { generator: 0 };
    for (const { name, pid } of this.#processes) {
      const role = name.replace(/-\d+$/, "");
      const isPostgres = role === "postgres";
      const account = cpuAccount({
        server: isPostgres ? 0 : pid,
        generator: isPostgres ? 0 : generator,
        postmaster: isPostgres ? pid : undefined,
      });
      sums[role] = (sums[role] ?? 0) + (isPostgres ? postgresOf(account) : account.server);
      if (!isPostgres) sums["generator"] = account.generator;
    }
    return sums;
  }

  async settle(faults: string[]): Promise<void> {
    const startedMs = performance.now();
    while ((await this.evidence.eventLagBytes()) > LAG_BYTES_QUIET) {
      if (performance.now() - startedMs > SETTLE_MS_MAX)
        return void faults.push("cluster: the event consumers did not catch up within two minutes");
      await sleep(100);
    }
  }

  async verify(faults: string[]): Promise<void> {
    const end = performance.now() + WHOLE_MS_MAX;
    for (;;) {
      const { ok, checks } = await verify(this.api, this.#adminToken);
      if (ok) return;
      if (performance.now() > end) {
        for (const check of checks)
          if (!check.ok) faults.push(`cluster: verify: ${check.name}: ${check.violations} violations: ${check.detail}`);
        return;
      }
      await sleep(2_000);
    }
  }

  async stop(): Promise<void> {
    await this.evidence.close();
    await this.#server.stop();
  }
}

const gatewaysOf = (processes: readonly Process[]): number[] =>
  processes.flatMap(({ name, port }) => (name.startsWith("gateway-") ? [port] : []));

/** As `npm run cluster -- status` tells them; none while it does not run. */
async function processesOf(dataDir: string): Promise<Process[]> {
  let said = "";
  const code = await sendCommand(dataDir, ["status"], (text) => (said += text)).catch(() => 1);
  if (code !== 0) return [];
  const rows = said.trim().split("\n").slice(1);
  return rows.map((row) => {
    const [name = "", , pid, port] = row.split(/\s+/);
    return { name, pid: Number(pid), port: Number(port) };
  });
}

class ClusterBench {
  readonly figures: Figure[] = [];
  readonly #place: Place;
  readonly #generator: Generator;
  readonly #faults: string[];
  readonly #options: ClusterOptions;
  readonly #cpu: Record<"on" | "off", Record<string, number>[]> = { on: [], off: [] };

  constructor(place: Place, generator: Generator, faults: string[], options: ClusterOptions) {
    this.#place = place;
    this.#generator = generator;
    this.#faults = faults;
    this.#options = options;
  }

  async all(): Promise<void> {
    await this.#generator.sign(this.#place.jwtSecret, SHOPPERS);
    const orders: Record<"on" | "off", Measured[]> = { on: [], off: [] };
    const refused: Measured[] = [];
    const one = async (batching: "on" | "off", more: (running: Running) => Promise<void> = async () => undefined): Promise<void> => {
      const running = await Running.start(this.#place, batching);
      try {
        await this.#arrive(running);
        orders[batching].push(await this.#orders(running, batching));
        await running.settle(this.#faults);
        await more(running);
      } finally {
        await running.stop();
      }
    };
    // Each without between two with: what the machine does meanwhile happens to both.
    await one("on");
    for (let round = 1; round <= this.#options.rounds; round++) {
      await one("off");
      await one("on", async (running) => {
        refused.push(await this.#refused(running));
        if (round === this.#options.rounds) await this.#faultsUnderLoad(running, median(orders.on.map(({ perSecond }) => perSecond)));
        await running.verify(this.#faults);
      });
    }
    this.figures.push(...figuresOf("cluster.orders", "orders/s", orders.on), ...figuresOf("cluster.orders.single", "orders/s", orders.off));
    this.figures.push(...figuresOf("cluster.refused", "refusals/s", refused));
    const ratios = orders.off.map(
      (single, at) => ((orders.on[at]?.perSecond ?? NaN) + (orders.on[at + 1]?.perSecond ?? NaN)) / 2 / single.perSecond,
    );
    this.#figure("ratio.batching", median(ratios), "×");
    this.#cpuFigures();
  }

  #figure(name: string, value: number, unit: string): void {
    this.figures.push({ name, value, unit });
  }

  /** CPU of one order by process, and all of it together: on a machine that others use, the only comparison that says something. */
  #cpuFigures(): void {
    const whole: Record<"on" | "off", number> = { on: 0, off: 0 };
    for (const [batching, name] of [
      ["on", "cluster.orders"],
      ["off", "cluster.orders.single"],
    ] as const) {
      for (const role of Object.keys(this.#cpu[batching][0] ?? {})) {
        const each = median(this.#cpu[batching].map((run) => run[role] ?? NaN));
        whole[batching] += role === "generator" ? 0 : each;
        this.#figure(`${name}.each.${role}`, each, "µs/order");
      }
    }
    if (whole.on > 0) this.#figure("ratio.batching.cpu", whole.off / whole.on, "×");
  }

  /** Every shopper opens the app before the sale, at both doors. */
  async #arrive({ gateways }: Running): Promise<void> {
    for (const port of gateways) {
      const plan = { kind: "arrivals", firstShopper: 0, shoppers: SHOPPERS } as const;
      await this.#generator.run({ id: randomUUID(), ports: [port], connections: CONNECTIONS, plan, warmSeconds: 0, seconds: 0 });
    }
  }

  async #orders(running: Running, batching: "on" | "off"): Promise<Measured> {
    const plan = await running.stampede(this.#options.warmSeconds + this.#options.seconds);
    const measured = await this.#load(running, batching === "on" ? "cluster.orders" : "cluster.orders.single", plan);
    if (measurable) this.#cpu[batching].push(measured.byRole);
    return measured;
  }

  async #refused(running: Running): Promise<Measured> {
    const deal = await running.hotDeal(SOLD_OUT_STOCK);
    const plan: Plan = { kind: "orders", deals: [deal], exponent: 0, firstShopper: 0, shoppers: REFUSED_SHOPPERS };
    const measured = await this.#load(running, "cluster.refused", plan, { refusals: true });
    const there = await running.evidence.ordersOf([deal]);
    if (there !== SOLD_OUT_STOCK) this.#faults.push(`cluster.refused: ${there} orders of ${SOLD_OUT_STOCK} units`);
    return measured;
  }

  /** At the gateways' own ports, half of the connections at each: TLS would be measured with its other end on the same cores. */
  async #load(
    running: Running,
    name: string,
    plan: Plan,
    { refusals = false } = {},
  ): Promise<Measured & { readonly byRole: Record<string, number> }> {
    const { seconds, warmSeconds } = this.#options;
    const at: { before?: Record<string, number>; after?: Record<string, number> } = {};
    const walBefore = await running.evidence.walBytes();
    const result = await this.#run(
      name,
      running,
      { plan, connections: CONNECTIONS, ports: running.gateways, warmSeconds, seconds },
      (window) => {
        if (measurable) at[window === "open" ? "before" : "after"] = running.cpu(this.#generator.pid);
      },
    );
    const done = refusals ? (result.answers["SOLD_OUT"] ?? 0) : result.ordersInWindow;
    const each = (role: string): number => (((at.after?.[role] ?? NaN) - (at.before?.[role] ?? NaN)) * 1e6) / done;
    return {
      name,
      done,
      perSecond: done / result.seconds,
      latencyMs: result.latencyMs,
      answers: result.answers,
      cpu: undefined,
      seconds: result.seconds,
      memory: undefined,
      batch: 0,
      walBytes: Number((await running.evidence.walBytes()) - walBefore) / Math.max(1, result.tally.orders.length || done),
      warm: result.warm,
      byRole: Object.fromEntries(Object.keys(at.after ?? {}).map((role) => [role, each(role)])),
    };
  }

  /** Everything acknowledged must be there, whatever was done meanwhile. */
  async #run(name: string, running: Running, run: Omit<Run, "id">, onWindow?: (at: "open" | "closed") => void): Promise<RunResult> {
    const result = await this.#generator.run({ ...run, id: `${name}-${randomUUID().slice(0, 8)}` }, onWindow);
    const found = await running.evidence.orders(result.tally.orders);
    if (found !== result.tally.orders.length)
      this.#faults.push(`${name}: ${result.tally.orders.length} orders were acknowledged, ${found} of them found`);
    const others = Object.entries(result.answers).filter(([code]) => code !== "201" && code !== "SOLD_OUT");
    const total = Object.values(result.answers).reduce((sum, n) => sum + n, 0);
    this.#options.say(
      `${name.padEnd(22)} ${Math.round(total / result.seconds)
        .toLocaleString("en-US")
        .padStart(7)}/s   p99 ${result.latencyMs.p99.toFixed(1)} ms` +
        (others.length > 0 ? `   also ${others.map(([code, n]) => `${n} ${code}`).join(", ")}` : ""),
    );
    return result;
  }

  async #faultsUnderLoad(running: Running, perSecond: number): Promise<void> {
    await running.settle(this.#faults);
    await this.#kill(running);
    await running.settle(this.#faults);
    await this.#restart(running, perSecond);
    await running.settle(this.#faults);
  }

  /** kill -9 of the worker whose shard everybody buys from. */
  async #kill(running: Running): Promise<void> {
    const plan = await running.stampede(FAULT_WARM_SECONDS + KILL_SECONDS);
    const { pid } = await running.ownerOf(plan.deals[0] as string);
    const run = { plan, connections: CONNECTIONS, ports: running.gateways, warmSeconds: FAULT_WARM_SECONDS, seconds: KILL_SECONDS };
    const { afterMarkMs } = await this.#run("cluster.kill", running, run, (window) => {
      if (window !== "open") return;
      process.kill(pid, "SIGKILL");
      this.#generator.say("mark");
    });
    if (afterMarkMs === undefined) this.#faults.push(`cluster.kill: no order within ${KILL_SECONDS} s`);
    this.#figure("cluster.kill", (afterMarkMs ?? NaN) / 1_000, "s");
  }

  /** Every node in turn, bought from through nginx over TLS 1.3 meanwhile. */
  async #restart(running: Running, perSecond: number): Promise<void> {
    const rate = Math.max(20, Math.round(perSecond * RESTART_LOAD));
    const run = {
      plan: await running.stampede(FAULT_WARM_SECONDS + RESTART_SECONDS_MAX, rate),
      ...running.door,
      ...{ connections: RESTART_CONNECTIONS, rate, warmSeconds: FAULT_WARM_SECONDS, seconds: RESTART_SECONDS_MAX },
    };
    let restarted: Promise<number> = Promise.resolve(1);
    let isOver = false;
    const over = (): void => {
      isOver = true;
      this.#generator.say("finish");
    };
    const { answers, seconds, lostWhy } = await this.#run("cluster.restart", running, run, (window) => {
      if (window === "open") restarted = running.command("restart").finally(over);
    });
    if (!isOver) this.#faults.push("cluster.restart: it took longer than there was load");
    if ((await restarted) !== 0) this.#faults.push("cluster.restart: the nodes were not all restarted");
    const total = Object.values(answers).reduce((sum, n) => sum + n, 0);
    const later = Object.entries(answers).reduce((sum, [code, n]) => sum + (LATER.has(code) ? n : 0), 0);
    const failed = total - later - (answers["201"] ?? 0);
    if (lostWhy !== undefined) this.#faults.push(`cluster.restart: a connection broke: ${lostWhy}`);
    this.#figure("cluster.restart.seconds", seconds, "s");
    this.#figure("cluster.restart.requests", total, "requests");
    this.#figure("cluster.restart.failed", failed, "requests");
    this.#figure("cluster.restart.later", (100 * later) / total, "%");
  }
}
