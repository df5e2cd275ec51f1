/** Stock: buckets of units, and the flows that explain every one of them. */
import type { Bucket, BucketChange } from "../../domain/order/place.ts";
import type { DealId, Shard } from "../../domain/ids.ts";
import { invariant } from "../../domain/invariant.ts";
import type { Queryable, Statement } from "../../db/database.ts";

interface BucketRow {
  deal_id: DealId;
  bucket: number;
  total: number;
  held: number;
  sold: number;
}

const bucketsByDeal = (rows: readonly BucketRow[]): Map<DealId, Bucket[]> => {
  const byDeal = new Map<DealId, Bucket[]>();
  for (const { deal_id, bucket, total, held, sold } of rows) {
    const buckets = byDeal.get(deal_id);
    const one = { dealId: deal_id, bucket, total, held, sold };
    if (buckets) buckets.push(one);
    else byDeal.set(deal_id, [one]);
  }
  return byDeal;
};

/** Two nodes that drain one shard at once take different buckets and neither waits. What is missing here is locked, not sold out. */
const LOCK_FREE: Statement = {
  name: "stock/lock-free",
  text: `
    select deal_id, bucket, total, held, sold from stock_$1
     where slot = $1 and deal_id = any($2)
     order by deal_id, bucket for update skip locked`,
};
/** Waits for the rows (`lock_timeout` at most): before anybody is told SOLD_OUT. */
const LOCK: Statement = {
  name: "stock/lock",
  text: `
    select deal_id, bucket, total, held, sold from stock_$1
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
     cross join lateral (select 1 from stock where slot = $1 and deal_id = c.deal_id and bucket = c.bucket for update) r`,
};
const CHANGE: Statement = {
  name: "stock/change",
  text: `
    update stock_$1 s set total = s.total + c.total, held = s.held + c.held, sold = s.sold + c.sold
      from (select c.*, r.row
              from unnest($2::bigint[], $3::smallint[], $4::integer[], $5::integer[], $6::integer[]) as c(deal_id, bucket, total, held, sold)
             cross join lateral (select ctid as row from stock_$1 where slot = $1 and deal_id = c.deal_id and bucket = c.bucket offset 0) r) c
     where s.slot = $1 and s.ctid = c.row
    returning s.deal_id`,
};
const FLOW: Statement = {
  name: "stock/flow",
  text: `
    insert into stock_flows (slot, deal_id, bucket, total, held, sold, cause)
    select $1, deal_id, bucket, total, held, sold, $7
      from unnest($2::bigint[], $3::smallint[], $4::integer[], $5::integer[], $6::integer[]) as c(deal_id, bucket, total, held, sold)`,
};

export const lockFreeBuckets = async (tx: Queryable, shard: Shard, deals: readonly DealId[]): Promise<Map<DealId, Bucket[]>> =>
  bucketsByDeal(await tx.query<BucketRow>(LOCK_FREE, [shard.slot, deals]));

export const lockBuckets = async (tx: Queryable, shard: Shard, deals: readonly DealId[]): Promise<Map<DealId, Bucket[]>> =>
  bucketsByDeal(await tx.query<BucketRow>(LOCK, [shard.slot, deals]));

/** Applies changes to buckets, in lock order, and writes the flows that explain them. The table's CHECK is the last word on overselling. */
export async function changeBuckets(tx: Queryable, shard: Shard, changes: readonly BucketChange[], cause: string): Promise<void> {
  if (changes.length === 0) return;
  const values = [
    shard.slot,
    changes.map((change) => change.dealId),
    changes.map((change) => change.bucket),
    changes.map((change) => change.total),
    changes.map((change) => change.held),
    changes.map((change) => change.sold),
  ];
  // In one burst: the connection runs them one after the other.
  const [, changed] = await Promise.all([tx.query(HOLD, values.slice(0, 3)), tx.query(CHANGE, values), tx.query(FLOW, [...values, cause])]);
  invariant(changed.length === changes.length, "every bucket that is changed is there");
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
