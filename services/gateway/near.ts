/**
 * What the gateway answers from nearby: pages of deals (ten seconds old at most, dropped when their shard tells of a change; for showing, never
 * for deciding), and SOLD_OUT for deals it holds a lease of (`services/order/sold-out.ts`), so that a stampede ends here.
 */
import { LRUCache } from "lru-cache";
import type { ServiceBroker } from "moleculer";
import { DEAL_ERRORS } from "../../domain/deal/errors.ts";
import { DomainError, refusal } from "../../domain/error.ts";
import type { Id } from "../../domain/ids.ts";
import { call, type Answer, type Caller, type Params } from "../../mixins/contract.ts";
import type { Metrics } from "../../mixins/metrics.ts";
import type { DealsChanged } from "../../mixins/platform.ts";
import { getDeal } from "../deal/deal.contract.ts";
import { LEASE_MS, leaseSoldOut, placeOrder } from "../order/order.contract.ts";

const DEAL_MS = 10_000;
/** A page is about 2 kB. */
const DEALS_MAX = 10_000;

/** Renewed when half of it is over, so that a stampede never finds it lapsed. */
const RENEW_MS = LEASE_MS / 2;
/** A deal that nobody asks for so long is forgotten; so are its buyers. */
const FORGET_MS = 60_000;
/** Between two tries to get a lease that is not granted. */
const AGAIN_MS = 100;
/** Buyers remembered, of all deals together: 100 MB. A deal with more of its own gets no lease, and its refusals come from its shard. */
const BUYERS_MAX = 1_000_000;
const DEAL_BUYERS_MAX = 200_000;

interface SoldOut {
  untilMs: number;
  askedMs: number;
  after: Id;
  readonly buyers: Set<string>;
  asking: boolean;
  /** Raised when units came back: an answer that was on its way is out of date. */
  epoch: number;
  /** What everybody hears, made once: making and throwing it was 7 % of what a refusal burnt outside of system calls, by the profile. */
  readonly refusal: DomainError;
}

type Page = Answer<typeof getDeal>;

export interface Near {
  /** What a contract does instead of calling, or before it; `ask` calls. A refusal is returned, or thrown by what `ask` called. */
  readonly answer: (params: never, caller: Caller | undefined, ask: () => Promise<unknown>) => unknown;
  /** Hears what was thrown. */
  readonly refused?: (params: never, error: unknown) => void;
}

export class NearDeals {
  readonly #broker: ServiceBroker;
  /** Counters whose labels are looked up once. */
  readonly #refusals: { inc(): void };
  readonly #gateRefusals: { inc(): void };
  readonly #pages = new LRUCache<string, Page>({ max: DEALS_MAX, ttl: DEAL_MS });
  readonly #loading = new Map<string, Promise<unknown>>();
  readonly #soldOut = new LRUCache<string, SoldOut>({
    ttl: FORGET_MS,
    updateAgeOnGet: true,
    maxSize: BUYERS_MAX,
    sizeCalculation: ({ buyers }) => buyers.size + 1,
  });

  constructor(broker: ServiceBroker, metrics: Metrics) {
    this.#broker = broker;
    this.#refusals = metrics.refusals.labels("SOLD_OUT");
    this.#gateRefusals = metrics.gateRefusals.labels("gateway");
  }

  /** By the name of the contract. */
  get ways(): ReadonlyMap<string, Near> {
    return new Map<string, Near>([
      [getDeal.name, { answer: this.#page.bind(this) }],
      [placeOrder.name, { answer: this.#place.bind(this), refused: this.#notPlaced.bind(this) }],
    ]);
  }

  /** From the shard, after a commit and before its commands are answered: whoever then looks sees what was done. */
  changed({ changed, available }: DealsChanged): void {
    for (const dealId of changed) {
      this.#pages.delete(dealId);
      this.#loading.delete(dealId);
    }
    for (const dealId of available) {
      const known = this.#soldOut.peek(dealId);
      if (!known) continue;
      known.untilMs = 0;
      known.epoch++;
    }
  }

  /** A draft is its merchant's to see and is not kept; everything else looks the same to everybody. */
  #page({ id }: Params<typeof getDeal>, caller: Caller | undefined, ask: () => Promise<unknown>): unknown {
    const near = this.#pages.get(id);
    if (near !== undefined || caller?.merchantId !== undefined) return near ?? ask();
    const loading = this.#loading.get(id);
    if (loading !== undefined) return loading;
    const loaded = ask().then(
      (answer) => {
        // Unless it has changed since it was asked for.
        if (this.#loading.get(id) === loaded) {
          this.#loading.delete(id);
          const page = answer as Page;
          if (page.status !== "DRAFT") this.#pages.set(id, page);
        }
        return answer;
      },
      (error: unknown) => {
        if (this.#loading.get(id) === loaded) this.#loading.delete(id);
        throw error;
      },
    );
    this.#loading.set(id, loaded);
    return loaded;
  }

  #place({ dealId, groupSize, groupId }: Params<typeof placeOrder>, caller: Caller | undefined, ask: () => Promise<unknown>): unknown {
    const lease = this.#soldOut.get(dealId);
    if (lease === undefined) return ask();
    const nowMs = performance.now();
    // Both would be a fault of the form, which its service tells first.
    if (lease.untilMs > nowMs && (groupSize === undefined || groupId === undefined)) {
      if (nowMs - lease.askedMs > RENEW_MS) this.#lease(dealId);
      if (caller !== undefined && !lease.buyers.has(caller.userId)) {
        this.#refusals.inc();
        this.#gateRefusals.inc();
        return lease.refusal;
      }
    }
    return ask();
  }

  #notPlaced({ dealId }: Params<typeof placeOrder>, error: unknown): void {
    if (error instanceof DomainError && error.type === "SOLD_OUT" && (error.data as { available: number }).available === 0)
      this.#lease(dealId);
  }

  /** Asks for a lease in the background; one question a deal at a time, and not all the time. */
  #lease(dealId: Id): void {
    const known = this.#soldOut.get(dealId) ?? {
      untilMs: 0,
      askedMs: -Infinity,
      after: dealId,
      buyers: new Set(),
      asking: false,
      epoch: 0,
      refusal: refusal(DEAL_ERRORS, "SOLD_OUT", { dealId, available: 0 }),
    };
    const askedMs = performance.now();
    if (known.asking || askedMs - known.askedMs < AGAIN_MS || known.buyers.size > DEAL_BUYERS_MAX) return;
    known.asking = true;
    known.askedMs = askedMs;
    const { epoch } = known;
    call(this.#broker, leaseSoldOut, { dealId, after: known.after })
      .then(
        ({ available, buyers, after, hasMore }) => {
          for (const buyer of buyers) known.buyers.add(buyer);
          known.after = after;
          if (available === 0 && !hasMore && known.epoch === epoch) known.untilMs = askedMs + LEASE_MS;
          // There are more buyers to hear of before it may refuse anybody.
          if (hasMore) known.askedMs = -Infinity;
        },
        // No lease: the deal's shard goes on refusing, and the next refusal asks again.
        () => undefined,
      )
      .finally(() => {
        known.asking = false;
        this.#soldOut.set(dealId, known);
        if (known.askedMs === -Infinity) this.#lease(dealId);
      });
    this.#soldOut.set(dealId, known);
  }
}
