/**
 * `/ops/trace`: everything that ever happened to an order (or a payout, or a top-up), found by any number that leads to it, in the order of time:
 * its rows with the times they changed at, events, transfers in both keyspaces, stock flows, stored answers and what people were told. The
 * barriers of TCC are left out: they have no time, and the transfers they guard tell the same phases.
 */
import { AUDIT_ERRORS } from "../../domain/audit/errors.ts";
import { COMMON_ERRORS } from "../../domain/common-errors.ts";
import { raise } from "../../domain/error.ts";
import { cityOf, isId, type OrderId, shardKey, shardOf, SLOT_COUNT, slotOf, type Shard, USER_CITY } from "../../domain/ids.ts";
import type { Database } from "../../db/database.ts";
import type { Of } from "../../mixins/contract.ts";
import type { Platform } from "../../mixins/platform.ts";
import type { Trace, TraceEntry } from "./ops.contract.ts";
import { Snapshot } from "./snapshot.ts";
import {
  callbacksAbout,
  casesOf,
  eventsFor,
  flowsAt,
  notificationsFor,
  orderRows,
  parkedOf,
  payoutRows,
  requestsFor,
  rootAtUsers,
  rootByChannelNumber,
  rootByCode,
  rootById,
  topupRows,
  transfersFor,
  type Root,
  type TracedRow,
} from "./trace.store.ts";

type Entry = Of<typeof TraceEntry>;

/** Rows and the shard they were found in. */
interface Found {
  readonly shard: Shard;
  readonly rows: readonly TracedRow[];
}

/** When something happened to a row, by the column that tells; the first is when it was made. */
const MADE = ["created_at", "issued_at", "received_at", "at"] as const;
const CHANGED = ["paid_at", "approved_at", "decided_at", "redeemed_at", "done_at", "ended_at"] as const;

/** Throws TRACE_NOT_FOUND for a number that leads nowhere, and VALIDATION_ERROR for digits that are no id, code or channel number. */
export async function trace(platform: Platform, given: string): Promise<Of<typeof Trace>> {
  if (/^\d{17,20}$/.test(given) && !isId(given))
    return raise(COMMON_ERRORS, "VALIDATION_ERROR", { errors: [{ field: "id", message: "not an id: it is larger than any" }] });
  const snapshots = new Snapshots(platform);
  try {
    const root = (await findRoot(platform, snapshots, given)) ?? raise(AUDIT_ERRORS, "TRACE_NOT_FOUND", { id: given });
    const found = await everything(platform, snapshots, root);
    const entries = found.flatMap(({ shard, rows }) => {
      const keyspace = platform.keyspaces.byId(shard.city)?.code ?? "";
      return rows.flatMap((row) => entriesOf(row, keyspace, shard.slot));
    });
    return {
      id: given,
      kind: root.kind,
      ...(root.orderId === null ? {} : { orderId: root.orderId as OrderId }),
      // Stable: what has one time stays in the order it was gathered in, rows before their events before the money.
      entries: entries.toSorted((a, b) => (a.at < b.at ? -1 : a.at > b.at ? 1 : 0)),
    };
  } finally {
    await snapshots.close();
  }
}

/** One instant of each database a trace comes to, opened when it is first asked. */
class Snapshots {
  readonly #platform: Platform;
  readonly #opened = new Map<Database, Promise<Snapshot>>();

  constructor(platform: Platform) {
    this.#platform = platform;
  }

  /** Undefined for a shard nobody serves. */
  of(shard: Shard): Promise<Snapshot> | undefined {
    const name = this.#platform.keyspaces.databaseOf(shard);
    const database = name === undefined ? undefined : this.#platform.databases.get(name);
    if (database === undefined) return undefined;
    const opened = this.#opened.get(database) ?? Snapshot.open(database);
    this.#opened.set(database, opened);
    return opened;
  }

  async close(): Promise<void> {
    for (const opened of await Promise.allSettled(this.#opened.values())) if (opened.status === "fulfilled") await opened.value.close();
  }
}

/** As an id, by the address in it; else as a voucher's code, which ends with its slot; else as a channel's number. */
async function findRoot(platform: Platform, snapshots: Snapshots, given: string): Promise<Root | undefined> {
  if (isId(given)) {
    const shard = shardOf(given);
    const snapshot = await snapshots.of(shard);
    const find = shard.city === USER_CITY ? rootAtUsers : rootById;
    const root = snapshot && (await find(snapshot, shard.slot, given));
    if (root) return root;
  }
  return (await findByCode(platform, snapshots, given)) ?? findByChannelNumber(platform, snapshots, given);
}

async function findByCode(platform: Platform, snapshots: Snapshots, given: string): Promise<Root | undefined> {
  const slot = Number(given.slice(-2));
  if (!/^\d{16}$/.test(given) || slot >= SLOT_COUNT) return undefined;
  for (const { id: city } of platform.keyspaces.cities) {
    const snapshot = await snapshots.of({ city, slot });
    const root = snapshot && (await rootByCode(snapshot, slot, given));
    if (root) return root;
  }
  return undefined;
}

/** A channel's number says nothing of where it is from: every city database is asked, by an index. */
async function findByChannelNumber(platform: Platform, snapshots: Snapshots, given: string): Promise<Root | undefined> {
  for (const { city, slots } of platform.databases.values()) {
    if (!platform.servesCity(city)) continue;
    const snapshot = await snapshots.of({ city, slot: slots[0] ?? 0 });
    const root = snapshot && (await rootByChannelNumber(snapshot, given));
    if (root) return root;
  }
  return undefined;
}

async function everything(platform: Platform, snapshots: Snapshots, { orderId, payoutId, topupId }: Root): Promise<Found[]> {
  const id = orderId ?? payoutId ?? topupId;
  const shard = id !== null && isId(id) ? shardOf(id) : undefined;
  const snapshot = shard && (await snapshots.of(shard));
  if (id === null || shard === undefined || snapshot === undefined) return [];
  const read = orderId !== null ? orderRows : payoutId !== null ? payoutRows : topupRows;
  const rows = await read(snapshot, shard.slot, id);
  const since = new Date(Math.min(...rows.flatMap(momentsOf).map((at) => at.getTime())));
  const ids = [...new Set(rows.map((row) => row.id))];
  const [events, transfers] = await Promise.all([
    eventsFor(snapshot, shard.slot, since, ids, id),
    transfersFor(snapshot, shard.slot, since, ids, id),
  ]);
  const about = { shard, rows, events, ids, since, rootId: id };
  const [here, atUsers] = await Promise.all([besides(snapshot, about), toldAndPaid(platform, snapshots, about)]);
  return [{ shard, rows: [...rows, ...events, ...transfers, ...here] }, ...atUsers];
}

/** What is known of a root once its own rows and events are read. */
interface About {
  readonly shard: Shard;
  readonly rows: readonly TracedRow[];
  readonly events: readonly TracedRow[];
  readonly ids: readonly string[];
  readonly since: Date;
  readonly rootId: string;
}

/** In the same shard: what channels called about, stock that moved with it, answers that were stored, events that nobody could digest. */
async function besides(snapshot: Snapshot, { shard, rows, events, ids }: About): Promise<TracedRow[]> {
  const dealId = rows.find(({ kind }) => kind === "order")?.row["deal_id"];
  const keys = events.flatMap(({ row }) =>
    typeof row["actor"] === "string" && typeof row["idem_key"] === "string" ? [{ actor: row["actor"], key: row["idem_key"] }] : [],
  );
  const found = await Promise.all([
    shard.city === USER_CITY ? [] : callbacksAbout(snapshot, shard.slot, ids),
    shard.city === USER_CITY ? [] : casesOf(snapshot, shard.slot, ids),
    typeof dealId === "string" ? flowsAt(snapshot, shard.slot, dealId, [...rows, ...events].flatMap(momentsOf)) : [],
    requestsFor(snapshot, shard.slot, keys),
    parkedOf(
      snapshot,
      shardKey(shard),
      events.map(({ id }) => id),
    ),
  ]);
  return found.flat();
}

/** In the user keyspace: the wallet's side, and what each person concerned was told. */
async function toldAndPaid(platform: Platform, snapshots: Snapshots, { shard, rows, events, ids, since, rootId }: About): Promise<Found[]> {
  if (!platform.servesCity(shard.city)) return [];
  const people = new Set(
    [...rows, ...events].flatMap(({ row }) =>
      [row["consumer_id"], row["requested_by"], row["actor"], (row["data"] as { ownerId?: unknown } | undefined)?.ownerId].filter(
        (id): id is string => typeof id === "string" && isId(id) && cityOf(id) === USER_CITY,
      ),
    ),
  );
  // A wallet's try comes right after the city's, whose clock may be another's.
  const from = new Date(since.getTime() - CLOCKS_APART_MS);
  const found: Found[] = [];
  for (const userId of people) {
    const at = { city: USER_CITY, slot: slotOf(userId) };
    const users = await snapshots.of(at);
    if (users === undefined) continue;
    const told = await notificationsFor(users, {
      slot: at.slot,
      userId,
      source: shardKey(shard),
      events: events.map(({ id }) => id),
      rootId,
    });
    found.push({ shard: at, rows: told });
  }
  for (const slot of new Set([...people].map(slotOf))) {
    const users = await snapshots.of({ city: USER_CITY, slot });
    if (users) found.push({ shard: { city: USER_CITY, slot }, rows: await transfersFor(users, slot, from, ids, rootId) });
  }
  return found;
}
const CLOCKS_APART_MS = 60_000;

const timeIn = (row: TracedRow["row"], column: string): Date | undefined => {
  const value = row[column];
  return typeof value === "string" ? new Date(value) : undefined;
};
/** Every moment a row tells of, cut to milliseconds, as rows and events of one transaction are compared. */
const momentsOf = ({ row }: TracedRow): Date[] => [...MADE, ...CHANGED].flatMap((column) => timeIn(row, column) ?? []);

/** A row as it stands, at the time it was made, and one entry for each later time it tells of. */
function entriesOf({ kind, id, row }: TracedRow, keyspace: string, slot: number): Entry[] {
  const made = MADE.map((column) => timeIn(row, column)).find((time) => time !== undefined);
  const common = { keyspace, slot, kind, id };
  const whole: Entry[] = made ? [{ ...common, at: made.toISOString(), what: whatOf(kind, row), data: row }] : [];
  const later = CHANGED.flatMap((column): Entry[] => {
    const time = timeIn(row, column);
    const data = row["state"] === undefined ? {} : { state: row["state"] };
    return time ? [{ ...common, at: time.toISOString(), what: column.slice(0, -"_at".length), data }] : [];
  });
  return [...whole, ...later];
}

/** In a few words, what an entry says. */
function whatOf(kind: string, row: TracedRow["row"]): string {
  const text = (name: string): string => {
    const value = row[name];
    return typeof value === "string" || typeof value === "number" ? String(value) : "";
  };
  switch (kind) {
    case "event":
      return text("type");
    case "transfer":
      return `${text("code")} ${text("state")} ${text("debit_account")} → ${text("credit_account")} ${text("amount")}`;
    case "stock":
      return `${text("cause")}: held ${text("held")}, sold ${text("sold")}`;
    case "notification":
      return text("kind");
    case "callback":
      return `${text("channel")} told of a ${text("about")}`;
    case "suspense":
      return text("outcome") || `${text("assignee")} looks into it`;
    case "redemption":
      return text("kind");
    default:
      return "created";
  }
}
