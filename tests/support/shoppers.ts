/** People who buy without a pause while things break: each order is placed, then paid or cancelled, and what they were told is kept. */
import { randomUUID } from "node:crypto";
import type { Reply, Server } from "./server.ts";

export interface Shopper {
  readonly token: string;
}

/** What a client was told of one order. */
interface Told {
  readonly token: string;
  paid: boolean;
}

export class Shopping {
  /** Orders a client has an answer for. */
  readonly acknowledged = new Map<string, Told>();
  /** Answers of all requests, by status; 0: none. */
  readonly statuses = new Map<number, number>();
  /** Answers nobody should get while nodes come and go in good order, for messages. */
  readonly failures: string[] = [];
  readonly #server: Server;
  readonly #running: Promise<unknown>;
  #over = false;
  #since = Infinity;
  /** Of each deal: how long after that the first order was acknowledged that was asked for after it, in ms. */
  readonly #soldAfter = new Map<string, number>();

  /** `deals` by turns; every second order opens a group of two. */
  constructor(server: Server, shoppers: readonly Shopper[], deals: readonly string[]) {
    this.#server = server;
    this.#running = Promise.all(shoppers.map((shopper, n) => this.#shop(shopper, n, deals)));
  }

  /** From now on the first order counts that is asked for, and acknowledged: after how many ms. What was under way may have been done already. */
  mark(): void {
    this.#since = performance.now();
    this.#soldAfter.clear();
  }
  get firstAfterMark(): number | undefined {
    return this.#soldAfter.values().next().value;
  }
  soldAfterMark(deal: string): boolean {
    return this.#soldAfter.has(deal);
  }

  get requests(): number {
    return [...this.statuses.values()].reduce((sum, count) => sum + count, 0);
  }

  async end(): Promise<void> {
    this.#over = true;
    await this.#running;
  }

  async #shop({ token }: Shopper, n: number, deals: readonly string[]): Promise<void> {
    for (let round = n; !this.#over; round++) {
      const askedMs = performance.now();
      const dealId = deals[round % deals.length] as string;
      const placed = await this.#insist(`/orders`, token, {
        dealId,
        quantity: 1,
        ...(n % 2 === 0 ? { groupSize: 2 } : {}),
      });
      if (placed?.status !== 201) continue;
      const { id } = placed.body as { id: string };
      const told: Told = { token, paid: false };
      this.acknowledged.set(id, told);
      if (askedMs >= this.#since && !this.#soldAfter.has(dealId)) this.#soldAfter.set(dealId, performance.now() - this.#since);
      const paid = await this.#insist(`/orders/${id}/pay`, token, { channel: "wallet" });
      if (paid?.status === 200) told.paid = true;
      else await this.#insist(`/orders/${id}/cancel`, token, {});
    }
  }

  /** The same request with the same key until there is an answer that is not "later". */
  async #insist(path: string, token: string, body: object): Promise<Reply | undefined> {
    const key = randomUUID();
    for (let tries = 0; tries < 200; tries++) {
      const sentMs = performance.now();
      const reply = await this.#server
        .ask("POST", path, { token, body, key })
        .catch((error: unknown) => String((error as Error).cause ?? error));
      const status = typeof reply === "string" ? 0 : reply.status;
      this.statuses.set(status, (this.statuses.get(status) ?? 0) + 1);
      if (typeof reply === "string" || status >= 500) {
        const said = typeof reply === "string" ? reply : JSON.stringify(reply.body);
        if (status !== 503 || (reply as Reply).headers?.get("retry-after") === null)
          this.failures.push(`${path} after ${Math.round(performance.now() - sentMs)} ms: ${status} ${said}`);
      } else return reply;
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    return undefined;
  }
}
