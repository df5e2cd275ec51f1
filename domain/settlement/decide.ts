/**
 * Settling claimed settlements: whose claim still counts, and what is booked for each. Pure. The fence is the number of the attempt: a worker that
 * was taken for dead, and whose settlements somebody else has claimed since, does nothing.
 */
import type { MerchantId, OrderId, SettlementId, VoucherId } from "../ids.ts";
import type { TransferRequest } from "../ledger.ts";
import { fen, type Fen } from "../money.ts";
import { next } from "../transition.ts";
import { VOUCHER, type VoucherState } from "../voucher/state.ts";
import type { SettlementState } from "./state.ts";

export interface SettlementRow {
  readonly id: SettlementId;
  readonly voucherId: VoucherId;
  readonly orderId: OrderId;
  readonly merchantId: MerchantId;
  readonly gross: Fen;
  readonly commission: Fen;
  readonly state: SettlementState;
  readonly attempt: number;
}

/** A settlement somebody has claimed, under the number of that attempt. */
export interface Claim {
  readonly id: SettlementId;
  readonly voucherId: VoucherId;
  readonly attempt: number;
}

export interface Settling {
  readonly settled: readonly SettlementRow[];
  /** Settlements of vouchers that are not redeemed: nothing is booked, and a person looks at them. */
  readonly failed: readonly { readonly settlement: SettlementRow; readonly reason: string }[];
}

export function decideSettling(
  claims: readonly Claim[],
  settlements: ReadonlyMap<SettlementId, SettlementRow>,
  vouchers: ReadonlyMap<VoucherId, { readonly state: VoucherState }>,
): Settling {
  const settled: SettlementRow[] = [];
  const failed: { settlement: SettlementRow; reason: string }[] = [];
  const seen = new Set<SettlementId>();
  for (const { id, attempt } of claims) {
    const settlement = settlements.get(id);
    if (settlement?.state !== "PROCESSING" || settlement.attempt !== attempt || seen.has(id)) continue;
    seen.add(id);
    const state = vouchers.get(settlement.voucherId)?.state;
    if (state !== undefined && next(VOUCHER, state, "settle") !== undefined) settled.push(settlement);
    else failed.push({ settlement, reason: `VOUCHER_${state ?? "MISSING"}` });
  }
  return { settled, failed };
}

/** The two linked transfers of a settlement; a part that is nothing is not booked. Their business key is the settlement's id. */
export function transfersOf({ id, orderId, merchantId, gross, commission }: SettlementRow): TransferRequest[] {
  const escrow = escrowOf(merchantId);
  const common = { kind: "post", businessKey: id, debit: escrow, orderId, fresh: true } as const;
  const net = fen(gross - commission);
  return [
    ...(net > 0n ? [{ ...common, code: "settle" as const, credit: payableOf(merchantId), amount: net }] : []),
    ...(commission > 0n ? [{ ...common, code: "commission" as const, credit: COMMISSION, amount: commission }] : []),
  ];
}

export const escrowOf = (merchantId: MerchantId): string => `escrow:${merchantId}`;
export const payableOf = (merchantId: MerchantId): string => `payable:${merchantId}`;
/** The platform's own part, once a shard. */
export const COMMISSION = "commission";
