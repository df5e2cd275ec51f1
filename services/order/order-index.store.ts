/** A consumer's orders live with their merchants; this index of them lives with the consumer. */
import type { Queryable, Statement, Writable } from "../../db/database.ts";
import { slotOf, type OrderId, type Shard } from "../../domain/ids.ts";

export interface IndexedOrder {
  readonly consumerId: string;
  readonly orderId: string;
}

const KNOWN: Statement = {
  name: "order-index/known",
  text: `
    select k.order_id as id from unnest($1::smallint[], $2::bigint[], $3::bigint[]) as k(slot, user_id, order_id)
     where exists (select from order_index o where o.slot = k.slot and o.user_id = k.user_id and o.order_id = k.order_id offset 0)`,
};
const ADD: Statement = { name: "order-index/add", text: `copy order_index (slot, user_id, order_id) from stdin` };

/** Orders of many consumers, whatever their slots. Where one is there, or somebody else adds it at this moment, the key refuses all of them. */
export async function addToIndex(tx: Writable, orders: readonly IndexedOrder[]): Promise<void> {
  if (orders.length > 0)
    await tx.copy(
      ADD,
      0,
      orders.map(({ consumerId, orderId }) => [slotOf(consumerId), consumerId, orderId]),
    );
}

/** Those of them that are not there. */
export async function completeIndex(tx: Writable, orders: readonly IndexedOrder[]): Promise<void> {
  const known = await tx.query<{ id: OrderId }>(KNOWN, [
    orders.map((order) => slotOf(order.consumerId)),
    orders.map((order) => order.consumerId),
    orders.map((order) => order.orderId),
  ]);
  const old = new Set<string>(known.map(({ id }) => id));
  await addToIndex(
    tx,
    orders.filter(({ orderId }) => !old.has(orderId)),
  );
}

const FIND: Statement = {
  name: "order-index/find",
  text: `select order_id as id from order_index_$1 where slot = $1 and user_id = $2 and order_id < $3 order by order_id desc limit $4`,
};

/** A consumer's orders, newest first, older than `before`. */
export async function findIndexedOrders(tx: Queryable, shard: Shard, userId: string, before: string, limit: number): Promise<OrderId[]> {
  const rows = await tx.query<{ id: OrderId }>(FIND, [shard.slot, userId, before, limit]);
  return rows.map((row) => row.id);
}
