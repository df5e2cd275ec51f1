/** One request and its answer. Every answer of the gateway leaves through here: headers, metrics and the log of what went wrong stand in one place. */
import type { IncomingMessage, ServerResponse } from "node:http";
import { COMMON_ERRORS } from "../../domain/common-errors.ts";
import { refusal } from "../../domain/error.ts";
import type { Metrics } from "../../mixins/metrics.ts";
import type { Tracing } from "../../mixins/tracing.ts";
import { nextUid } from "../../mixins/uids.ts";
import { ClientGone } from "./form.ts";
import { PROBLEM_TYPE, problemHeaders, problemOf, refusalOf } from "./problem.ts";

/** What an exchange needs of its gateway. */
export interface ExchangeHost {
  readonly metrics: Metrics;
  readonly warn: (message: string, details: object) => void;
  readonly error: (message: string, details: object) => void;
  /** Undefined: nothing is traced. */
  readonly tracing: Tracing | undefined;
  /** Stopping: connections are not kept. */
  readonly draining: () => boolean;
}

/** Counts one route's answers; children are kept per status because prom-client looks its labels up anew each time. */
export class RouteMetric {
  readonly name: string;
  readonly #metrics: Metrics;
  readonly #byStatus = new Map<number, { observe(seconds: number): void }>();

  constructor(metrics: Metrics, name: string) {
    this.#metrics = metrics;
    this.name = name;
  }

  observe(status: number, seconds: number): void {
    let child = this.#byStatus.get(status);
    if (child === undefined) this.#byStatus.set(status, (child = this.#metrics.httpRequests.labels(this.name, String(status))));
    child.observe(seconds);
  }
}

/** Of an API that answers data: nothing of it may be sniffed, framed or kept. */
const API_HEADERS = [
  ["X-Content-Type-Options", "nosniff"],
  ["X-Frame-Options", "DENY"],
  ["Referrer-Policy", "no-referrer"],
].flat();
const NOT_KEPT = ["Cache-Control", "no-store"];

/** Printable, short: what a client calls its request is written to logs and event rows. */
const REQUEST_ID = /^[\x21-\x7e]{1,64}$/;
const requestIdOf = (given: string | string[] | undefined): string =>
  typeof given === "string" && REQUEST_ID.test(given) ? given : nextUid();

export class Exchange {
  readonly req: IncomingMessage;
  readonly res: ServerResponse;
  readonly requestId: string;
  readonly metric: RouteMetric;
  readonly query: string;
  /** Values of the path's parameters, as they stood in the path. */
  readonly pathValues: readonly string[];
  /** The name of what is called, for telling its validation errors from others'. */
  readonly action: string;
  /** Set by the rate limits. */
  limitHeaders: readonly string[] = [];
  readonly #host: ExchangeHost;
  readonly #startedMs = performance.now();
  #isOpen = false;

  constructor(
    host: ExchangeHost,
    req: IncomingMessage,
    res: ServerResponse,
    route: { metric: RouteMetric; action: string; query: string; pathValues: readonly string[] },
  ) {
    this.#host = host;
    this.req = req;
    this.res = res;
    this.requestId = requestIdOf(req.headers["x-request-id"]);
    this.metric = route.metric;
    this.action = route.action;
    this.query = route.query;
    this.pathValues = route.pathValues;
  }

  /** `headers`: name and value in turn; a `Cache-Control` among them stands instead of `no-store`. */
  send(status: number, type: string | undefined, body: string | Buffer, headers: readonly string[] = []): void {
    const { res } = this;
    if (!res.headersSent && !res.destroyed) {
      const all = [...API_HEADERS, "X-Request-Id", this.requestId, ...this.limitHeaders, ...headers];
      if (!headers.includes("Cache-Control")) all.push(...NOT_KEPT);
      if (type !== undefined) all.push("Content-Type", type, "Content-Length", String(Buffer.byteLength(body)));
      if (this.#host.draining()) all.push("Connection", "close");
      res.writeHead(status, all);
      const sent = type === undefined ? "" : body;
      if (status < 400) leave(res, sent);
      else res.end(sent);
    }
    if (!this.#isOpen) this.metric.observe(status, (performance.now() - this.#startedMs) / 1000);
  }

  sendJson(status: number, value: unknown, headers?: readonly string[]): void {
    this.send(status, "application/json; charset=utf-8", JSON.stringify(value), headers);
  }

  /** Hands the open response to somebody who writes for as long as they like. */
  open(): ServerResponse {
    const { res } = this;
    this.#isOpen = true;
    const headers = [...API_HEADERS, "X-Request-Id", this.requestId, ...this.limitHeaders, ...NOT_KEPT];
    for (let at = 0; at + 1 < headers.length; at += 2) res.setHeader(headers[at] ?? "", headers[at + 1] ?? "");
    res.once("close", () => this.metric.observe(res.statusCode, (performance.now() - this.#startedMs) / 1000));
    return res;
  }

  /** Answers whatever went wrong; logs what is ours. */
  fail(error: unknown): void {
    if (error instanceof ClientGone) return;
    const known = refusalOf(error, this.action);
    const shown = known ?? refusal(COMMON_ERRORS, "INTERNAL", {});
    const { requestId } = this;
    if (known === undefined) this.#host.error(`${this.metric.name} failed`, { requestId, err: error });
    else if (known.code >= 500)
      this.#host.warn(`${this.metric.name}: ${known.type}`, {
        requestId,
        cause: error instanceof Error ? error.message : String(error),
      });
    if (this.res.headersSent) {
      // An open stream cannot be told; its client sees it break and comes again.
      this.res.destroy();
      return;
    }
    this.send(shown.code, PROBLEM_TYPE, JSON.stringify(problemOf(shown, requestId)), problemHeaders(shown));
  }
}

/**
 * What is answered in one turn leaves at its end, one behind the other. A batch of orders is answered in one turn; with each answer written as it was
 * made, a client on the next core had read it before the next was there, slept, and was woken again, for which the writer pays: a sixth of what
 * this process burnt were those writes. Refusals do not wait: those of a deal that is sold out come one a turn, 30,000 a second.
 */
function leave(res: ServerResponse, body: string | Buffer): void {
  if (leaving.push({ res, body }) === 1) process.nextTick(leaveAll);
}
function leaveAll(): void {
  const together = leaving;
  leaving = [];
  for (const { res, body } of together) res.end(body);
}
let leaving: { readonly res: ServerResponse; readonly body: string | Buffer }[] = [];
