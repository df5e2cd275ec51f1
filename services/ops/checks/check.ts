/**
 * What `/ops/verify` asks of one database. A check is one value: its name, what it proves in a sentence a person reads, and SQL that returns
 * the rows that break it. No row means it holds. Every statement here is a scatter read over all slots on purpose: reports may, drains may not.
 */
import { LIMITS } from "../../../domain/limits.ts";

/** Seconds a background worker may be late before lateness is a fault: expiry and deadlines are looked for every second, recovery starts after 20 s. */
export const GRACE_SECONDS = 120;
/** Seconds an event may travel to its consumers: a relay that restarts takes a few, a drain that made it ten at most. */
export const RELAY_SECONDS = 30;
/**
 * Rows made since then have all their events: older ones go (`mixins/journal-prune.ts`), a day is for what is going just now. What is older
 * is checked as far as its events tell.
 */
export const HAS_ALL_EVENTS = (created: string): string => `(${created} > now() - interval '${LIMITS.eventsKeptDays - 1} days')`;

export interface Check {
  /** `theme.claim`: stable, operators alert on it. */
  readonly name: string;
  /** The databases it is run in: those of cities, those of the user keyspace, or every one. */
  readonly scope: "city" | "user" | "every";
  /** The claim, positively. */
  readonly proves: string;
  /** Returns the violating rows, with what a person needs to find them. */
  readonly statement: string;
  /** Parameters of the statement. */
  readonly values?: readonly unknown[] | ((snapshot: { readonly slots: readonly number[] }) => readonly unknown[]);
}

/** What came of a check in one place. */
export interface Finding {
  readonly name: string;
  readonly proves: string;
  readonly violations: number;
  /** The first violating rows, each as a text that starts with its database. */
  readonly examples: readonly string[];
}
/** Rows shown of a broken check: enough to see a pattern, little enough to read. */
export const EXAMPLES_MAX = 20;

/** Units of each order that were given back by refunds, begun or done; money that paid for nothing is of no unit. What was used stays sold, and counted, whoever pays for it in the end. */
export const UNITS_REFUNDED = `(select slot, order_id as id, sum(quantity) as units from refunds where not used and not surplus group by slot, order_id)`;
