/**
 * Traces, where OTEL_EXPORTER_OTLP_ENDPOINT is set: HTTP request → calls, over NATS too → drain. Off, no object of this file exists, and the hot
 * path asks one field for `undefined`.
 *
 * By OpenTelemetry's own SDK and middleware of twenty lines. Moleculer's tracer was looked at first: its spans have ids of another form, no
 * links, and no exporter to OTLP, so each would have been copied into one of these anyway. What travels is a W3C `traceparent` in the call's headers.
 *
 * A drain belongs to hundreds of requests. It is a trace of its own, which links the span of every request of its batch that is traced.
 */
import { AsyncLocalStorage } from "node:async_hooks";
import type { ServerResponse } from "node:http";
import { ROOT_CONTEXT, type Span, type SpanContext, SpanKind, SpanStatusCode, trace, type Tracer } from "@opentelemetry/api";
import { OTLPTraceExporter } from "@opentelemetry/exporter-trace-otlp-http";
import { resourceFromAttributes } from "@opentelemetry/resources";
import { BatchSpanProcessor, TracerProvider } from "@opentelemetry/sdk-trace";
import type { CallingOptions, Context, Middleware } from "moleculer";
import { DomainError } from "../domain/error.ts";
import type { Shard } from "../domain/ids.ts";
import { LIMITS } from "../domain/limits.ts";
import type { Command } from "./mailbox.ts";

export interface TracingSettings {
  /** Of a collector, OTLP over HTTP: `/v1/traces` is put behind it. */
  readonly endpoint: string;
  /** Of all requests, the part that is traced: 0 to 1. */
  readonly ratio: number;
}

/** A collector that does not answer costs memory for so many spans, and then spans. */
const SPANS_WAITING_MAX = 8_192;
const EXPORT_EVERY_MS = 1_000;
const EXPORT_MS = 3_000;

const TRACEPARENT = /^00-([0-9a-f]{32})-([0-9a-f]{16})-01$/;

export class Tracing {
  readonly #provider: TracerProvider;
  readonly #tracer: Tracer;
  readonly #ratio: number;
  readonly #current = new AsyncLocalStorage<Span>();

  constructor({ endpoint, ratio }: TracingSettings, nodeID: string) {
    this.#ratio = ratio;
    this.#provider = new TracerProvider({
      resource: resourceFromAttributes({ "service.name": "tuanbar", "service.instance.id": nodeID }),
      // A full batch is linked whole.
      spanLimits: { linkCountLimit: LIMITS.drainCommandsMax },
      spanProcessors: [
        new BatchSpanProcessor({
          exporter: new OTLPTraceExporter({ url: `${endpoint.replace(/\/$/, "")}/v1/traces`, timeoutMillis: EXPORT_MS }),
          maxQueueSize: SPANS_WAITING_MAX,
          scheduledDelayMillis: EXPORT_EVERY_MS,
          exportTimeoutMillis: EXPORT_MS,
        }),
      ],
    });
    this.#tracer = this.#provider.getTracer("tuanbar");
  }

  /** One HTTP request, from here to the end of its answer. What it calls while `serve` runs is below it. A request that is not traced costs one random number. */
  request<T>(route: string, requestId: string, res: ServerResponse, serve: () => T): T {
    if (Math.random() >= this.#ratio) return serve();
    const span = this.#tracer.startSpan(route, {
      kind: SpanKind.SERVER,
      root: true,
      attributes: { "http.route": route, "tuanbar.request_id": requestId },
    });
    res.once("close", () => {
      span.setAttribute("http.response.status_code", res.statusCode);
      if (res.statusCode >= 500) span.setStatus({ code: SpanStatusCode.ERROR });
      span.end();
    });
    return this.#current.run(span, serve);
  }

  /** The span that runs now, for who works for it later. */
  current(): SpanContext | undefined {
    return this.#current.getStore()?.spanContext();
  }

  /** One drain, if anybody in its batch is traced. Drains never reject: what became of a command, its own span says. */
  async drain(shard: Shard, commands: readonly Command[], run: () => Promise<void>): Promise<void> {
    const links = commands.flatMap(({ traced }) => (traced === undefined ? [] : [{ context: traced }]));
    if (links.length === 0) return run();
    const kinds = [...new Set(commands.map(({ kind }) => kind))].toSorted();
    const span = this.#tracer.startSpan(`drain ${kinds.join(" ")}`, {
      root: true,
      links,
      attributes: { "tuanbar.city": shard.city, "tuanbar.slot": shard.slot, "tuanbar.batch": commands.length },
    });
    try {
      await this.#current.run(span, run);
    } finally {
      span.end();
    }
  }

  /** Calls carry the span they come from; actions that are called from a span have one of their own. Sweeps and timers have none. */
  middleware(): Middleware {
    const middleware: Wraps = {
      name: "Tracing",
      call: (next) => (action, params, options) => {
        const from = this.current();
        return from === undefined
          ? next(action, params, options)
          : next(action, params, { ...options, headers: { ...options?.headers, traceparent: `00-${from.traceId}-${from.spanId}-01` } });
      },
      localAction: (next, action) => (ctx) => {
        const caller = callerOf(ctx);
        return caller === undefined ? next(ctx) : this.#action(action.name, caller, ctx, () => next(ctx));
      },
    };
    return middleware as unknown as Middleware;
  }

  /** Sends what is finished; rejects where nobody took it. */
  close(): Promise<void> {
    return this.#provider.shutdown();
  }

  async #action<T>(name: string, caller: SpanContext, ctx: Context, run: () => Promise<T>): Promise<T> {
    const { requestId } = ctx.meta as { readonly requestId?: string };
    const span = this.#tracer.startSpan(
      name,
      { kind: SpanKind.SERVER, attributes: requestId === undefined ? {} : { "tuanbar.request_id": requestId } },
      trace.setSpanContext(ROOT_CONTEXT, caller),
    );
    try {
      return await this.#current.run(span, run);
    } catch (error) {
      // A refusal is an answer.
      if (error instanceof DomainError && error.code < 500) span.setAttribute("tuanbar.refusal", error.type);
      else span.setStatus({ code: SpanStatusCode.ERROR, message: error instanceof DomainError ? error.type : String(error) });
      throw error;
    } finally {
      span.end();
    }
  }
}

/** What Moleculer wraps; its own types say that a wrapped `call` is a promise, and that handlers have a `this`. */
type Handler = (ctx: Context) => Promise<unknown>;
type Call = (action: string, params: unknown, options?: CallingOptions) => Promise<unknown>;
interface Wraps {
  readonly name: string;
  readonly call: (next: Call) => Call;
  readonly localAction: (next: Handler, action: { readonly name: string }) => Handler;
}

function callerOf(ctx: Context): SpanContext | undefined {
  const { traceparent } = ctx.headers as { readonly traceparent?: unknown };
  const [, traceId, spanId] = typeof traceparent === "string" ? (TRACEPARENT.exec(traceparent) ?? []) : [];
  return traceId === undefined || spanId === undefined ? undefined : { traceId, spanId, traceFlags: 1, isRemote: true };
}
