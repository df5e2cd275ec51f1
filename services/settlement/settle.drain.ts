/** The settling drain: claimed settlements of a shard, all of a batch in one transaction. The rule is in `domain/settlement/decide.ts`. */
import type { VoucherId } from "../../domain/ids.ts";
import { toJson } from "../../domain/money.ts";
import { decideSettling, transfersOf, type Claim, type SettlementRow } from "../../domain/settlement/decide.ts";
import type { Work } from "../../mixins/drain.ts";
import { appendEvents, type NewEvent } from "../../mixins/events.ts";
import { bookTransfers } from "../../mixins/ledger.ts";
import type { Metrics } from "../../mixins/metrics.ts";
import { lockVoucherStates, moveVouchers } from "../voucher/voucher.store.ts";
import { finishSettlements, lockSettlements } from "./settlement.store.ts";

/** PROCESSING → SUCCESS: escrow → payable and commission, the voucher SETTLED. `onFailed` hears of those that cannot be settled. */
export const makeSettleDrain =
  (metrics: Metrics, onFailed: (failed: readonly { readonly settlement: SettlementRow; readonly reason: string }[]) => void) =>
  async (work: Work, lists: readonly (readonly Claim[])[]): Promise<null[]> => {
    const { shard } = work;
    const claims = lists.flat();
    // Vouchers before settlements: a reversal takes them in this order too.
    const [vouchers, settlements] = await Promise.all([
      lockVoucherStates(work, shard, [...new Set(claims.map(({ voucherId }): VoucherId => voucherId))].sort()),
      lockSettlements(work, shard, [...new Set(claims.map(({ id }) => id))]),
    ]);
    const { settled, failed } = decideSettling(claims, settlements, vouchers);
    const now = await work.now();
    await Promise.all([
      moveVouchers(
        work,
        shard,
        settled.map(({ voucherId }) => ({ id: voucherId })),
        { from: "REDEEMED", to: "SETTLED" },
      ),
      finishSettlements(
        work,
        shard,
        [
          ...settled.map((settlement) => ({ settlement, state: "SUCCESS" as const, reason: undefined })),
          ...failed.map(({ settlement, reason }) => ({ settlement, state: "FAILED" as const, reason })),
        ],
        now,
      ),
      bookTransfers(work, settled.flatMap(transfersOf)),
      appendEvents(work, shard, [...settled.map(succeeded), ...failed.map(({ settlement, reason }) => failure(settlement, reason))]),
    ]);
    work.afterCommit(() => {
      if (failed.length > 0) onFailed(failed);
      const moved = (of: (settlement: SettlementRow) => bigint): number => settled.reduce((sum, one) => sum + toJson(of(one)), 0);
      metrics.moneyFen.inc(
        { code: "settle" },
        moved(({ gross, commission }) => gross - commission),
      );
      metrics.moneyFen.inc(
        { code: "commission" },
        moved(({ commission }) => commission),
      );
    });
    return lists.map(() => null);
  };

const factsOf = ({ id, voucherId, orderId, merchantId }: SettlementRow) => ({ settlementId: id, voucherId, orderId, merchantId });

const succeeded = (settlement: SettlementRow): NewEvent<"settlement.succeeded"> => ({
  type: "settlement.succeeded",
  subject: settlement.id,
  data: {
    ...factsOf(settlement),
    gross: toJson(settlement.gross),
    commission: toJson(settlement.commission),
    net: toJson(settlement.gross - settlement.commission),
  },
});

const failure = (settlement: SettlementRow, reason: string): NewEvent<"settlement.failed"> => ({
  type: "settlement.failed",
  subject: settlement.id,
  data: { ...factsOf(settlement), reason },
});
