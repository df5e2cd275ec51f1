/** Publishing, pausing and closing. Asking for the state a deal is already in is answered with it: the repeat of a request that got no answer. */
import { refusal, type DomainError } from "../error.ts";
import type { DealId, MerchantId } from "../ids.ts";
import { next } from "../transition.ts";
import { DEAL_ERRORS } from "./errors.ts";
import { DEAL, type DealEvent, type DealState } from "./state.ts";

const TARGET: Readonly<Record<DealEvent, DealState>> = { publish: "ON_SALE", pause: "PAUSED", close: "CLOSED" };

/** The state after the event, or why not. */
export function moveDeal(dealId: DealId, state: DealState, event: DealEvent): DealState | DomainError {
  if (state === TARGET[event]) return state;
  return next(DEAL, state, event) ?? refusal(DEAL_ERRORS, "DEAL_STATE", { dealId, state });
}

/** A deal is its merchant's alone to move; to everybody else it does not exist. */
export const ownedBy = (deal: { readonly merchantId: MerchantId } | undefined, merchantId: MerchantId | undefined): boolean =>
  deal !== undefined && deal.merchantId === merchantId;

/** A draft is shown to its merchant and to nobody else. */
export const visibleTo = (
  deal: { readonly merchantId: MerchantId; readonly state: DealState },
  merchantId: MerchantId | undefined,
): boolean => deal.state !== "DRAFT" || ownedBy(deal, merchantId);
