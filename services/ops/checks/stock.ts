/** Stock: every unit is available, held by an unpaid order or sold to a paid one, and the flows explain how it came there. */
import { type Check, UNITS_REFUNDED } from "./check.ts";

/** What orders say about a bucket. The units of a refund go back on sale when the refund is recorded, before the money has arrived. */
const UNITS_OF_ORDERS = `
  select slot, deal_id, bucket,
         sum(quantity) filter (where state = 'PENDING_PAYMENT') as held,
         sum(quantity - coalesce(r.units, 0)) filter (where state in ('PAID', 'CONFIRMED', 'COMPLETED', 'REFUNDED')) as sold
    from orders left join ${UNITS_REFUNDED} r using (slot, id) group by slot, deal_id, bucket`;

export const STOCK_CHECKS: readonly Check[] = [
  {
    name: "stock.not-oversold",
    scope: "city",
    proves: "no bucket has more units held and sold than it has in total",
    statement: `select slot, deal_id, bucket, total, held, sold from stock where held + sold > total or held < 0 or sold < 0`,
  },
  {
    name: "stock.held",
    scope: "city",
    proves: "the units held in a bucket are those of its unpaid orders",
    statement: `
      select slot, deal_id, bucket, s.held, o.held as held_by_orders
        from stock s full join (${UNITS_OF_ORDERS}) o using (slot, deal_id, bucket)
       where coalesce(s.held, 0) <> coalesce(o.held, 0)`,
  },
  {
    name: "stock.sold",
    scope: "city",
    proves: "the units sold from a bucket are those of its paid orders that are not refunded",
    statement: `
      select slot, deal_id, bucket, s.sold, o.sold as sold_by_orders
        from stock s full join (${UNITS_OF_ORDERS}) o using (slot, deal_id, bucket)
       where coalesce(s.sold, 0) <> coalesce(o.sold, 0)`,
  },
  {
    name: "stock.flows",
    scope: "city",
    proves: "total, held and sold of a bucket are the sums of its flows",
    statement: `
      select slot, deal_id, bucket, s.total, f.total as total_by_flows, s.held, f.held as held_by_flows, s.sold, f.sold as sold_by_flows
        from stock s
        full join (select slot, deal_id, bucket, sum(total) as total, sum(held) as held, sum(sold) as sold
                     from stock_flows group by slot, deal_id, bucket) f using (slot, deal_id, bucket)
       where (coalesce(s.total, 0), coalesce(s.held, 0), coalesce(s.sold, 0)) <> (coalesce(f.total, 0), coalesce(f.held, 0), coalesce(f.sold, 0))`,
  },
];
