/** Messaging inside one database; that events reached the user keyspace is a comparison of two (`../compare.ts`). */
import type { Check } from "./check.ts";

export const MESSAGING_CHECKS: readonly Check[] = [
  {
    name: "events.parked",
    scope: "every",
    proves: "no event waits for a person because its consumer could not digest it",
    statement: `select consumer, source, event_id, attempts, left(error, 200) as error, at from parked_events`,
  },
];
