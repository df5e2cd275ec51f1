/**
 * A past: orders that a channel paid for weeks ago, written straight into the database because nobody waits for a million of them to be bought. All
 * that goes with them is there (stock, vouchers, index, books with their hashes), and `/ops/verify` finds nothing amiss in it.
 */
import { composeId, shardOf, USER_CITY } from "../domain/ids.ts";
import type { Evidence } from "./evidence.ts";

/** So long ago that their events have gone: verify then asks for none. */
const DAYS_AGO = 40;
export const PRICE = 1_990;
const CONSUMERS = 4_096;
/** A made-up consumer's id, of slot `i % 16`; the n-th of them all. */
const CONSUMER_BASE = composeId({ ms: 1_750_000_000_000, sequence: 0, city: USER_CITY, slot: 0 });
const CONSUMER = `(${CONSUMER_BASE} + ((i % ${CONSUMERS})::bigint << 12) + i % 16)`;

export interface SeededDeal {
  readonly dealId: string;
  readonly merchantId: string;
}

/** The Chinese day everything was paid on, and when in it. */
export function dayAndNoon(): { day: string; noon: Date } {
  const day = new Date(Date.now() - DAYS_AGO * 86_400_000).toISOString().slice(0, 10);
  return { day, noon: new Date(`${day}T04:00:00Z`) };
}

/** Ids are consecutive from `first`, which is minted: orders, then payments, vouchers and transfers, `n` of each. */
const SEED = `
create or replace function pg_temp.seed(slot smallint, city integer, merchant bigint, deal bigint, n integer, noon timestamptz) returns bigint language plpgsql as $$
#variable_conflict use_variable
declare
  first bigint := (mint_ids(city, slot, 4 * n))[1];
  head record;
  link bytea;
  at timestamptz;
begin
  insert into orders (slot, id, consumer_id, merchant_id, deal_id, bucket, quantity, unit_price, discount, amount, commission_bps, voucher_valid_days, state,
                      idem_key, body_hash, created_at, expires_at, paid_at)
  select slot, first + (i::bigint << 12), ${CONSUMER}, merchant, deal, 0, 1, ${PRICE}, 0, ${PRICE}, 500, 3650, 'CONFIRMED',
         'seed-' || deal || '-' || i, '\\x00', t, t + interval '15 min', t from (select i, noon + i * interval '1 ms' as t from generate_series(0, n - 1) i) s;
  insert into payments (slot, id, order_id, consumer_id, merchant_id, channel, amount, state, next_attempt_at, created_at, decided_at, ended_at,
                        channel_no, expires_at, paid_amount, paid_currency, paid_at)
  select slot, first + ((n + i)::bigint << 12), first + (i::bigint << 12), ${CONSUMER}, merchant, 'simpay', ${PRICE}, 'CONFIRMED', t, t, t, t,
         'SEED' || first + ((n + i)::bigint << 12), t + interval '15 min', ${PRICE}, 'CNY', t
    from (select i, noon + i * interval '1 ms' as t from generate_series(0, n - 1) i) s;
  insert into vouchers (slot, id, order_id, deal_id, merchant_id, consumer_id, unit, amount, code, state, issued_at, valid_until)
  select slot, first + ((2 * n + i)::bigint << 12), first + (i::bigint << 12), deal, merchant, ${CONSUMER}, 0, ${PRICE},
         right((first + ((2 * n + i)::bigint << 12) >> 12)::text, 14) || to_char(slot, 'FM00'), 'ISSUED', t, t + interval '3650 days'
    from (select i, noon + i * interval '1 ms' as t from generate_series(0, n - 1) i) s;
  select h.seq, h.hash into head from chain_heads h where h.slot = slot for update;
  link := head.hash;
  for i in 0..n - 1 loop
    at := noon + i * interval '1 ms';
    insert into transfers (slot, id, seq, debit_account, credit_account, amount, code, state, business_key, order_id, at, prev_hash, hash)
    values (slot, first + ((3 * n + i)::bigint << 12), head.seq + 1 + i, 'channel:simpay', 'escrow:' || merchant, ${PRICE}, 'pay', 'POSTED',
            first + ((n + i)::bigint << 12), first + (i::bigint << 12), at, link,
            sha256(link || convert_to(concat_ws('|', slot, first + ((3 * n + i)::bigint << 12), head.seq + 1 + i, 'channel:simpay', 'escrow:' || merchant, ${PRICE}, 'pay',
              'POSTED', first + ((n + i)::bigint << 12), '', first + (i::bigint << 12), round(date_part('epoch', at) * 1000)::bigint), 'UTF8')))
    returning hash into link;
  end loop;
  update chain_heads h set seq = h.seq + n, hash = link where h.slot = slot;
  insert into accounts (slot, account, floored, debits_posted, credits_posted)
  values (slot, 'channel:simpay', false, n::bigint * ${PRICE}, 0), (slot, 'escrow:' || merchant, false, 0, n::bigint * ${PRICE})
  on conflict on constraint accounts_pkey do update set debits_posted = accounts.debits_posted + excluded.debits_posted,
    credits_posted = accounts.credits_posted + excluded.credits_posted;
  update stock s set sold = s.sold + n, version = s.version + 1 where s.slot = slot and s.deal_id = deal and s.bucket = 0;
  insert into stock_flows (slot, deal_id, bucket, total, held, sold, cause) values (slot, deal, 0, 0, 0, n, 'sold');
  return first;
end $$`;
const INDEX = `
  insert into order_index (slot, user_id, order_id) select i % 16, ${CONSUMER}, $1::bigint + (i::bigint << 12) from generate_series(0, $2::integer - 1) i`;

/** `count` orders, evenly over the deals. */
export async function seedOrders(evidence: Evidence, deals: readonly SeededDeal[], count: number): Promise<void> {
  const { noon } = dayAndNoon();
  const each = Math.ceil(count / deals.length);
  const bySeed = Map.groupBy(deals, ({ dealId }) => evidence.of(dealId));
  await Promise.all(
    [...bySeed].map(async ([database, some]) => {
      await evidence.query(database, SEED);
      for (const { dealId, merchantId } of some) {
        const { city, slot } = shardOf(dealId);
        const [row] = await evidence.query<{ first: string }>(database, "select pg_temp.seed($1::smallint, $2, $3, $4, $5, $6) as first", [
          ...[slot, city, merchantId, dealId, each, noon],
        ]);
        await evidence.query(evidence.users, INDEX, [row?.first, each]);
      }
      await evidence.query(database, "analyze");
    }),
  );
  await evidence.query(evidence.users, "analyze");
}

/** Of each deal, vouchers that were used three hours ago, and their settlements, which fall due when `letFallDue` says so. */
const USED = `
  with used as (
    select slot, id, order_id, merchant_id, amount from vouchers where slot = $1 and deal_id = $2 and state = 'ISSUED' order by id limit $3),
  redeemed as (
    update vouchers v set state = 'REDEEMED', redeemed_at = now() - interval '3 hours' from used u where v.slot = u.slot and v.id = u.id),
  completed as (
    update orders o set state = 'COMPLETED' from used u where o.slot = u.slot and o.id = u.order_id),
  logged as (
    insert into redemptions (slot, id, voucher_id, order_id, merchant_id, kind, at)
    select slot, (mint_ids($4, slot, 1))[1], id, order_id, merchant_id, 'REDEEM', now() - interval '3 hours' from used)
  insert into settlements (slot, id, voucher_id, order_id, merchant_id, gross, commission, state, created_at, due_at)
  select slot, (mint_ids($4, slot, 1))[1], id, order_id, merchant_id, amount, (amount * 500 + 5000) / 10000, 'INIT', now() - interval '3 hours', 'infinity' from used`;

export async function useVouchers(evidence: Evidence, deals: readonly SeededDeal[], count: number): Promise<void> {
  for (const { dealId } of deals) {
    const { city, slot } = shardOf(dealId);
    await evidence.query(evidence.of(dealId), USED, [slot, dealId, Math.ceil(count / deals.length), city]);
  }
}
