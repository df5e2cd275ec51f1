/** Domain events: appended in the transaction that makes them true, carried away by the write-ahead log (`mixins/journal.ts`). */
import type { EventData, EventType } from "../domain/events.ts";
import type { Statement, Writable } from "../db/database.ts";
import type { Shard } from "../domain/ids.ts";

/** An event before it is written. `subject` is the id it is about; `actor` who asked for it, undefined for the platform itself. */
export interface NewEvent<T extends EventType = EventType> {
  readonly type: T;
  readonly subject: string;
  readonly actor?: string | undefined;
  readonly requestId?: string | undefined;
  readonly idemKey?: string | undefined;
  readonly data: EventData[T];
}

/** Into the parent, whose identity numbers them: before PostgreSQL 17 its partitions do not have it. */
const APPEND: Statement = {
  name: "events/append",
  text: `copy events (slot, type, subject, actor, request_id, idem_key, data) from stdin`,
};

export async function appendEvents(tx: Writable, shard: Shard, events: readonly NewEvent[]): Promise<void> {
  if (events.length === 0) return;
  await tx.copy(
    APPEND,
    shard.slot,
    events.map(({ type, subject, actor, requestId, idemKey, data }) => [
      shard.slot,
      type,
      subject,
      actor,
      requestId,
      idemKey,
      JSON.stringify(data),
    ]),
  );
}
