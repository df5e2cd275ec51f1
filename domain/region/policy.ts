/**
 * Regional rules: what a region's policy decides, what it may decide, and what holds where there is none. A policy is somebody else's code
 * (`regions/`), so whatever it returns is looked at before it counts.
 */
import { LIMITS } from "../limits.ts";
import { basisPoints, fen, type Fen } from "../money.ts";

/** Of the interface below: a policy written for another one is not loaded. */
export const REGION_API = 1;

/** What a policy is told: the time. It has no clock, no chance and no I/O of its own. */
export interface RegionFacts {
  readonly now: Date;
}
/** Orders a second that one node lets in for one city of the region; undefined: as many as come. */
export interface Admission {
  readonly ordersPerSecond?: number;
}
/** Off the unit price, in basis points: for buyers alone, and for those in a group. */
export interface Discount {
  readonly aloneBps: number;
  readonly groupBps: number;
}
/** The largest group, and how long one may gather. */
export interface GroupRules {
  readonly sizeMax: number;
  readonly ttlMinutesMin: number;
  readonly ttlMinutesMax: number;
}

/** What a module in `regions/` exports as its default. */
export interface RegionPolicy {
  readonly api: typeof REGION_API;
  readonly region: string;
  readonly version: string;
  readonly admission: (facts: RegionFacts) => Admission;
  readonly discount: (facts: RegionFacts) => Discount;
  readonly groups: (facts: RegionFacts) => GroupRules;
}

/** Everything a policy says at one moment, and which one said it: what an order keeps. */
export interface RegionRules extends Admission, Discount, GroupRules {
  readonly region: string;
  readonly version: string;
}

/** Ninety per cent: beyond it somebody has mixed up percent and basis points. */
export const DISCOUNT_BPS_MAX = 9_000;
/** A month, as deals may have it. */
export const TTL_MINUTES_MAX = 43_200;

export const DEFAULT_POLICY: RegionPolicy = {
  api: REGION_API,
  region: "default",
  version: "1.0.0",
  admission: () => ({}),
  discount: () => ({ aloneBps: 0, groupBps: 0 }),
  groups: () => ({ sizeMax: LIMITS.groupSizeMax, ttlMinutesMin: 1, ttlMinutesMax: TTL_MINUTES_MAX }),
};

/** Asks a policy for everything it says. Throws what it throws. */
export const rulesOf = (policy: RegionPolicy, facts: RegionFacts): RegionRules => ({
  ...policy.admission(facts),
  ...policy.discount(facts),
  ...policy.groups(facts),
  region: policy.region,
  version: policy.version,
});
export const DEFAULT_RULES: RegionRules = rulesOf(DEFAULT_POLICY, { now: new Date(0) });

const isWhole = (value: unknown, from: number, to: number): boolean =>
  typeof value === "number" && Number.isInteger(value) && value >= from && value <= to;

/** What is wrong with what a policy said; empty where nothing is. */
export function ruleFaults(rules: RegionRules): string[] {
  const faults: string[] = [];
  const bound = (name: keyof RegionRules, from: number, to: number): void => {
    if (!isWhole(rules[name], from, to)) faults.push(`${name} is ${String(rules[name])}, not a whole number from ${from} to ${to}`);
  };
  if (rules.ordersPerSecond !== undefined) bound("ordersPerSecond", 1, 1_000_000);
  bound("aloneBps", 0, DISCOUNT_BPS_MAX);
  bound("groupBps", 0, DISCOUNT_BPS_MAX);
  bound("sizeMax", LIMITS.groupSizeMin, LIMITS.groupSizeMax);
  bound("ttlMinutesMin", 1, TTL_MINUTES_MAX);
  bound("ttlMinutesMax", 1, TTL_MINUTES_MAX);
  if (faults.length === 0 && rules.ttlMinutesMin > rules.ttlMinutesMax) faults.push("ttlMinutesMin is above ttlMinutesMax");
  return faults;
}

/** As orders keep it. */
const REGION_LENGTH_MAX = 12;
const VERSION = /^\d{1,4}\.\d{1,4}\.\d{1,4}$/;

/** What is wrong with the shape of a module's default export; empty for a policy. */
export function policyFaults(value: unknown, expected: { readonly region: string; readonly version: string }): string[] {
  if (typeof value !== "object" || value === null) return ["the module has no policy as its default export"];
  const policy = value as Partial<Record<keyof RegionPolicy, unknown>>;
  const faults: string[] = [];
  if (policy.api !== REGION_API) faults.push(`it is written for interface ${String(policy.api)}, this is ${REGION_API}`);
  if (expected.region.length > REGION_LENGTH_MAX) faults.push(`a region's name has at most ${REGION_LENGTH_MAX} characters`);
  if (policy.region !== expected.region) faults.push(`it is of region ${String(policy.region)}, the manifest says ${expected.region}`);
  if (typeof policy.version !== "string" || !VERSION.test(policy.version)) faults.push("its version is not of the form 1.2.3");
  else if (policy.version !== expected.version) faults.push(`it is version ${policy.version}, the manifest says ${expected.version}`);
  for (const name of ["admission", "discount", "groups"] as const)
    if (typeof policy[name] !== "function") faults.push(`${name} is not a function`);
  return faults;
}

/** Off one unit: half up, and never all of it, because an order costs something. An order's discount is that of each unit, so units stay alike. */
export const unitDiscount = (unitPrice: Fen, bps: number): Fen => {
  const off = basisPoints(unitPrice, bps);
  return off < unitPrice ? off : fen(unitPrice - 1n);
};

/** Where a node gets the rules of a city's region from. */
export interface RegionBook {
  /** Never fails: a policy that does is replaced by the default one. */
  rulesFor(region: string | undefined): RegionRules;
  list(): readonly RegionView[];
  /** Loads the manifest and what it names anew; what cannot be loaded leaves what was there. */
  reload(): Promise<readonly RegionView[]>;
}
export interface RegionView {
  readonly region: string;
  readonly version: string;
  readonly state: "ACTIVE" | "FALLBACK" | "REFUSED";
  readonly detail: string;
}
export const NO_REGIONS: RegionBook = { rulesFor: () => DEFAULT_RULES, list: () => [], reload: () => Promise.resolve([]) };
