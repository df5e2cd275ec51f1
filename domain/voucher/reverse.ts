/**
 * Reversing (撤销核销): the bar redeemed by mistake. By the deal's own merchant, within the reversal window, before settlement has begun. Pure.
 */
import { refusal, type DomainError } from "../error.ts";
import type { MerchantId, OrderId, VoucherId } from "../ids.ts";
import { reversibleUntil } from "../settlement/split.ts";
import type { SettlementState } from "../settlement/state.ts";
import { next } from "../transition.ts";
import { VOUCHER_ERRORS } from "./errors.ts";
import type { VoucherRow } from "./redeem.ts";
import { VOUCHER } from "./state.ts";

export interface ReverseCommand {
  readonly code: string;
  readonly merchantId: MerchantId;
}

export interface ReverseState {
  readonly vouchers: readonly VoucherRow[];
  /** Where the settlement of each redeemed voucher is. */
  readonly settlements: ReadonlyMap<VoucherId, SettlementState>;
}

export interface ReverseWrites {
  readonly reversed: VoucherRow[];
  /** Their orders, each once: what was COMPLETED has a unit to use again. */
  readonly reopened: OrderId[];
}

export function decideReverse(
  { vouchers, settlements }: ReverseState,
  commands: readonly ReverseCommand[],
  { now, reversalMinutes }: { readonly now: Date; readonly reversalMinutes: number },
): { outcomes: (VoucherRow | DomainError)[]; writes: ReverseWrites } {
  const byCode = new Map(vouchers.map((voucher) => [voucher.code, voucher]));
  const reversed: VoucherRow[] = [];
  const outcomes = commands.map(({ code, merchantId }): VoucherRow | DomainError => {
    const voucher = byCode.get(code);
    if (voucher?.merchantId !== merchantId) return refusal(VOUCHER_ERRORS, "VOUCHER_NOT_FOUND", {});
    const state = next(VOUCHER, voucher.state, "reverse");
    if (state === undefined || voucher.redeemedAt === undefined) return refusal(VOUCHER_ERRORS, "VOUCHER_STATE", { state: voucher.state });
    const inTime = reversibleUntil(voucher.redeemedAt, reversalMinutes) > now && settlements.get(voucher.id) === "INIT";
    if (!inTime) return refusal(VOUCHER_ERRORS, "REVERSAL_TOO_LATE", { redeemedAt: voucher.redeemedAt.toISOString() });
    // From here it is reversed.
    const after: VoucherRow = { ...voucher, state, redeemedAt: undefined };
    byCode.set(code, after);
    reversed.push(after);
    return after;
  });
  return { outcomes, writes: { reversed, reopened: [...new Set(reversed.map(({ orderId }) => orderId))] } };
}
