/** `npm run bench`: what an order costs, and against what; `money.ts` is the money after it. Sections and method: docs/benchmarks.md. */
import { setTimeout as sleep } from "node:timers/promises";
import { openDeal, openShop, type Shop } from "./api.ts";
import { httpFloor, sqlFloor, type HttpFloor } from "./limits.ts";
import type { Generator } from "./load/client.ts";
import type { Plan } from "./load/plans.ts";
import { fsyncMicroseconds, machineOf, nodeVersion, packageVersions } from "./machine.ts";
import { Bench, type Measured } from "./measure.ts";
import { benchMoney } from "./money.ts";
import { allSeconds, measurable } from "./processes.ts";
import { figuresOf, median, type Figure, type Result } from "./report.ts";
import { inDataDir, type Place } from "./server-process.ts";
import { BUCKETS, type Variant } from "./variants/index.ts";

export interface OrdersOptions {
  /** What is measured; each by itself, on servers of its own. */
  readonly sections: readonly Section[];
  /** Orders of the past in the section `money`. */
  readonly past: number;
  /** How often (a), (b), (c), (d), (f) and (g) are repeated, in turns. */
  readonly rounds: number;
  /** Of each measured window, and of the warm-up before it. */
  readonly seconds: number;
  readonly warmSeconds: number;
  /** Of the flat-memory check; 0: none. */
  readonly soakMinutes: number;
  /** Keep the data directory. */
  readonly keep: boolean;
  /** Ends the bench early; what it started is stopped and what it wrote removed. */
  readonly signal: AbortSignal;
  readonly say: (line: string) => void;
}

export const SECTIONS = ["orders", "money"] as const;
export type Section = (typeof SECTIONS)[number];

/** Nobody may have more than 5 unpaid orders with one merchant: this many shoppers can place 150,000. Their tokens are signed in a second or two. */
const SHOPPERS = 30_000;
/** (b) and (c) sell a tenth of it. */
const VARIANT_SHOPPERS = 12_000;
const CONNECTIONS = 256;
/** A life is four requests, each waiting for one of several mailboxes: four times the connections make their batches as full as those of orders. */
const LIFE_CONNECTIONS = 1_024;
const STOCK = 1_000_000;
/** 4 merchants in each of the 3 cities, for what is spread. */
const CITIES = ["sh", "bj", "hz"];
const SHOPS_A_CITY = 4;
const ZIPF_DEALS = 1_000;
const REFUSED_STOCK = 100;
const REFUSED_SHOPPERS = 2_000;
/** Two of each pair; more than two for every connection, so that nobody is in two places at once. */
const LIFE_SHOPPERS = 4_096;
const WALLET_FEN = 10_000_000_000;
const IDLE_SETTLE_MS = 5_000;
const DURABILITY = [
  "fsync",
  "synchronous_commit",
  "full_page_writes",
  "wal_level",
  "wal_sync_method",
  "wal_compression",
  "shared_buffers",
  "max_wal_size",
];
const START = ["scripts/start.ts"];

/** In what one load differs from the others. */
interface Over {
  readonly connections?: number;
  readonly warmSeconds?: number;
  readonly rate?: number;
  readonly count?: "orders" | "lives" | "refusals";
}

export async function benchOrders(root: string, options: OrdersOptions): Promise<Result> {
  return inDataDir(root, options, async (place, generator) => {
    const faults: string[] = [];
    const run = new OrdersBench(place, generator, faults, options);
    await run.all();
    return {
      at: new Date().toISOString(),
      machine: machineOf(place.dataDir),
      versions: { node: nodeVersion, ...packageVersions(root), postgres: run.settings["server_version"] ?? "" },
      settings: {
        ...run.settings,
        rounds: options.rounds,
        "window seconds": options.seconds,
        "warm-up seconds": options.warmSeconds,
        ...(options.sections.includes("money") ? { "orders of the past": options.past } : {}),
        shoppers: SHOPPERS,
        connections: CONNECTIONS,
      },
      figures: run.figures,
      faults,
    };
  });
}

class OrdersBench {
  readonly figures: Figure[] = [];
  settings: Record<string, string> = {};
  readonly #place: Place;
  readonly #generator: Generator;
  readonly #faults: string[];
  readonly #options: OrdersOptions;
  readonly #arrivals: Measured[] = [];
  readonly #colds: Measured[] = [];
  #loadMemoryMb = 0;
  /** Nobody has ordered of it yet: the floor's shoppers begin anew each time, and each may have 5 unpaid orders with one merchant. */
  #limitDeal = "";
  #walletsAreFull = false;

  constructor(place: Place, generator: Generator, faults: string[], options: OrdersOptions) {
    this.#place = place;
    this.#generator = generator;
    this.#faults = faults;
    this.#options = options;
  }

  async all(): Promise<void> {
    const { sections } = this.#options;
    this.#figure("limit.fsync", fsyncMicroseconds(this.#place.dataDir), "µs");
    await this.#starts();
    await this.#generator.sign(this.#place.jwtSecret, SHOPPERS);
    if (sections.includes("orders")) await this.#orders();
    if (sections.includes("money")) await this.#money();
    if (this.#options.soakMinutes > 0) await this.#with(START, (bench) => this.#soak(bench));
    if (this.#loadMemoryMb > 0) this.#figure("memory.load", this.#loadMemoryMb, "MB");
  }

  async #money(): Promise<void> {
    const { seconds, warmSeconds, past, say } = this.#options;
    const fault = (what: string): void => void this.#faults.push(what);
    const figures = await this.#with(START, (bench) => benchMoney(bench, this.#place.dataDir, { seconds, warmSeconds, past, say, fault }));
    this.figures.push(...figures);
  }

  async #orders(): Promise<void> {
    const { rounds, say } = this.#options;
    const drains = [await this.#with(START, (bench) => this.#drain(bench))];
    const variants: Record<Variant, Measured[]> = { for_update: [], skip_locked: [] };
    const limits: Limit[] = [];
    const spread: Spread = { lives: [], zipf: [] };
    for (let round = 1; round <= rounds; round++) {
      for (const variant of ["for_update", "skip_locked"] as const) {
        variants[variant].push(await this.#with(["bench/server.ts", variant], (bench) => this.#variant(bench, variant)));
      }
      const before = drains.at(-1);
      const floor = measurable && before ? await this.#limit(before) : undefined;
      const after = await this.#with(START, async (bench) => {
        const drain = await this.#drain(bench);
        await this.#spread(bench, spread);
        if (round === rounds) await this.#others(bench, drain);
        await bench.settle();
        await bench.verify();
        return drain;
      });
      drains.push(after);
      if (floor && before)
        limits.push({
          ...floor,
          share: (before.perSecond + after.perSecond) / 2 / cpuLimit(floor),
          cpuShare: floorSeconds(floor) / median([before, after].map(cpuEach)),
        });
      say(`round ${round} of ${rounds} is over${this.#faults.length > 0 ? `, with ${this.#faults.length} faults` : ""}`);
    }
    this.#compare(drains, variants, limits);
    this.#add("lives", "lives/s", spread.lives);
    this.#add("orders.zipf", "orders/s", spread.zipf);
  }

  #figure(name: string, value: number, unit: string): void {
    this.figures.push({ name, value, unit });
  }

  #add(name: string, unit: string, runs: readonly Measured[]): void {
    this.figures.push(...figuresOf(name, unit, runs));
  }

  async #with<R>(script: readonly string[], work: (bench: Bench) => Promise<R>): Promise<R> {
    const bench = await Bench.start(script, this.#place, this.#generator, this.#faults);
    try {
      return await work(bench);
    } finally {
      await bench.stop();
    }
  }

  /** A fresh installation, then a second start of it, and what it holds when nothing happens. */
  async #starts(): Promise<void> {
    this.#figure("start.first", await this.#with(START, (bench) => Promise.resolve(bench.server.readySeconds)), "s");
    await this.#with(START, async (bench) => {
      this.#figure("start.second", bench.server.readySeconds, "s");
      await sleep(IDLE_SETTLE_MS);
      const idle = bench.memory;
      if (idle) {
        this.#figure("memory.idle", idle.server + idle.postgres, "MB");
        this.#figure("memory.idle.server", idle.server, "MB");
      }
      const { server_version = "", ...settings } = await bench.evidence.settings([...DURABILITY, "server_version"]);
      this.settings = { ...settings, server_version };
    });
    this.#options.say(
      `ready on a first start in ${this.figures[1]?.value.toFixed(1)} s, on a second in ${this.figures[2]?.value.toFixed(1)} s`,
    );
  }

  async #load(bench: Bench, name: string, plan: Plan, over: Over = {}): Promise<Measured> {
    const { seconds, warmSeconds, say } = this.#options;
    const measured = await bench.measure({
      name,
      plan,
      connections: over.connections ?? CONNECTIONS,
      warmSeconds: over.warmSeconds ?? warmSeconds,
      seconds,
      ...(over.rate === undefined ? {} : { rate: over.rate }),
      count: ({ ordersInWindow, livedInWindow, answers }) =>
        over.count === "lives" ? livedInWindow : over.count === "refusals" ? (answers["SOLD_OUT"] ?? 0) : ordersInWindow,
    });
    if (measured.memory) this.#loadMemoryMb = Math.max(this.#loadMemoryMb, measured.memory.server + measured.memory.postgres);
    const others = Object.entries(measured.answers).filter(
      ([code]) => code !== "201" && code !== "200" && code !== (over.count === "refusals" ? "SOLD_OUT" : ""),
    );
    say(
      `${name.padEnd(20)} ${Math.round(measured.perSecond).toLocaleString("en-US").padStart(8)}/s   p99 ${measured.latencyMs.p99.toFixed(1)} ms` +
        (others.length > 0 ? `   also ${others.map(([code, n]) => `${n} ${code}`).join(", ")}` : ""),
    );
    return measured;
  }

  /** A merchant of its own for each measurement: unpaid orders are counted by merchant, so all shoppers may order again. */
  async #hotDeal(bench: Bench, stock = STOCK): Promise<string> {
    return openDeal(bench.api, await openShop(bench.api, bench.adminToken, "sh"), { stock });
  }

  /**
   * Every shopper opens the app before the sale begins, as shoppers do: checking the signature of a token that was never seen costs as much as
   * an order, and belongs to no section below. What it costs is `arrivals`.
   */
  async #arrive(bench: Bench, shoppers = SHOPPERS): Promise<void> {
    const plan: Plan = { kind: "arrivals", firstShopper: 0, shoppers };
    const count = ({ answers }: { answers: Readonly<Record<string, number>> }): number => answers["200"] ?? 0;
    this.#arrivals.push(await bench.measure({ name: "arrivals", plan, connections: CONNECTIONS, warmSeconds: 0, seconds: 0, count }));
  }

  /** (a), cold and warm. */
  async #drain(bench: Bench): Promise<Measured> {
    await this.#arrive(bench);
    this.#colds.push(await this.#cold(bench, "orders.drain", ordersOf([await this.#hotDeal(bench)])));
    this.#limitDeal = await this.#hotDeal(bench);
    return this.#load(bench, "orders.drain", ordersOf([await this.#hotDeal(bench)]), WARM);
  }

  /** (b), (c) */
  async #variant(bench: Bench, variant: Variant): Promise<Measured> {
    const name = `orders.${variant}`;
    const spreadDeal = async (): Promise<string> => {
      const deal = await this.#hotDeal(bench);
      await bench.evidence.spreadStock(deal, BUCKETS[variant]);
      return deal;
    };
    const orders = async (): Promise<Plan> => ({ ...ordersOf([await spreadDeal()]), shoppers: VARIANT_SHOPPERS });
    await this.#arrive(bench, VARIANT_SHOPPERS);
    await this.#cold(bench, name, await orders());
    const measured = await this.#load(bench, name, await orders(), WARM);
    await bench.settle();
    return measured;
  }

  /**
   * The first seconds of a server. V8 compiles what is hot while requests wait, and the relays of quiet databases read the log until they doze
   * (decision 0017): an order costs a fifth more. What is compared with others is measured behind it.
   */
  #cold(bench: Bench, name: string, plan: Plan): Promise<Measured> {
    return this.#load(bench, `${name}.cold`, plan, { warmSeconds: 0 });
  }

  /** (d) The floors, at the batch size the drain had. */
  async #limit(drain: Measured): Promise<Floor> {
    const { seconds, warmSeconds, say } = this.#options;
    const size = Math.max(1, Math.round(drain.batch));
    const dealId = this.#limitDeal;
    const http = await httpFloor(this.#place, this.#generator, {
      connections: CONNECTIONS,
      dealId,
      shoppers: SHOPPERS,
      warmSeconds: 1,
      seconds,
    });
    const { sql } = await sqlFloor({
      dataDir: this.#place.dataDir,
      dealId,
      size,
      warmSeconds: Math.min(2, warmSeconds),
      seconds: Math.min(3, seconds),
      shoppers: SHOPPERS,
    });
    say(
      `limit.cpu            ${Math.round(cpuLimit({ http, sql })).toLocaleString("en-US").padStart(8)}/s   ` +
        `http ${us(http.http)} + sql ${us(sql)} (batches of ${size}) + generator ${us(http.generator)} µs an order`,
    );
    return { http, sql };
  }

  /** (f) and (g), once a round: what the machine does meanwhile is not the same in every minute. */
  async #spread(bench: Bench, { lives, zipf }: Spread): Promise<void> {
    const shops = await this.#shops(bench);
    await bench.settle();
    // On one hot deal, as (a) is.
    lives.push(await this.#load(bench, "lives", await this.#lives(bench, shops.slice(0, 1)), LIVES));
    await bench.settle();
    const deals = await parallel(ZIPF_DEALS, 32, (n) => openDeal(bench.api, shops[n % shops.length] as Shop, { stock: STOCK }));
    zipf.push(await this.#load(bench, "orders.zipf", ordersOf(deals, 1.1)));
  }

  /** Everything that is measured once: (a) at other loads, (e), (f) over the city. */
  async #others(bench: Bench, drain: Measured): Promise<void> {
    const single = async (name: string, unit: string, plan: Plan, over: Over = {}): Promise<void> => {
      await bench.settle();
      this.#add(name, unit, [await this.#load(bench, name, plan, over)]);
    };
    await single("orders.drain.64", "orders/s", ordersOf([await this.#hotDeal(bench)]), { connections: 64, warmSeconds: 2 });
    for (const percent of [80, 50]) {
      const rate = Math.round((drain.perSecond * percent) / 100);
      await single(`orders.drain.at${percent}`, "orders/s", ordersOf([await this.#hotDeal(bench)]), { rate });
    }
    const soldOut = await this.#hotDeal(bench, REFUSED_STOCK);
    await single("orders.refused", "refusals/s", { ...ordersOf([soldOut]), shoppers: REFUSED_SHOPPERS }, { count: "refusals" });
    await bench.checkCount("orders.refused", [soldOut], REFUSED_STOCK);
    // A batch has a twelfth of the commands.
    await single("lives.spread", "lives/s", await this.#lives(bench, await this.#shops(bench)), LIVES);
  }

  #shops(bench: Bench): Promise<Shop[]> {
    return parallel(CITIES.length * SHOPS_A_CITY, 4, (n) => openShop(bench.api, bench.adminToken, CITIES[n % CITIES.length] ?? "sh"));
  }

  async #lives(bench: Bench, shops: readonly Shop[]): Promise<Plan> {
    const deals = await parallel(shops.length, 4, (n) =>
      openDeal(bench.api, shops[n] as Shop, { stock: 10_000_000, tiers: [{ size: 2, price: 1590 }] }),
    );
    if (!this.#walletsAreFull) {
      const plan: Plan = { kind: "topups", firstShopper: 0, shoppers: LIFE_SHOPPERS, amount: WALLET_FEN };
      await bench.measure({ name: "topups", plan, connections: 64, warmSeconds: 0, seconds: 0, count: () => 0 });
      this.#walletsAreFull = true;
    }
    return { kind: "lives", deals, firstShopper: 0, shoppers: LIFE_SHOPPERS };
  }

  #compare(drains: readonly Measured[], variants: Readonly<Record<Variant, readonly Measured[]>>, limits: readonly Limit[]): void {
    this.#add("orders.drain", "orders/s", drains);
    this.#add("orders.drain.cold", "orders/s", this.#colds);
    for (const [variant, runs] of Object.entries(variants)) {
      this.#add(`orders.${variant}`, "orders/s", runs);
      // Each between the drain before it and the one after it: what the machine does meanwhile happens to all three.
      const ratios = runs.map((run, at) => ((drains[at]?.perSecond ?? NaN) + (drains[at + 1]?.perSecond ?? NaN)) / 2 / run.perSecond);
      this.#figure(`ratio.${variant}`, median(ratios), "×");
    }
    this.#add("arrivals", "requests/s", this.#arrivals);
    if (limits.length === 0) return;
    const of = (pick: (limit: Limit) => number): number => median(limits.map(pick));
    this.#figure("limit.cpu", of(cpuLimit), "orders/s");
    this.#figure(
      "limit.cpu.http",
      of(({ http }) => http.http * 1e6),
      "µs/order",
    );
    this.#figure(
      "limit.cpu.sql",
      of(({ sql }) => sql * 1e6),
      "µs/order",
    );
    this.#figure(
      "limit.cpu.generator",
      of(({ http }) => http.generator * 1e6),
      "µs/order",
    );
    this.#figure(
      "ratio.limit",
      of(({ share }) => share * 100),
      "%",
    );
    this.#figure(
      "ratio.limit.cpu",
      of(({ cpuShare }) => cpuShare * 100),
      "%",
    );
  }

  /** Lives for minutes on end: memory must stay where it is after the first of them. */
  async #soak(bench: Bench): Promise<void> {
    const { soakMinutes, say } = this.#options;
    const plan = await this.#lives(bench, await this.#shops(bench));
    const samples: number[] = [];
    const sample = (): void => {
      const now = bench.memory;
      if (now) samples.push(now.server + now.postgres);
    };
    let sampler: NodeJS.Timeout | undefined;
    const measured = await bench.measure({
      name: "soak",
      plan,
      connections: 64,
      warmSeconds: 0,
      seconds: soakMinutes * 60,
      count: ({ livedInWindow }) => livedInWindow,
      watch: { open: () => (sampler = setInterval(sample, SAMPLE_MS).unref()), close: () => clearInterval(sampler) },
    });
    this.#add("soak", "lives/s", [measured]);
    const part = Math.max(1, Math.floor(samples.length / 5));
    const [early, late] = [median(samples.slice(part, 2 * part)), median(samples.slice(-part))];
    this.#figure("soak.rss.early", early, "MB");
    this.#figure("soak.rss.late", late, "MB");
    this.#figure("soak.growth", (late / early - 1) * 100, "%");
    say(`soak of ${soakMinutes} minutes: ${Math.round(early)} MB, then ${Math.round(late)} MB`);
    await bench.settle();
    await bench.verify();
  }
}
const SAMPLE_MS = 2_000;

const ordersOf = (deals: readonly string[], exponent = 0): Plan & { kind: "orders" } => ({
  kind: "orders",
  deals,
  exponent,
  firstShopper: 0,
  shoppers: SHOPPERS,
});
const us = (seconds: number): string => (seconds * 1e6).toFixed(0);

const LIVES = { count: "lives", connections: LIFE_CONNECTIONS } as const;
/** Behind the cold seconds. */
const WARM = { warmSeconds: 2 } as const;
interface Spread {
  readonly lives: Measured[];
  readonly zipf: Measured[];
}

interface Floor {
  readonly http: HttpFloor;
  readonly sql: number;
}
interface Limit extends Floor {
  /** Of the drain's throughput in that of the limit; of the limit's CPU for an order in what the drain burns for one. */
  readonly share: number;
  readonly cpuShare: number;
}
const floorSeconds = ({ http, sql }: Floor): number => http.http + sql + http.generator;
/** Two cores (or as many as there are), and what an order must cost at least. */
const cpuLimit = (floor: Floor): number => CORES / floorSeconds(floor);
const cpuEach = ({ cpu, done }: Measured): number => (cpu ? allSeconds(cpu) / done : NaN);
const CORES = machineOf(".").cores;

/** `make(0)` … `make(count - 1)`, some at once, results in order. */
async function parallel<R>(count: number, atOnce: number, make: (n: number) => Promise<R>): Promise<R[]> {
  const results: R[] = [];
  let next = 0;
  await Promise.all(
    Array.from({ length: atOnce }, async () => {
      for (let n = next++; n < count; n = next++) results[n] = await make(n);
    }),
  );
  return results;
}
