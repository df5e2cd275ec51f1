/**
 * What the order drain is measured against: the order service most shops have, one transaction per order. It is written as well as one can
 * without batches: single-row prepared statements, two round trips a transaction (lock, then all writes and the COMMIT in one burst on a
 * pipelined connection), no more columns read than needed, and the same five rows written: order, stock, stock flow, counter, event.
 * Orders alone only; groups are not what is compared. How the stock row is found and locked is the variant's: see `index.ts`.
 */
import pg from "pg";
import type { Service, ServiceSchema } from "moleculer";
import type { Statement } from "../../db/database.ts";
import { DEAL_ERRORS } from "../../domain/deal/errors.ts";
import { refusal } from "../../domain/error.ts";
import { shardOf, type Id, type OrderId, type Shard } from "../../domain/ids.ts";
import { invariant } from "../../domain/invariant.ts";
import { LIMITS } from "../../domain/limits.ts";
import { fen } from "../../domain/money.ts";
import { DEFAULT_RULES } from "../../domain/region/policy.ts";
import type { OrderRow } from "../../domain/order/place.ts";
import { ORDER_ERRORS } from "../../domain/order/errors.ts";
import { handle, type Answer, type Ctx } from "../../mixins/contract.ts";
import { platformOf, type Platform } from "../../mixins/platform.ts";
import order from "../../services/order/order.service.ts";
import { placeOrder } from "../../services/order/order.contract.ts";
import { viewNewOrder } from "../../services/order/order.view.ts";

/** As many as there are buckets: more only wait for each other's rows, fewer leave commits that could share an fsync alone (tried 6, 16, 32). */
const CONNECTIONS = 16;

/** The row that is sold from, locked; deal facts and a new id come along. No row: none is free (or the deal is not there). */
export interface LockStock {
  /** $1 slot, $2 deal, $3 city, $4 quantity. */
  readonly first: Statement;
  /** Asked when the first gave no row: before anybody is told SOLD_OUT. */
  readonly wait?: Statement;
}

interface Locked {
  readonly id: OrderId;
  readonly now: Date;
  readonly bucket: number;
  readonly available: number;
  readonly merchant_id: Id<"merchant">;
  readonly price: string;
  readonly voucher_valid_days: number;
  readonly commission_bps: number;
  readonly state: string;
}

const EARLIER: Statement = {
  name: "one-by-one/earlier",
  text: `select id, created_at, expires_at, bucket, merchant_id, unit_price, amount, commission_bps, voucher_valid_days, quantity
           from orders where slot = $1 and consumer_id = $2 and idem_key = $3`,
};
const ORDER: Statement = {
  name: "one-by-one/order",
  text: `
    insert into orders (slot, id, consumer_id, merchant_id, deal_id, bucket, quantity, unit_price, discount, amount, commission_bps,
                        voucher_valid_days, state, idem_key, body_hash, created_at, expires_at)
    values ($1, $2, $3, $4, $5, $6, $7, $8, 0, $9, $10, $11, 'PENDING_PAYMENT', $12, $13, $14, $15)`,
};
const STOCK: Statement = {
  name: "one-by-one/stock",
  text: `update stock set held = held + $4 where slot = $1 and deal_id = $2 and bucket = $3`,
};
const FLOW: Statement = {
  name: "one-by-one/flow",
  text: `insert into stock_flows (slot, deal_id, bucket, total, held, sold, cause) values ($1, $2, $3, 0, $4, 0, 'held')`,
};
const COUNT: Statement = {
  name: "one-by-one/count",
  text: `
    insert into quotas as q (slot, scope, user_id, used, cap) values ($1, $2, $3, 1, $4)
    on conflict (slot, scope, user_id) do update set used = q.used + 1`,
};
const EVENT: Statement = {
  name: "one-by-one/event",
  text: `
    insert into events (slot, type, subject, actor, request_id, idem_key, data) values ($1, 'order.created', $2, $3, $4, $5, $6)`,
};

interface Parts {
  platform: Platform;
  pools: Map<string, pg.Pool>;
}
type This = Service<{}> & Parts;

/** The order service with `place` done one by one; everything else of it is ours. */
export function oneByOne(lock: LockStock): ServiceSchema {
  const pool = (service: This, shard: Shard): pg.Pool => {
    const { url } = service.platform.databaseOf(shard);
    const made = service.pools.get(url) ?? new pg.Pool({ connectionString: url, options: SESSION, max: CONNECTIONS, pipeline: true });
    service.pools.set(url, made);
    return made;
  };
  async function place(this: This, ctx: Ctx<typeof placeOrder>): Promise<Answer<typeof placeOrder>> {
    const { dealId } = ctx.params;
    const shard = shardOf(dealId);
    const client = await pool(this, shard).connect();
    try {
      const placed = await transact(client, shard, lock, ctx);
      client.release();
      return viewNewOrder(placed, this.platform.keyspaces.byId(shard.city)?.code ?? "");
    } catch (error) {
      await client.query("rollback");
      client.release();
      throw error;
    }
  }
  return {
    ...order,
    actions: { ...order.actions, place: handle(placeOrder, place) },
    created(this: This) {
      (order.created as unknown as (this: This) => void).call(this);
      this.platform = platformOf(this.broker);
      this.pools = new Map();
    },
    async stopped(this: This) {
      await (order.stopped as unknown as (this: This) => Promise<void>).call(this);
      await Promise.all([...this.pools.values()].map((one) => one.end()));
    },
  } as unknown as ServiceSchema;
}

/** Generic plans and no scans, as the platform's own connections have; no lock timeout, because here the queue at the row is the queue. */
const SESSION = "-c plan_cache_mode=force_generic_plan -c enable_seqscan=off -c jit=off -c timezone=UTC";

async function transact(client: pg.PoolClient, shard: Shard, lock: LockStock, ctx: Ctx<typeof placeOrder>): Promise<OrderRow> {
  const { dealId, quantity } = ctx.params;
  const { caller, idempotencyKey, bodyHash, requestId } = ctx.meta;
  invariant(caller !== undefined && idempotencyKey !== undefined && bodyHash !== undefined, "the gateway demands a caller and a key");
  const run = <Row extends object>({ name, text }: Statement, values: unknown[]): Promise<Row[]> =>
    client.query<Row & pg.QueryResultRow>({ name, text, values }).then(({ rows }) => rows);
  const [, earlier, first] = await Promise.all([
    client.query("begin"),
    run<object>(EARLIER, [shard.slot, caller.userId, idempotencyKey]),
    run<Locked>(lock.first, [shard.slot, dealId, shard.city, quantity]),
  ]);
  invariant(earlier.length === 0, "the load generator never repeats a key");
  const [row] = first.length > 0 || !lock.wait ? first : await run<Locked>(lock.wait, [shard.slot, dealId, shard.city, quantity]);
  if (!row || row.available < quantity) throw refusal(DEAL_ERRORS, "SOLD_OUT", { dealId, available: row?.available ?? 0 });
  if (row.state !== "ON_SALE") throw refusal(DEAL_ERRORS, "DEAL_NOT_ON_SALE", { dealId });
  const unitPrice = fen(row.price);
  const placed: OrderRow = {
    id: row.id,
    consumerId: caller.userId,
    merchantId: row.merchant_id,
    dealId: dealId as Id<"deal">,
    groupId: undefined,
    bucket: row.bucket,
    quantity,
    unitPrice,
    discount: fen(0n),
    amount: fen(unitPrice * BigInt(quantity)),
    region: DEFAULT_RULES.region,
    regionVersion: DEFAULT_RULES.version,
    discountBps: 0,
    commissionBps: row.commission_bps,
    voucherValidDays: row.voucher_valid_days,
    state: "PENDING_PAYMENT",
    idemKey: idempotencyKey,
    bodyHash,
    createdAt: row.now,
    expiresAt: new Date(row.now.getTime() + ORDER_TTL_MS),
    paidAt: undefined,
  };
  const amount = String(placed.amount);
  const data = { orderId: row.id, consumerId: caller.userId, merchantId: row.merchant_id, dealId, quantity, amount: Number(amount) };
  await Promise.all([
    run(ORDER, [
      ...[shard.slot, row.id, caller.userId, row.merchant_id, dealId, row.bucket, quantity, row.price, amount, row.commission_bps],
      ...[row.voucher_valid_days, idempotencyKey, `\\x${bodyHash}`, placed.createdAt, placed.expiresAt],
    ]),
    run(STOCK, [shard.slot, dealId, row.bucket, quantity]),
    run(FLOW, [shard.slot, dealId, row.bucket, quantity]),
    run(COUNT, [shard.slot, row.merchant_id, caller.userId, LIMITS.unpaidOrdersMax]),
    run(EVENT, [shard.slot, row.id, caller.userId, requestId ?? null, idempotencyKey, JSON.stringify(data)]),
    client.query("commit"),
  ]).catch((error: { constraint?: string }) => {
    if (error.constraint !== "quotas_within_cap") throw error;
    throw refusal(ORDER_ERRORS, "TOO_MANY_UNPAID", { merchantId: row.merchant_id, limit: LIMITS.unpaidOrdersMax });
  });
  return placed;
}

const ORDER_TTL_MS = 900_000;
