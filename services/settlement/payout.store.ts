/** Payouts as rows, and what has left for each merchant's bank. */
import type { Queryable, Statement, Writable } from "../../db/database.ts";
import type { MerchantId, PayoutId, Shard, UserId } from "../../domain/ids.ts";
import { invariant } from "../../domain/invariant.ts";
import { LIMITS } from "../../domain/limits.ts";
import { fen } from "../../domain/money.ts";
import type { PayoutMove, PayoutRow, PayoutWord } from "../../domain/payout/decide.ts";
import type { PayoutState } from "../../domain/payout/state.ts";

interface PayoutRecord {
  id: PayoutId;
  merchant_id: MerchantId;
  channel: string;
  amount: string;
  state: PayoutState;
  requested_by: UserId;
}
const COLUMNS = "id, merchant_id, channel, amount, state, requested_by";
const toPayout = (row: PayoutRecord): PayoutRow => ({
  id: row.id,
  merchantId: row.merchant_id,
  channel: row.channel,
  amount: fen(row.amount),
  state: row.state,
  requestedBy: row.requested_by,
});

const INSERT: Statement = {
  name: "payout/insert",
  text: `
    insert into payouts_$1 (slot, id, merchant_id, channel, amount, state, requested_by, next_attempt_at, created_at)
    select $1, id, merchant_id, channel, amount, 'REQUESTED', requested_by, $2, $2
      from unnest($3::bigint[], $4::bigint[], $5::text[], $6::bigint[], $7::bigint[]) as p(id, merchant_id, channel, amount, requested_by)`,
};
const BY_IDS: Statement = { name: "payout/by-ids", text: `select ${COLUMNS} from payouts_$1 where slot = $1 and id = any($2::bigint[])` };
const LOCK: Statement = {
  name: "payout/lock",
  text: `select ${COLUMNS} from payouts_$1 where slot = $1 and id = any($2::bigint[]) order by id for update`,
};
const MOVE: Statement = {
  name: "payout/move",
  text: `
    update payouts_$1 p set state = k.state, reason = coalesce(k.reason, p.reason),
           ended_at = case when k.state in ('SUCCEEDED', 'FAILED', 'RETURNED') then $2::timestamptz end,
           -- A bank that remembers nothing sends nothing back.
           watched = k.state = 'SUCCEEDED' and p.channel <> 'bank'
      from unnest($3::bigint[], $4::text[], $5::text[], $6::text[]) as k(id, was, state, reason)
     cross join lateral (select ctid as row, state from payouts_$1 where slot = $1 and id = k.id offset 0) r
     where p.slot = $1 and p.ctid = r.row and r.state = k.was`,
};
const PAID_OUT: Statement = {
  name: "payout/count",
  text: `
    update merchants_$1 m set paid_out = m.paid_out + k.amount
      from (select k.amount, r.row
              from unnest($2::bigint[], $3::bigint[]) as k(id, amount)
             cross join lateral (select ctid as row from merchants_$1 where slot = $1 and id = k.id for update) r) k
     where m.slot = $1 and m.ctid = k.row`,
};
/**
 * For one attempt. Backs off from 12 s, longer than a query and a call may take, so that nobody else calls meanwhile, to a quarter of an hour; while
 * one that arrived is watched, to hours.
 */
const CLAIM: Statement = {
  name: "payout/claim",
  text: `
    with due as (
      select slot, ctid as row from payouts
       where slot = any($1) and (unfinished or watched) and next_attempt_at <= now()
       order by next_attempt_at limit $2 for update skip locked)
    update payouts p set attempts = p.attempts + 1, watched = p.watched and p.created_at > now() - interval '${LIMITS.payoutWatchDays} days',
           next_attempt_at = now() + make_interval(secs => $3 * 2 ^ least(p.attempts, case when p.unfinished then 6 else 10 end) * (0.75 + random() / 2))
      from due where p.slot = due.slot and p.ctid = due.row
    returning p.slot, p.id`,
};
/** What was learned: the channel's number, and what keeps it. */
const NOTE: Statement = {
  name: "payout/note",
  text: `
    update payouts_$1 p set channel_no = coalesce(k.channel_no, p.channel_no), last_error = k.error
      from unnest($2::bigint[], $3::text[], $4::text[]) as k(id, channel_no, error)
     cross join lateral (select ctid as row from payouts_$1 where slot = $1 and id = k.id offset 0) r
     where p.slot = $1 and p.ctid = r.row`,
};
const PAID: Statement = { name: "payout/paid-out", text: `select paid_out from merchants_$1 where slot = $1 and id = $2` };

export async function insertPayouts(tx: Queryable, shard: Shard, payouts: readonly PayoutRow[], now: Date): Promise<void> {
  if (payouts.length === 0) return;
  await tx.query(INSERT, [
    shard.slot,
    now,
    payouts.map(({ id }) => id),
    payouts.map(({ merchantId }) => merchantId),
    payouts.map(({ channel }) => channel),
    payouts.map(({ amount }) => String(amount)),
    payouts.map(({ requestedBy }) => requestedBy),
  ]);
}

export const findPayouts = async (db: Queryable, shard: Shard, ids: readonly string[]): Promise<PayoutRow[]> =>
  (await db.query<PayoutRecord>(BY_IDS, [shard.slot, ids])).map(toPayout);

/** Locked in the order of their ids. */
export const lockPayouts = async (tx: Queryable, shard: Shard, ids: readonly string[]): Promise<Map<PayoutId, PayoutRow>> =>
  new Map((await tx.query<PayoutRecord>(LOCK, [shard.slot, ids])).map((row) => [row.id, toPayout(row)]));

/** Each payout from where it was to where its last move takes it. */
export async function movePayouts(tx: Writable, shard: Shard, moves: readonly PayoutMove[], now: Date): Promise<void> {
  if (moves.length === 0) return;
  const last = [...new Map(moves.map((move) => [move.payout.id, move])).values()];
  const moved = await tx.change(MOVE, [
    shard.slot,
    now,
    last.map(({ payout }) => payout.id),
    last.map(({ payout }) => payout.state),
    last.map(({ to }) => to),
    last.map(({ reason }) => reason ?? null),
  ]);
  invariant(moved === last.length, "a payout moves from the state it was locked in");
}

/** What has left, and what has come back. */
export async function countPaidOut(tx: Writable, shard: Shard, changes: ReadonlyMap<MerchantId, bigint>): Promise<void> {
  const sorted = [...changes].filter(([, amount]) => amount !== 0n).sort(([a], [b]) => (a < b ? -1 : 1));
  if (sorted.length === 0) return;
  const counted = await tx.change(PAID_OUT, [shard.slot, sorted.map(([id]) => id), sorted.map(([, amount]) => String(amount))]);
  invariant(counted === sorted.length, "the merchant of a payout is there");
}

export const claimPayouts = (db: Queryable, slots: readonly number[], limit: number): Promise<{ slot: number; id: string }[]> =>
  db.query<{ slot: number; id: string }>(CLAIM, [slots, limit, (3 * LIMITS.channelMs) / 1_000]);

/** Of locked payouts; of several words about one, the last. */
export async function notePayouts(tx: Queryable, shard: Shard, words: readonly PayoutWord[]): Promise<void> {
  const last = [...new Map(words.map((word) => [word.id, word])).values()];
  if (last.length === 0) return;
  await tx.query(NOTE, [
    shard.slot,
    last.map(({ id }) => id),
    last.map(({ channelNo }) => channelNo ?? null),
    last.map(({ error }) => error?.slice(0, 500) ?? null),
  ]);
}

/** Undefined where there is no such merchant. */
export const readPaidOut = async (db: Queryable, shard: Shard, merchantId: string): Promise<bigint | undefined> => {
  const [row] = await db.query<{ paid_out: string }>(PAID, [shard.slot, merchantId]);
  return row && BigInt(row.paid_out);
};
