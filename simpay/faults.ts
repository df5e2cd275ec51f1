/**
 * Everything real channels get wrong, by name. A fault strikes by chance (PUT /faults) or for certain, when the request that makes a
 * charge, refund or payout names it in the header `simpay-fault`.
 *
 * Chance is a hash of seed, fault and subject, not the next number of a generator: requests race, and a replay of the same seed must strike
 * the same charges whatever came first.
 */
import { createHash } from "node:crypto";

/** Of one call. `hang` does nothing and never answers; `errorAfterDoing` does it and answers 500. */
export const CALL_FAULTS = ["slow", "hang", "refuse", "errorAfterDoing", "forgedAnswer", "refuseRefund"] as const;
/** Of a charge, refund or payout and of its callbacks. */
export const KEPT_FAULTS = [
  "wrongAmount",
  "wrongCurrency",
  "returnPayout",
  "loseCallback",
  "repeatCallback",
  "reorderCallback",
  "lateCallback",
  "forgedCallback",
  "replayedCallback",
  "staleCallback",
] as const;
/** Of its line on the statement. */
export const STATEMENT_FAULTS = ["statementMissing", "statementExtra", "statementDoubled", "statementAltered"] as const;

export type FaultName = (typeof CALL_FAULTS)[number] | (typeof KEPT_FAULTS)[number] | (typeof STATEMENT_FAULTS)[number];
export const FAULT_NAMES: readonly FaultName[] = [...CALL_FAULTS, ...KEPT_FAULTS, ...STATEMENT_FAULTS];

export interface FaultPlan {
  readonly seed: string;
  /** 0 never, 1 always. */
  readonly chance: Readonly<Partial<Record<FaultName, number>>>;
  /** How long a slow answer takes. Real time: what waits for it has real timeouts. */
  readonly slowMs: number;
}

export const NO_FAULTS: FaultPlan = { seed: "simpay", chance: {}, slowMs: 2_000 };

const isFault = (name: string): name is FaultName => (FAULT_NAMES as readonly string[]).includes(name);

/** The names of a header such as `wrongAmount, loseCallback`; undefined if one of them is none. */
export function faultsOf(header: string | undefined): FaultName[] | undefined {
  const names = (header ?? "").split(",").flatMap((name) => name.trim() || []);
  return names.every(isFault) ? names : undefined;
}

/** The plan in a request's body, or what is wrong with it. */
export function planOf(body: Readonly<Record<string, unknown>>): FaultPlan | string {
  const { seed = NO_FAULTS.seed, chance = {}, slowMs = NO_FAULTS.slowMs, ...rest } = body;
  const [unknown] = Object.keys(rest);
  if (unknown !== undefined) return `${unknown} is not known`;
  if (typeof seed !== "string") return "seed is text";
  if (typeof slowMs !== "number" || !(slowMs >= 0 && slowMs <= 600_000)) return "slowMs is 0 to 600,000";
  if (typeof chance !== "object" || chance === null) return "chance is an object of faults";
  for (const [name, value] of Object.entries(chance)) {
    if (!isFault(name)) return `${name} is not a fault; there are ${FAULT_NAMES.join(", ")}`;
    if (typeof value !== "number" || !(value >= 0 && value <= 1)) return `the chance of ${name} is 0 to 1`;
  }
  return { seed, chance, slowMs };
}

/** How many calls of one kind for one number are told apart before the oldest are forgotten. */
const COUNTED_MAX = 100_000;

export class Faults {
  plan: FaultPlan = NO_FAULTS;
  /** A retry is another draw: otherwise a call that was struck once would be struck for ever. */
  readonly #calls = new Map<string, number>();

  /** Whether the fault strikes this subject, the same for the same seed every time. */
  strikes(fault: FaultName, subject: string, certain: readonly FaultName[] = []): boolean {
    if (certain.includes(fault)) return true;
    const chance = this.plan.chance[fault] ?? 0;
    if (chance === 0) return false;
    const hash = createHash("sha256").update(`${this.plan.seed}\n${fault}\n${subject}`).digest();
    return hash.readUInt32BE(0) / 2 ** 32 < chance;
  }

  /** A name for the n-th call of this kind for this number. */
  call(kind: string, number: string): string {
    const key = `${kind} ${number}`;
    const count = (this.#calls.get(key) ?? 0) + 1;
    this.#calls.delete(key);
    this.#calls.set(key, count);
    if (this.#calls.size > COUNTED_MAX) {
      const [oldest] = this.#calls.keys();
      if (oldest !== undefined) this.#calls.delete(oldest);
    }
    return `${key} ${count}`;
  }
}
