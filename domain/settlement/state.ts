import type { Transitions } from "../transition.ts";

export type SettlementState = "INIT" | "PROCESSING" | "SUCCESS" | "FAILED";
export type SettlementEvent = "claim" | "succeed" | "fail";

export const SETTLEMENT_INITIAL: SettlementState = "INIT";
/** PROCESSING may be claimed again, with the next attempt number, when its lease is over. Final states never change. */
export const SETTLEMENT: Transitions<SettlementState, SettlementEvent> = {
  INIT: { claim: "PROCESSING" },
  PROCESSING: { claim: "PROCESSING", succeed: "SUCCESS", fail: "FAILED" },
  SUCCESS: {},
  FAILED: {},
};
