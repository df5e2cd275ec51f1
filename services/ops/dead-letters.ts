/**
 * Dead letters (死信): events that an event consumer could not digest, put aside with their error in the database they came from. A person looks, repairs,
 * and has them handed over again, or drops them. One contract for both ways events travel: with NATS and without it they lie in the same table.
 */
import { raise } from "../../domain/error.ts";
import { shardKey, type Shard } from "../../domain/ids.ts";
import { JOURNAL_ERRORS } from "../../domain/journal/errors.ts";
import type { Database } from "../../db/database.ts";
import type { Of } from "../../mixins/contract.ts";
import { askReplay, dropLetter, type Letter, type LetterKey, listLetters } from "../../mixins/journal-parked.ts";
import { decodeCursor, page } from "../../mixins/page.ts";
import type { Platform } from "../../mixins/platform.ts";
import type { DeadLetter } from "./ops.contract.ts";

type View = Of<typeof DeadLetter>;

const keys = ({ consumer, source, eventId }: LetterKey): string[] => [consumer, source, eventId];
const FIRST: LetterKey = { consumer: "", source: "", eventId: "0" };

/** All there are, by consumer, shard and event. A scatter over every database: what lies there is little, or somebody is awake anyway. */
export async function viewLetters(
  platform: Platform,
  { consumer, cursor, limit }: { consumer?: string | undefined; cursor?: string | undefined; limit: number },
): Promise<{ items: View[]; nextCursor?: string }> {
  const after = cursor === undefined ? FIRST : keyIn(cursor);
  const found = await Promise.all([...platform.databases.values()].map((database) => listLetters(database, after, consumer, limit + 1)));
  return page(found.flat().toSorted(byKey), limit, view, keys);
}

/** It is handed over by a node that has its consumer, within seconds; if that fails it lies there again with the new error. */
export async function replayLetter(platform: Platform, id: string): Promise<View> {
  const { database, key } = find(platform, id);
  return view((await askReplay(database, key)) ?? unknown(id));
}

/** The answer is the last that is seen of it. */
export async function removeLetter(platform: Platform, id: string): Promise<View> {
  const { database, key } = find(platform, id);
  return view((await dropLetter(database, key)) ?? unknown(id));
}

/** `<consumer>.<city>.<slot>.<event>`, as `LETTER_ID` has it: readable, and safe in a path. */
const view = ({ consumer, source, eventId, type, event, error, attempts, at, replaying }: Letter): View => ({
  id: [consumer, ...source.split("/"), eventId].join("."),
  consumer,
  source,
  eventId,
  type,
  event,
  error,
  attempts,
  parkedAt: at.toISOString(),
  replaying,
});

function find(platform: Platform, id: string): { database: Database; key: LetterKey } {
  const [consumer = "", city = "", slot = "", eventId = ""] = id.split(".");
  const shard: Shard = { city: Number(city), slot: Number(slot) };
  const name = platform.keyspaces.databaseOf(shard);
  const database = name === undefined ? undefined : platform.databases.get(name);
  return { database: database ?? unknown(id), key: { consumer, source: shardKey(shard), eventId } };
}

const unknown = (id: string): never => raise(JOURNAL_ERRORS, "DEAD_LETTER_NOT_FOUND", { id });

function keyIn(cursor: string): LetterKey {
  const [consumer, source, eventId] = decodeCursor(cursor, 3).map(String);
  return { consumer: consumer ?? "", source: source ?? "", eventId: /^\d{1,18}$/.test(eventId ?? "") ? (eventId ?? "0") : "0" };
}

/** As the databases sort: bytes, bytes, numbers. */
const byKey = (a: LetterKey, b: LetterKey): number =>
  compare(a.consumer, b.consumer) || compare(a.source, b.source) || compare(BigInt(a.eventId), BigInt(b.eventId));
const compare = <T extends string | bigint>(a: T, b: T): number => (a < b ? -1 : a > b ? 1 : 0);
