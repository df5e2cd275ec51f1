/**
 * The load generator, a process of its own so that its CPU can be told from the server's. Takes one run after the other from its parent:
 * a fixed number of connections, closed loop (each sends its next request when it has its answer) or, with a rate, open loop (requests are
 * due at fixed times, and the wait for a free connection counts as latency).
 */
import { createHistogram } from "node:perf_hooks";
import { errandsOf, type Errands, type Plan, type Step, type Tally } from "./plans.ts";
import { LoadSocket } from "./socket.ts";
import { shopperHeaders } from "./shoppers.ts";

export interface Run {
  readonly id: string;
  /** Connections go to them in turn. */
  readonly ports: readonly number[];
  /** Set: TLS, to servers this authority vouches for (PEM). */
  readonly ca?: string;
  readonly connections: number;
  readonly plan: Plan;
  /** Before counting starts; its orders are remembered all the same. */
  readonly warmSeconds: number;
  /** 0: until the plan has no more errands. */
  readonly seconds: number;
  /** Requests a second, open loop; undefined: closed loop. */
  readonly rate?: number;
}

/** Counts by answer: `201`, or a refusal's code such as `SOLD_OUT`, or `lost` for a connection that broke. */
export type Counts = Record<string, number>;

export interface RunResult {
  /** Of the measured window. */
  readonly seconds: number;
  readonly answers: Counts;
  readonly latencyMs: { readonly p50: number; readonly p99: number; readonly p999: number; readonly max: number };
  /** Of the whole run. */
  readonly tally: Tally;
  readonly ordersInWindow: number;
  readonly livedInWindow: number;
  /** Of the warm-up: the first request of most shoppers, whose tokens nobody has seen. */
  readonly warm: { readonly seconds: number; readonly answers: Counts };
  readonly lostWhy: string | undefined;
  /** From the last mark until an order was acknowledged whose request was sent after it; undefined: none was. */
  readonly afterMarkMs: number | undefined;
}

/** From the parent: shoppers to sign tokens for, a run, or a word during one. To it: `ready`, `window` at both ends of the measured window, `done`, `failed`. */
export type Order =
  | { readonly sign: { readonly jwtSecret: string; readonly shoppers: number } }
  | { readonly run: Run }
  | { readonly during: "mark" | "finish" };
export type Report =
  { readonly ready: true } | { readonly window: "open" | "closed" } | { readonly done: RunResult } | { readonly failed: string };

/** The last answers of a run may take as long as a request may. */
const LAST_ANSWERS_MS = 15_000;
const PACE_MS = 1;

class LoadRun {
  readonly #run: Run;
  readonly #errands: Errands;
  readonly #histogram = createHistogram({ lowest: 1_000, highest: 60_000_000_000, figures: 3 });
  readonly #tally: Tally = { orders: [], lived: [] };
  readonly #idle: number[] = [];
  readonly #backlog: number[] = [];
  readonly #sockets: LoadSocket[] = [];
  #answers: Counts = {};
  #measuring = false;
  #stopping = false;
  #busy = 0;
  #finished = Promise.withResolvers<void>();
  #lostWhy: string | undefined;
  #markMs: number | undefined;
  #afterMarkMs: number | undefined;

  constructor(run: Run, headers: readonly string[]) {
    this.#run = run;
    this.#errands = errandsOf(run.plan, headers, run.id);
  }

  async go(onWindow: (at: "open" | "closed") => void): Promise<RunResult> {
    const { connections, warmSeconds, seconds, rate } = this.#run;
    const pacer = rate === undefined ? undefined : this.#pace(rate);
    for (let at = 0; at < connections; at++) this.#connect(at);
    const startedMs = performance.now();
    if (warmSeconds > 0) await this.#wait(warmSeconds);
    const warm = { seconds: (performance.now() - startedMs) / 1_000, answers: this.#answers };
    this.#answers = {};
    this.#measuring = true;
    const before = { orders: this.#tally.orders.length, lived: this.#tally.lived.length };
    onWindow("open");
    const openedMs = performance.now();
    await (seconds > 0 ? this.#wait(seconds) : this.#finished.promise);
    this.#measuring = false;
    const measured = (performance.now() - openedMs) / 1_000;
    const ordersInWindow = this.#tally.orders.length - before.orders;
    const livedInWindow = this.#tally.lived.length - before.lived;
    const answers = { ...this.#answers };
    onWindow("closed");
    clearInterval(pacer);
    await this.#stop();
    const ms = (nanoseconds: number): number => nanoseconds / 1e6;
    const latencyMs = {
      p50: ms(this.#histogram.percentile(50)),
      p99: ms(this.#histogram.percentile(99)),
      p999: ms(this.#histogram.percentile(99.9)),
      max: ms(this.#histogram.max),
    };
    return {
      ...{ seconds: measured, answers, latencyMs, tally: this.#tally, ordersInWindow, livedInWindow, warm },
      ...{ lostWhy: this.#lostWhy, afterMarkMs: this.#afterMarkMs },
    };
  }

  /** Something was broken just now. */
  mark(): void {
    this.#markMs = performance.now();
    this.#afterMarkMs = undefined;
  }

  /** The window closes, before its time. */
  finish(): void {
    this.#finished.resolve();
  }

  #wait(seconds: number): Promise<void> {
    return Promise.race([new Promise<void>((resolve) => setTimeout(resolve, seconds * 1_000)), this.#finished.promise]);
  }

  /** No errand is begun any more; those under way get their answers, so that what was acknowledged is known exactly. */
  async #stop(): Promise<void> {
    this.#stopping = true;
    const until = performance.now() + LAST_ANSWERS_MS;
    while (this.#busy > 0 && performance.now() < until) await new Promise((resolve) => setTimeout(resolve, 5));
    for (const socket of this.#sockets) socket.close();
  }

  #connect(at: number): void {
    let step: Step | undefined;
    let sentMs = 0;
    const { ports, ca } = this.#run;
    const socket: LoadSocket = new LoadSocket(ports[at % ports.length] ?? 0, ca, {
      answered: (status, body) => {
        this.#busy--;
        this.#record(status, body, performance.now() - sentMs);
        if (status === 201 && this.#markMs !== undefined && sentMs > this.#markMs) this.#afterMarkMs ??= performance.now() - this.#markMs;
        const next = step?.then?.(status, body, this.#tally);
        if (next !== undefined) send(next, performance.now());
        else this.#free(at);
      },
      lost: (reason) => {
        this.#busy--;
        this.#lostWhy ??= reason;
        this.#answers["lost"] = (this.#answers["lost"] ?? 0) + 1;
        if (!this.#stopping) this.#connect(at);
      },
    });
    const send = (next: Step, dueMs: number): void => {
      step = next;
      sentMs = dueMs;
      this.#busy++;
      socket.send(next.request);
    };
    this.#sockets[at] = socket;
    this.#begin[at] = (dueMs) => {
      const next = this.#errands.next();
      if (next === undefined) {
        if (this.#busy === 0) this.#finished.resolve();
        return;
      }
      send(next, dueMs);
    };
    this.#free(at);
  }
  readonly #begin: ((dueMs: number) => void)[] = [];

  /** A connection has nothing to do: in a closed loop it begins the next errand at once. */
  #free(at: number): void {
    if (this.#stopping) return;
    if (this.#run.rate === undefined) this.#begin[at]?.(performance.now());
    else {
      const dueMs = this.#backlog.shift();
      if (dueMs === undefined) this.#idle.push(at);
      else this.#begin[at]?.(dueMs);
    }
  }

  #pace(rate: number): NodeJS.Timeout {
    const startedMs = performance.now();
    let sent = 0;
    return setInterval(() => {
      const nowMs = performance.now();
      for (; sent < ((nowMs - startedMs) / 1_000) * rate; sent++) {
        const dueMs = startedMs + (sent / rate) * 1_000;
        const at = this.#idle.pop();
        if (at === undefined) this.#backlog.push(dueMs);
        else this.#begin[at]?.(dueMs);
      }
    }, PACE_MS);
  }

  #record(status: number, body: string, latencyMs: number): void {
    const name = status < 400 ? String(status) : codeIn(body, status);
    this.#answers[name] = (this.#answers[name] ?? 0) + 1;
    if (this.#measuring) this.#histogram.record(Math.max(1, Math.round(latencyMs * 1e6)));
  }
}

/** A problem document's `code`. */
function codeIn(body: string, status: number): string {
  const at = body.indexOf('"code":"');
  return at < 0 ? String(status) : body.slice(at + 8, body.indexOf('"', at + 8));
}

const report = (what: Report): void => void process.send?.(what);
let headers: string[] = [];
let current: LoadRun | undefined;

// Without its parent it has nobody to measure for.
process.on("disconnect", () => process.exit(0));
process.on("message", (order: Order) => {
  if ("during" in order) return current?.[order.during]();
  const work = async (): Promise<void> => {
    if ("sign" in order) {
      headers = await shopperHeaders(order.sign.jwtSecret, order.sign.shoppers);
      report({ ready: true });
    } else {
      current = new LoadRun(order.run, headers);
      report({ done: await current.go((at) => report({ window: at })) });
    }
  };
  work().catch((error: unknown) => report({ failed: error instanceof Error ? (error.stack ?? error.message) : String(error) }));
});
