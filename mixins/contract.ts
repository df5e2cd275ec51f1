/**
 * A contract is one value: an action's name, its parameters and answer as schemas, the errors it may give, how it looks over HTTP, and where
 * it lives. Handlers and callers share it, OpenAPI is generated from it, and a wrong field is a compile error on both sides.
 * Schemas are fastest-validator's; the TypeScript types are inferred from them.
 */
import type { ActionSchema, CallingOptions, Context, Service, ServiceBroker } from "moleculer";
import type { ErrorCode } from "../domain/errors.ts";
import type { Id, Shard } from "../domain/ids.ts";
import type { Role } from "../domain/user/role.ts";
import { mayRepeat, sendAgain, type Repeatable } from "./again.ts";

/** Scalars by their fastest-validator name. `id`, `fen`, `time` and `cursor` are ours: see `mixins/validator.ts`. */
interface Scalars {
  string: string;
  number: number;
  boolean: boolean;
  /** A decimal id with its address in it. */
  id: Id;
  /** Money in JSON: integer fen, exact. */
  fen: number;
  /** RFC 3339, UTC. */
  time: string;
  cursor: string;
  any: unknown;
}
type Head<S extends string> = S extends `${infer H}|${string}` ? H : S;
type One<R> = R extends undefined
  ? undefined
  : R extends string
    ? Head<R> extends keyof Scalars
      ? Scalars[Head<R>]
      : never
    : R extends { type: "enum"; values: readonly (infer V)[] }
      ? V
      : R extends { type: "array"; items: infer I }
        ? One<I>[]
        : R extends { type: "object"; props: infer O }
          ? Infer<O>
          : R extends { type: infer T extends keyof Scalars }
            ? Scalars[T]
            : never;
type Skippable<R> = R extends { optional: true } | { default: unknown } ? true : R extends `${string}|optional${string}` ? true : false;

/** The type a schema describes. Keys with `$$` are the validator's, not fields. */
export type Infer<P> = {
  -readonly [K in keyof P as K extends `$$${string}` ? never : Skippable<P[K]> extends true ? never : K]: One<P[K]>;
} & {
  -readonly [K in keyof P as K extends `$$${string}` ? never : Skippable<P[K]> extends true ? K : never]?: One<P[K]>;
};

export type Fields = Readonly<Record<string, unknown>>;

/** A named shape: one component of the OpenAPI document, one type. */
export interface Shape<F extends Fields = Fields> {
  readonly type: "object";
  readonly name: string;
  readonly props: F;
}
export const shape = <const F extends Fields>(name: string, props: F): Shape<F> => ({ type: "object", name, props });
export type Of<S> = One<S>;

/** Who may call: `anyone` needs no token, `user` any role. */
export type Audience = "anyone" | "user" | Role;

/** How an action looks over HTTP. */
export interface Rest {
  readonly method: "GET" | "POST";
  /** Below /api/v1 unless `root` is set; `{name}` marks a path parameter, which is a field of `params`. */
  readonly path: string;
  readonly root?: true;
  readonly who: Audience;
  readonly status: 200 | 201 | 202 | 204;
  /** Answers that are not the end of it go out as 202 instead. */
  readonly acceptedWhen?: (answer: unknown) => boolean;
  /** `required`: 400 without an Idempotency-Key; `optional`: the caller's to use. Only for POST. */
  readonly key?: "required" | "optional";
  readonly tag: string;
  /** Requests a test replays and the documentation shows; `{…}` names are filled from what the test has made before. */
  readonly example?: Readonly<Record<string, unknown>>;
}

export interface Contract<N extends string = string, P extends Fields = Fields, A = unknown> {
  readonly name: N;
  readonly summary: string;
  readonly params: P;
  readonly answer: A;
  readonly errors: readonly ErrorCode[];
  readonly rest?: Rest;
  /** Milliseconds a caller waits; every call has an end. */
  readonly timeoutMs: number;
  /** The same call twice has the effect of one, so it may be repeated when no answer came. */
  readonly retrySafe: boolean;
  /** The shard it belongs to, read from its parameters or from who asks; undefined where it belongs to no shard and goes to any node. */
  readonly address?: (params: Infer<P>, caller: Caller | undefined) => Shard | undefined;
}

interface Options<P extends Fields> {
  readonly summary: string;
  readonly params: P;
  readonly errors?: readonly ErrorCode[];
  readonly rest?: Rest;
  readonly timeoutMs?: number;
  readonly retrySafe?: boolean;
  readonly address?: (params: Infer<P>, caller: Caller | undefined) => Shard | undefined;
}

const DEFAULT_TIMEOUT_MS = 10_000;

/** `action("order.place", { params, answer, … })`. The answer is a shape, an array schema, or undefined for an empty answer. */
export const action = <const N extends string, const P extends Fields, const A>(
  name: N,
  options: Options<P> & { readonly answer: A },
): Contract<N, P, A> => ({
  name,
  timeoutMs: DEFAULT_TIMEOUT_MS,
  retrySafe: options.rest?.method === "GET",
  errors: [],
  ...options,
});

/** Who is asking, checked by the gateway. */
export interface Caller {
  readonly userId: Id<"user">;
  readonly username: string;
  readonly roles: readonly Role[];
  readonly merchantId?: Id<"merchant">;
}

/** What travels with a call. The gateway makes a new one for every request; nothing in it is ever set by a service. */
export interface CallMeta {
  readonly caller?: Caller;
  readonly requestId?: string;
  /** The client's Idempotency-Key, and the SHA-256 of its request in hex. */
  readonly idempotencyKey?: string;
  readonly bodyHash?: string;
}

export type Params<C> = C extends { readonly params: infer P } ? Infer<P> : never;
export type Answer<C> = C extends { readonly answer: infer A } ? One<A> : never;
export type Ctx<C> = Context<Params<C>, CallMeta>;

/** The action schema of a contract: validation, timeout and handler. `this` of the handler is the service. */
export const handle = <N extends string, P extends Fields, A, T extends Service<{}> = Service<{}>>(
  contract: Contract<N, P, A>,
  handler: (this: T, ctx: Context<Infer<P>, CallMeta>) => Promise<One<A>>,
  extra: Omit<ActionSchema<T>, "params" | "handler"> = {},
): ActionSchema<T> =>
  ({
    ...extra,
    params: { $$strict: true, ...contract.params },
    timeout: contract.timeoutMs,
    retrySafe: contract.retrySafe,
    handler,
  }) as unknown as ActionSchema<T>;

/** Something that can call: a broker or a context. */
export type Via = Pick<Context, "call"> | Pick<ServiceBroker, "call">;

/**
 * Calls an action by its contract; its shard's address travels in the headers (one hop), where the slot strategy reads it. A call whose node went
 * away is sent to the next one where that is safe (`again.ts`), within the same deadline.
 */
export const call = <N extends string, P extends Fields, A>(
  via: Via,
  contract: Contract<N, P, A>,
  params: Infer<P>,
  options: CallingOptions = {},
): Promise<One<A>> => {
  const meta = (options.meta ?? ("meta" in via ? via.meta : undefined)) as CallMeta | undefined;
  const shard = contract.address?.(params, meta?.caller);
  const addressed = shard ? { ...options, headers: { ...options.headers, city: shard.city, slot: shard.slot } } : options;
  const timeoutMs = options.timeout ?? contract.timeoutMs;
  // Both have the same method under two declarations that TypeScript cannot call as one.
  const send = (timeout: number): Promise<One<A>> =>
    (via as Pick<Context, "call">).call<One<A>, Infer<P>>(contract.name, params, { ...addressed, timeout } as CallingOptions);
  const startedMs = performance.now();
  return send(timeoutMs).catch((error: unknown) => {
    const what: Repeatable = { name: contract.name, twiceIsOnce: twiceIsOnce(contract, meta) };
    // A call to one named node means that node.
    if (options.nodeID !== undefined || !mayRepeat(error, what)) throw error;
    return sendAgain(what, timeoutMs, startedMs, error, send);
  });
};

/** It says so itself, or what it made is kept under the client's key. */
const twiceIsOnce = ({ retrySafe, rest }: Pick<Contract, "retrySafe" | "rest">, meta: CallMeta | undefined): boolean =>
  retrySafe || (rest?.key !== undefined && meta?.idempotencyKey !== undefined);
