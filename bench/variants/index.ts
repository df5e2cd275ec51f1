/** The two ways to lock a stock row that the order drain is compared with. */
import type { ServiceSchema } from "moleculer";
import { oneByOne } from "./one-by-one.ts";

export const VARIANTS = ["for_update", "skip_locked"] as const;
export type Variant = (typeof VARIANTS)[number];

/** Buckets a deal's stock lies in for each: the one hot row, and as many as the original text of this system proposes. */
export const BUCKETS: Readonly<Record<Variant, number>> = { for_update: 1, skip_locked: 16 };

const select = (which: string): string => `
    select (mint_ids($3, $1, 1))[1] as id, now() as now, s.bucket, s.total - s.held - s.sold as available, d.merchant_id, d.price, d.voucher_valid_days,
           d.state, m.commission_bps
      from (${which}) s
      join deals d on d.slot = $1 and d.id = $2
      join merchants m on m.slot = $1 and m.id = d.merchant_id`;
const ROW = "select bucket, total, held, sold from stock where slot = $1 and deal_id = $2";
const ENOUGH = `${ROW} and total - held - sold >= $4 limit 1`;

export const variant = (name: Variant): ServiceSchema =>
  name === "for_update"
    ? oneByOne({ first: { name: "for-update/lock", text: select(`${ROW} and $4::integer > 0 for update`) } })
    : oneByOne({
        first: { name: "skip-locked/lock", text: select(`${ENOUGH} for update skip locked`) },
        // Every bucket with enough is somebody's right now: wait for one of them.
        wait: { name: "skip-locked/wait", text: select(`${ENOUGH} for update`) },
      });
