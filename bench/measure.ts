/** One measurement: load on a server for a while, what each process burnt for it, and whether everything acknowledged is really there. */
import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { Api, histogramSums, logInAdmin, verify } from "./api.ts";
import { Evidence } from "./evidence.ts";
import type { Generator } from "./load/client.ts";
import type { RunResult } from "./load/generator.ts";
import type { Plan } from "./load/plans.ts";
import { cpuAccount, measurable, memory, minus, type CpuAccount, type CpuSeconds, type Memory, type Watched } from "./processes.ts";
import { ServerProcess, type Place } from "./server-process.ts";

export interface Measured {
  readonly name: string;
  /** What was counted: orders, refusals, lives. */
  readonly done: number;
  readonly perSecond: number;
  readonly latencyMs: RunResult["latencyMs"];
  readonly answers: RunResult["answers"];
  /** CPU seconds in the window, by process; undefined where there is no /proc. */
  readonly cpu: CpuSeconds | undefined;
  readonly seconds: number;
  /** At the end of the window. */
  readonly memory: Memory | undefined;
  /** Mean commands a drain took, and bytes of log written for each thing done. */
  readonly batch: number;
  readonly walBytes: number;
  readonly warm: RunResult["warm"];
}

export interface Load {
  readonly name: string;
  readonly plan: Plan;
  readonly connections: number;
  readonly warmSeconds: number;
  readonly seconds: number;
  readonly rate?: number;
  readonly count: (result: RunResult) => number;
  /** What else watches the window; what comes behind it, such as looking all orders up, is no part of the load. */
  readonly watch?: { open(): void; close(): void };
}

/** Events still on their way when this little log is left are those of the housekeeping itself. */
const LAG_BYTES_QUIET = 100_000;
const SETTLE_MS_MAX = 120_000;

/** A server with everything a measurement needs around it. */
export class Bench {
  readonly server: ServerProcess;
  readonly api: Api;
  readonly evidence: Evidence;
  readonly adminToken: string;
  readonly #generator: Generator;
  readonly #watched: Watched;
  readonly #faults: string[];

  private constructor(server: ServerProcess, place: Place, adminToken: string, generator: Generator, faults: string[]) {
    this.server = server;
    this.api = new Api(server.port);
    this.evidence = new Evidence(place.dataDir);
    this.adminToken = adminToken;
    this.#generator = generator;
    this.#watched = server.watched(generator.pid);
    this.#faults = faults;
  }

  /** `faults` is where everything that must not be is noted: a bench with faults has no figures. */
  static async start(script: readonly string[], place: Place, generator: Generator, faults: string[]): Promise<Bench> {
    const server = await ServerProcess.start(script, place);
    const adminToken = await logInAdmin(new Api(server.port), place.adminPassword);
    return new Bench(server, place, adminToken, generator, faults);
  }

  get memory(): Memory | undefined {
    return measurable ? memory(this.#watched) : undefined;
  }

  /** Does what may take several loads or none, and tells what each process burnt for it. */
  async burnt(work: () => Promise<void>): Promise<CpuSeconds | undefined> {
    const before = measurable ? cpuAccount(this.#watched) : undefined;
    await work();
    return before && minus(cpuAccount(this.#watched), before);
  }

  /** Puts a load on; notes a fault for each order that was acknowledged and is not there, or is there and nobody was told. */
  async measure(load: Load): Promise<Measured> {
    const { evidence, api } = this;
    const at: { before?: CpuAccount; after?: CpuAccount; memory?: Memory } = {};
    const [batchesBefore, walBefore] = [await histogramSums(api, "tuanbar_mailbox_batch_commands"), await evidence.walBytes()];
    const run = {
      id: `${load.name}-${randomUUID().slice(0, 8)}`,
      ports: [this.server.port],
      connections: load.connections,
      plan: load.plan,
      warmSeconds: load.warmSeconds,
      seconds: load.seconds,
      ...(load.rate === undefined ? {} : { rate: load.rate }),
    };
    const result = await this.#generator.run(run, (window) => {
      if (window === "open") load.watch?.open();
      else load.watch?.close();
      if (!measurable) return;
      if (window === "open") at.before = cpuAccount(this.#watched);
      else {
        at.after = cpuAccount(this.#watched);
        at.memory = memory(this.#watched);
      }
    });
    const [batchesAfter, walAfter] = [await histogramSums(api, "tuanbar_mailbox_batch_commands"), await evidence.walBytes()];
    await this.#check(load, result);
    const done = load.count(result);
    const whole = result.tally.orders.length || done;
    return {
      name: load.name,
      done,
      perSecond: done / result.seconds,
      latencyMs: result.latencyMs,
      answers: result.answers,
      cpu: at.before && at.after ? minus(at.after, at.before) : undefined,
      seconds: result.seconds,
      memory: at.memory,
      batch: (batchesAfter.sum - batchesBefore.sum) / Math.max(1, batchesAfter.count - batchesBefore.count),
      walBytes: Number(walAfter - walBefore) / Math.max(1, whole),
      warm: result.warm,
    };
  }

  async #check(load: Load, result: RunResult): Promise<void> {
    const { orders, lived } = result.tally;
    const fault = (what: string): void => void this.#faults.push(`${load.name}: ${what}`);
    if (new Set(orders).size !== orders.length) fault("an order was acknowledged twice");
    const found = await this.evidence.orders(orders);
    if (found !== orders.length) fault(`${orders.length} orders were acknowledged, ${found} of them found`);
    const whole = await this.evidence.lives(lived);
    if (whole !== lived.length) fault(`${lived.length} lives were acknowledged, ${whole} of them found whole`);
    const lost = (result.answers["lost"] ?? 0) + (result.warm.answers["lost"] ?? 0);
    if (lost > 0) fault(`${lost} connections broke: ${result.lostWhy ?? "no reason given"}`);
    const broken = Object.keys({ ...result.answers, ...result.warm.answers }).filter((code) => /^(INTERNAL|5\d\d)$/.test(code));
    if (broken.length > 0) fault(`answers of ${broken.join(", ")}`);
  }

  /** The number of orders of deals, against the number acknowledged for them in all runs. */
  async checkCount(name: string, deals: readonly string[], acknowledged: number): Promise<void> {
    const there = await this.evidence.ordersOf(deals);
    if (there !== acknowledged) this.#faults.push(`${name}: ${acknowledged} orders were acknowledged, ${there} are there`);
  }

  /** Waits until the event consumers have caught up, so that one measurement does not pay for another's events. Seconds it took. */
  async settle(): Promise<number> {
    const startedMs = performance.now();
    while ((await this.evidence.eventLagBytes()) > LAG_BYTES_QUIET) {
      if (performance.now() - startedMs > SETTLE_MS_MAX) {
        this.#faults.push("the event consumers did not catch up within two minutes");
        break;
      }
      await sleep(100);
    }
    return (performance.now() - startedMs) / 1_000;
  }

  /** `/ops/verify`; every check that does not hold is a fault. */
  async verify(): Promise<void> {
    const { ok, checks } = await verify(this.api, this.adminToken);
    for (const check of checks)
      if (!check.ok) this.#faults.push(`verify: ${check.name}: ${check.violations} violations: ${check.detail.slice(0, 300)}`);
    if (!ok && checks.every((check) => check.ok)) this.#faults.push("verify: not ok");
  }

  async stop(): Promise<void> {
    await this.evidence.close();
    await this.server.stop();
  }
}
