/** Redeeming (核销): by the deal's own merchant, in date, once. Pure: locked rows and commands in, writes and answers out. */
import { refusal, type DomainError } from "../error.ts";
import type { DealId, MerchantId, OrderId, RefundId, UserId, VoucherId } from "../ids.ts";
import type { Fen } from "../money.ts";
import { next } from "../transition.ts";
import { VOUCHER_ERRORS } from "./errors.ts";
import { isOver } from "./over.ts";
import { VOUCHER, type VoucherState } from "./state.ts";

export interface VoucherRow {
  readonly id: VoucherId;
  readonly orderId: OrderId;
  readonly dealId: DealId;
  readonly merchantId: MerchantId;
  readonly consumerId: UserId;
  readonly unit: number;
  /** What was paid for this unit. */
  readonly amount: Fen;
  readonly code: string;
  readonly state: VoucherState;
  readonly validUntil: Date;
  readonly redeemedAt: Date | undefined;
  /** The refund that gives it back, or has. */
  readonly refundId: RefundId | undefined;
}

export interface RedeemCommand {
  readonly code: string;
  readonly merchantId: MerchantId;
}

/** Every voucher of every order a command touches; an order is completed by the last of its vouchers. */
export interface RedeemState {
  readonly vouchers: readonly VoucherRow[];
}

export interface RedeemWrites {
  readonly redeemed: VoucherRow[];
  readonly completed: OrderId[];
}

export function decideRedeem(
  { vouchers }: RedeemState,
  commands: readonly RedeemCommand[],
  now: Date,
): { outcomes: (VoucherRow | DomainError)[]; writes: RedeemWrites } {
  const byCode = new Map(vouchers.map((voucher) => [voucher.code, voucher]));
  const byOrder = Map.groupBy(vouchers, (voucher) => voucher.orderId);
  const writes: RedeemWrites = { redeemed: [], completed: [] };
  const outcomes = commands.map(({ code, merchantId }): VoucherRow | DomainError => {
    const voucher = byCode.get(code);
    // Another merchant's is not found either: a code must not be told from a guess.
    if (voucher?.merchantId !== merchantId) return refusal(VOUCHER_ERRORS, "VOUCHER_NOT_FOUND", {});
    const state = next(VOUCHER, voucher.state, "redeem");
    if (state === undefined) return refusal(VOUCHER_ERRORS, "VOUCHER_STATE", { state: voucher.state });
    if (voucher.validUntil <= now) return refusal(VOUCHER_ERRORS, "VOUCHER_STATE", { state: "EXPIRED" });
    // From here it is redeemed.
    const redeemed: VoucherRow = { ...voucher, state, redeemedAt: now };
    byCode.set(code, redeemed);
    writes.redeemed.push(redeemed);
    const ofOrder = byOrder.get(voucher.orderId) ?? [];
    if (isOver(ofOrder.map((one) => byCode.get(one.code)?.state ?? one.state))) writes.completed.push(voucher.orderId);
    return redeemed;
  });
  return { outcomes, writes };
}
