/** The public API as the bench's merchants and operators use it: what is set up before a measurement, and what is asked after it. */
import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";

/** Calls that make a merchant or a deal: a server that is still busy with the run before gets some patience. */
const TRIES_MAX = 10;

export class Api {
  readonly #base: string;

  constructor(port: number) {
    this.#base = `http://127.0.0.1:${port}`;
  }

  async post<A>(path: string, body: object, token?: string): Promise<A> {
    return (await this.#ask("POST", `/api/v1${path}`, token, body)) as A;
  }

  /** Paths of the API, and `/ops`, which stands below it too. */
  async get<A>(path: string, token?: string): Promise<A> {
    return (await this.#ask("GET", `/api/v1${path}`, token)) as A;
  }

  async text(path: string): Promise<string> {
    return (await fetch(this.#base + path)).text();
  }

  /** Waits out a 503 as any client should, with the same key. */
  async #ask(
    method: string,
    path: string,
    token: string | undefined,
    body?: object,
    key: string = randomUUID(),
    tries = 1,
  ): Promise<unknown> {
    const answer = await fetch(this.#base + path, {
      method,
      headers: {
        ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
        ...(body === undefined ? {} : { "content-type": "application/json", "idempotency-key": key }),
      },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      // Longer than the server takes for anything, `/ops/verify` included.
      signal: AbortSignal.timeout(180_000),
    });
    const text = await answer.text();
    if (answer.status === 503 && tries < TRIES_MAX) {
      await sleep(Number(answer.headers.get("retry-after") ?? 1) * 1_000);
      return this.#ask(method, path, token, body, key, tries + 1);
    }
    if (!answer.ok) throw new Error(`${method} ${path}: ${answer.status} ${text.slice(0, 500)}`);
    return text === "" ? undefined : JSON.parse(text);
  }
}

const PASSWORD = "bench-password-1";

export interface Shop {
  readonly merchantId: string;
  readonly city: string;
  readonly token: string;
}

/** A new merchant with its owner, signed in. */
export async function openShop(api: Api, adminToken: string, city: string): Promise<Shop> {
  const username = `owner-${randomUUID().slice(0, 8)}`;
  await api.post("/auth/register", { username, password: PASSWORD });
  const { id } = await api.post<{ id: string }>(
    "/merchants",
    { name: `Bench 酒吧 ${username}`, city, commissionBps: 500, ownerUsername: username },
    adminToken,
  );
  const { accessToken } = await api.post<{ accessToken: string }>("/auth/login", { username, password: PASSWORD });
  return { merchantId: id, city, token: accessToken };
}

/** A deal on sale. */
export async function openDeal(
  api: Api,
  shop: Shop,
  of: { stock: number; price?: number; tiers?: readonly { size: number; price: number }[] },
): Promise<string> {
  const form = { title: "精酿啤酒两杯 Craft Beer ×2", price: of.price ?? 1990, tiers: of.tiers ?? [], stock: of.stock };
  const { id } = await api.post<{ id: string }>("/deals", form, shop.token);
  await api.post(`/deals/${id}/publish`, {}, shop.token);
  return id;
}

export const logInAdmin = async (api: Api, password: string): Promise<string> =>
  (await api.post<{ accessToken: string }>("/auth/login", { username: "admin", password })).accessToken;

export interface Verification {
  readonly ok: boolean;
  readonly checks: readonly { readonly name: string; readonly ok: boolean; readonly violations: number; readonly detail: string }[];
}
export const verify = (api: Api, adminToken: string): Promise<Verification> => api.get<Verification>("/ops/verify", adminToken);

/** Mean of a histogram between two readings of `/metrics`. */
export async function histogramSums(api: Api, name: string): Promise<{ sum: number; count: number }> {
  const text = await api.text("/metrics");
  const value = (suffix: string): number =>
    [...text.matchAll(new RegExp(`^${name}_${suffix}(?:\\{[^}]*\\})? ([0-9.e+-]+)$`, "gm"))].reduce(
      (sum, [, number]) => sum + Number(number),
      0,
    );
  return { sum: value("sum"), count: value("count") };
}
