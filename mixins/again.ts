/**
 * When a call may be sent again: only after its node went away, never because it was slow. A node that answers "I am leaving" has not begun, so
 * anything may be repeated; of one that vanished nobody knows what it did, so only what has the effect of one when done twice: contracts that
 * say so, and requests with an idempotency key. Moleculer's own retries ask neither question.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { Errors } from "moleculer";

export interface Repeatable {
  readonly name: string;
  /** The same call twice has the effect of one. */
  readonly twiceIsOnce: boolean;
}

/** Registries hear of a node that leaves within milliseconds; a few rounds outlast that. */
const TRIES_MAX = 6;
const PAUSE_MS = 40;

/** Sends until there is an answer that is not its node's end. `timeLeftMs` of the second try is what the first has left over. */
export async function sendAgain<R>(
  what: Repeatable,
  timeoutMs: number,
  startedMs: number,
  first: unknown,
  send: (timeLeftMs: number) => Promise<R>,
): Promise<R> {
  let error = first;
  for (let tries = 1; tries < TRIES_MAX && mayRepeat(error, what); tries++) {
    await sleep(tries * PAUSE_MS);
    const leftMs = timeoutMs - (performance.now() - startedMs);
    if (leftMs <= 0) break;
    try {
      return await send(leftMs);
    } catch (next) {
      error = next;
    }
  }
  throw error;
}

export function mayRepeat(error: unknown, { name, twiceIsOnce }: Repeatable): boolean {
  const { action, nodeID } = ((error as { data?: unknown } | undefined)?.data ?? {}) as { action?: string; nodeID?: string };
  // Of this very call, not of one the handler made in its turn.
  if (action !== name) return false;
  if (error instanceof Errors.RequestRejectedError) return twiceIsOnce;
  // With a node's name the node itself said so; without, nobody offers the action, and waiting for that would only hide it.
  return nodeID !== undefined && (error instanceof Errors.ServiceNotAvailableError || error instanceof Errors.ServiceNotFoundError);
}
