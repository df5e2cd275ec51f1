/** What a used unit comes to: our part, and its merchant's. Pure. */
import { basisPoints, fen, type Fen } from "../money.ts";

export interface Split {
  readonly gross: Fen;
  readonly commission: Fen;
  readonly net: Fen;
}

/** Commission is basis points of what was paid for the unit, half up; the remainder is the merchant's. The rate is the one fixed on the order. */
export function split(gross: Fen, commissionBps: number): Split {
  const commission = basisPoints(gross, commissionBps);
  return { gross, commission, net: fen(gross - commission) };
}

/** When nobody may reverse a redemption any more. */
export const reversibleUntil = (redeemedAt: Date, reversalMinutes: number): Date =>
  new Date(redeemedAt.getTime() + reversalMinutes * 60_000);

/** When a redeemed unit falls due: after the reversal window, and what the platform waits beyond it. */
export const settleAt = (redeemedAt: Date, wait: { readonly reversalMinutes: number; readonly settlementDelayMinutes: number }): Date =>
  reversibleUntil(redeemedAt, wait.reversalMinutes + wait.settlementDelayMinutes);
