/**
 * A false invariant is our bug, never the caller's luck: the batch it happened in is rolled back and somebody is paged.
 * Nothing catches this class to go on as if all were well.
 */
export class InvariantViolation extends Error {
  override readonly name = "InvariantViolation";
}

/** States one claim, positively: `invariant(debits === credits, "a transfer balances")`. */
export function invariant(holds: boolean, claim: string): asserts holds {
  if (!holds) throw new InvariantViolation(claim);
}

/** The branch a type says cannot be reached. */
export const unreachable = (value: never): never => {
  throw new InvariantViolation(`unreachable: ${String(value)}`);
};
