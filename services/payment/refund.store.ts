/** Refunds as rows: what the refund drains lock, read and write. */
import type { Queryable, Statement, Writable } from "../../db/database.ts";
import type { MerchantId, OrderId, PaymentId, RefundId, Shard, UserId } from "../../domain/ids.ts";
import { invariant } from "../../domain/invariant.ts";
import { fen, toJson, type Fen } from "../../domain/money.ts";
import type { RefundState } from "../../domain/refund/state.ts";
import { appendEvents } from "../../mixins/events.ts";

/** A refund somebody owes: whoever fails a group makes one for each seat taken. */
export interface NewRefund {
  readonly id: RefundId;
  readonly orderId: OrderId;
  readonly paymentId: PaymentId;
  readonly consumerId: UserId;
  readonly merchantId: MerchantId;
  readonly quantity: number;
  readonly amount: bigint;
  readonly reason: string;
  /** What the consumer says of it. */
  readonly note?: string | undefined;
  /** Its units were used: see `domain/refund/request.ts`. */
  readonly used?: boolean;
  readonly commission?: bigint;
  readonly approveBy?: Date | undefined;
  /** Of a payment that paid for nothing: it is of no unit of its order. */
  readonly surplus?: boolean;
}

/** It goes back the way its payment came. */
const REQUEST: Statement = {
  name: "refund/request",
  text: `
    insert into refunds_$1 (slot, id, order_id, payment_id, consumer_id, merchant_id, quantity, amount, reason, note, used, commission, approve_by,
                         surplus, channel, state, next_attempt_at, created_at)
    select $1, r.id, r.order_id, r.payment_id, r.consumer_id, r.merchant_id, r.quantity, r.amount, r.reason, r.note, r.used, r.commission, r.approve_by,
           r.surplus, p.channel, 'REQUESTED', coalesce(r.approve_by, $2), $2
      from unnest($3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::integer[], $9::bigint[], $10::text[], $11::text[],
                  $12::boolean[], $13::bigint[], $14::timestamptz[], $15::boolean[])
        as r(id, order_id, payment_id, consumer_id, merchant_id, quantity, amount, reason, note, used, commission, approve_by, surplus)
     cross join lateral (select channel from payments_$1 where slot = $1 and id = r.payment_id offset 0) p`,
};

/**
 * Records refunds in the transaction that owes them, due at once. Call `refundsRequested` (payment.contract.ts) after the commit to have them
 * paid now; whoever forgets it has them paid by the recovery worker a second later.
 */
export async function requestRefunds(tx: Writable, shard: Shard, refunds: readonly NewRefund[], now: Date): Promise<void> {
  if (refunds.length === 0) return;
  const [requested] = await Promise.all([
    tx.change(REQUEST, [
      shard.slot,
      now,
      refunds.map((refund) => refund.id),
      refunds.map((refund) => refund.orderId),
      refunds.map((refund) => refund.paymentId),
      refunds.map((refund) => refund.consumerId),
      refunds.map((refund) => refund.merchantId),
      refunds.map((refund) => refund.quantity),
      refunds.map((refund) => String(refund.amount)),
      refunds.map((refund) => refund.reason),
      refunds.map((refund) => refund.note ?? null),
      refunds.map((refund) => refund.used ?? false),
      refunds.map((refund) => String(refund.commission ?? 0n)),
      refunds.map((refund) => refund.approveBy ?? null),
      refunds.map((refund) => refund.surplus ?? false),
    ]),
    appendEvents(
      tx,
      shard,
      refunds.map((refund) => ({
        type: "refund.requested",
        subject: refund.id,
        data: {
          refundId: refund.id,
          orderId: refund.orderId,
          consumerId: refund.consumerId,
          amount: toJson(refund.amount),
          reason: refund.reason,
        },
      })),
    ),
  ]);
  invariant(requested === refunds.length, "the payment of a refund is there");
}

/** A refund as its row has it. */
export interface RefundRow {
  readonly id: RefundId;
  readonly orderId: OrderId;
  readonly paymentId: PaymentId;
  readonly consumerId: UserId;
  readonly merchantId: MerchantId;
  readonly amount: Fen;
  /** Of used units: this much of the amount comes back from our part, the rest from the merchant's. */
  readonly used: boolean;
  readonly commission: Fen;
  readonly approveBy: Date | undefined;
  readonly approvedAt: Date | undefined;
  readonly state: RefundState;
  /** PROCESSING with a decision: the city has booked it, and it only goes forward. */
  readonly decided: boolean;
  /** The way its payment came. */
  readonly channel: string;
  /** How often it was taken up. */
  readonly attempts: number;
  readonly reason: string;
}

interface RefundRecord {
  id: RefundId;
  order_id: OrderId;
  payment_id: PaymentId;
  consumer_id: UserId;
  merchant_id: MerchantId;
  amount: string;
  used: boolean;
  commission: string;
  approve_by: Date | null;
  approved_at: Date | null;
  state: RefundState;
  decided: boolean;
  channel: string;
  attempts: number;
  reason: string;
}
const COLUMNS =
  "channel, attempts, reason, id, order_id, payment_id, consumer_id, merchant_id, amount, used, commission, approve_by, approved_at, state, decided_at is not null as decided";
const toRefund = (row: RefundRecord): RefundRow => ({
  id: row.id,
  orderId: row.order_id,
  paymentId: row.payment_id,
  consumerId: row.consumer_id,
  merchantId: row.merchant_id,
  amount: fen(row.amount),
  used: row.used,
  commission: fen(row.commission),
  approveBy: row.approve_by ?? undefined,
  approvedAt: row.approved_at ?? undefined,
  state: row.state,
  decided: row.decided,
  channel: row.channel,
  attempts: row.attempts,
  reason: row.reason,
});

const BY_IDS: Statement = { name: "refund/by-ids", text: `select ${COLUMNS} from refunds_$1 where slot = $1 and id = any($2::bigint[])` };
const LOCK: Statement = {
  name: "refund/lock",
  text: `select ${COLUMNS} from refunds_$1 where slot = $1 and id = any($2::bigint[]) order by id for update`,
};
/** What each payment was, by a channel what was really paid, and what is being, or was, given back of it. */
const OWED: Statement = {
  name: "refund/owed",
  text: `
    select p.id, coalesce(p.paid_amount, p.amount) as amount, (select coalesce(sum(r.amount), 0) from refunds_$1 r where r.slot = $1 and r.order_id = p.order_id and r.payment_id = p.id) as refunded
      from payments_$1 p where p.slot = $1 and p.id = any($2::bigint[])`,
};
/** What of each order is back at its consumer, unused. */
const SUCCEEDED: Statement = {
  name: "refund/succeeded",
  text: `
    select order_id, sum(amount) as amount from refunds_$1
     where slot = $1 and order_id = any($2::bigint[]) and state = 'SUCCEEDED' and not used and not surplus group by order_id`,
};
const MOVE: Statement = {
  name: "refund/move",
  text: `
    update refunds_$1 f set state = $5, decided_at = coalesce(f.decided_at, $6), ended_at = $7, last_error = null
      from unnest($2::bigint[]) as k(id)
     cross join lateral (select ctid as row, state, decided_at is not null as decided from refunds_$1 where slot = $1 and id = k.id offset 0) r
     where f.slot = $1 and f.ctid = r.row and r.state = $3 and r.decided = $4`,
};
const FAILED: Statement = {
  name: "refund/failed",
  text: `
    update refunds_$1 f set last_error = $3
      from (select id from unnest($2::bigint[]) as k(id) order by id) k
     cross join lateral (select ctid as row, state from refunds_$1 where slot = $1 and id = k.id offset 0 for update) r
     where f.slot = $1 and f.ctid = r.row and r.state in ('REQUESTED', 'PROCESSING')`,
};
/** Backs off 2, 4, 8 … 64 seconds, give or take a quarter, like payments. */
const CLAIM: Statement = {
  name: "refund/claim",
  text: `
    with due as (
      select slot, ctid as row from refunds
       where slot = any($1) and unfinished and next_attempt_at <= now()
       order by next_attempt_at limit $2 for update skip locked)
    update refunds r set attempts = r.attempts + 1, next_attempt_at = now() + make_interval(secs => 2 ^ least(r.attempts + 1, 6) * (0.75 + random() / 2))
      from due where r.slot = due.slot and r.ctid = due.row
    returning r.slot, r.id`,
};

/** What a channel says along the way; nothing is an error any more when it says nothing of one. */
const NOTE: Statement = {
  name: "refund/note",
  text: `
    update refunds_$1 f set channel_no = coalesce(k.channel_no, f.channel_no), last_error = k.error
      from unnest($2::bigint[], $3::text[], $4::text[]) as k(id, channel_no, error)
     cross join lateral (select ctid as row from refunds_$1 where slot = $1 and id = k.id offset 0) r
     where f.slot = $1 and f.ctid = r.row`,
};
const STALL: Statement = {
  name: "refund/stall",
  text: `
    update refunds_$1 f set state = 'ABNORMAL', last_error = k.reason
      from unnest($2::bigint[], $3::text[]) as k(id, reason)
     cross join lateral (select ctid as row, state from refunds_$1 where slot = $1 and id = k.id offset 0) r
     where f.slot = $1 and f.ctid = r.row and r.state = 'PROCESSING'`,
};
/** A person has seen to it: asked again, under the same number. */
const RESUME: Statement = {
  name: "refund/resume",
  text: `
    update refunds_$1 set state = 'PROCESSING', attempts = 0, next_attempt_at = $3
     where slot = $1 and id = any($2::bigint[]) and state = 'ABNORMAL' returning id`,
};
/** A merchant's word: from now on it is due. */
const APPROVE: Statement = {
  name: "refund/approve",
  text: `
    update refunds_$1 set approved_at = $3, next_attempt_at = $3
     where slot = $1 and id = any($2::bigint[]) and used and approved_at is null and state = 'REQUESTED'`,
};
const OF_ORDER: Statement = {
  name: "refund/of-order",
  text: `select ${COLUMNS}, quantity, created_at from refunds_$1 where slot = $1 and order_id = $2 order by id`,
};

/** A refund as it is shown to its consumer and its merchant. */
export interface ShownRefund extends RefundRow {
  readonly quantity: number;
  readonly createdAt: Date;
}

/** The refunds of one order: a unit is refunded once, so there are never more than an order has units. */
export const refundsOf = async (db: Queryable, shard: Shard, orderId: string): Promise<ShownRefund[]> =>
  (await db.query<RefundRecord & { quantity: number; created_at: Date }>(OF_ORDER, [shard.slot, orderId])).map((row) => ({
    ...toRefund(row),
    quantity: row.quantity,
    createdAt: row.created_at,
  }));

/** Approves locked refunds that wait for it. */
export async function approveRefunds(tx: Writable, shard: Shard, ids: readonly RefundId[], now: Date): Promise<void> {
  if (ids.length === 0) return;
  const approved = await tx.change(APPROVE, [shard.slot, ids, now]);
  invariant(approved === ids.length, "a refund that is approved was waiting for it");
}

export const findRefunds = async (db: Queryable, shard: Shard, ids: readonly string[]): Promise<RefundRow[]> =>
  (await db.query<RefundRecord>(BY_IDS, [shard.slot, ids])).map(toRefund);

/** Locked in the order of their ids. */
export const lockRefunds = async (tx: Queryable, shard: Shard, ids: readonly string[]): Promise<RefundRow[]> =>
  (await tx.query<RefundRecord>(LOCK, [shard.slot, ids])).map(toRefund);

/** By payment: what was paid, and what all its refunds come to. */
export const findOwed = async (
  tx: Queryable,
  shard: Shard,
  payments: readonly PaymentId[],
): Promise<Map<PaymentId, { paid: bigint; refunded: bigint }>> =>
  new Map(
    (await tx.query<{ id: PaymentId; amount: string; refunded: string }>(OWED, [shard.slot, payments])).map((row) => [
      row.id,
      { paid: BigInt(row.amount), refunded: BigInt(row.refunded) },
    ]),
  );

/** By order: what its refunds have brought back. */
export const sumSucceeded = async (tx: Queryable, shard: Shard, orders: readonly OrderId[]): Promise<Map<OrderId, bigint>> =>
  new Map(
    (await tx.query<{ order_id: OrderId; amount: string }>(SUCCEEDED, [shard.slot, orders])).map((row) => [
      row.order_id,
      BigInt(row.amount),
    ]),
  );

/** Moves locked refunds one step; `decided` says on which side of the decision they are now. */
export async function moveRefunds(
  tx: Writable,
  shard: Shard,
  ids: readonly RefundId[],
  step: { from: RefundState; decided: boolean; to: RefundState; decidedAt?: Date; endedAt?: Date },
): Promise<void> {
  if (ids.length === 0) return;
  const moved = await tx.change(MOVE, [shard.slot, ids, step.from, step.decided, step.to, step.decidedAt ?? null, step.endedAt ?? null]);
  invariant(moved === ids.length, `every refund that becomes ${step.to} was ${step.from}`);
}

/** What kept refunds from going on; the next attempt is due anyway. */
export async function noteFailure(db: Queryable, shard: Shard, ids: readonly string[], error: string): Promise<void> {
  await db.query(FAILED, [shard.slot, ids, error.slice(0, 500)]);
}

/** Takes refunds that are due, for one attempt. */
export const claimRefunds = (db: Queryable, slots: readonly number[], limit: number): Promise<{ slot: number; id: string }[]> =>
  db.query<{ slot: number; id: string }>(CLAIM, [slots, limit]);

/** The channel's number of each refund, and what keeps it. One row for each refund: of several words about one, the last. */
export async function noteChannelWords(
  tx: Queryable,
  shard: Shard,
  words: readonly { readonly id: RefundId; readonly channelNo: string | undefined; readonly error: string | undefined }[],
): Promise<void> {
  const last = [...new Map(words.map((word) => [word.id, word])).values()];
  if (last.length === 0) return;
  await tx.query(NOTE, [
    shard.slot,
    last.map(({ id }) => id),
    last.map(({ channelNo }) => channelNo ?? null),
    last.map(({ error }) => error?.slice(0, 500) ?? null),
  ]);
}

/** PROCESSING → ABNORMAL, of locked refunds. */
export async function stallRefunds(
  tx: Writable,
  shard: Shard,
  stalled: readonly { readonly id: RefundId; readonly reason: string }[],
): Promise<void> {
  if (stalled.length === 0) return;
  const moved = await tx.change(STALL, [shard.slot, stalled.map(({ id }) => id), stalled.map(({ reason }) => reason.slice(0, 500))]);
  invariant(moved === stalled.length, "a refund that stalls was under way");
}

/** ABNORMAL → PROCESSING: those that were. */
export const resumeRefunds = async (tx: Queryable, shard: Shard, ids: readonly RefundId[], now: Date): Promise<Set<string>> =>
  new Set((await tx.query<{ id: string }>(RESUME, [shard.slot, ids, now])).map(({ id }) => id));
