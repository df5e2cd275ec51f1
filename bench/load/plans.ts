/** What a connection asks next, and what it makes of the answer. One plan serves all connections of a run, so that shoppers take turns. */
import { LIMITS } from "../../domain/limits.ts";
import { paidCallback } from "./callbacks.ts";

/** What a run is to do; travels from the bench to the generator. */
export type Plan =
  /**
   * Everybody orders of one deal, in turn, until they have as many unpaid orders as anybody may; then of the next, which must be another merchant's.
   * Over after the last deal: no order is ever refused for having too many, however fast they are answered.
   */
  | { readonly kind: "stampede"; readonly deals: readonly string[]; readonly firstShopper: number; readonly shoppers: number }
  /** One order a request: a deal drawn by Zipf's law (exponent 0: evenly), shoppers in turn. */
  | {
      readonly kind: "orders";
      readonly deals: readonly string[];
      readonly exponent: number;
      readonly firstShopper: number;
      readonly shoppers: number;
    }
  /** Lives: a leader orders a group of two and pays, a friend joins and pays; the group forms and both have vouchers. */
  | { readonly kind: "lives"; readonly deals: readonly string[]; readonly firstShopper: number; readonly shoppers: number }
  /** Every shopper opens the app once, signed in (GET /cities, which reads no database): from then on the server knows their tokens. */
  | { readonly kind: "arrivals"; readonly firstShopper: number; readonly shoppers: number }
  /** Wallets of shoppers filled, once each. */
  | { readonly kind: "topups"; readonly firstShopper: number; readonly shoppers: number; readonly amount: number }
  /** Each order's consumer asks for the money back, once. */
  | { readonly kind: "refunds"; readonly orders: readonly { readonly id: string; readonly shopper: number }[] }
  /** A channel tells of charges that were paid, in turn, each time under another id. */
  | { readonly kind: "callbacks"; readonly secret: string; readonly charges: readonly PaidCharge[] };
export type PaidCharge = Parameters<typeof paidCallback>[2];

/** What a connection sends, and what is to be done with the answer. */
export interface Step {
  readonly request: string;
  /** The next step of the same errand; undefined: it is over. `made` is what this answer adds to the tally. */
  readonly then?: (status: number, body: string, tally: Tally) => Step | undefined;
}

/** What was acknowledged: exactly this must be found in the database afterwards. */
export interface Tally {
  readonly orders: string[];
  /** Orders whose whole life was acknowledged. */
  readonly lived: string[];
}

export interface Errands {
  /** The first step of a new errand; undefined: there are no more. */
  next(): Step | undefined;
}

const post = (path: string, authorization: string, key: string, body: string): string =>
  `POST /api/v1${path} HTTP/1.1\r\nHost: bench\r\n${authorization}Content-Type: application/json\r\n` +
  `Idempotency-Key: ${key}\r\nContent-Length: ${body.length}\r\n\r\n${body}`;

/**
 * Ids stand in answers as `"name":"…"`; parsing 700 bytes of JSON for one of them would be half of the generator's work. An id that is kept is copied: as a
 * slice it keeps the whole answer, and collecting a hundred thousand of those stopped the generator for 100 ms at a time.
 */
function idIn(body: string, name: string): string {
  const at = body.indexOf(`"${name}":"`);
  if (at < 0) throw new Error(`an answer without ${name}: ${body.slice(0, 300)}`);
  const from = at + name.length + 4;
  return ID.toString("latin1", 0, ID.write(body.slice(from, body.indexOf('"', from)), "latin1"));
}
const ID = Buffer.alloc(32);

export function errandsOf(plan: Plan, headers: readonly string[], runId: string): Errands {
  switch (plan.kind) {
    case "stampede":
      return stampede(plan, headers, runId);
    case "orders":
      return new Orders(plan, headers, runId);
    case "lives":
      return new Lives(plan, headers, runId);
    case "arrivals":
      return each(plan, (n) => `GET /api/v1/cities HTTP/1.1\r\nHost: bench\r\n${headers[n] ?? ""}\r\n`);
    case "refunds":
      return each({ firstShopper: 0, shoppers: plan.orders.length }, (n) => {
        const { id, shopper } = plan.orders[n] ?? { id: "", shopper: 0 };
        return post(`/orders/${id}/refunds`, headers[shopper] ?? "", `${runId}-${n}`, "{}");
      });
    case "callbacks": {
      let sent = 0;
      const charge = (): PaidCharge => plan.charges[sent++ % plan.charges.length] as PaidCharge;
      return { next: () => ({ request: paidCallback(plan.secret, `${runId}-${sent}`, charge()) }) };
    }
    case "topups":
      return each(plan, (n) =>
        post("/wallet/topups", headers[n] ?? "", `${runId}-${n}`, JSON.stringify({ amount: plan.amount, channel: "test" })),
      );
  }
}

/** What one deal can sell to them. */
export const stampedeOrders = (shoppers: number): number => shoppers * LIMITS.unpaidOrdersMax;

function stampede(plan: Plan & { kind: "stampede" }, headers: readonly string[], runId: string): Errands {
  const { firstShopper, shoppers } = plan;
  const bodies = plan.deals.map(orderBody);
  const each = stampedeOrders(shoppers);
  let sent = 0;
  return {
    next() {
      const n = sent++;
      const body = bodies[Math.floor(n / each)];
      return body === undefined ? undefined : order(headers[firstShopper + (n % shoppers)] ?? "", `${runId}-${n}`, body);
    },
  };
}

const orderBody = (dealId: string): string => JSON.stringify({ dealId, quantity: 1 });
const order = (shopper: string, key: string, body: string): Step => ({ request: post("/orders", shopper, key, body), then: keepOrder });

class Orders implements Errands {
  readonly #headers: readonly string[];
  readonly #plan: Plan & { kind: "orders" };
  readonly #bodies: readonly string[];
  readonly #draw: () => number;
  readonly #runId: string;
  #sent = 0;

  constructor(plan: Plan & { kind: "orders" }, headers: readonly string[], runId: string) {
    this.#plan = plan;
    this.#headers = headers;
    this.#runId = runId;
    this.#bodies = plan.deals.map(orderBody);
    this.#draw = zipf(plan.deals.length, plan.exponent);
  }

  next(): Step {
    const n = this.#sent++;
    const shopper = this.#headers[this.#plan.firstShopper + (n % this.#plan.shoppers)] ?? "";
    const body = this.#bodies[this.#draw()] ?? "";
    return order(shopper, `${this.#runId}-${n}`, body);
  }
}

function keepOrder(status: number, body: string, tally: Tally): undefined {
  if (status === 201) tally.orders.push(idIn(body, "id"));
}

class Lives implements Errands {
  readonly #headers: readonly string[];
  readonly #plan: Plan & { kind: "lives" };
  readonly #runId: string;
  #begun = 0;

  constructor(plan: Plan & { kind: "lives" }, headers: readonly string[], runId: string) {
    this.#plan = plan;
    this.#headers = headers;
    this.#runId = runId;
  }

  next(): Step {
    const n = this.#begun++;
    const { firstShopper, shoppers, deals } = this.#plan;
    const leader = this.#headers[firstShopper + ((2 * n) % shoppers)] ?? "";
    const friend = this.#headers[firstShopper + ((2 * n + 1) % shoppers)] ?? "";
    const dealId = deals[n % deals.length] ?? "";
    const key = `${this.#runId}-${n}`;
    const pay = (who: string, orderId: string, then: NonNullable<Step["then"]>): Step => ({
      request: post(`/orders/${orderId}/pay`, who, `${key}-${orderId}`, '{"channel":"wallet"}'),
      then,
    });
    return {
      request: post("/orders", leader, `${key}-a`, JSON.stringify({ dealId, quantity: 1, groupSize: 2 })),
      then: (status, body, tally) => {
        if (status !== 201) return undefined;
        const first = idIn(body, "id");
        const groupId = idIn(body, "groupId");
        tally.orders.push(first);
        return pay(leader, first, (paid) => {
          if (paid !== 200) return undefined;
          return {
            request: post("/orders", friend, `${key}-b`, JSON.stringify({ dealId, quantity: 1, groupId })),
            then: (joined, answer, at) => {
              if (joined !== 201) return undefined;
              const second = idIn(answer, "id");
              at.orders.push(second);
              return pay(friend, second, (formed, _body, end) => {
                if (formed === 200) end.lived.push(first, second);
                return undefined;
              });
            },
          };
        });
      },
    };
  }
}

/** One request a shopper. */
function each({ firstShopper, shoppers }: { firstShopper: number; shoppers: number }, request: (shopper: number) => string): Errands {
  let sent = 0;
  return { next: () => (sent < shoppers ? { request: request(firstShopper + sent++) } : undefined) };
}

/** Draws ranks 0 … n-1 with weight 1/(rank+1)^exponent. A table of 65,536 draws made once: a draw is then one random number and one look-up. */
export function zipf(n: number, exponent: number, random: () => number = Math.random): () => number {
  if (n === 1) return () => 0;
  const DRAWS = 65_536;
  const weights = Array.from({ length: n }, (_, rank) => 1 / (rank + 1) ** exponent);
  const whole = weights.reduce((a, b) => a + b, 0);
  const table = new Uint16Array(DRAWS);
  let at = 0;
  let reached = 0;
  for (const [rank, weight] of weights.entries()) {
    reached += (weight / whole) * DRAWS;
    // Every rank has its place, however rare it is.
    const until = rank === n - 1 ? DRAWS : Math.min(DRAWS - (n - 1 - rank), Math.max(at + 1, Math.round(reached)));
    table.fill(rank, at, until);
    at = until;
  }
  return () => table[Math.floor(random() * DRAWS)] ?? 0;
}
