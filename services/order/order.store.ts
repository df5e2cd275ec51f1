/** Orders and the counters that bound them. */
import type { DealFacts, OrderRow, QuotaChange } from "../../domain/order/place.ts";
import { orderKey, quotaKey } from "../../domain/order/place.ts";
import type { DealState } from "../../domain/deal/state.ts";
import type { DealId, GroupId, Id, MerchantId, OrderId, Shard, UserId } from "../../domain/ids.ts";
import { invariant } from "../../domain/invariant.ts";
import { LIMITS } from "../../domain/limits.ts";
import { fen } from "../../domain/money.ts";
import type { OrderState } from "../../domain/order/state.ts";
import type { Queryable, Statement, Writable } from "../../db/database.ts";

interface OrderRecord {
  id: OrderId;
  consumer_id: UserId;
  merchant_id: MerchantId;
  deal_id: DealId;
  group_id: GroupId | null;
  bucket: number;
  quantity: number;
  unit_price: string;
  discount: string;
  amount: string;
  region: string;
  region_version: string;
  discount_bps: number;
  commission_bps: number;
  voucher_valid_days: number;
  state: OrderState;
  idem_key: string;
  body_hash: string;
  created_at: Date;
  expires_at: Date;
  paid_at: Date | null;
}
const COLUMNS = `o.id, o.consumer_id, o.merchant_id, o.deal_id, o.group_id, o.bucket, o.quantity, o.unit_price, o.discount, o.amount, o.region, o.region_version, o.discount_bps, o.commission_bps,
  o.voucher_valid_days, o.state, o.idem_key, encode(o.body_hash, 'hex') as body_hash, o.created_at, o.expires_at, o.paid_at`;

const toOrder = (row: OrderRecord): OrderRow => ({
  id: row.id,
  consumerId: row.consumer_id,
  merchantId: row.merchant_id,
  dealId: row.deal_id,
  groupId: row.group_id ?? undefined,
  bucket: row.bucket,
  quantity: row.quantity,
  unitPrice: fen(row.unit_price),
  discount: fen(row.discount),
  amount: fen(row.amount),
  region: row.region,
  regionVersion: row.region_version,
  discountBps: row.discount_bps,
  commissionBps: row.commission_bps,
  voucherValidDays: row.voucher_valid_days,
  state: row.state,
  idemKey: row.idem_key,
  bodyHash: row.body_hash,
  createdAt: row.created_at,
  expiresAt: row.expires_at,
  paidAt: row.paid_at ?? undefined,
});

const BY_KEYS: Statement = {
  name: "order/by-keys",
  text: `
    select ${COLUMNS}
      from unnest($2::bigint[], $3::text[]) as k(consumer_id, idem_key)
     cross join lateral (select * from orders_$1 where slot = $1 and consumer_id = k.consumer_id and idem_key = k.idem_key offset 0) o`,
};
const BY_IDS: Statement = { name: "order/by-ids", text: `select ${COLUMNS} from orders_$1 o where o.slot = $1 and o.id = any($2)` };
const LOCK: Statement = {
  name: "order/lock",
  text: `select ${COLUMNS} from orders_$1 o where o.slot = $1 and o.id = any($2) order by o.id for update`,
};
const OF_MERCHANT: Statement = {
  name: "order/of-merchant",
  text: `select ${COLUMNS} from orders_$1 o where o.slot = $1 and o.merchant_id = $2 and o.id < $3 order by o.id desc limit $4`,
};
const INSERT: Statement = {
  name: "order/insert",
  text: `
    copy orders_$1 (slot, id, consumer_id, merchant_id, deal_id, group_id, bucket, quantity, unit_price, discount, amount, region, region_version,
      discount_bps, commission_bps, voucher_valid_days, state, idem_key, body_hash, created_at, expires_at) from stdin`,
};
/**
 * The state is asked of the rows found by their ids (locked rows: their `ctid` stays). Asked of `o` it would open the way by `orders_unpaid`, which
 * looks small while nothing is unpaid: in a stampede each of 40 orders then read all 140,000 unpaid ones.
 */
const MOVE: Statement = {
  name: "order/move",
  text: `
    update orders_$1 o set state = $4, paid_at = coalesce(o.paid_at, $5), ended_at = $6
      from unnest($2::bigint[]) as k(id) cross join lateral (select ctid as row, state from orders_$1 where slot = $1 and id = k.id offset 0) r
     where o.slot = $1 and o.ctid = r.row and r.state = $3`,
};
const DEALS: Statement = {
  name: "order/deals",
  text: `
    select d.id, d.merchant_id, d.price, d.tiers, d.per_user_limit, d.group_ttl_minutes, d.auto_fill_bps, d.sale_starts_at, d.sale_ends_at,
           d.voucher_valid_days, d.state, m.commission_bps, (select count(*)::integer from stock_$1 s where s.slot = $1 and s.deal_id = d.id) as buckets
      from deals_$1 d join merchants_$1 m on m.slot = $1 and m.id = d.merchant_id
     where d.slot = $1 and d.id = any($2)`,
};
/**
 * A counter's scope is a merchant or, where the deal has a limit, the deal. Read, not locked: a lock is a record of the log for each, what is read
 * too early is refused by the CHECK, and the batch is decided again. One row a scope, with lists in it: to read a row for each buyer took this
 * process 3 µs an order.
 */
const QUOTAS_OF: Statement = {
  name: "order/quotas-of",
  text: `
    select s.scope, q.users, q.used
      from unnest($2::bigint[], $3::text[]) as b(deal_id, user_ids)
     cross join lateral (select merchant_id, per_user_limit from deals_$1 where slot = $1 and id = b.deal_id offset 0) d
     cross join lateral (values (d.merchant_id), (case when d.per_user_limit is not null then b.deal_id end)) as s(scope)
     cross join lateral (select array_to_string(array_agg(q.user_id), ',') as users, array_to_string(array_agg(q.used), ',') as used
                           from unnest(b.user_ids::bigint[]) as u(user_id)
                          cross join lateral (select user_id, used from quotas_$1 where slot = $1 and scope = s.scope and user_id = u.user_id offset 0) q) q
     where q.users is not null`,
};
const ADD_QUOTAS: Statement = { name: "order/add-quotas", text: `copy quotas_$1 (slot, scope, user_id, used, cap) from stdin` };
/** In the order of the keys. A row that another node is changing is waited for and then not found, since it has moved: it is not counted. */
const COUNT: Statement = {
  name: "order/count",
  text: `
    update quotas_$1 q set used = q.used + c.delta
      from (select c.delta, r.row
              from unnest($2::bigint[], $3::bigint[], $4::integer[]) as c(scope, user_id, delta)
             cross join lateral (select ctid as row from quotas_$1 where slot = $1 and scope = c.scope and user_id = c.user_id offset 0) r) c
     where q.slot = $1 and q.ctid = c.row`,
};
/** Those that `COUNT` has missed, by their key, wherever they are now: what it changed is of this transaction. */
const LOCK_MISSED: Statement = {
  name: "order/lock-missed",
  text: `
    select q.scope, q.user_id as "userId"
      from unnest($2::bigint[], $3::bigint[]) as k(scope, user_id)
     cross join lateral (select scope, user_id, xmin from quotas_$1 where slot = $1 and scope = k.scope and user_id = k.user_id for update) q
     where q.xmin <> pg_current_xact_id()::xid`,
};
const PAYING: Statement = {
  name: "order/paying",
  text: `
    select p.order_id, p.channel <> 'wallet' as by_channel
      from unnest($2::bigint[]) as k(order_id)
     cross join lateral (select order_id, channel, state from payments_$1
                          where slot = $1 and order_id = k.order_id and live offset 0) p
     where p.state in ('TRYING', 'CREATED', 'PROCESSING', 'UNKNOWN')`,
};
/** By the merchant's index: an order is younger than its deal, and a merchant has few deals at once. */
const BUYERS: Statement = {
  name: "order/buyers",
  text: `
    select (select coalesce(sum(total - held - sold), 0)::integer from stock_$1 where slot = $1 and deal_id = $2) as available,
           count(o.id)::integer as looked, coalesce(max(o.id), $3)::text as last,
           coalesce(array_agg(distinct o.consumer_id::text) filter (where o.deal_id = $2), '{}') as buyers
      from (select merchant_id from deals_$1 where slot = $1 and id = $2 offset 0) d
      left join lateral (select id, deal_id, consumer_id from orders_$1
                          where slot = $1 and merchant_id = d.merchant_id and id > $3 order by id limit $4) o on true`,
};
const DUE: Statement = {
  name: "order/due",
  text: `
    select o.slot, o.id from orders o
     where o.slot = any($1) and o.unpaid and o.expires_at <= now()
       and not exists (select 1 from payments p where p.slot = o.slot and p.order_id = o.id and p.live
                          and (p.channel = 'wallet' or o.expires_at > now() - interval '${LIMITS.chargeCloseMs / 1_000} s'))
     order by o.expires_at limit $2`,
};

/** Orders by (consumer, key), keyed by `orderKey`. */
export async function findOrdersByKeys(
  tx: Queryable,
  shard: Shard,
  keys: readonly { consumerId: string; idemKey: string }[],
): Promise<Map<string, OrderRow>> {
  const rows = await tx.query<OrderRecord>(BY_KEYS, [shard.slot, keys.map((key) => key.consumerId), keys.map((key) => key.idemKey)]);
  return new Map(rows.map((row) => [orderKey(row.consumer_id, row.idem_key), toOrder(row)]));
}

export const findOrders = async (tx: Queryable, shard: Shard, ids: readonly string[]): Promise<Map<string, OrderRow>> =>
  new Map((await tx.query<OrderRecord>(BY_IDS, [shard.slot, ids])).map((row) => [row.id, toOrder(row)]));

/** Locked in the order of their ids. */
export const lockOrders = async (tx: Queryable, shard: Shard, ids: readonly string[]): Promise<Map<string, OrderRow>> =>
  new Map((await tx.query<OrderRecord>(LOCK, [shard.slot, ids])).map((row) => [row.id, toOrder(row)]));

/** A merchant's orders before an id, newest first. */
export const ordersOfMerchant = async (
  tx: Queryable,
  shard: Shard,
  merchantId: string,
  before: string,
  limit: number,
): Promise<OrderRow[]> => (await tx.query<OrderRecord>(OF_MERCHANT, [shard.slot, merchantId, before, limit])).map(toOrder);

export async function insertOrders(tx: Writable, shard: Shard, orders: readonly OrderRow[], now: Date): Promise<void> {
  if (orders.length === 0) return;
  const { slot } = shard;
  await tx.copy(
    INSERT,
    slot,
    // prettier-ignore
    orders.map((o) => [
      slot, o.id, o.consumerId, o.merchantId, o.dealId, o.groupId, o.bucket, o.quantity, o.unitPrice, o.discount, o.amount,
      o.region, o.regionVersion, o.discountBps, o.commissionBps, o.voucherValidDays,
      o.state, o.idemKey, { hex: o.bodyHash }, now, o.expiresAt,
    ]),
  );
}

/** Moves locked orders along one arrow of the state table; `paidAt` and `endedAt` where the arrow has them. */
export async function moveOrders(
  tx: Writable,
  shard: Shard,
  ids: readonly string[],
  arrow: { from: OrderState; to: OrderState; paidAt?: Date; endedAt?: Date },
): Promise<void> {
  if (ids.length === 0) return;
  const moved = await tx.change(MOVE, [shard.slot, ids, arrow.from, arrow.to, arrow.paidAt ?? null, arrow.endedAt ?? null]);
  invariant(moved === ids.length, `every order that becomes ${arrow.to} was ${arrow.from}`);
}

interface DealRecord {
  id: DealId;
  merchant_id: MerchantId;
  price: string;
  tiers: { size: number; price: number }[];
  per_user_limit: number | null;
  group_ttl_minutes: number;
  auto_fill_bps: number | null;
  sale_starts_at: Date | null;
  sale_ends_at: Date | null;
  voucher_valid_days: number;
  state: DealState;
  commission_bps: number;
  buckets: number;
}

/** What ordering needs to know of deals, and how many buckets of stock each has. */
export async function findDealFacts(
  tx: Queryable,
  shard: Shard,
  ids: readonly string[],
): Promise<Map<DealId, DealFacts & { readonly bucketCount: number }>> {
  const rows = await tx.query<DealRecord>(DEALS, [shard.slot, ids]);
  return new Map(
    rows.map((row) => [
      row.id,
      {
        id: row.id,
        merchantId: row.merchant_id,
        price: fen(row.price),
        tiers: row.tiers,
        perUserLimit: row.per_user_limit ?? undefined,
        groupTtlMinutes: row.group_ttl_minutes,
        autoFillBps: row.auto_fill_bps ?? undefined,
        saleStartsAtMs: row.sale_starts_at?.getTime(),
        saleEndsAtMs: row.sale_ends_at?.getTime(),
        commissionBps: row.commission_bps,
        voucherValidDays: row.voucher_valid_days,
        state: row.state,
        bucketCount: row.buckets,
      },
    ]),
  );
}

/** As PostgreSQL sorts them: all who change counters do it in one order. */
const byQuota = (a: { scope: string; userId: string }, b: { scope: string; userId: string }): number =>
  byNumber(a.scope, b.scope) || byNumber(a.userId, b.userId);
const byNumber = (a: string, b: string): number => (a === b ? 0 : a.length - b.length || (a < b ? -1 : 1));

/** The counters that bound these buyers of these deals, keyed by `quotaKey`; those never used are missing. */
export async function findQuotas(
  tx: Queryable,
  shard: Shard,
  buying: readonly { readonly dealId: DealId; readonly consumerId: UserId }[],
): Promise<Map<string, number>> {
  // Each deal is looked up once, however many buy it.
  const byDeal = [...Map.groupBy(buying, ({ dealId }) => dealId)];
  const buyersOf = byDeal.map(([, some]) => `{${[...new Set(some.map(({ consumerId }) => consumerId))].join()}}`);
  const values = [shard.slot, byDeal.map(([dealId]) => dealId), buyersOf];
  const rows = await tx.query<{ scope: string; users: string; used: string }>(QUOTAS_OF, values);
  const quotas = new Map<string, number>();
  for (const { scope, users, used } of rows) {
    const counts = used.split(",");
    for (const [at, userId] of users.split(",").entries()) quotas.set(quotaKey(scope, userId), Number(counts[at]));
  }
  return quotas;
}

/** Raises counters, of which `known` were there when it was decided; the table's CHECK refuses what passes a cap, its key what was made meanwhile. */
export async function countQuotas(
  tx: Writable,
  shard: Shard,
  changes: readonly QuotaChange[],
  known: { has(quota: string): boolean },
): Promise<void> {
  const used: QuotaChange[] = [];
  const made: QuotaChange[] = [];
  for (const change of changes.toSorted(byQuota)) (known.has(quotaKey(change.scope, change.userId)) ? used : made).push(change);
  await Promise.all([
    changeQuotas(tx, shard, used),
    made.length > 0 &&
      tx.copy(
        ADD_QUOTAS,
        shard.slot,
        made.map(({ scope, userId, delta, cap }) => [shard.slot, scope, userId, delta, cap]),
      ),
  ]);
}

/** Gives units back to counters. Deals without a limit have none, so a scope may be missing. */
export async function giveBackQuotas(
  tx: Writable,
  shard: Shard,
  back: readonly { scope: string; userId: string; units: number }[],
): Promise<void> {
  const merged = new Map<string, { scope: string; userId: string; delta: number }>();
  for (const { scope, userId, units } of back) {
    const key = quotaKey(scope, userId);
    merged.set(key, { scope, userId, delta: (merged.get(key)?.delta ?? 0) - units });
  }
  await changeQuotas(tx, shard, [...merged.values()].toSorted(byQuota));
}

interface Change {
  readonly scope: string;
  readonly userId: string;
  readonly delta: number;
}

/**
 * Each (scope, user) once, in their order. Nearly always nobody else is there, and one statement changes them all; those it missed are locked first and
 * changed then, if they are there at all.
 */
async function changeQuotas(tx: Writable, shard: Shard, changes: readonly Change[]): Promise<void> {
  if (changes.length === 0) return;
  const keysOf = (some: readonly Change[]): unknown[] => [shard.slot, some.map(({ scope }) => scope), some.map(({ userId }) => userId)];
  const change = (some: readonly Change[]): Promise<number> => tx.change(COUNT, [...keysOf(some), some.map(({ delta }) => delta)]);
  if ((await change(changes)) === changes.length) return;
  const rows = await tx.query<{ scope: string; userId: string }>(LOCK_MISSED, keysOf(changes));
  const missed = new Set(rows.map(({ scope, userId }) => quotaKey(scope, userId)));
  if (missed.size > 0) await change(changes.filter(({ scope, userId }) => missed.has(quotaKey(scope, userId))));
}

/** Which of these orders a payment is being made for: from a wallet, or by a channel that has not said yet. */
export async function findPaying(
  tx: Queryable,
  shard: Shard,
  ids: readonly string[],
): Promise<{ paying: Set<string>; charging: Set<string> }> {
  const rows = await tx.query<{ order_id: string; by_channel: boolean }>(PAYING, [shard.slot, ids]);
  const of = (byChannel: boolean): Set<string> => new Set(rows.flatMap((row) => (row.by_channel === byChannel ? [row.order_id] : [])));
  return { paying: of(false), charging: of(true) };
}

/** A drain's ids are minted when it begins, and are there when it commits: this much later at most. */
const COMMIT_MS = LIMITS.requestMs;
const IDS_A_MS_BITS = 22n;

/** Who has ordered a deal since an order's id, and what the deal has left, as of one moment. */
export async function findBuyers(
  tx: Queryable,
  shard: Shard,
  { dealId, after }: { readonly dealId: Id; readonly after: Id },
  limit: number,
): Promise<{ available: number; buyers: Id[]; after: Id; hasMore: boolean }> {
  const [row] = await tx.query<{ available: number; looked: number; last: Id; buyers: Id[] }>(BUYERS, [shard.slot, dealId, after, limit]);
  invariant(row !== undefined, "an aggregate gives a row");
  const hasMore = row.looked === limit;
  const settled = BigInt(row.last) - (BigInt(COMMIT_MS) << IDS_A_MS_BITS);
  const next = hasMore ? BigInt(row.last) : settled > BigInt(dealId) ? settled : BigInt(dealId);
  return { available: row.available, buyers: row.buyers, after: next.toString() as Id, hasMore };
}

/** Unpaid orders past their time, oldest first, except those a payment is being made for; a channel is waited for a little, not for ever. */
export const dueOrders = (tx: Queryable, slots: readonly number[], limit: number): Promise<{ slot: number; id: string }[]> =>
  tx.query<{ slot: number; id: string }>(DUE, [slots, limit]);
