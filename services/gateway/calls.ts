/** A contract over HTTP: who asks → may they → how often → what exactly → call → answer. */
import type { ServerResponse } from "node:http";
import type { BlockList } from "node:net";
import type { ServiceBroker } from "moleculer";
import { COMMON_ERRORS } from "../../domain/common-errors.ts";
import { raise } from "../../domain/error.ts";
import { call, type Audience, type Caller, type CallMeta } from "../../mixins/contract.ts";
import { isRefusal } from "../../mixins/mailbox.ts";
import { rawHandlerOf, type RawRoute } from "../../mixins/raw-routes.ts";
import { addressOf, type Callers, checkAudience } from "./callers.ts";
import type { Exchange } from "./exchange.ts";
import { announcesBody, Form, invalid, parseBody, readBody } from "./form.ts";
import { addressKey, guessOf, isWrong, type Guess, type Limits } from "./limits.ts";
import type { Near } from "./near.ts";
import { fullPath, type RestContract } from "./routes.ts";
import { letSlow } from "./server.ts";

/** Serves one exchange; a throw is answered as a problem. */
export type Serve = (exchange: Exchange) => void | Promise<void>;

export interface Door {
  readonly broker: ServiceBroker;
  readonly callers: Callers;
  /** Undefined: no limits, for load tests. */
  readonly limits: Limits | undefined;
  readonly proxies: BlockList;
  /** What is answered from nearby, by the name of its contract. */
  readonly near: ReadonlyMap<string, Near>;
}

const IDEMPOTENCY_KEY = /^[\x20-\x7e]{1,128}$/;
const NO_BODY = { fields: {}, escaped: false } as const;

export function serveContract(door: Door, contract: RestContract): Serve {
  const { rest } = contract;
  const form = new Form(contract, rest.method, fullPath(rest));
  const isAuth = rest.path.startsWith("/auth/");
  const guess = guessOf(contract.errors);
  const near = door.near.get(contract.name);

  return async (exchange) => {
    // Awaited only where there is something to wait for: a turn of the microtask queue per step is felt at 20,000 refusals a second.
    if (door.limits !== undefined) await limitAddress(door, door.limits, isAuth, exchange);
    const caller = knownCaller(door, exchange) ?? (await verifiedCaller(door, exchange));
    checkAudience(rest.who, caller);
    if (door.limits !== undefined && caller !== undefined) await door.limits.take("user", caller.userId, exchange);
    const idempotencyKey = rest.method === "POST" ? keyOf(exchange, rest.key === "required") : undefined;
    const body = rest.method === "POST" && announcesBody(exchange.req) ? parseBody(await readBody(exchange.req)) : NO_BODY;
    const params = form.read({ path: exchange.pathValues, query: exchange.query, body: body.fields, escaped: body.escaped });
    const ask = (): Promise<unknown> => {
      const meta: CallMeta = {
        requestId: exchange.requestId,
        ...(caller === undefined ? undefined : { caller }),
        ...(idempotencyKey === undefined ? undefined : { idempotencyKey, bodyHash: form.hash(params) }),
      };
      return call(door.broker, contract, params as never, { meta, checked: true });
    };
    if (near !== undefined) {
      const value = near.answer(params as never, caller, ask);
      if (isRefusal(value)) return exchange.fail(value);
      try {
        return answer(exchange, rest.status, value instanceof Promise ? await value : value);
      } catch (error) {
        near.refused?.(params as never, error);
        throw error;
      }
    }
    const guesses =
      guess !== undefined && door.limits !== undefined
        ? { guess, limits: door.limits, key: guesserOf(door, guess, caller, params, exchange) }
        : undefined;
    if (guesses) await guesses.limits.mayTry(guesses.guess.limit, guesses.key, exchange);
    try {
      const value = await ask();
      answer(exchange, rest.acceptedWhen?.(value) ? 202 : rest.status, value);
    } catch (error) {
      if (guesses && isWrong(guesses.guess, error)) await guesses.limits.countFailure(guesses.guess.limit, guesses.key);
      throw error;
    }
  };
}

/** Who guesses: a user at vouchers; somebody without a token at one name from one address. */
function guesserOf(door: Door, guess: Guess, caller: Caller | undefined, params: object, exchange: Exchange): string {
  if (guess.limit === "voucherGuess" && caller !== undefined) return caller.userId;
  const name = "username" in params ? String(params.username) : "";
  return `${addressKey(addressOf(exchange.req, door.proxies))} ${name}`;
}

export function serveRawRoute(door: Door, route: RawRoute, track: (exchange: Exchange) => void): Serve {
  const form = new Form({ params: route.query ?? {} }, "GET", fullPath(route.rest));
  return async (exchange) => {
    const { method = "" } = exchange.req;
    if (method !== route.rest.method) raise(COMMON_ERRORS, "METHOD_NOT_ALLOWED", { method, allow: [route.rest.method] });
    const limits = route.unlimited ? undefined : door.limits;
    if (limits !== undefined) await limitAddress(door, limits, false, exchange);
    const caller = await verifiedCaller(door, exchange);
    checkAudience(route.rest.who satisfies Audience, caller);
    if (limits !== undefined && caller !== undefined) await limits.take("user", caller.userId, exchange);
    const handler = rawHandlerOf(door.broker, route);
    if (handler === undefined) return raise(COMMON_ERRORS, "UNAVAILABLE", { what: "the service", retryAfterSeconds: 2 });
    // What is open when the node stops is ended; what is being answered is waited for.
    if (method === "GET") track(exchange);
    const { requestId, pathValues, req } = exchange;
    const query = route.query === undefined ? {} : form.read({ path: [], query: exchange.query, body: {}, escaped: false });
    if (route.takes !== undefined) letSlow(req);
    let opened: ServerResponse | undefined;
    await handler({
      ...{ caller, requestId, query, pathValues, req },
      body: () => readBody(req),
      send: (status, type, body) => exchange.send(status, type, body),
      get res() {
        return (opened ??= exchange.open());
      },
    });
  };
}

async function limitAddress(door: Door, limits: Limits, isAuth: boolean, exchange: Exchange): Promise<void> {
  const key = addressKey(addressOf(exchange.req, door.proxies));
  await limits.take("address", key, exchange);
  if (isAuth) await limits.take("auth", key, exchange);
}

function knownCaller(door: Door, exchange: Exchange): Caller | undefined {
  const { authorization } = exchange.req.headers;
  return authorization === undefined ? undefined : door.callers.known(authorization);
}

async function verifiedCaller(door: Door, exchange: Exchange): Promise<Caller | undefined> {
  const { authorization } = exchange.req.headers;
  return authorization === undefined ? undefined : (door.callers.known(authorization) ?? door.callers.verify(authorization));
}

function keyOf(exchange: Exchange, required: boolean): string | undefined {
  const key = exchange.req.headers["idempotency-key"];
  if (key === undefined) return required ? raise(COMMON_ERRORS, "IDEMPOTENCY_KEY_REQUIRED", {}) : undefined;
  if (typeof key !== "string" || !IDEMPOTENCY_KEY.test(key))
    return invalid([{ field: "Idempotency-Key", message: "1 to 128 printable ASCII characters." }]);
  return key;
}

const REPLAYED = ["Idempotency-Replayed", "true"];

function answer(exchange: Exchange, status: number, value: unknown): void {
  if (status === 204) return exchange.send(status, undefined, "");
  if (typeof value === "object" && value !== null && "replayed" in value) {
    const { replayed, ...first } = value;
    return exchange.sendJson(status, first, replayed === true ? REPLAYED : []);
  }
  exchange.sendJson(status, value);
}
