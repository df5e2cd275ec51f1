/** Domain events: appended in the transaction that makes them true, carried away by the write-ahead log (`mixins/journal.ts`). */
import type { EventData, EventType } from "../domain/events.ts";
import type { Queryable, Statement } from "../db/database.ts";
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

const APPEND: Statement = {
  name: "events/append",
  text: `
    insert into events (slot, type, subject, actor, request_id, idem_key, data)
    select $1, type, subject, actor, request_id, idem_key, data
      from unnest($2::text[], $3::bigint[], $4::bigint[], $5::text[], $6::text[], $7::json[]) as e(type, subject, actor, request_id, idem_key, data)`,
};

export async function appendEvents(tx: Queryable, shard: Shard, events: readonly NewEvent[]): Promise<void> {
  if (events.length === 0) return;
  await tx.query(APPEND, [
    shard.slot,
    events.map((event) => event.type),
    events.map((event) => event.subject),
    events.map((event) => event.actor ?? null),
    events.map((event) => event.requestId ?? null),
    events.map((event) => event.idemKey ?? null),
    events.map((event) => JSON.stringify(event.data)),
  ]);
}
