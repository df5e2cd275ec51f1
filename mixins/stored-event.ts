/** A domain event as its consumers get it. */
import type { EventRow } from "../db/replication.ts";
import type { EventData, EventType } from "../domain/events.ts";
import { shardKey } from "../domain/ids.ts";

interface Stored<T extends EventType> {
  /** The shard it is of, as `city/slot`: with the id, its name everywhere, also when the slot moves to another database. */
  readonly source: string;
  readonly city: number;
  readonly slot: number;
  readonly id: string;
  readonly type: T;
  readonly subject: string;
  readonly actor: string | undefined;
  readonly requestId: string | undefined;
  readonly idemKey: string | undefined;
  /** As PostgreSQL prints it, UTC; `new Date(at)` reads it. */
  readonly at: string;
  readonly data: EventData[T];
}
/** Narrowing `type` narrows `data`. */
export type StoredEvent<T extends EventType = EventType> = { [K in T]: Stored<K> }[T];

/** `data` is parsed when somebody looks at it, once for all consumers. */
class Row {
  readonly city: number;
  readonly source: string;
  readonly #row: EventRow;
  #data: unknown;

  constructor(city: number, row: EventRow) {
    this.city = city;
    this.#row = row;
    this.source = shardKey({ city, slot: row.slot });
  }
  static rowOf(event: Row): EventRow {
    return event.#row;
  }
  get slot(): number {
    return this.#row.slot;
  }
  get id(): string {
    return this.#row.id;
  }
  get type(): string {
    return this.#row.type;
  }
  get subject(): string {
    return this.#row.subject;
  }
  get actor(): string | undefined {
    return this.#row.actor ?? undefined;
  }
  get requestId(): string | undefined {
    return this.#row.request_id ?? undefined;
  }
  get idemKey(): string | undefined {
    return this.#row.idem_key ?? undefined;
  }
  get at(): string {
    return this.#row.at;
  }
  get data(): unknown {
    return (this.#data ??= JSON.parse(this.#row.data) as unknown);
  }
}

/** The table's rows are written by `appendEvents` alone, whose types are these. */
export const storedEvent = (city: number, row: EventRow): StoredEvent => new Row(city, row) as unknown as StoredEvent;

/** The row of an event, to be sent on as it came. */
export const rowOf = (event: StoredEvent): EventRow => Row.rowOf(event as unknown as Row);
