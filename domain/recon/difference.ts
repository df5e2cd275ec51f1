/**
 * What a channel's statement and our books can disagree about, what follows for the books until it is explained, and what explains it. Pure.
 * Nothing here guesses: what is off lies in suspense until the channel itself, asked by number, says what our books say.
 */
import type { ChannelCharge, ChannelPayout, ChannelRefund, StatementLine } from "../channel/records.ts";
import type { TransferRequest } from "../ledger.ts";
import { fen } from "../money.ts";

/**
 * LONG: the channel alone has it. SHORT: we alone. AMOUNT: another sum or currency. STATUS: it is there and with us at no end yet, or unbooked.
 * DUPLICATE: a line once more. TIMING: ours, so near to midnight that it may stand on the next day's statement.
 */
export const RECON_CLASSES = ["MATCHED", "LONG", "SHORT", "AMOUNT", "STATUS", "DUPLICATE", "TIMING"] as const;
export type ReconClass = (typeof RECON_CLASSES)[number];
export type DifferenceClass = Exclude<ReconClass, "MATCHED">;
export type LineKind = StatementLine["kind"];
export const LINE_KINDS: readonly LineKind[] = ["PAYMENT", "REFUND", "PAYOUT", "PAYOUT_RETURN"];
/** CLEARED: explained. RESOLVED: a person has decided what nothing explained; for good, whatever later statements say. */
export const DIFFERENCE_STATES = ["OPEN", "CLEARING", "CLEARED", "RESOLVED"] as const;
export type DifferenceState = (typeof DIFFERENCE_STATES)[number];

/** Our times and the channel's are two clocks' and a callback apart: so near to midnight one day's money may be the next day's line. */
export const DAY_EDGE_MINUTES = 15;
/** Statements count Chinese days; China has no summer time. */
const DAY_OFFSET_MS = 8 * 3_600_000;
const DAY_MS = 86_400_000;

/** From when until when a statement's day (YYYY-MM-DD) is. */
export function dayOf(day: string): { from: Date; to: Date } {
  const startMs = Date.parse(`${day}T00:00:00Z`) - DAY_OFFSET_MS;
  return { from: new Date(startMs), to: new Date(startMs + DAY_MS) };
}
export const dayAt = (atMs: number): string => new Date(atMs + DAY_OFFSET_MS).toISOString().slice(0, 10);

export interface Difference {
  readonly id: string;
  readonly channel: string;
  readonly class: DifferenceClass;
  readonly kind: LineKind;
  readonly number: string;
  readonly ours: bigint | undefined;
  readonly theirs: bigint | undefined;
  readonly currency: string;
}

/** Whose it is to explain: ours to finish, the channel's to mend, or nobody's, because a day passes. */
export type Owner = "payments" | "finance" | "channel" | "nobody";
const OWNERS: Readonly<Record<DifferenceClass, Owner>> = {
  LONG: "finance",
  SHORT: "finance",
  AMOUNT: "finance",
  STATUS: "payments",
  DUPLICATE: "channel",
  TIMING: "nobody",
};
export const ownerOf = (difference: Pick<Difference, "class">): Owner => OWNERS[difference.class];

/**
 * By how much the channel has more (or, below zero, less) than our books say. A STATUS is booked by the payment itself once it is at its end, a
 * TIMING by the next statement. Money of another currency is named in the difference and counts for nothing here: these books are in CNY.
 */
export function moneyOff({ class: found, kind, ours = 0n, theirs = 0n, currency }: Omit<Difference, "id" | "channel" | "number">): bigint {
  if (found === "STATUS" || found === "TIMING") return 0n;
  const more = (currency === "CNY" ? theirs : 0n) - (found === "DUPLICATE" ? 0n : ours);
  return kind === "PAYMENT" || kind === "PAYOUT_RETURN" ? more : -more;
}

const isPayout = (kind: LineKind): boolean => kind === "PAYOUT" || kind === "PAYOUT_RETURN";
/** The account that mirrors what the channel has of ours. */
const mirrorOf = ({ channel, kind }: Difference): string => `${isPayout(kind) ? "payout" : "channel"}:${channel}`;

/** What is off goes to suspense, so that the mirror says what the statement says; nothing where no money is off. */
export function suspend(difference: Difference): TransferRequest[] {
  const off = moneyOff(difference);
  if (off === 0n) return [];
  const common = { kind: "post", code: "suspense", businessKey: difference.id } as const;
  return off > 0n
    ? [{ ...common, debit: mirrorOf(difference), credit: "suspense:long", amount: fen(off) }]
    : [{ ...common, debit: "suspense:short", credit: mirrorOf(difference), amount: fen(-off) }];
}

/** The same, taken back. */
export const unsuspend = (difference: Difference): TransferRequest[] =>
  suspend(difference).map((request) => ({ ...request, code: "suspense-back", debit: request.credit, credit: request.debit }));

/** Out of suspense for good: what the channel has too much, nobody asks for; what it has too little, the house bears. */
export const writeOff = (difference: Difference): TransferRequest[] =>
  suspend(difference).map((request) =>
    request.debit === "suspense:short"
      ? { ...request, code: "suspense-off", debit: "write_off", credit: request.debit }
      : { ...request, code: "suspense-off", debit: request.credit, credit: "write_off" },
  );

/** What the channel says of a number when it is asked. */
export type Asked =
  | { readonly about: "charge"; readonly charge: ChannelCharge }
  | { readonly about: "refund"; readonly refund: ChannelRefund }
  | { readonly about: "payout"; readonly payout: ChannelPayout };

/** The money the channel itself says moved under a number, for a line of this kind; undefined: none. */
export function toldBy(asked: Asked, kind: LineKind): { amount: bigint; currency: string } | undefined {
  if (asked.about === "charge") return asked.charge.status === "PAID" ? asked.charge.paid : undefined;
  const moved = asked.about === "refund" ? asked.refund : asked.payout;
  const has = kind === "PAYOUT_RETURN" ? moved.status === "RETURNED" : moved.status === "SUCCEEDED" || moved.status === "RETURNED";
  return has && moved.amount !== undefined ? { amount: moved.amount, currency: moved.currency ?? "CNY" } : undefined;
}

/**
 * Is a difference explained by what the channel says when asked? Only where it says exactly what our books say now: then the statement was wrong, or
 * we were late. `ours` is what is booked at this moment; a repeated line is explained when the one that remains is.
 */
export function isExplained(asked: Asked, kind: LineKind, ours: bigint | undefined): boolean {
  const told = toldBy(asked, kind);
  if (told === undefined) return ours === undefined;
  return told.currency === "CNY" && told.amount === ours;
}
