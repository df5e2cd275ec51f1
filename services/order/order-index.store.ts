/** A consumer's orders live with their merchants; this index of them lives with the consumer. */
import type { Queryable, Statement } from "../../db/database.ts";
import { slotOf, type OrderId, type Shard } from "../../domain/ids.ts";

export interface IndexedOrder {
  readonly consumerId: string;
  readonly orderId: string;
}

const ADD: Statement = {
  name: "order-index/add",
  text: `
    insert into order_index (slot, user_id, order_id)
    select slot, user_id, order_id from unnest($1::smallint[], $2::bigint[], $3::bigint[]) as o(slot, user_id, order_id)
        on conflict do nothing`,
};

/** Orders of many consumers, whatever their slots: all in one statement. The row is its own mark, so adding it twice does nothing. */
export async function addToIndex(tx: Queryable, orders: readonly IndexedOrder[]): Promise<void> {
  await tx.query(ADD, [
    orders.map((order) => slotOf(order.consumerId)),
    orders.map((order) => order.consumerId),
    orders.map((order) => order.orderId),
  ]);
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
