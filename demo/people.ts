/** Shoppers and what they do at the counter. A shopper remembers every acknowledgement: at closing time the books are compared with it. */
import { randomUUID } from "node:crypto";
import { Refused, type Http } from "./http.ts";

export interface Order {
  readonly id: string;
  readonly status: string;
  readonly amount: number;
  readonly quantity: number;
  readonly dealId: string;
  readonly groupId?: string;
}
export interface Deal {
  readonly id: string;
  readonly title: string;
  readonly price: number;
  readonly tiers: readonly { readonly size: number; readonly price: number }[];
  readonly stock: { readonly total: number; readonly available: number; readonly held: number; readonly sold: number };
}
export interface Group {
  readonly id: string;
  readonly dealId: string;
  readonly size: number;
  readonly taken: number;
  readonly filled: number;
  readonly held: number;
  readonly status: "OPEN" | "CLOSING" | "FORMED" | "FAILED";
}
export interface Wallet {
  readonly available: number;
  readonly frozen: number;
}
export interface Items<T> {
  readonly items: readonly T[];
  readonly nextCursor?: string;
}

export interface Wish {
  readonly dealId: string;
  readonly quantity: number;
  readonly groupSize?: number;
  readonly groupId?: string;
}

export const PASSWORD = "an-evening-out-1";

/** What the platform promised and did not keep, in words. */
export class Faults {
  readonly list: string[] = [];
  expect(holds: boolean, what: string): void {
    if (!holds) this.list.push(what);
  }
}

export class Shopper {
  readonly username: string;
  readonly #http: Http;
  readonly #faults: Faults;
  #token = "";
  toppedUp = 0;
  /** Acknowledged orders, by id. */
  readonly orders = new Map<string, Order>();
  /** Orders whose payment was acknowledged, and those whose cancellation was. */
  readonly paid = new Set<string>();
  readonly cancelled = new Set<string>();
  replays = 0;

  constructor(http: Http, username: string, faults: Faults) {
    this.#http = http;
    this.username = username;
    this.#faults = faults;
  }

  async register(): Promise<void> {
    await this.#http.post("/auth/register", { username: this.username, password: PASSWORD });
  }

  async logIn(password = PASSWORD): Promise<void> {
    this.#token = (await this.#http.post<{ accessToken: string }>("/auth/login", { username: this.username, password })).accessToken;
  }

  async topUp(amount: number): Promise<void> {
    await this.#http.post("/wallet/topups", { amount, channel: "test" }, this.#token);
    this.toppedUp += amount;
  }

  /** Orders; undefined when refused, which is a shopper's luck and no fault. */
  async order(wish: Wish): Promise<Order | undefined> {
    return this.#keep(await refusedIsUndefined(this.#http.post<Order>("/orders", wish, this.#token)));
  }

  /** A nervous finger: the same request twice at once with the same key, and once more with the key and another wish. */
  async orderNervously(wish: Wish): Promise<Order | undefined> {
    const key = randomUUID();
    const send = () => refusedIsUndefined(this.#http.postReplayable<Order>("/orders", wish, this.#token, key));
    const [first, second] = await Promise.all([send(), send()]);
    if (!first || !second) return this.#keep((first ?? second)?.answer);
    this.#faults.expect(
      first.answer.id === second.answer.id,
      `${this.username}: one key made two orders, ${first.answer.id} and ${second.answer.id}`,
    );
    this.#faults.expect(first.replayed !== second.replayed, `${this.username}: of two equal requests exactly one is the repeat`);
    this.replays += 1;
    const other = await this.#http.post("/orders", { ...wish, quantity: wish.quantity + 1 }, this.#token, key).then(
      () => "an order",
      (error: unknown) => codeOf(error),
    );
    this.#faults.expect(other === "IDEMPOTENCY_KEY_REUSED", `${this.username}: a key used again for another wish gave ${other}`);
    return this.#keep(first.answer);
  }

  #keep(order: Order | undefined): Order | undefined {
    if (order) this.orders.set(order.id, order);
    return order;
  }

  /** Pays; `times` at once, because the button did not seem to work. False when refused. */
  async pay({ id }: Order, times = 1): Promise<boolean> {
    const pay = () => refusedIsUndefined(this.#http.post<{ paymentId: string }>(`/orders/${id}/pay`, { channel: "wallet" }, this.#token));
    const payments = (await Promise.all(Array.from({ length: times }, pay))).flatMap((payment) => (payment ? [payment.paymentId] : []));
    this.#faults.expect(new Set(payments).size <= 1, `${this.username}: order ${id} was paid by several payments: ${payments.join(", ")}`);
    if (payments.length > 0) this.paid.add(id);
    return payments.length > 0;
  }

  async cancel({ id }: Order): Promise<void> {
    if (await refusedIsUndefined(this.#http.post<Order>(`/orders/${id}/cancel`, {}, this.#token))) this.cancelled.add(id);
  }

  orderNow(id: string): Promise<Order> {
    return this.#http.get<Order>(`/orders/${id}`, this.#token);
  }

  async myOrderIds(): Promise<Set<string>> {
    const ids = new Set<string>();
    for (let cursor: string | undefined = ""; cursor !== undefined;) {
      const page: Items<Order> = await this.#http.get(`/orders?limit=100${cursor && `&cursor=${cursor}`}`, this.#token);
      for (const { id } of page.items) ids.add(id);
      cursor = page.nextCursor;
    }
    return ids;
  }

  wallet(): Promise<Wallet> {
    return this.#http.get<Wallet>("/wallet", this.#token);
  }

  vouchers({ id }: Order): Promise<{ code: string; status: string }[]> {
    return this.#http.get(`/orders/${id}/vouchers`, this.#token);
  }
}

const codeOf = (error: unknown): string => {
  if (error instanceof Refused) return error.code;
  throw error;
};

/** A refusal is counted by `Http`, and here is simply no answer. */
export async function refusedIsUndefined<A>(answer: Promise<A>): Promise<A | undefined> {
  try {
    return await answer;
  } catch (error) {
    if (error instanceof Refused) return undefined;
    throw error;
  }
}
