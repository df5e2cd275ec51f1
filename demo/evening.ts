/**
 * An evening in the city. Shoppers come in a burst at one hot deal, open and join groups, pay, abandon, press twice, cancel; groups of the
 * one-minute deal form or fail; vouchers are redeemed at the bar; latecomers take the last seats.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { Refused, type Http } from "./http.ts";
import { Faults, refusedIsUndefined, Shopper, type Deal, type Group, type Items, type Order, type Wish } from "./people.ts";
import { Bar } from "./progress.ts";

/** Of `samples/city.yaml`. */
const SAMPLE_PASSWORD = "tuanbar-demo-1";
const BAR_OWNER = "boss-longtang";
const HOT = "精酿啤酒两杯";
const FLASH = "一分钟闪团";

/** The server lets one address sign in or up 600 times a minute: these and the staff fit, the latecomers come in the next minute. */
const EARLY = 270;
const LATE = 40;
/** At once, while they register: hashing passwords is two cores' work, and more would only wait. */
const AT_ONCE = 16;
/** Fewer units than are wanted: somebody must hear SOLD_OUT. */
const HOT_UNITS = 220;
const FLASH_UNITS = 150;
/** Of three seats; a third of the groups finds nobody. */
const FLASH_GROUPS = 15;
/** The deal's minute, and what the sweep and the refunds take after it. */
const FLASH_MS_MAX = 90_000;
const REDEEMED_SHARE = 0.4;
const RICH_FEN = 50_000;
const POOR_FEN = 900;

export interface Evening {
  readonly shoppers: readonly Shopper[];
  /** Groups that were opened tonight, as they ended. */
  readonly groups: ReadonlyMap<string, Group>;
  readonly redeemed: number;
  readonly hot: Deal;
}

const chance = (share: number): boolean => Math.random() < share;
const oneOf = <T>(list: readonly T[]): T | undefined => list[Math.floor(Math.random() * list.length)];

/** All at once where `atOnce` is not given: a burst. */
async function everyone<T>(people: readonly T[], act: (one: T, index: number) => Promise<void>, atOnce = people.length): Promise<void> {
  let next = 0;
  const work = async (): Promise<void> => {
    for (let at = next++; at < people.length; at = next++) await act(people[at] as T, at);
  };
  await Promise.all(Array.from({ length: Math.min(atOnce, people.length) }, work));
}

export class Director {
  readonly #http: Http;
  readonly #faults: Faults;
  readonly #groups = new Set<string>();
  #ownerToken = "";

  constructor(http: Http, faults: Faults) {
    this.#http = http;
    this.#faults = faults;
  }

  async play(): Promise<Evening> {
    const [hot, flash] = await this.#openTheBar();
    const early = await this.#arrive("shoppers arrive", EARLY);
    const flashNight = this.#flashGroups(early.slice(0, 3 * FLASH_GROUPS), flash);
    const leaders = early.slice(0, 50);
    await this.#openGroups(leaders, hot);
    await this.#burst(early.slice(leaders.length), hot);
    const flashEnds = await flashNight;
    const late = await this.#arrive("latecomers arrive", LATE);
    await this.#lastSeats(late, hot);
    const shoppers = [...early, ...late];
    const redeemed = await this.#redeem(shoppers);
    await this.#waitForFlash(flashEnds);
    const groups = new Map(
      (await Promise.all([...this.#groups].map((id) => this.#group(id)))).flatMap((group) => (group ? [[group.id, group] as const] : [])),
    );
    return { shoppers, groups, redeemed, hot: await this.#deal(hot.id) };
  }

  /** The owner signs in and sees to it that there is something to sell, however many evenings there were before. */
  async #openTheBar(): Promise<[Deal, Deal]> {
    const owner = await this.#http
      .post<{ accessToken: string }>("/auth/login", { username: BAR_OWNER, password: SAMPLE_PASSWORD })
      .catch((error: unknown) => {
        if (error instanceof Refused && error.code === "BAD_CREDENTIALS")
          throw new Error(
            `the sample accounts are not there (${BAR_OWNER} cannot sign in): the demo needs a server that started with its samples`,
          );
        throw error;
      });
    this.#ownerToken = owner.accessToken;
    const found = await Promise.all(
      [HOT, FLASH].map((q) => this.#http.get<Items<Deal>>(`/deals?city=sh&q=${encodeURIComponent(q)}&limit=100`)),
    );
    const deals = [HOT, FLASH].map((words, at) => found[at]?.items.find(({ title }) => title.startsWith(words)));
    const [hot, flash] = deals;
    if (!hot || !flash) throw new Error(`the sample deals 「${HOT}」 and 「${FLASH}」 are not on sale`);
    return [await this.#stockUp(hot, HOT_UNITS), await this.#stockUp(flash, FLASH_UNITS)];
  }

  async #stockUp(deal: Deal, units: number): Promise<Deal> {
    const quantity = units - (await this.#deal(deal.id)).stock.available;
    if (quantity !== 0) await this.#http.post(`/deals/${deal.id}/restock`, { quantity }, this.#ownerToken);
    return this.#deal(deal.id);
  }

  async #arrive(title: string, count: number): Promise<Shopper[]> {
    const run = Date.now().toString(36);
    const shoppers = Array.from({ length: count }, (_, n) => new Shopper(this.#http, `demo-${run}-${n}`, this.#faults));
    const bar = new Bar(title, count);
    this.#http.onWait((seconds, code) => bar.note(`${code}: the server asks to wait ${seconds} s`));
    await everyone(
      shoppers,
      async (shopper) => {
        await shopper.register();
        await shopper.logIn();
        // One in twenty has come without money.
        await shopper.topUp(chance(0.05) ? POOR_FEN : RICH_FEN);
        bar.step();
      },
      AT_ONCE,
    );
    bar.end("registered, signed in, wallets filled");
    return shoppers;
  }

  /** Some groups of three fill, a third of them lacks one or two when the minute is over. */
  async #flashGroups(shoppers: readonly Shopper[], deal: Deal): Promise<string[]> {
    const size = deal.tiers[0]?.size ?? 3;
    const opened: string[] = [];
    await Promise.all(
      Array.from({ length: FLASH_GROUPS }, async (_, n) => {
        const [leader, ...friends] = shoppers.slice(3 * n, 3 * n + 3);
        const order = await leader?.order({ dealId: deal.id, quantity: 1, groupSize: size });
        if (!leader || !order?.groupId || !(await leader.pay(order))) return;
        opened.push(order.groupId);
        this.#groups.add(order.groupId);
        const { groupId } = order;
        const missing = n % 3 === 2 ? 1 + (n % 2) : 0;
        for (const friend of friends.slice(0, friends.length - missing)) {
          const joined = await friend.order({ dealId: deal.id, quantity: 1, groupId });
          if (joined) await friend.pay(joined);
        }
      }),
    );
    return opened;
  }

  async #openGroups(leaders: readonly Shopper[], deal: Deal): Promise<void> {
    const bar = new Bar("groups are opened", leaders.length);
    await everyone(leaders, async (leader) => {
      const order = await leader.order({ dealId: deal.id, quantity: 1, groupSize: oneOf(deal.tiers)?.size ?? 2 });
      // A group whose opener does not pay is never seen by anybody.
      if (order && chance(0.95) && (await leader.pay(order)) && order.groupId) this.#groups.add(order.groupId);
      bar.step();
    });
    bar.end(`${this.#groups.size} groups are open`);
  }

  /** Everybody at once. */
  async #burst(shoppers: readonly Shopper[], deal: Deal): Promise<void> {
    const bar = new Bar("burst at the hot deal", shoppers.length);
    const open = (await this.#http.get<Items<{ id: string }>>(`/deals/${deal.id}/groups`)).items.filter(({ id }) => this.#groups.has(id));
    await everyone(shoppers, async (shopper) => {
      await this.#shop(shopper, deal, open);
      bar.step();
    });
    bar.end(`「${deal.title}」`);
  }

  async #shop(shopper: Shopper, deal: Deal, open: readonly { id: string }[]): Promise<void> {
    const group = chance(0.6) ? oneOf(open) : undefined;
    const wish: Wish = { dealId: deal.id, quantity: 1 + Math.floor(Math.random() * 2), ...(group ? { groupId: group.id } : {}) };
    const order = chance(0.15) ? await shopper.orderNervously(wish) : await shopper.order(wish);
    if (!order) return;
    if (chance(0.06)) return; // abandoned: it expires
    if (chance(0.06)) return shopper.cancel(order);
    await shopper.pay(order, chance(0.1) ? 3 : 1);
  }

  /** Latecomers look for groups that lack somebody. */
  async #lastSeats(shoppers: readonly Shopper[], deal: Deal): Promise<void> {
    // What was left unpaid or cancelled does not come back in time for everybody.
    const fresh = await this.#stockUp(deal, Math.max(LATE * 2, (await this.#deal(deal.id)).stock.available));
    const bar = new Bar("last seats are taken", shoppers.length);
    await everyone(
      shoppers,
      async (shopper) => {
        const lacking = (await Promise.all([...this.#groups].map((id) => this.#group(id)))).filter(
          (group) => group?.status === "OPEN" && group.dealId === deal.id && group.held + group.taken < group.size,
        );
        const group = oneOf(lacking);
        const order = await shopper.order({ dealId: fresh.id, quantity: 1, ...(group ? { groupId: group.id } : {}) });
        if (order) await shopper.pay(order);
        bar.step();
      },
      4,
    );
    bar.end();
  }

  /** At the bar: codes are shown and redeemed; one is shown twice, and one is made up. */
  async #redeem(shoppers: readonly Shopper[]): Promise<number> {
    const paid = shoppers.flatMap((shopper) => [...shopper.paid].map((id) => ({ shopper, order: shopper.orders.get(id) as Order })));
    const guests = paid.filter(() => chance(REDEEMED_SHARE));
    const bar = new Bar("vouchers are redeemed", guests.length);
    let redeemed = 0;
    const redeem = (code: string) =>
      refusedIsUndefined(this.#http.post<{ status: string }>("/vouchers/redeem", { code }, this.#ownerToken));
    await everyone(
      guests,
      async ({ shopper, order }) => {
        const [voucher] = await shopper.vouchers(order);
        if (voucher && (await redeem(voucher.code))) {
          redeemed++;
          if (redeemed % 10 === 0)
            this.#faults.expect((await redeem(voucher.code)) === undefined, `voucher ${voucher.code} was redeemed twice`);
        }
        bar.step();
      },
      8,
    );
    this.#faults.expect((await redeem("0000000000000000")) === undefined, "a made-up voucher was redeemed");
    bar.end(`${redeemed} drinks are served`);
    return redeemed;
  }

  async #waitForFlash(groups: readonly string[]): Promise<void> {
    const bar = new Bar("one-minute groups end", groups.length);
    const until = performance.now() + FLASH_MS_MAX;
    const ended = new Set<string>();
    while (ended.size < groups.length && performance.now() < until) {
      for (const id of groups) {
        const group = ended.has(id) ? undefined : await this.#group(id);
        if (group?.status === "FORMED" || group?.status === "FAILED") {
          ended.add(id);
          bar.step();
        }
      }
      if (ended.size < groups.length) await sleep(500);
    }
    this.#faults.expect(ended.size === groups.length, `${groups.length - ended.size} groups of one minute have not ended`);
    bar.end();
  }

  #deal(id: string): Promise<Deal> {
    return this.#http.get<Deal>(`/deals/${id}`);
  }

  #group(id: string): Promise<Group | undefined> {
    return refusedIsUndefined(this.#http.get<Group>(`/groups/${id}`));
  }
}
