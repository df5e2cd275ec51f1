import type { Transitions } from "../transition.ts";

export type SettlementState = "INIT" | "PROCESSING" | "SUCCESS" | "FAILED";
export type SettlementEvent = "claim" | "succeed" | "fail" | "retry";

export const SETTLEMENT_INITIAL: SettlementState = "INIT";
/**
 * PROCESSING may be claimed again, with the next attempt number, when its lease is over. SUCCESS is for good. FAILED is as far as it goes by itself:
 * nothing was booked, and a person who has mended what was wrong with the voucher has it tried again.
 */
export const SETTLEMENT: Transitions<SettlementState, SettlementEvent> = {
  INIT: { claim: "PROCESSING" },
  PROCESSING: { claim: "PROCESSING", succeed: "SUCCESS", fail: "FAILED" },
  SUCCESS: {},
  FAILED: { retry: "INIT" },
};
