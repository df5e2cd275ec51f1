/**
 * SQL of dead letters: events a consumer could not digest, kept in the database they came from whichever way they travelled. A person asks for a
 * replay by a mark on the row; a node that has the consumer finds it and hands it over again (`journal-replays.ts`).
 */
import type { Queryable, Statement } from "../db/database.ts";
import type { EventRow } from "../db/replication.ts";
import type { StoredEvent } from "./stored-event.ts";

/** What names a dead letter: no two consumers' troubles are one. */
export interface LetterKey {
  readonly consumer: string;
  readonly source: string;
  readonly eventId: string;
}

export interface Letter extends LetterKey {
  readonly type: string;
  readonly event: unknown;
  readonly error: string;
  readonly attempts: number;
  readonly at: Date;
  readonly replaying: boolean;
}

const PARK: Statement = {
  name: "parked/park",
  text: `
    insert into parked_events (consumer, source, event_id, event, error, attempts) values ($1, $2, $3, $4, $5, $6)
        on conflict (consumer, source, event_id) do update set error = excluded.error, attempts = excluded.attempts, at = now()`,
};
/** Parking must not fail: PostgreSQL's texts hold no NUL, and a stack of a whole page tells enough. */
export async function parkEvent(tx: Queryable, consumer: string, event: StoredEvent, error: Error, attempts: number): Promise<void> {
  const { type, subject, actor, requestId, idemKey, data, at } = event;
  const told = JSON.stringify({ type, subject, actor, requestId, idemKey, data, at });
  await tx.query(PARK, [consumer, event.source, event.id, told, printable(error), attempts]);
}
const printable = (error: Error): string => (error.stack ?? error.message).replaceAll("\0", "").slice(0, 4_000);

interface LetterRow {
  readonly consumer: string;
  readonly source: string;
  readonly event_id: string;
  readonly type: string;
  readonly event: unknown;
  readonly error: string;
  readonly attempts: number;
  readonly at: Date;
  readonly replaying: boolean;
}
const letter = ({ event_id, ...row }: LetterRow): Letter => ({ ...row, eventId: event_id });

const LETTER = `consumer, source, event_id, event ->> 'type' as type, event, error, attempts, at, replaying`;
const LIST: Statement = {
  name: "parked/list",
  text: `
    select ${LETTER} from parked_events
     where (consumer collate "C", source collate "C", event_id) > ($1, $2, $3::bigint) and ($4::text is null or consumer = $4)
     order by consumer collate "C", source collate "C", event_id limit $5`,
};
/** Behind a key, in the order of keys, which is that of bytes: lists of several databases are merged. */
export async function listLetters(tx: Queryable, after: LetterKey, consumer: string | undefined, limit: number): Promise<Letter[]> {
  const rows = await tx.query<LetterRow>(LIST, [after.consumer, after.source, after.eventId, consumer ?? null, limit]);
  return rows.map(letter);
}

const ASK: Statement = {
  name: "parked/ask-replay",
  text: `update parked_events set replaying = true where consumer = $1 and source = $2 and event_id = $3 returning ${LETTER}`,
};
/** Undefined where there is no such letter. Asking twice is asking once. */
export async function askReplay(tx: Queryable, key: LetterKey): Promise<Letter | undefined> {
  const [row] = await tx.query<LetterRow>(ASK, [key.consumer, key.source, key.eventId]);
  return row && letter(row);
}

const DROP: Statement = {
  name: "parked/drop",
  text: `delete from parked_events where consumer = $1 and source = $2 and event_id = $3 returning ${LETTER}`,
};
export async function dropLetter(tx: Queryable, key: LetterKey): Promise<Letter | undefined> {
  const [row] = await tx.query<LetterRow>(DROP, [key.consumer, key.source, key.eventId]);
  return row && letter(row);
}

/** A letter that waits to be handed over again, locked for the transaction: of several nodes one does it. */
export interface WaitingLetter extends LetterKey {
  readonly attempts: number;
  readonly row: EventRow;
}
const TAKE: Statement = {
  name: "parked/take",
  text: `
    select consumer, source, event_id, attempts, event ->> 'type' as type, event ->> 'subject' as subject, event ->> 'actor' as actor,
           event ->> 'requestId' as request_id, event ->> 'idemKey' as idem_key, (event -> 'data')::text as data, event ->> 'at' as at
      from parked_events where replaying and consumer = any($1) order by source, event_id limit 1 for update skip locked`,
};
export async function takeWaitingLetter(tx: Queryable, consumers: readonly string[]): Promise<WaitingLetter | undefined> {
  type Row = Omit<EventRow, "slot" | "id"> & { consumer: string; source: string; event_id: string; attempts: number };
  const [found] = await tx.query<Row>(TAKE, [consumers]);
  if (!found) return undefined;
  const { consumer, source, event_id, attempts, ...event } = found;
  const slot = Number(source.split("/")[1]);
  return { consumer, source, eventId: event_id, attempts, row: { ...event, slot, id: event_id } };
}

const FAIL: Statement = {
  name: "parked/fail",
  text: `
    update parked_events set replaying = false, error = $4, attempts = attempts + 1, at = now()
     where consumer = $1 and source = $2 and event_id = $3`,
};
/** It lies there again, with what is wrong now. */
export async function failReplay(tx: Queryable, key: LetterKey, error: Error): Promise<void> {
  await tx.query(FAIL, [key.consumer, key.source, key.eventId, printable(error)]);
}
