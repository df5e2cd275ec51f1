/** SQL of notifications, in the user keyspace. */
import type { Queryable, Statement, Writable } from "../../db/database.ts";
import { slotOf } from "../../domain/ids.ts";
import { LIMITS } from "../../domain/limits.ts";
import type { NoticeKind } from "../../domain/notify/notices.ts";
import { KEPT_SINCE, pruneOld, pruning } from "../../mixins/prune.ts";

export interface NewNotification {
  readonly userId: string;
  /** The event it comes from: the mark that makes a second delivery harmless. */
  readonly source: string;
  readonly eventId: string;
  readonly kind: NoticeKind;
  readonly data: object;
  readonly at: string;
}

/** "noti" in ASCII. */
const TURN: Statement = { name: "notify/turn", text: `select pg_advisory_xact_lock(1852797001)` };
const KNOWN: Statement = {
  name: "notify/known",
  text: `
    select k.at::integer as at from unnest($1::smallint[], $2::bigint[], $3::text[], $4::bigint[]) with ordinality as k(slot, user_id, source, event_id, at)
     where exists (select from notifications n where n.slot = k.slot and n.user_id = k.user_id and n.source = k.source and n.event_id = k.event_id offset 0)`,
};
const ADD: Statement = {
  name: "notify/add",
  text: `copy notifications (slot, user_id, source, event_id, kind, data, at) from stdin`,
};
/**
 * Adds them, and returns whom they are for. Writers take turns until they have committed: ids are given in the order in which they can be seen, so
 * whoever has read up to one has missed none before it. Where one is there already its key refuses all of them. (`on conflict do nothing` writes a
 * log record more a row.)
 */
export async function addNotifications(tx: Writable, notifications: readonly NewNotification[]): Promise<string[]> {
  await Promise.all([
    tx.query(TURN),
    // All slots at once: into the parent, which finds their partitions.
    notifications.length > 0 &&
      tx.copy(
        ADD,
        0,
        notifications.map((n) => [slotOf(n.userId), n.userId, n.source, n.eventId, n.kind, JSON.stringify(n.data), n.at]),
      ),
  ]);
  return [...new Set(notifications.map(({ userId }) => userId))];
}

/** Those of them that are not there. */
export async function completeNotifications(tx: Writable, notifications: readonly NewNotification[]): Promise<string[]> {
  const keys = [
    notifications.map((n) => slotOf(n.userId)),
    notifications.map((n) => n.userId),
    notifications.map((n) => n.source),
    notifications.map((n) => n.eventId),
  ];
  const [, known] = await Promise.all([tx.query(TURN), tx.query<{ at: number }>(KNOWN, keys)]);
  const old = new Set(known.map(({ at }) => at - 1));
  return addNotifications(
    tx,
    notifications.filter((_, at) => !old.has(at)),
  );
}

export interface NotificationRow {
  /** Which of the readers asked for it. */
  readonly reader: number;
  readonly id: string;
  readonly kind: NoticeKind;
  readonly data: object;
  readonly at: Date;
}

const AFTER: Statement = {
  name: "notify/after",
  text: `
    select k.reader::integer as reader, n.id, n.kind, n.data, n.at
      from unnest($1::smallint[], $2::bigint[], $3::bigint[]) with ordinality as k(slot, user_id, after, reader)
     cross join lateral (
           select id, kind, data, at from notifications where slot = k.slot and user_id = k.user_id and id > k.after order by id limit $4) n
     order by k.reader, n.id`,
};
/** What each reader has not seen yet, oldest first, at most `limit` for each. */
export const notificationsAfter = async (
  tx: Queryable,
  readers: readonly { userId: string; after: string }[],
  limit: number,
): Promise<NotificationRow[]> =>
  tx.query<NotificationRow>(AFTER, [
    readers.map((r) => slotOf(r.userId)),
    readers.map((r) => r.userId),
    readers.map((r) => r.after),
    limit,
  ]);

const NEWEST: Statement = {
  name: "notify/newest",
  text: `select id from notifications_$1 where slot = $1 and user_id = $2 order by id desc limit 1`,
};
export async function newestNotification(tx: Queryable, userId: string): Promise<string> {
  const [row] = await tx.query<{ id: string }>(NEWEST, [slotOf(userId), userId]);
  return row?.id ?? "0";
}

const PRUNE: Statement = pruning("notifications", `at < ${KEPT_SINCE}`);
export const pruneNotifications = pruneOld("notifications", "user", PRUNE, LIMITS.notificationsKeptDays);
