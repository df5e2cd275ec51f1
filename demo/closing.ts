/** Closing time: what every shopper was told is compared with what the platform says now, order by order and fen by fen. */
import { setTimeout as sleep } from "node:timers/promises";
import type { Evening } from "./evening.ts";
import type { Faults, Order, Shopper } from "./people.ts";
import { Bar } from "./progress.ts";

export interface Sums {
  readonly orders: Readonly<Record<string, number>>;
  readonly groups: Readonly<Record<string, number>>;
  readonly toppedUp: number;
  readonly spent: number;
  readonly refunded: number;
  readonly vouchers: number;
  readonly replays: number;
}

/** Money that is on its way, and lists that events feed, get this long. */
const PATIENCE_MS = 20_000;
const POLL_MS = 300;
const AT_ONCE = 16;
/** States in which the money of an order is the bar's. */
const VOUCHERED = new Set(["CONFIRMED", "COMPLETED"]);
const KEPT = new Set(["PAID", "CONFIRMED", "COMPLETED"]);

export async function close(evening: Evening, faults: Faults): Promise<Sums> {
  const { shoppers, groups } = evening;
  const bar = new Bar("the books are compared", shoppers.length);
  const now = new Map<string, Order>();
  let vouchers = 0;
  let next = 0;
  const work = async (): Promise<void> => {
    for (let shopper = shoppers[next++]; shopper; shopper = shoppers[next++]) {
      const settled = await settle(shopper, faults);
      for (const order of settled) now.set(order.id, order);
      const issued = await Promise.all(
        settled.filter(({ status }) => VOUCHERED.has(status)).map((order) => vouchersOf(shopper, order, faults)),
      );
      vouchers += sum(issued, (count) => count);
      bar.step();
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, work));
  for (const group of groups.values()) {
    const members = [...now.values()].filter(({ groupId }) => groupId === group.id);
    const confirmed = members.filter(({ status }) => VOUCHERED.has(status)).length;
    const live = members.filter(({ status }) => KEPT.has(status)).length;
    if (group.status === "FORMED") {
      faults.expect(group.taken + group.filled === group.size, `group ${group.id} is formed with ${group.taken} of ${group.size} seats`);
      faults.expect(confirmed === group.taken, `group ${group.id} is formed, ${confirmed} of its ${group.taken} orders are confirmed`);
    }
    if (group.status === "FAILED") faults.expect(live === 0, `group ${group.id} failed, ${live} of its orders are not refunded`);
    if (group.status === "OPEN")
      faults.expect(live === group.taken, `group ${group.id} has ${group.taken} seats taken and ${live} paid orders`);
    faults.expect(group.held + group.taken + group.filled <= group.size, `group ${group.id} has more than ${group.size} seats`);
  }
  bar.end();
  const paid = shoppers.flatMap((shopper) => [...shopper.paid].flatMap((id) => now.get(id) ?? []));
  return {
    orders: countBy([...now.values()], ({ status }) => status),
    groups: countBy([...groups.values()], ({ status }) => status),
    toppedUp: sum(shoppers, ({ toppedUp }) => toppedUp),
    spent: sum(paid, ({ status, amount }) => (KEPT.has(status) ? amount : 0)),
    refunded: sum(paid, ({ status, amount }) => (status === "REFUNDED" ? amount : 0)),
    vouchers,
    replays: sum(shoppers, ({ replays }) => replays),
  };
}

/** The shopper's orders as they are now; waits for what is on its way, then holds the platform to its word. */
async function settle(shopper: Shopper, faults: Faults): Promise<Order[]> {
  const until = performance.now() + PATIENCE_MS;
  for (;;) {
    const orders = await Promise.all([...shopper.orders.keys()].map((id) => shopper.orderNow(id)));
    const wrong = [...promises(shopper, orders), ...(await walletWrongs(shopper, orders)), ...(await listWrongs(shopper))];
    if (wrong.length === 0) return orders;
    if (performance.now() > until) {
      faults.list.push(...wrong.map((what) => `${shopper.username}: ${what}`));
      return orders;
    }
    await sleep(POLL_MS);
  }
}

const promises = (shopper: Shopper, orders: readonly Order[]): string[] =>
  orders.flatMap(({ id, status }) => {
    if (shopper.paid.has(id) && !KEPT.has(status) && status !== "REFUNDED") return [`order ${id} was paid and is ${status}`];
    if (shopper.cancelled.has(id) && status !== "CANCELLED") return [`order ${id} was cancelled and is ${status}`];
    return [];
  });

async function walletWrongs(shopper: Shopper, orders: readonly Order[]): Promise<string[]> {
  const { available, frozen } = await shopper.wallet();
  const kept = sum(orders, ({ status, amount }) => (KEPT.has(status) ? amount : 0));
  return [
    ...(frozen === 0 ? [] : [`${frozen} fen are frozen`]),
    ...(available === shopper.toppedUp - kept
      ? []
      : [`the wallet has ${available} fen; ${shopper.toppedUp} were put in and ${kept} are spent`]),
  ];
}

async function listWrongs(shopper: Shopper): Promise<string[]> {
  if (shopper.orders.size === 0) return [];
  const listed = await shopper.myOrderIds();
  const missing = [...shopper.orders.keys()].filter((id) => !listed.has(id));
  return missing.length === 0 ? [] : [`acknowledged orders are missing from the list: ${missing.join(", ")}`];
}

async function vouchersOf(shopper: Shopper, order: Order, faults: Faults): Promise<number> {
  const { length } = await shopper.vouchers(order);
  faults.expect(length === order.quantity, `order ${order.id} of ${order.quantity} units has ${length} vouchers`);
  return length;
}

const sum = <T>(list: readonly T[], of: (one: T) => number): number => list.reduce((total, one) => total + of(one), 0);
const countBy = <T>(list: readonly T[], of: (one: T) => string): Record<string, number> =>
  Object.fromEntries([...Map.groupBy(list, of)].map(([name, some]) => [name, some.length]));
