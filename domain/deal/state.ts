import type { Transitions } from "../transition.ts";

export type DealState = "DRAFT" | "ON_SALE" | "PAUSED" | "CLOSED";
export type DealEvent = "publish" | "pause" | "close";

export const DEAL_INITIAL: DealState = "DRAFT";
/** ON_SALE sells only within its sale window; CLOSED never comes back. */
export const DEAL: Transitions<DealState, DealEvent> = {
  DRAFT: { publish: "ON_SALE", close: "CLOSED" },
  ON_SALE: { pause: "PAUSED", close: "CLOSED" },
  PAUSED: { publish: "ON_SALE", close: "CLOSED" },
  CLOSED: {},
};
