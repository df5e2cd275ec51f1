/** Payments as rows: the durable state of every TCC that pays, and of every charge at a channel. */
import type { Database, Queryable, Statement, Writable } from "../../db/database.ts";
import type { MerchantId, OrderId, PaymentId, Shard, UserId } from "../../domain/ids.ts";
import { invariant } from "../../domain/invariant.ts";
import { LIMITS } from "../../domain/limits.ts";
import { fen, type Fen } from "../../domain/money.ts";
import type { PaymentState } from "../../domain/payment/state.ts";
import { WALLET, type PaymentRow } from "../../domain/payment/try.ts";
import { idBefore } from "../../mixins/prune.ts";

interface PaymentRecord {
  id: PaymentId;
  order_id: OrderId;
  consumer_id: UserId;
  merchant_id: MerchantId;
  channel: string;
  amount: string;
  state: PaymentState;
  reason: string | null;
  expires_at: Date | null;
  pay_url: string | null;
  paid_amount: string | null;
  paid_currency: string | null;
  paid_at: Date | null;
}
const COLUMNS =
  "p.id, p.order_id, p.consumer_id, p.merchant_id, p.channel, p.amount, p.state, p.reason, p.expires_at, p.pay_url, p.paid_amount, p.paid_currency, p.paid_at";
const toPayment = (row: PaymentRecord): PaymentRow => ({
  id: row.id,
  orderId: row.order_id,
  consumerId: row.consumer_id,
  merchantId: row.merchant_id,
  channel: row.channel,
  amount: fen(row.amount),
  state: row.state,
  reason: row.reason ?? undefined,
  expiresAt: row.expires_at ?? undefined,
  payUrl: row.pay_url ?? undefined,
  paid: row.paid_at === null ? undefined : { amount: fen(row.paid_amount ?? ""), currency: row.paid_currency ?? "", at: row.paid_at },
});

/**
 * A payment is due for recovery `LIMITS.tryMs` after it began, and this much earlier once it is decided: the rest of it needs 5 s at most, or its
 * process is gone. The decision does not write a new time: that is in an index, and the update would no longer be a heap-only one.
 */
const DECIDED_EARLIER_SECONDS = (LIMITS.tryMs - 5_000) / 1_000;

/** An order lives for a quarter of an hour, and an attempt that the wallet leaves unanswered takes seconds. */
const GIVEN_UP_MAX = 100;

const BY_IDS: Statement = {
  name: "payment/by-ids",
  text: `select ${COLUMNS} from payments_$1 p where p.slot = $1 and p.id = any($2::bigint[])`,
};
const LOCK: Statement = {
  name: "payment/lock",
  text: `select ${COLUMNS} from payments_$1 p where p.slot = $1 and p.id = any($2::bigint[]) order by p.id for update`,
};
const LIVE: Statement = {
  name: "payment/live",
  text: `
    select ${COLUMNS} from payments_$1 p
     where p.slot = $1 and p.order_id = any($2::bigint[]) and p.live`,
};
/** Of an order, newest first; one the wallet was too short for has left nothing there. */
const GIVEN_UP: Statement = {
  name: "payment/given-up",
  text: `
    select ${COLUMNS} from payments_$1 p
     where p.slot = $1 and p.order_id = $2 and not p.live and p.channel = '${WALLET}' and p.reason is distinct from 'INSUFFICIENT_FUNDS'
     order by p.id desc limit $3`,
};
const INSERT: Statement = {
  name: "payment/insert",
  text: `
    copy payments_$1 (slot, id, order_id, consumer_id, merchant_id, channel, amount, state, expires_at, next_attempt_at, created_at) from stdin`,
};
/**
 * Of locked payments. The state is asked of the rows found by their ids, here and below: asked of `p` it would open the way by
 * `payments_unfinished`, which looks small in a quiet hour, and in a busy one all of it was read for each of them.
 */
const DECIDE: Statement = {
  name: "payment/decide",
  text: `
    update payments_$1 p set state = d.state, reason = d.reason, decided_at = $2
      from (select d.state, d.reason, r.row
              from unnest($3::bigint[], $4::text[], $5::text[]) as d(id, state, reason)
             cross join lateral (select ctid as row, state from payments_$1 where slot = $1 and id = d.id offset 0) r where r.state = 'TRYING') d
     where p.slot = $1 and p.ctid = d.row`,
};
/** Not locked first: a payment that somebody else changes at this moment is missed, and left to recovery. */
const FINISH: Statement = {
  name: "payment/finish",
  text: `
    update payments_$1 p set state = case p.state when 'CONFIRMING' then 'CONFIRMED' else 'CANCELLED' end, ended_at = $3
      from (select id from unnest($2::bigint[]) as k(id) order by id) k
     cross join lateral (select ctid as row, state from payments_$1 where slot = $1 and id = k.id offset 0) r
     where p.slot = $1 and p.ctid = r.row and r.state in ('CONFIRMING', 'CANCELLING')`,
};
/**
 * Backs off 2, 4, 8 … 64 seconds, give or take a quarter, so that what a channel's silence left behind does not come back in one moment; a charge
 * is looked at when its time is over, too. `skip locked`: what a drain, or another node's claim, holds is in good hands.
 */
const CLAIM: Statement = {
  name: "payment/claim",
  text: `
    with due as (
      select slot, ctid as row from payments
       where slot = any($1) and unfinished and next_attempt_at <= now() + interval '${DECIDED_EARLIER_SECONDS} s'
         and (next_attempt_at <= now() or (state in ('CONFIRMING', 'CANCELLING') and attempts = 0))
       order by next_attempt_at limit $2 for update skip locked)
    update payments p set attempts = p.attempts + 1,
           next_attempt_at = least(now() + make_interval(secs => 2 ^ least(p.attempts + 1, 6) * (0.75 + random() / 2)),
                                   case when p.expires_at > now() then p.expires_at end)
      from due where p.slot = due.slot and p.ctid = due.row
    returning p.slot, p.id`,
};
const STUCK: Statement = {
  name: "payment/stuck",
  text: `
    select p.id from unnest($2::bigint[]) as k(id)
     cross join lateral (select id, state, attempts from payments_$1 where slot = $1 and id = k.id offset 0) p
     where p.state in ('CONFIRMING', 'CANCELLING') and p.attempts >= $3`,
};

/** Payments and refunds that began so long ago and are at no end yet: as good as none, or somebody has been awake for a month. */
const OPEN_SINCE: Statement = {
  name: "payment/open-since",
  text: `
    select id from payments where slot = any($1) and unfinished and id < ${idBefore("$2")}
    union all
    select id from refunds where slot = any($1) and unfinished and id < ${idBefore("$2")}`,
};

export const findOpenSince = async (city: Database, days: number): Promise<readonly string[]> =>
  (await city.query<{ id: string }>(OPEN_SINCE, [city.slots, days])).map(({ id }) => id);

export const findPayments = async (db: Queryable, shard: Shard, ids: readonly string[]): Promise<Map<PaymentId, PaymentRow>> =>
  new Map((await db.query<PaymentRecord>(BY_IDS, [shard.slot, ids])).map((row) => [row.id, toPayment(row)]));

/** Locked in the order of their ids. */
export const lockPayments = async (tx: Queryable, shard: Shard, ids: readonly string[]): Promise<Map<PaymentId, PaymentRow>> =>
  new Map((await tx.query<PaymentRecord>(LOCK, [shard.slot, ids])).map((row) => [row.id, toPayment(row)]));

/** The payment of each order that is not given up, by order. The order's lock protects it: nobody pays without it. */
export const findLivePayments = async (tx: Queryable, shard: Shard, orders: readonly string[]): Promise<Map<string, PaymentRow>> =>
  new Map((await tx.query<PaymentRecord>(LIVE, [shard.slot, orders])).map((row) => [row.order_id, toPayment(row)]));

/** An order's payments by wallet that were cancelled, or are being, and may have set money aside there. */
export const findGivenUpPayments = async (db: Queryable, shard: Shard, order: OrderId): Promise<PaymentRow[]> =>
  (await db.query<PaymentRecord>(GIVEN_UP, [shard.slot, order, GIVEN_UP_MAX])).map(toPayment);

/** The payment that paid each order, by order: what a refund gives back. */
export async function findCaptures(
  tx: Queryable,
  shard: Shard,
  orders: readonly string[],
): Promise<Map<OrderId, { id: PaymentId; amount: Fen }>> {
  const live = await findLivePayments(tx, shard, orders);
  const decided = [...live.values()].filter(({ state }) => state === "CONFIRMING" || state === "CONFIRMED");
  return new Map(decided.map((payment) => [payment.orderId, payment]));
}

/**
 * New payments. The recovery worker looks at them when their coordinator has been silent for `LIMITS.tryMs`, at charges when their first call must
 * have ended.
 */
export async function insertPayments(tx: Writable, { slot }: Shard, payments: readonly PaymentRow[], now: Date): Promise<void> {
  if (payments.length === 0) return;
  const dueAt = ({ channel }: PaymentRow): Date => new Date(now.getTime() + (channel === WALLET ? LIMITS.tryMs : LIMITS.chargeMs));
  await tx.copy(
    INSERT,
    slot,
    payments.map((p) => [
      ...[slot, p.id, p.orderId, p.consumerId, p.merchantId, p.channel, p.amount, p.state],
      ...[p.expiresAt, dueAt(p), now],
    ]),
  );
}

/** The decision: one durable update, made once. */
export async function writeDecisions(
  tx: Writable,
  shard: Shard,
  decisions: readonly { readonly id: PaymentId; readonly state: "CONFIRMING" | "CANCELLING"; readonly reason: string | undefined }[],
  now: Date,
): Promise<void> {
  if (decisions.length === 0) return;
  const decided = await tx.change(DECIDE, [
    shard.slot,
    now,
    decisions.map(({ id }) => id),
    decisions.map(({ state }) => state),
    decisions.map(({ reason }) => reason ?? null),
  ]);
  invariant(decided === decisions.length, "a payment is decided once");
}

/** Both sides have what was decided. A payment that has ended already is left alone. */
export const finishPayments = (tx: Queryable, shard: Shard, ids: readonly PaymentId[], now: Date): Promise<unknown> =>
  tx.query(FINISH, [shard.slot, ids, now]);

/** Takes unfinished payments that are due, for one attempt of recovery. */
export const claimPayments = (db: Queryable, slots: readonly number[], limit: number): Promise<{ slot: number; id: string }[]> =>
  db.query<{ slot: number; id: string }>(CLAIM, [slots, limit]);

/** Of some payments, those decided and not finished after so many attempts: somebody must look. */
export const findStuckPayments = async (db: Queryable, shard: Shard, ids: readonly string[], attempts: number): Promise<PaymentId[]> =>
  (await db.query<{ id: PaymentId }>(STUCK, [shard.slot, ids, attempts])).map(({ id }) => id);
