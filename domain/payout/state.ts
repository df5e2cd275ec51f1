import type { Transitions } from "../transition.ts";

export type PayoutState = "REQUESTED" | "PROCESSING" | "UNKNOWN" | "SUCCEEDED" | "FAILED" | "RETURNED";
export type PayoutEvent = "call" | "lose" | "pay" | "refuse" | "return";

export const PAYOUT_INITIAL: PayoutState = "REQUESTED";
/** UNKNOWN: the channel was called and nobody heard what came of it; it is asked, never guessed. Money that was paid may still come back. */
export const PAYOUT: Transitions<PayoutState, PayoutEvent> = {
  REQUESTED: { call: "PROCESSING" },
  PROCESSING: { pay: "SUCCEEDED", refuse: "FAILED", lose: "UNKNOWN" },
  UNKNOWN: { pay: "SUCCEEDED", refuse: "FAILED" },
  SUCCEEDED: { return: "RETURNED" },
  FAILED: {},
  RETURNED: {},
};
