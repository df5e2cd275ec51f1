/** A deal as a merchant drafts it: the rules its schema cannot state, and what is assumed where the merchant says nothing. */
import type { GroupRules } from "../region/policy.ts";
import { nulFaults, type FieldFault } from "../text.ts";

export interface Tier {
  readonly size: number;
  /** Fen a unit. */
  readonly price: number;
}

export interface DealForm {
  readonly title: string;
  readonly description?: string;
  /** Fen a unit, alone. */
  readonly price: number;
  readonly tiers: readonly Tier[];
  readonly stock: number;
  readonly perUserLimit?: number;
  readonly groupTtlMinutes?: number;
  readonly autoFillBps?: number;
  readonly saleStartsAt?: string;
  readonly saleEndsAt?: string;
  readonly voucherValidDays?: number;
  readonly refundAnytime?: boolean;
  readonly refundExpired?: boolean;
}

/** A day to find the others; a season to come by; and money back in every case, unless the merchant says otherwise. */
export const DEAL_DEFAULTS = {
  description: "",
  groupTtlMinutes: 1_440,
  voucherValidDays: 90,
  refundAnytime: true,
  refundExpired: true,
} as const;

export type Draft = DealForm & { readonly [K in keyof typeof DEAL_DEFAULTS]-?: NonNullable<DealForm[K]> };

/** Everything that is wrong with a form, so that one answer tells it all; empty for a good one. */
export const draftFaults = (form: DealForm, rules: GroupRules): FieldFault[] => [
  ...regionFaults(form, rules),
  ...nulFaults({ title: form.title, description: form.description }),
  ...form.tiers.flatMap((tier, index) => tierFaults(form, tier, index)),
  ...windowFaults(form),
];

/** The bounds of its region. A time the merchant did not choose is shortened where groups are opened, not refused here. */
function regionFaults({ tiers, groupTtlMinutes }: DealForm, { sizeMax, ttlMinutesMin, ttlMinutesMax }: GroupRules): FieldFault[] {
  const faults: FieldFault[] = [];
  for (const [index, { size }] of tiers.entries())
    if (size > sizeMax) faults.push({ field: `tiers[${index}].size`, message: `at most ${sizeMax} in this region` });
  if (groupTtlMinutes !== undefined && (groupTtlMinutes < ttlMinutesMin || groupTtlMinutes > ttlMinutesMax))
    faults.push({ field: "groupTtlMinutes", message: `from ${ttlMinutesMin} to ${ttlMinutesMax} in this region` });
  return faults;
}

/** Larger groups never pay more, and nobody in a group pays more than alone. */
function tierFaults(form: DealForm, tier: Tier, index: number): FieldFault[] {
  const before = form.tiers[index - 1];
  const faults: FieldFault[] = [];
  if (before && tier.size <= before.size)
    faults.push({ field: `tiers[${index}].size`, message: `larger than ${before.size}, the tier before it` });
  if (before && tier.price > before.price)
    faults.push({ field: `tiers[${index}].price`, message: `not dearer than ${before.price}, the smaller group's` });
  if (tier.price > form.price) faults.push({ field: `tiers[${index}].price`, message: `not dearer than ${form.price}, the deal's own` });
  return faults;
}

function windowFaults({ saleStartsAt, saleEndsAt }: DealForm): FieldFault[] {
  if (saleStartsAt === undefined || saleEndsAt === undefined || Date.parse(saleStartsAt) < Date.parse(saleEndsAt)) return [];
  return [{ field: "saleEndsAt", message: "after saleStartsAt" }];
}

export const draftOf = (form: DealForm): Draft => ({ ...DEAL_DEFAULTS, ...form });
