/**
 * Routes that are not one call and one JSON answer: a stream of events stays open for hours, a channel's callback is signed over its raw bytes. Such a route is described beside the contracts of
 * its service (so that the gateway can list and document it) and its service says, when it is created, who serves it on this node; the gateway
 * authenticates, checks the audience, counts it against the limits, and hands the socket over.
 */
import type { IncomingMessage, ServerResponse } from "node:http";
import type { ServiceBroker } from "moleculer";
import { invariant } from "../domain/invariant.ts";
import type { ErrorCode } from "../domain/errors.ts";
import type { Audience, Caller, Fields, Rest } from "./contract.ts";

export interface RawRoute {
  readonly name: string;
  readonly summary: string;
  /** What it answers with, such as `text/event-stream`. */
  readonly mediaType: string;
  readonly errors: readonly ErrorCode[];
  /** A GET may stay open, until the node stops; a POST is answered and done. */
  readonly rest: Pick<Rest, "path" | "root" | "tag"> & {
    readonly method: "GET" | "POST";
    readonly who: Audience;
    readonly status: 200 | 202;
  };
  /** Parameters in the query, checked before the route's handler sees them. */
  readonly query?: Fields;
  /** What a POST sends, where it is not JSON. Its body is read as it comes, for as long as it comes. */
  readonly takes?: string;
  /** Not counted against the limits: its caller proves who it is in its own way, and sends thousands from one address. */
  readonly unlimited?: true;
}

/** `rawRoute("notify.stream", { summary, mediaType, rest: { method: "GET", path: "/events/stream", who: "user", status: 200, tag } })`. */
export const rawRoute = (name: string, route: Omit<RawRoute, "name" | "errors"> & Partial<Pick<RawRoute, "errors">>): RawRoute => ({
  name,
  errors: [],
  ...route,
});

export interface RawRequest {
  /** Present unless the route is for anyone. */
  readonly caller: Caller | undefined;
  readonly requestId: string;
  readonly query: Readonly<Record<string, unknown>>;
  /** Values of the path's parameters, in order. */
  readonly pathValues: readonly string[];
  /** Reads the whole body, within the gateway's limit. */
  readonly body: () => Promise<Buffer>;
  readonly req: IncomingMessage;
  /** Answers at once and as a whole, which is cheaper than taking `res` for it. */
  readonly send: (status: number, type: string, body: string) => void;
  /** Nothing is sent yet but `X-Request-Id` and the security headers are set. The gateway ends it when the node stops. Whoever takes it answers with it. */
  readonly res: ServerResponse;
}
export type RawHandler = (request: RawRequest) => void | Promise<void>;

const handlers = new WeakMap<ServiceBroker, Map<string, RawHandler>>();

/** A service serves a raw route on this node; called in its `created`. */
export function serveRaw(broker: ServiceBroker, route: RawRoute, handler: RawHandler): void {
  const served = handlers.get(broker) ?? new Map<string, RawHandler>();
  invariant(!served.has(route.name), `${route.name} is served by one handler`);
  handlers.set(broker, served.set(route.name, handler));
}

/** Undefined where no service of this node serves it. */
export const rawHandlerOf = (broker: ServiceBroker, route: RawRoute): RawHandler | undefined => handlers.get(broker)?.get(route.name);
