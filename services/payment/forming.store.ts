/** Groups that are about to form. */
import type { Queryable, Statement } from "../../db/database.ts";
import type { OrderId, Shard } from "../../domain/ids.ts";

/**
 * The orders with a taken seat in every group that these orders would fill. A group with seats left over brings none: otherwise each of a
 * hundred members would lock all the ones before.
 */
const FORMING: Statement = {
  name: "payment/forming",
  text: `
    with forming as materialized (
      select g.id
        from unnest($2::bigint[]) as k(id)
       cross join lateral (select group_id from orders_$1 where slot = $1 and id = k.id offset 0) o
       cross join lateral (select * from groups_$1 where slot = $1 and id = o.group_id offset 0) g
       group by g.id, g.size, g.taken, g.filled having g.taken + g.filled + count(*) >= g.size)
    select s.order_id
      from forming f
     cross join lateral (select order_id from seats_$1 where slot = $1 and group_id = f.id and state = 'TAKEN' offset 0) s`,
};

export const findFormingOrders = async (tx: Queryable, shard: Shard, orders: readonly string[]): Promise<OrderId[]> =>
  (await tx.query<{ order_id: OrderId }>(FORMING, [shard.slot, orders])).map((row) => row.order_id);
