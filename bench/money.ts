/** `npm run bench -- money`: callbacks, refunds, settlement, reconciliation, and verify over a million orders. Method: docs/benchmarks.md. */
import { createReadStream, readFileSync } from "node:fs";
import { open } from "node:fs/promises";
import { request } from "node:http";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { openDeal, openShop, verify } from "./api.ts";
import type { PaidCharge } from "./load/plans.ts";
import { shopperNumber } from "./load/shoppers.ts";
import type { Bench } from "./measure.ts";
import { costOf, figuresOf, type Figure } from "./report.ts";
import { dayAndNoon, PRICE, seedOrders, useVouchers, type SeededDeal } from "./seed.ts";

export interface MoneyOptions {
  readonly seconds: number;
  readonly warmSeconds: number;
  /** Orders of the past, and so lines of the statement. */
  readonly past: number;
  readonly say: (line: string) => void;
  readonly fault: (what: string) => void;
}

const CITIES = ["sh", "bj", "hz"];
const SHOPS_A_CITY = 4;
const SHOPPERS = 2_048;
const WALLET_FEN = 10_000_000_000;
const CONNECTIONS = 256;
const CHARGES_TOLD_OF = 20_000;
/** Vouchers that fall due at once. */
const SETTLED = 40_000;
/** Lines of each kind of lie on the statement. */
const LIES = 10;
const POLL_MS = 100;
const END_MS_MAX = 300_000;

export async function benchMoney(bench: Bench, dataDir: string, options: MoneyOptions): Promise<Figure[]> {
  const run = new MoneyBench(bench, dataDir, options);
  return run.all();
}

class MoneyBench {
  readonly #bench: Bench;
  readonly #dataDir: string;
  readonly #options: MoneyOptions;
  readonly #figures: Figure[] = [];

  constructor(bench: Bench, dataDir: string, options: MoneyOptions) {
    this.#bench = bench;
    this.#dataDir = dataDir;
    this.#options = options;
  }

  async all(): Promise<Figure[]> {
    const { past, say } = this.#options;
    const shops = await Promise.all(
      CITIES.flatMap((city) => Array.from({ length: SHOPS_A_CITY }, () => openShop(this.#bench.api, this.#bench.adminToken, city))),
    );
    const deals = await Promise.all(
      shops.map(async (shop) => ({ dealId: await openDeal(this.#bench.api, shop, { stock: 10_000_000 }), merchantId: shop.merchantId })),
    );
    await this.#refunds(await openDeal(this.#bench.api, shops[0]!, { stock: 10_000_000, tiers: [{ size: 2, price: 1590 }] }));
    const startedMs = performance.now();
    await seedOrders(this.#bench.evidence, deals, past);
    say(`a past of ${past.toLocaleString("en-US")} orders is written in ${seconds(startedMs)} s`);
    await this.#bench.settle();
    await this.#callbacks();
    await this.#settlement(deals);
    await this.#recon();
    await this.#verify();
    return this.#figures;
  }

  #figure(name: string, value: number, unit: string): void {
    this.#figures.push({ name, value, unit });
    this.#options.say(`${name.padEnd(20)} ${Math.round(value).toLocaleString("en-US").padStart(8)} ${unit}`);
  }

  /** How many are done a second, and what one costs; `work` tells whether all came to their end. */
  async #rate(name: string, unit: string, count: number, work: () => Promise<boolean>): Promise<void> {
    let ended = false;
    const startedMs = performance.now();
    const cpu = await this.#bench.burnt(async () => {
      ended = await work();
    });
    if (!ended) return;
    this.#figure(name, (count * 1_000) / (performance.now() - startedMs), unit);
    this.#figures.push(...costOf(name, unit, count, cpu));
  }

  /** Orders that were lived through, paid from wallets; then all of their consumers ask for their money back. From the first request to the last fen. */
  async #refunds(deal: string): Promise<void> {
    const { seconds: window, warmSeconds } = this.#options;
    const { evidence } = this.#bench;
    const common = { connections: CONNECTIONS, warmSeconds: 0 };
    const none = (): number => 0;
    const wallets = { kind: "topups", firstShopper: 0, shoppers: SHOPPERS, amount: WALLET_FEN } as const;
    await this.#bench.measure({ name: "topups", plan: wallets, ...common, seconds: 0, count: none });
    const lives = { kind: "lives", deals: [deal], firstShopper: 0, shoppers: SHOPPERS } as const;
    await this.#bench.measure({ name: "refunds.lives", plan: lives, ...common, seconds: window + warmSeconds, count: none });
    await this.#bench.settle();
    const database = evidence.of(deal);
    const confirmed = await evidence.query<{ id: string; consumer_id: string }>(
      database,
      "select id, consumer_id from orders where deal_id = $1 and state = 'CONFIRMED'",
      [deal],
    );
    const orders = confirmed.map(({ id, consumer_id: consumer }) => ({ id, shopper: shopperNumber(consumer) }));
    await this.#rate("refunds.wallet", "refunds/s", orders.length, async () => {
      await this.#bench.measure({ name: "refunds", plan: { kind: "refunds", orders }, ...common, seconds: 0, count: none });
      return this.#until("every refund is paid", () => this.#none(database, "select from refunds where unfinished"));
    });
    const [row] = await evidence.query<{ done: string }>(
      database,
      "select count(*) as done from refunds r join orders o using (slot) where r.order_id = o.id and o.deal_id = $1 and r.state = 'SUCCEEDED' and o.state = 'REFUNDED'",
      [deal],
    );
    if (Number(row?.done ?? 0) !== orders.length) this.#options.fault(`refunds: ${orders.length} were asked for, ${row?.done} are paid`);
  }

  /** Genuine news of charges that were paid long ago: kept, answered, and found to change nothing. */
  async #callbacks(): Promise<void> {
    const { seconds: window, warmSeconds, fault } = this.#options;
    const { evidence } = this.#bench;
    const charges = await this.#eachCity<{ id: string; channel_no: string; at: Date }>(
      `select id, channel_no, paid_at as at from payments where channel_no like 'SEED%' limit ${CHARGES_TOLD_OF / 4}`,
    );
    const told = charges.map(({ id, channel_no, at }): PaidCharge => ({
      number: id,
      channelNumber: channel_no,
      amount: PRICE,
      at: at.toISOString(),
    }));
    const secret = readFileSync(join(this.#dataDir, "secrets", "simpay"), "utf8").trim();
    const measured = await this.#bench.measure({
      name: "callbacks",
      plan: { kind: "callbacks", secret, charges: told },
      connections: CONNECTIONS,
      warmSeconds,
      seconds: window,
      count: ({ answers }) => answers["200"] ?? 0,
    });
    this.#figures.push(...figuresOf("callbacks", "callbacks/s", [measured]));
    this.#options.say(
      `callbacks            ${Math.round(measured.perSecond).toLocaleString("en-US").padStart(8)} callbacks/s   p99 ${measured.latencyMs.p99.toFixed(1)} ms`,
    );
    await this.#until("every callback is worked off", () => this.#noneInCities("select from channel_callbacks where unfinished"));
    const failed = await this.#eachCity<{ n: string }>("select count(*) as n from channel_callbacks where state = 'FAILED'");
    if (failed.some(({ n }) => Number(n) > 0)) fault("callbacks: some were not understood");
    await evidence.checkpoint();
  }

  /** Vouchers that fall due at one moment, until the last is settled. */
  async #settlement(deals: readonly SeededDeal[]): Promise<void> {
    const { evidence } = this.#bench;
    await useVouchers(evidence, deals, Math.min(SETTLED, this.#options.past));
    const used = await this.#eachCity<{ n: string }>("select count(*) as n from settlements where due_at = 'infinity'");
    const count = used.reduce((sum, { n }) => sum + Number(n), 0);
    await this.#rate("settlement", "vouchers/s", count, async () => {
      await this.#eachCity("update settlements set due_at = now() where due_at = 'infinity'");
      return this.#until("every settlement has succeeded", () => this.#noneInCities("select from settlements where unfinished"));
    });
    await this.#bench.settle();
  }

  /** A statement with lies on it, uploaded, matched and its differences booked; it must name exactly the lies. */
  async #recon(): Promise<void> {
    const file = join(this.#dataDir, "statement.csv");
    const { day } = dayAndNoon();
    const { lines, missing, altered, doubled, extra } = await this.#writeStatement(file, day);
    let serverMb = 0;
    let postgresMb = 0;
    const sampler = setInterval(() => {
      const now = this.#bench.memory;
      serverMb = Math.max(serverMb, now?.server ?? 0);
      postgresMb = Math.max(postgresMb, now?.postgres ?? 0);
    }, 500);
    const startedMs = performance.now();
    const { api, adminToken, server } = this.#bench;
    const id = await upload(server.port, adminToken, `/api/v1/recon/statements?channel=simpay&date=${day}`, file);
    const uploadedSeconds = seconds(startedMs);
    interface Report {
      readonly status: string;
      readonly lines: number;
      readonly counts: readonly { readonly class: string; readonly count: number }[];
    }
    let report: Report | undefined;
    const ended = await this.#until("the statement is reconciled", async () => {
      report = await api.get<Report>(`/recon/statements/${id}?limit=1`, adminToken);
      return report.status === "DONE" || report.status === "FAILED";
    });
    clearInterval(sampler);
    if (!ended || report === undefined) return;
    this.#figure("recon", (performance.now() - startedMs) / 1_000, "s");
    this.#figure("recon.upload", uploadedSeconds, "s");
    this.#figure("recon.lines", lines, "lines");
    if (serverMb > 0) this.#figure("recon.rss.server", serverMb, "MB");
    if (postgresMb > 0) this.#figure("recon.rss.postgres", postgresMb, "MB");
    const counts = Object.fromEntries(report.counts.map((one) => [one.class, one.count]));
    const expected = {
      MATCHED: lines - altered - doubled - extra,
      LONG: extra,
      SHORT: missing,
      AMOUNT: altered,
      STATUS: 0,
      DUPLICATE: doubled,
      TIMING: 0,
    };
    for (const [name, count] of Object.entries(expected))
      if (report.status !== "DONE" || counts[name] !== count)
        this.#options.fault(`recon: ${report.status}, ${counts[name]} lines are ${name}, not ${count}`);
  }

  async #writeStatement(file: string, day: string) {
    const out = await open(file, "w");
    await out.write("time,kind,channel_number,number,charge_number,amount,currency,status\n");
    const made = { lines: 0, sum: 0, missing: 0, altered: 0, doubled: 0, extra: 0 };
    const line = (row: { id: string; channel_no: string; at: Date }, amount = PRICE, mark = ""): string => {
      made.lines += 1;
      made.sum += amount;
      return `${row.at.toISOString()},PAYMENT,${row.channel_no}${mark},${row.id}${mark},,${amount},CNY,PAID\n`;
    };
    for (const database of this.#bench.evidence.cities) {
      let last = "0";
      for (;;) {
        const rows = await this.#bench.evidence.query<{ id: string; channel_no: string; at: Date }>(
          database,
          "select id, channel_no, paid_at as at from payments where channel_no like 'SEED%' and id > $1 order by id limit 50000",
          [last],
        );
        let text = "";
        for (const row of rows) {
          if (made.missing < LIES) made.missing += 1;
          else if (made.altered < LIES) text += line(row, PRICE + (made.altered++ % 2 === 0 ? 1 : -1));
          else if (made.doubled < LIES) {
            made.doubled += 1;
            text += line(row) + line(row);
          } else if (made.extra < LIES) {
            made.extra += 1;
            text += line(row) + line(row, PRICE, "X");
          } else text += line(row);
        }
        await out.write(text);
        last = rows.at(-1)?.id ?? last;
        if (rows.length < 50_000) break;
      }
    }
    await out.write(`${day},TOTAL,${made.lines},,,${made.sum},,\n`);
    await out.close();
    return made;
  }

  /** Everything there is, proven at once; what was found off by reconciliation is in suspense, where it belongs. */
  async #verify(): Promise<void> {
    const { api, adminToken } = this.#bench;
    const startedMs = performance.now();
    await verify(api, adminToken);
    this.#figure("verify", (performance.now() - startedMs) / 1_000, "s");
    await this.#bench.verify();
  }

  async #eachCity<Row extends object>(text: string): Promise<Row[]> {
    const { evidence } = this.#bench;
    return (await Promise.all(evidence.cities.map((database) => evidence.query<Row & Record<string, unknown>>(database, text)))).flat();
  }

  async #noneInCities(text: string): Promise<boolean> {
    const each = await Promise.all(this.#bench.evidence.cities.map((database) => this.#none(database, text)));
    return each.every(Boolean);
  }

  /** Asked of an index of what is left: counting it ten times a second would be a tenth of what is measured. */
  async #none(database: string, text: string): Promise<boolean> {
    const [row] = await this.#bench.evidence.query<{ none: boolean }>(database, `select not exists (${text}) as none`);
    return row?.none ?? false;
  }

  async #until(what: string, holds: () => Promise<boolean>): Promise<boolean> {
    const startedMs = performance.now();
    while (!(await holds())) {
      if (performance.now() - startedMs > END_MS_MAX) {
        this.#options.fault(`${what}: not within five minutes`);
        return false;
      }
      await sleep(POLL_MS);
    }
    return true;
  }
}

const seconds = (sinceMs: number): number => Math.round((performance.now() - sinceMs) / 100) / 10;

/** Streamed from the file, as a finance department's script would. */
function upload(port: number, token: string, path: string, file: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const headers = { authorization: `Bearer ${token}`, "content-type": "text/csv" };
    const sent = request({ host: "127.0.0.1", port, path, method: "POST", headers }, (answer) => {
      let body = "";
      answer.setEncoding("utf8").on("data", (text: string) => (body += text));
      answer.on("end", () => {
        if (answer.statusCode === 202) resolve((JSON.parse(body) as { id: string }).id);
        else reject(new Error(`the statement is answered ${answer.statusCode}: ${body.slice(0, 300)}`));
      });
    });
    sent.on("error", reject);
    createReadStream(file).on("error", reject).pipe(sent);
  });
}
