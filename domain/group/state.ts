import type { Transitions } from "../transition.ts";

export type GroupState = "PENDING" | "OPEN" | "CLOSING" | "FORMED" | "FAILED";
export type GroupEvent = "open" | "fill" | "close" | "fail";

export const GROUP_INITIAL: GroupState = "PENDING";
/** PENDING: the opener has not paid. CLOSING: the deadline has passed, no new seats, held seats in payment are waited for. */
export const GROUP: Transitions<GroupState, GroupEvent> = {
  PENDING: { open: "OPEN", fail: "FAILED" },
  OPEN: { fill: "FORMED", close: "CLOSING" },
  CLOSING: { fill: "FORMED", fail: "FAILED" },
  FORMED: {},
  FAILED: {},
};

export type SeatState = "HELD" | "TAKEN" | "RELEASED" | "REFUNDED";
export type SeatEvent = "take" | "release" | "refund";
export const SEAT_INITIAL: SeatState = "HELD";
export const SEAT: Transitions<SeatState, SeatEvent> = {
  HELD: { take: "TAKEN", release: "RELEASED" },
  TAKEN: { refund: "REFUNDED" },
  RELEASED: {},
  REFUNDED: {},
};
