/** Settlements as rows. */
import type { Queryable, Statement, Writable } from "../../db/database.ts";
import type { MerchantId, OrderId, SettlementId, Shard, VoucherId } from "../../domain/ids.ts";
import { invariant } from "../../domain/invariant.ts";
import { LIMITS } from "../../domain/limits.ts";
import { fen, type Fen } from "../../domain/money.ts";
import type { Claim, SettlementRow } from "../../domain/settlement/decide.ts";
import type { SettlementState } from "../../domain/settlement/state.ts";

export type NewSettlement = Omit<SettlementRow, "state" | "attempt">;

/** A settlement as its merchant sees it. */
export interface ShownSettlement {
  readonly id: SettlementId;
  readonly orderId: OrderId;
  readonly voucherCode: string;
  readonly gross: bigint;
  readonly commission: bigint;
  readonly state: SettlementState;
  /** When it was settled, or will be. */
  readonly at: Date;
}

const OPEN: Statement = {
  name: "settlement/open",
  text: `
    insert into settlements_$1 (slot, id, voucher_id, order_id, merchant_id, gross, commission, state, created_at, due_at)
    select $1, id, voucher_id, order_id, merchant_id, gross, commission, 'INIT', $2, $3
      from unnest($4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[])
        as s(id, voucher_id, order_id, merchant_id, gross, commission)`,
};
const LOCK_OF: Statement = {
  name: "settlement/lock-of-vouchers",
  text: `
    select s.voucher_id, s.state
      from unnest($2::bigint[]) as k(voucher_id)
     cross join lateral (select voucher_id, state from settlements_$1 where slot = $1 and voucher_id = k.voucher_id for update) s`,
};
const DROP: Statement = {
  name: "settlement/drop",
  text: `
    delete from settlements_$1 s
     using unnest($2::bigint[]) as k(voucher_id)
     cross join lateral (select ctid as row, state from settlements_$1 where slot = $1 and voucher_id = k.voucher_id offset 0) r
     where s.slot = $1 and s.ctid = r.row and r.state = 'INIT'`,
};
const COMMISSIONS: Statement = {
  name: "settlement/commissions",
  text: `
    select s.voucher_id, s.commission
      from unnest($2::bigint[]) as k(voucher_id)
     cross join lateral (select voucher_id, commission, state from settlements_$1 where slot = $1 and voucher_id = k.voucher_id offset 0) s
     where s.state = 'SUCCESS'`,
};
/** What nobody works on: new, or left behind in the middle. */
const DUE: Statement = {
  name: "settlement/due",
  text: `
    select slot, id from settlements
     where slot = any($1) and unfinished and due_at <= now() and (state = 'INIT' or lease_until <= now())
     order by due_at limit $2`,
};
/** INIT → PROCESSING, or PROCESSING again under the next number. `skip locked`: whom a drain holds is in good hands. */
const CLAIM: Statement = {
  name: "settlement/claim",
  text: `
    update settlements_$1 s set state = 'PROCESSING', attempt = s.attempt + 1, lease_until = now() + make_interval(secs => $3)
      from unnest($2::bigint[]) as k(id)
     cross join lateral (select ctid as row from settlements_$1
                          where slot = $1 and id = k.id and due_at <= now()
                            and (state = 'INIT' or (state = 'PROCESSING' and lease_until <= now())) for update skip locked) r
     where s.slot = $1 and s.ctid = r.row returning s.id, s.voucher_id as "voucherId", s.attempt`,
};
const LOCK: Statement = {
  name: "settlement/lock",
  text: `
    select id, voucher_id, order_id, merchant_id, gross, commission, state, attempt
      from settlements_$1 where slot = $1 and id = any($2::bigint[]) order by id for update`,
};
const FINISH: Statement = {
  name: "settlement/finish",
  text: `
    update settlements_$1 s set state = k.state, reason = k.reason, lease_until = null, ended_at = $2
      from unnest($3::bigint[], $4::integer[], $5::text[], $6::text[]) as k(id, attempt, state, reason)
     cross join lateral (select ctid as row, state, attempt from settlements_$1 where slot = $1 and id = k.id offset 0) r
     where s.slot = $1 and s.ctid = r.row and r.state = 'PROCESSING' and r.attempt = k.attempt`,
};
const OF_MERCHANT: Statement = {
  name: "settlement/of-merchant",
  text: `
    select s.id, s.order_id, v.code, s.gross, s.commission, s.state, coalesce(s.ended_at, s.due_at) as at
      from (select * from settlements_$1 where slot = $1 and merchant_id = $2 and id < $3 order by id desc limit $4) s
     cross join lateral (select code from vouchers_$1 where slot = $1 and id = s.voucher_id offset 0) v
     order by s.id desc`,
};

/** Written with the redemption, due when nobody can reverse it any more. */
export async function openSettlements(
  tx: Queryable,
  shard: Shard,
  settlements: readonly NewSettlement[],
  { now, dueAt }: { readonly now: Date; readonly dueAt: Date },
): Promise<void> {
  if (settlements.length === 0) return;
  await tx.query(OPEN, [
    shard.slot,
    now,
    dueAt,
    settlements.map(({ id }) => id),
    settlements.map(({ voucherId }) => voucherId),
    settlements.map(({ orderId }) => orderId),
    settlements.map(({ merchantId }) => merchantId),
    settlements.map(({ gross }) => String(gross)),
    settlements.map(({ commission }) => String(commission)),
  ]);
}

/** Where the settlements of some vouchers are, locked. */
export async function lockSettlementsOf(
  tx: Queryable,
  shard: Shard,
  vouchers: readonly VoucherId[],
): Promise<Map<VoucherId, SettlementState>> {
  if (vouchers.length === 0) return new Map();
  const rows = await tx.query<{ voucher_id: VoucherId; state: SettlementState }>(LOCK_OF, [shard.slot, vouchers.toSorted()]);
  return new Map(rows.map((row) => [row.voucher_id, row.state]));
}

/** Takes back what a reversed redemption would have brought. Nothing has come of it yet; the redemption and its reversal stay. */
export async function dropSettlements(tx: Writable, shard: Shard, vouchers: readonly VoucherId[]): Promise<void> {
  if (vouchers.length === 0) return;
  const dropped = await tx.change(DROP, [shard.slot, vouchers]);
  invariant(dropped === vouchers.length, "every redemption that is reversed was not being settled");
}

/** What our part was of vouchers that are settled. */
export const findCommissions = async (tx: Queryable, shard: Shard, vouchers: readonly VoucherId[]): Promise<Map<VoucherId, Fen>> =>
  vouchers.length === 0
    ? new Map()
    : new Map(
        (await tx.query<{ voucher_id: VoucherId; commission: string }>(COMMISSIONS, [shard.slot, vouchers])).map((row) => [
          row.voucher_id,
          fen(row.commission),
        ]),
      );

export const dueSettlements = (tx: Queryable, slots: readonly number[], limit: number): Promise<{ slot: number; id: string }[]> =>
  tx.query<{ slot: number; id: string }>(DUE, [slots, limit]);

/** Takes due settlements for one attempt; those somebody else holds are left to him. */
export const claimSettlements = (db: Queryable, shard: Shard, ids: readonly string[]): Promise<Claim[]> =>
  db.query<Claim>(CLAIM, [shard.slot, ids.toSorted(), LIMITS.settlementLeaseMs / 1_000]);

/** Locked in the order of their ids. */
export async function lockSettlements(
  tx: Queryable,
  shard: Shard,
  ids: readonly SettlementId[],
): Promise<Map<SettlementId, SettlementRow>> {
  const rows = await tx.query<{
    id: SettlementId;
    voucher_id: VoucherId;
    order_id: OrderId;
    merchant_id: MerchantId;
    gross: string;
    commission: string;
    state: SettlementState;
    attempt: number;
  }>(LOCK, [shard.slot, ids]);
  return new Map(
    rows.map((row) => [
      row.id,
      {
        id: row.id,
        voucherId: row.voucher_id,
        orderId: row.order_id,
        merchantId: row.merchant_id,
        gross: fen(row.gross),
        commission: fen(row.commission),
        state: row.state,
        attempt: row.attempt,
      },
    ]),
  );
}

/** The end of settlements, under the number of the attempt that made it. */
export async function finishSettlements(
  tx: Writable,
  shard: Shard,
  ends: readonly { readonly settlement: SettlementRow; readonly state: "SUCCESS" | "FAILED"; readonly reason: string | undefined }[],
  now: Date,
): Promise<void> {
  if (ends.length === 0) return;
  const finished = await tx.change(FINISH, [
    shard.slot,
    now,
    ends.map(({ settlement }) => settlement.id),
    ends.map(({ settlement }) => settlement.attempt),
    ends.map(({ state }) => state),
    ends.map(({ reason }) => reason ?? null),
  ]);
  invariant(finished === ends.length, "a settlement ends once, by the attempt that holds it");
}

/** A merchant's settlements before an id, newest first. */
export async function settlementsOf(
  db: Queryable,
  shard: Shard,
  merchantId: string,
  before: string,
  limit: number,
): Promise<ShownSettlement[]> {
  const rows = await db.query<{
    id: SettlementId;
    order_id: OrderId;
    code: string;
    gross: string;
    commission: string;
    state: SettlementState;
    at: Date;
  }>(OF_MERCHANT, [shard.slot, merchantId, before, limit]);
  return rows.map((row) => ({
    id: row.id,
    orderId: row.order_id,
    voucherCode: row.code,
    gross: BigInt(row.gross),
    commission: BigInt(row.commission),
    state: row.state,
    at: row.at,
  }));
}
