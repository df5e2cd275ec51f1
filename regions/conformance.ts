/** What every policy proves before it counts: that whatever the time, it answers, at once, the same, and within what a region may decide. */
import { policyFaults, ruleFaults, rulesOf, type RegionPolicy } from "../domain/region/policy.ts";

/** Every hour of a leap year's first and last days of each month, and its middle: where calendars go wrong. */
function* times(): Generator<Date> {
  for (let month = 0; month < 12; month++)
    for (const day of [1, 2, 5, 15, 28, 29, 30, 31])
      for (let hour = 0; hour < 24; hour += 3) yield new Date(Date.UTC(2028, month, day, hour, 59, 59, 999));
}

/** What is wrong with a policy; empty for one that conforms. Throws nothing, but a policy that never returns keeps it for ever: see `trial.ts`. */
export function regionFaults(value: unknown, expected: { readonly region: string; readonly version: string }): string[] {
  const shape = policyFaults(value, expected);
  if (shape.length > 0) return shape;
  const policy = value as RegionPolicy;
  for (const now of times()) {
    const at = now.toISOString();
    try {
      const rules = rulesOf(policy, { now });
      const faults = ruleFaults(rules);
      if (faults.length > 0) return faults.map((fault) => `at ${at}: ${fault}`);
      if (JSON.stringify(rulesOf(policy, { now })) !== JSON.stringify(rules)) return [`at ${at}: asked twice, it gives two answers`];
      if (rules.region !== expected.region || rules.version !== expected.version) return [`at ${at}: it changes its name`];
      if (now.toISOString() !== at) return [`at ${at}: it changes what it is given`];
    } catch (error) {
      return [`at ${at}: it throws: ${error instanceof Error ? error.message : String(error)}`];
    }
  }
  return [];
}
