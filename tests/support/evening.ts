/**
 * An evening of random traffic against a platform and a simpay that misbehaves, from one seed: who does what next, what is struck, and when. The
 * platform is only known by its HTTP interface, so it may be one process or many, and be killed at any moment.
 */
import { CALL_FAULTS, KEPT_FAULTS, type FaultName } from "../../simpay/faults.ts";
import type { Reply } from "./server.ts";
import type { TestSimpay } from "./simpay.ts";

/** mulberry32: small, and the same everywhere. */
export function prng(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** What is struck by chance; every retry is another draw. */
const STRUCK: readonly FaultName[] = [...CALL_FAULTS, ...KEPT_FAULTS];

export interface Stage {
  readonly ask: (method: "GET" | "POST", path: string, as: string, body?: object) => Promise<Reply>;
  readonly simpay: () => TestSimpay;
  /** Who buys and who sells, by token. */
  readonly consumers: readonly string[];
  readonly staff: string;
  readonly merchantId: string;
  readonly deals: readonly string[];
}
interface Order {
  readonly id: string;
  payUrl?: string;
}

export class Evening {
  readonly #stage: Stage;
  readonly #random: () => number;
  #over = false;
  /** What was done, and how often it was answered at all. */
  readonly done = new Map<string, number>();

  constructor(stage: Stage, seed: number) {
    this.#stage = stage;
    this.#random = prng(seed);
  }

  /** Everybody at once, until it is over. A request that gets no answer is a request that gets no answer. */
  async run(): Promise<void> {
    await Promise.all(this.#stage.consumers.map((who) => this.#consumer(who)));
  }
  end(): void {
    this.#over = true;
  }

  /** Another mood of the channel: some faults, now and then. */
  async mood(seed: string): Promise<void> {
    const chance = Object.fromEntries(
      STRUCK.filter(() => this.#random() < 0.4).map((fault) => [fault, fault === "hang" ? 0.01 : this.#random() * 0.3]),
    );
    await this.#stage.simpay().plan({ seed, chance, slowMs: 200 });
  }

  #pick<T>(some: readonly T[]): T {
    return some[Math.floor(this.#random() * some.length)] as T;
  }

  async #consumer(who: string): Promise<void> {
    const orders: Order[] = [];
    while (!this.#over) {
      const draw = this.#random();
      const order = orders.length > 0 ? this.#pick(orders) : undefined;
      // Drawn before anything is awaited: a seed is a sequence of draws.
      const step =
        order === undefined || draw < 0.3
          ? this.#buy(who, orders)
          : draw < 0.6
            ? this.#click(order)
            : draw < 0.65
              ? this.#ask("cancel", who, `/orders/${order.id}/cancel`)
              : draw < 0.7
                ? this.#ask("pay from the wallet", who, `/orders/${order.id}/pay`, { channel: "wallet" })
                : draw < 0.77
                  ? this.#payAgain(who, order)
                  : draw < 0.81
                    ? this.#ask("refund", who, `/orders/${order.id}/refunds`, {})
                    : draw < 0.95
                      ? this.#use(who, order)
                      : this.#payOut(1 + Math.floor(this.#random() * 500));
      await step.catch(() => undefined);
    }
  }

  async #ask(what: string, who: string, path: string, body?: object): Promise<Reply["body"]> {
    const reply = await this.#stage.ask("POST", path, who, body ?? {});
    const key = `${what} ${reply.status}`;
    this.done.set(key, (this.done.get(key) ?? 0) + 1);
    return reply.body;
  }

  async #buy(who: string, orders: Order[]): Promise<void> {
    const group = this.#random() < 0.3 ? { groupSize: 2 } : {};
    const { id } = (await this.#ask("order", who, "/orders", { dealId: this.#pick(this.#stage.deals), quantity: 1, ...group })) as {
      id?: string;
    };
    if (id === undefined) return;
    const order: Order = { id };
    orders.push(order);
    await this.#payAgain(who, order);
  }

  async #payAgain(who: string, order: Order): Promise<void> {
    const { payUrl } = (await this.#ask("pay", who, `/orders/${order.id}/pay`, { channel: "simpay" })) as { payUrl?: string };
    if (payUrl !== undefined) order.payUrl = payUrl;
  }

  async #click({ payUrl }: Order): Promise<void> {
    if (payUrl !== undefined) await this.#stage.simpay().pay(payUrl);
  }

  async #use(who: string, { id }: Order): Promise<void> {
    const { body } = await this.#stage.ask("GET", `/orders/${id}/vouchers`, who);
    const [voucher] = Array.isArray(body) ? (body as { code: string; status: string }[]).filter(({ status }) => status === "ISSUED") : [];
    if (voucher) await this.#ask("redeem", this.#stage.staff, "/vouchers/redeem", { code: voucher.code });
  }

  async #payOut(amount: number): Promise<void> {
    await this.#ask("payout", this.#stage.staff, `/merchants/${this.#stage.merchantId}/payouts`, { amount });
  }
}
