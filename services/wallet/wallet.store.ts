/** Wallets: top-ups, and what moved in and out. Balances are the ledger's (`mixins/ledger.ts`). */
import type { Queryable, Statement } from "../../db/database.ts";
import type { OrderId, Shard, TransferId } from "../../domain/ids.ts";

export interface NewTopup {
  readonly id: string;
  readonly userId: string;
  readonly channel: string;
  readonly amount: bigint;
}

/** One posted transfer, seen from the wallet. */
export interface WalletMove {
  readonly id: TransferId;
  readonly amount: bigint;
  readonly direction: "in" | "out";
  readonly code: string;
  readonly orderId: OrderId | undefined;
  readonly at: Date;
}

export const walletOf = (userId: string): string => `wallet:${userId}`;

const INSERT_TOPUPS: Statement = {
  name: "wallet/insert-topups",
  text: `
    insert into topups_$1 (slot, id, user_id, channel, amount, state, created_at)
    select $1, id, user_id, channel, amount, 'SUCCEEDED', $2
      from unnest($3::bigint[], $4::bigint[], $5::text[], $6::bigint[]) as t(id, user_id, channel, amount)`,
};
/** Each direction stops at the page's end, by its own index, whose predicate it repeats: what is only promised, or given up, is not shown. */
const MOVES: Statement = {
  name: "wallet/moves",
  text: `
    select * from (
      (select id, amount, 'out' as direction, code, order_id, at from transfers_$1
        where slot = $1 and debit_account = $2 and debit_account like 'wallet:%' and id < $3 and state = 'POSTED' order by id desc limit $4)
      union all
      (select id, amount, 'in', code, order_id, at from transfers_$1
        where slot = $1 and credit_account = $2 and credit_account like 'wallet:%' and id < $3 and state = 'POSTED' order by id desc limit $4)
    ) moves order by id desc limit $4`,
};

/** Top-ups whose money is there already: they begin and end in one transaction. */
export async function insertTopups(tx: Queryable, shard: Shard, topups: readonly NewTopup[], now: Date): Promise<void> {
  await tx.query(INSERT_TOPUPS, [
    shard.slot,
    now,
    topups.map((topup) => topup.id),
    topups.map((topup) => topup.userId),
    topups.map((topup) => topup.channel),
    topups.map((topup) => String(topup.amount)),
  ]);
}

/** What moved in and out of a wallet before an id, newest first. */
export async function findMoves(tx: Queryable, shard: Shard, account: string, before: string, limit: number): Promise<WalletMove[]> {
  const rows = await tx.query<{
    id: TransferId;
    amount: string;
    direction: "in" | "out";
    code: string;
    order_id: OrderId | null;
    at: Date;
  }>(MOVES, [shard.slot, account, before, limit]);
  return rows.map((row) => ({ ...row, amount: BigInt(row.amount), orderId: row.order_id ?? undefined }));
}
