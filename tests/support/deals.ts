/** Deals for tests, written straight into their shard: what is sold is not what these tests are about. */
import { composeId, shardOf, type Id } from "../../domain/ids.ts";
import type { TestNode } from "./node.ts";

/** The n-th made-up user: an id of the user keyspace, its slot by n. */
export const userId = (n: number): Id => composeId({ ms: 1_760_000_000_000 + n, sequence: 0, city: 0, slot: n % 16 });

let made = 0;

/** The merchant that `makeDeal` made for a deal: the id before it in the sequence (12 bits of address below). */
const merchantOf = (dealId: Id): Id => String(BigInt(dealId) - 4_096n) as Id;

/** A deal on sale in Shanghai, of a merchant of its own, or of the one that sells `sibling`. */
export async function makeDeal(
  test: Pick<TestNode, "node">,
  of: {
    stock: number;
    price?: number;
    tiers?: readonly { size: number; price: number }[];
    perUserLimit?: number;
    groupTtlMinutes?: number;
    buckets?: number;
    autoFillBps?: number;
    city?: number;
    sibling?: Id;
  },
): Promise<Id> {
  const n = ++made;
  const city = of.city ?? 1;
  const slot = of.sibling === undefined ? n % 16 : shardOf(of.sibling).slot;
  const merchantId = of.sibling === undefined ? composeId({ ms: 1_770_000_000_000 + n, sequence: 0, city, slot }) : merchantOf(of.sibling);
  const dealId = composeId({ ms: 1_770_000_000_000 + n, sequence: 1, city, slot });
  const database = test.node.platform.databaseOf(shardOf(dealId));
  await database.query(
    {
      name: "test/merchant",
      text: "insert into merchants (slot, id, name, commission_bps, owner_id, owner_username) values ($1, $2, $3, 600, 16, 'boss') on conflict do nothing",
    },
    [slot, merchantId, `bar ${n}`],
  );
  await database.query(
    {
      name: "test/deal",
      text: `insert into deals (slot, id, merchant_id, title, description, price, tiers, per_user_limit, group_ttl_minutes, auto_fill_bps,
               voucher_valid_days, refund_anytime, refund_expired, state, words)
             values ($1, $2, $3, $4, '', $5, $6, $7, $8, $9, 90, true, true, 'ON_SALE', '')`,
    },
    [
      slot,
      dealId,
      merchantId,
      `deal ${n}`,
      of.price ?? 1990,
      JSON.stringify(of.tiers ?? []),
      of.perUserLimit ?? null,
      of.groupTtlMinutes ?? 60,
      of.autoFillBps ?? null,
    ],
  );
  const buckets = of.buckets ?? 1;
  for (let bucket = 0; bucket < buckets; bucket++) {
    const total = Math.floor(of.stock / buckets) + (bucket < of.stock % buckets ? 1 : 0);
    await database.query({ name: "test/stock-bucket", text: "insert into stock (slot, deal_id, bucket, total) values ($1, $2, $3, $4)" }, [
      slot,
      dealId,
      bucket,
      total,
    ]);
    await database.query(
      {
        name: "test/flow",
        text: "insert into stock_flows (slot, deal_id, bucket, total, held, sold, cause) values ($1, $2, $3, $4, 0, 0, 'created')",
      },
      [slot, dealId, bucket, total],
    );
  }
  return dealId;
}
