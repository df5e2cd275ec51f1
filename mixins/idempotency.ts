/**
 * Idempotency keys with stored answers. The key, the effect and the answer are written by one drain in one transaction, so a key is either
 * unused or answered: there is no "running" state to get stuck in. Twins in one batch get one answer; twins in two processes meet at the
 * unique key, and the loser's batch is run again and finds the answer. Refusals are not stored: they made nothing, and a repeat may succeed.
 * Orders do not use this: an order's row is its own stored answer. The others are remembered for `LIMITS.requestsKeptDays`.
 */
import type { Context } from "moleculer";
import { COMMON_ERRORS } from "../domain/common-errors.ts";
import { DomainError, refusal } from "../domain/error.ts";
import { invariant } from "../domain/invariant.ts";
import { LIMITS } from "../domain/limits.ts";
import type { Queryable, Statement } from "../db/database.ts";
import type { CallMeta } from "./contract.ts";
import type { DrainFunction } from "./drain.ts";
import { KEPT_SINCE, pruneOld, pruning } from "./prune.ts";

/** Part of a command's input: whose request it is, and which. Without a key nothing is stored. */
export interface Keyed {
  readonly callerId: string;
  readonly operation: string;
  readonly idemKey: string | undefined;
  /** Hex SHA-256 of method, path and body, made by the gateway. */
  readonly bodyHash: string | undefined;
}

/** An answer given again carries this mark; the gateway turns it into `Idempotency-Replayed: true` and takes it off. */
export type Replayable<A> = A & { readonly replayed?: true };

/** The `Keyed` part of a command, from a call. */
export function keyOf(ctx: Context<unknown, CallMeta>, operation: string): Keyed {
  const { caller, idempotencyKey, bodyHash } = ctx.meta;
  invariant(caller !== undefined, "a keyed action has a caller");
  return { callerId: caller.userId, operation, idemKey: idempotencyKey, bodyHash };
}

const FIND: Statement = {
  name: "idempotency/find",
  text: `
    select r.caller, r.idem_key, encode(r.body_hash, 'hex') as body_hash, r.answer
      from unnest($2::bigint[], $3::text[]) as k(caller, idem_key)
     cross join lateral (select * from requests_$1 where slot = $1 and caller = k.caller and idem_key = k.idem_key offset 0) r`,
};
const STORE: Statement = {
  name: "idempotency/store",
  text: `
    insert into requests_$1 (slot, caller, operation, idem_key, body_hash, answer)
    select $1, caller, operation, idem_key, decode(body_hash, 'hex'), answer
      from unnest($2::bigint[], $3::text[], $4::text[], $5::text[], $6::json[]) as r(caller, operation, idem_key, body_hash, answer)`,
};

const PRUNE: Statement = pruning("requests", `at < ${KEPT_SINCE}`);
/** Long after its client has given up; then the key is as good as new. */
export const pruneRequests = pruneOld("idempotency keys", "every", PRUNE, LIMITS.requestsKeptDays);

const nameOf = (keyed: { callerId: string; idemKey: string | undefined }): string => `${keyed.callerId} ${keyed.idemKey}`;

/** Wraps a drain: keys seen before are answered from the store, the rest are run once each and their answers stored. */
export const storedAnswers =
  <I extends Keyed, O extends object>(drain: DrainFunction<I, O>): DrainFunction<I, Replayable<O>> =>
  async (work, inputs) => {
    const seen = await find(work, work.shard.slot, inputs);
    const fresh = new Map<string, I>();
    const unkeyed: I[] = [];
    for (const input of inputs) {
      if (input.idemKey === undefined) unkeyed.push(input);
      else if (!seen.has(nameOf(input)) && !fresh.has(nameOf(input))) fresh.set(nameOf(input), input);
    }
    const toRun = [...fresh.values(), ...unkeyed];
    const outcomes = toRun.length === 0 ? [] : await drain(work, toRun);
    const outcomeOf = new Map<I, O | DomainError>(toRun.map((input, index) => [input, outcomes[index] as O | DomainError]));
    await store(work, work.shard.slot, outcomeOf);
    return inputs.map((input): Replayable<O> | DomainError => {
      const own = outcomeOf.get(input);
      if (own !== undefined) return own;
      const stored = seen.get(nameOf(input));
      if (stored) return stored.bodyHash === input.bodyHash ? { ...(stored.answer as O), replayed: true } : reused(input);
      const twin = fresh.get(nameOf(input));
      const answer = twin && outcomeOf.get(twin);
      invariant(twin !== undefined && answer !== undefined, "every command was seen, run, or is the twin of one that was");
      if (twin.bodyHash !== input.bodyHash) return reused(input);
      return answer instanceof DomainError ? answer : { ...answer, replayed: true };
    });
  };

const reused = (input: Keyed): DomainError => refusal(COMMON_ERRORS, "IDEMPOTENCY_KEY_REUSED", { key: input.idemKey ?? "" });

async function find(tx: Queryable, slot: number, inputs: readonly Keyed[]): Promise<Map<string, { bodyHash: string; answer: unknown }>> {
  const keyed = inputs.filter((input) => input.idemKey !== undefined);
  if (keyed.length === 0) return new Map();
  const rows = await tx.query<{ caller: string; idem_key: string; body_hash: string; answer: unknown }>(FIND, [
    slot,
    keyed.map((input) => input.callerId),
    keyed.map((input) => input.idemKey),
  ]);
  return new Map(
    rows.map((row) => [nameOf({ callerId: row.caller, idemKey: row.idem_key }), { bodyHash: row.body_hash, answer: row.answer }]),
  );
}

async function store(tx: Queryable, slot: number, outcomes: ReadonlyMap<Keyed, object>): Promise<void> {
  const done = [...outcomes].filter(([input, outcome]) => input.idemKey !== undefined && !(outcome instanceof DomainError));
  if (done.length === 0) return;
  await tx.query(STORE, [
    slot,
    done.map(([input]) => input.callerId),
    done.map(([input]) => input.operation),
    done.map(([input]) => input.idemKey),
    done.map(([input]) => input.bodyHash),
    done.map(([, outcome]) => JSON.stringify(outcome)),
  ]);
}
