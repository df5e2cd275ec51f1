/** Stock: buckets of units, the flows that explain every one of them, and what the stock gate is told of them. */
import type { Bucket, BucketChange } from "../../domain/order/place.ts";
import type { DealId, Shard } from "../../domain/ids.ts";
import { invariant } from "../../domain/invariant.ts";
import type { Queryable, Statement, Writable } from "../../db/database.ts";
import type { StockFact } from "../../mixins/stock-gate.ts";

interface BucketRow {
  deal_id: DealId;
  bucket: number;
  total: number;
  held: number;
  sold: number;
  version: string;
}
/** A bucket as it was locked: its version is that of the row, whatever is decided over its counts. */
export interface LockedBucket extends Bucket {
  readonly version: number;
}

const bucketsByDeal = (rows: readonly BucketRow[]): Map<DealId, LockedBucket[]> => {
  const byDeal = new Map<DealId, LockedBucket[]>();
  for (const { deal_id, bucket, total, held, sold, version } of rows) {
    const buckets = byDeal.get(deal_id);
    const one = { dealId: deal_id, bucket, total, held, sold, version: Number(version) };
    if (buckets) buckets.push(one);
    else byDeal.set(deal_id, [one]);
  }
  return byDeal;
};

/** Two nodes that drain one shard at once take different buckets and neither waits. What is missing here is locked, not sold out. */
const LOCK_FREE: Statement = {
  name: "stock/lock-free",
  text: `
    select deal_id, bucket, total, held, sold, version from stock_$1
     where slot = $1 and deal_id = any($2)
     order by deal_id, bucket for update skip locked`,
};
/** Waits for the rows (`lock_timeout` at most): before anybody is told SOLD_OUT. */
const LOCK: Statement = {
  name: "stock/lock",
  text: `
    select deal_id, bucket, total, held, sold, version from stock_$1
     where slot = $1 and deal_id = any($2)
     order by deal_id, bucket for update`,
};
/**
 * A statement of its own: the update finds its rows as they were when it began. Locked within it, a row that another node has just changed is
 * waited for and then not found, since it has moved meanwhile; locked before it, it is found where it is.
 */
const HOLD: Statement = {
  name: "stock/hold",
  text: `
    select 1 from unnest($2::bigint[], $3::smallint[]) as c(deal_id, bucket)
     cross join lateral (select 1 from stock_$1 where slot = $1 and deal_id = c.deal_id and bucket = c.bucket for update) r`,
};
const CHANGE: Statement = {
  name: "stock/change",
  text: `
    update stock_$1 s set total = s.total + c.total, held = s.held + c.held, sold = s.sold + c.sold, version = s.version + 1
      from (select c.*, r.row
              from unnest($2::bigint[], $3::smallint[], $4::integer[], $5::integer[], $6::integer[]) as c(deal_id, bucket, total, held, sold)
             cross join lateral (select ctid as row from stock_$1 where slot = $1 and deal_id = c.deal_id and bucket = c.bucket offset 0) r) c
     where s.slot = $1 and s.ctid = c.row
    returning s.deal_id, s.bucket, s.total, s.held, s.sold, s.version`,
};
const FLOW: Statement = { name: "stock/flow", text: `copy stock_flows (slot, deal_id, bucket, total, held, sold, cause) from stdin` };

/** All slots of a database on purpose: a report, run by one node twice a minute. */
const ON_SALE: Statement = {
  name: "stock/on-sale",
  text: `
    select s.deal_id, s.bucket, s.total, s.held, s.sold, s.version, count(*) over (partition by s.deal_id)::integer as of
      from (select slot, id from deals where state = 'ON_SALE' and id > $1 order by id limit $2) d
     cross join lateral (select * from stock where slot = d.slot and deal_id = d.id offset 0) s
     order by s.deal_id, s.bucket`,
};

/** The stock of deals on sale, in the order of their ids, after one. */
export const factsOnSale = async (tx: Queryable, after: string, dealsMax: number): Promise<StockFact[]> =>
  (await tx.query<BucketRow & { of: number }>(ON_SALE, [after, dealsMax])).map((row) => ({ ...factOf(row), of: row.of }));

export const lockFreeBuckets = async (tx: Queryable, shard: Shard, deals: readonly DealId[]): Promise<Map<DealId, LockedBucket[]>> =>
  bucketsByDeal(await tx.query<BucketRow>(LOCK_FREE, [shard.slot, deals]));

export const lockBuckets = async (tx: Queryable, shard: Shard, deals: readonly DealId[]): Promise<Map<DealId, LockedBucket[]>> =>
  bucketsByDeal(await tx.query<BucketRow>(LOCK, [shard.slot, deals]));

const factOf = ({ deal_id, bucket, total, held, sold, version }: BucketRow): StockFact => ({
  dealId: deal_id,
  bucket,
  available: total - held - sold,
  version: Number(version),
});

/**
 * Applies changes to buckets, in lock order, and writes the flows that explain them. The table's CHECK is the last word on overselling.
 * Returns what has become of the buckets, for the stock gate to be told after the commit. `locked`: they are already.
 */
export async function changeBuckets(
  tx: Writable,
  shard: Shard,
  changes: readonly BucketChange[],
  cause: string,
  { locked = false } = {},
): Promise<readonly StockFact[]> {
  if (changes.length === 0) return [];
  const values = [
    shard.slot,
    changes.map((change) => change.dealId),
    changes.map((change) => change.bucket),
    changes.map((change) => change.total),
    changes.map((change) => change.held),
    changes.map((change) => change.sold),
  ];
  // In one burst: the connection runs them one after the other.
  const [, changed] = await Promise.all([
    !locked && tx.query(HOLD, values.slice(0, 3)),
    tx.query<BucketRow>(CHANGE, values),
    tx.copy(
      FLOW,
      shard.slot,
      changes.map(({ dealId, bucket, total, held, sold }) => [shard.slot, dealId, bucket, total, held, sold, cause]),
    ),
  ]);
  invariant(changed.length === changes.length, "every bucket that is changed is there");
  return changed.map(factOf);
}

/** Adds up changes that fall on the same bucket: an update touches each row once. */
export function mergeBucketChanges(changes: readonly BucketChange[]): BucketChange[] {
  const merged = new Map<string, BucketChange>();
  for (const change of changes) {
    const key = `${change.dealId} ${change.bucket}`;
    const sum = merged.get(key);
    if (sum) {
      sum.total += change.total;
      sum.held += change.held;
      sum.sold += change.sold;
    } else merged.set(key, { ...change });
  }
  return [...merged.values()].sort((a, b) => (a.dealId === b.dealId ? a.bucket - b.bucket : BigInt(a.dealId) < BigInt(b.dealId) ? -1 : 1));
}
