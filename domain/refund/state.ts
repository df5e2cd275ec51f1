import type { Transitions } from "../transition.ts";

export type RefundState = "REQUESTED" | "PROCESSING" | "SUCCEEDED" | "ABNORMAL";
export type RefundEvent = "process" | "succeed" | "stall" | "resume";

export const REFUND_INITIAL: RefundState = "REQUESTED";
/** The same refund id is the business key of every retry. ABNORMAL waits for a person. */
export const REFUND: Transitions<RefundState, RefundEvent> = {
  REQUESTED: { process: "PROCESSING" },
  PROCESSING: { succeed: "SUCCEEDED", stall: "ABNORMAL" },
  ABNORMAL: { resume: "PROCESSING" },
  SUCCEEDED: {},
};
