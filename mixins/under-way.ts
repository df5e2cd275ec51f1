/**
 * Calls under way: each ends at its deadline, and a node that stops waits for those it serves and those it has made. In the place of Moleculer's Timeout,
 * ContextTracker and ErrorHandler, which promise the same: two hang a promise on each call, the third keeps the contexts in a list that it looks through from
 * its beginning when a call ends, and in a stampede 256 of them are open. Together that was more than a twentieth of what an order took of the main thread.
 *
 * They are counted, not kept. A Set of contexts was tried: its table is replaced every few hundred calls, and what the old one held stays alive, all that
 * hangs on it too, until the next full collection of garbage (8 % more CPU an order than Moleculer's list).
 */
import { Errors, type ActionSchema, type Context, type Middleware, type Service, type ServiceBroker } from "moleculer";

type Handler = (ctx: Context) => Promise<unknown>;

/** How many of somebody's calls are not over. */
class Count {
  #calls = 0;
  #none: PromiseWithResolvers<void> | undefined;

  get calls(): number {
    return this.#calls;
  }

  begin(): void {
    this.#calls++;
  }

  end(): void {
    if (--this.#calls === 0) this.#none?.resolve();
  }

  /** Resolves when there are none, or after `ms`. */
  async none(ms: number): Promise<void> {
    if (this.#calls === 0) return;
    this.#none = Promise.withResolvers();
    const late = setTimeout(this.#none.resolve, ms);
    await this.#none.promise;
    clearTimeout(late);
  }
}

/** Of what a service serves, and of what a broker has asked other nodes. */
const counts = new WeakMap<Service | ServiceBroker, Count>();
function countOf(whose: Service | ServiceBroker): Count {
  const count = counts.get(whose) ?? new Count();
  counts.set(whose, count);
  return count;
}

/** One of `middlewares`, behind Bulkhead and before CircuitBreaker: a breaker counts calls that took too long. */
export const underWay = {
  name: "UnderWay",
  localAction(this: ServiceBroker, next: Handler, action: ActionSchema & { service: Service }): Handler {
    return timely(this, next, action, countOf(action.service));
  },
  remoteAction(this: ServiceBroker, next: Handler, action: ActionSchema): Handler {
    return timely(this, next, action, countOf(this));
  },
  localEvent: (next: Handler, { service }: { readonly service: Service }) => counted(next, countOf(service)),
  serviceStopping: (service: Service) => over(service, service.broker),
  stopping: (broker: ServiceBroker) => over(broker, broker),
} as unknown as Middleware;

async function over(whose: Service | ServiceBroker, { options }: ServiceBroker): Promise<void> {
  const count = countOf(whose);
  const ms = options.tracking?.shutdownTimeout ?? 0;
  await count.none(ms);
  if (count.calls > 0) whose.logger.error(`${count.calls} calls are cut off: they are not over after ${ms} ms`);
}

/** Rejects at the deadline with Moleculer's RequestTimeoutError; what the handler says then is nobody's any more. */
function timely(broker: ServiceBroker, next: Handler, { name = "", timeout }: ActionSchema, count: Count): Handler {
  const defaultMs = timeout ?? broker.options.requestTimeout ?? 0;
  return (ctx) => {
    const timeoutMs = (ctx.options.timeout ??= defaultMs);
    // A call that is made within this one has what is left of its time.
    (ctx as { startHrTime?: readonly [number, number] | null }).startHrTime ??= process.hrtime();
    return new Promise((resolve, reject) => {
      let isOver = false;
      const end = (): void => {
        if (isOver) return;
        isOver = true;
        clearTimeout(timer);
        count.end();
      };
      const fail = (error: unknown): void => {
        end();
        // Nobody waits for what another node may still answer.
        if (ctx.nodeID !== broker.nodeID) broker.transit?.removePendingRequest(ctx.id);
        reject(error instanceof Error ? error : new Errors.MoleculerError(String(error)));
      };
      const tooLong = (): void => {
        const { requestID, nodeID } = ctx;
        broker.logger.warn({ requestID, nodeID, timeout: timeoutMs }, `${name} took too long`);
        fail(new Errors.RequestTimeoutError({ action: name, nodeID: nodeID ?? "" }));
      };
      const timer = timeoutMs > 0 ? setTimeout(tooLong, timeoutMs) : undefined;
      count.begin();
      begun(next, ctx).then((answer) => {
        end();
        resolve(answer);
      }, fail);
    });
  };
}

/** What stands within may throw where it should reject. */
function begun(next: Handler, ctx: Context): Promise<unknown> {
  try {
    return next(ctx);
  } catch (error) {
    return Promise.reject(error);
  }
}

const counted =
  (next: Handler, count: Count): Handler =>
  (ctx) => {
    count.begin();
    const called = begun(next, ctx);
    const end = (): void => count.end();
    called.then(end, end);
    return called;
  };
