/**
 * What becomes of a group whose deadline has passed. OPEN → CLOSING first: from then on nobody joins. Then, once no seat is held any more,
 * FORMED where every seat is taken or the merchant's auto-fill may take the rest, else FAILED. Held seats need nothing here: an unpaid order
 * never outlives its group's deadline, so it expires by itself unless it is being paid, and then the payment decides. Pure.
 */
import type { GroupState } from "./state.ts";

export interface ClosingGroup {
  readonly size: number;
  readonly state: GroupState;
  readonly held: number;
  readonly taken: number;
  readonly filled: number;
  readonly autoFillBps: number | undefined;
  readonly deadline: Date | undefined;
}

export type Closing =
  /** Not due, decided already, or waiting for held seats. */
  | { readonly step: "wait" }
  /** No new seats from now on. */
  | { readonly step: "close" }
  /** Formed, `filled` seats by the merchant. */
  | { readonly step: "form"; readonly filled: number }
  | { readonly step: "fail" };

export function decideClosing(group: ClosingGroup, now: Date): Closing {
  if (group.state === "OPEN") return group.deadline && group.deadline <= now ? { step: "close" } : { step: "wait" };
  if (group.state !== "CLOSING" || group.held > 0) return { step: "wait" };
  const missing = group.size - group.taken - group.filled;
  if (missing === 0) return { step: "form", filled: 0 };
  const mayFill = group.autoFillBps !== undefined && group.taken > 0 && group.taken * 10_000 >= group.size * group.autoFillBps;
  return mayFill ? { step: "form", filled: missing } : { step: "fail" };
}

/** A name for strangers' eyes: the first and the last letter, `x***g`. */
export const mask = (name: string): string => (name.length <= 2 ? `${name.slice(0, 1)}***` : `${name.slice(0, 1)}***${name.slice(-1)}`);
