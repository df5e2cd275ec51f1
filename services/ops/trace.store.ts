/**
 * What a trace reads. Everything is asked of one slot of one database: rows by key where there is an index, events and transfers by reading what the
 * slot has written since the order was made (300,000 transfers of a million orders: 0.1 s). An index on what an event is about would cost every
 * sale, and a person who asks for a trace waits gladly.
 */
import type { Snapshot } from "./snapshot.ts";

/** Where a number leads: an order, a payout or a top-up, and what the number itself is of. */
export interface Root {
  readonly kind: string;
  readonly orderId: string | null;
  readonly payoutId: string | null;
  readonly topupId: string | null;
}

/** One row as it is now, or one event, flow or message, with ids as texts. */
export interface TracedRow {
  readonly kind: string;
  readonly id: string;
  readonly row: Readonly<Record<string, unknown>>;
}

/** Ids have more digits than a JavaScript number, so they leave the database as texts, wherever in a row they stand. */
const asJson = (row: string): string => `
  (select json_object_agg(key, case when key = 'id' or key like '%\\_id' or key in ('actor', 'caller', 'subject', 'requested_by', 'resolved_by') then to_json(value #>> '{}')
                                    else value end) from json_each(row_to_json(${row})))`;
const rows = (kind: string, from: string, where: string, id = "id"): string =>
  `select '${kind}' as kind, t.${id}::text as id, ${asJson("t")} as row from ${from} t where ${where}`;

/** Of an order's rows, `order_id` leads to the order; a payout's transfers have its id as their business key. */
const OF_ORDERS = ["payments", "refunds", "vouchers", "settlements", "redemptions"] as const;
const BY_ID = `
  select 'order' as kind, id::text as "orderId", null as "payoutId", null as "topupId" from orders where slot = $1 and id = $2
  ${OF_ORDERS.map((table) => `union all select '${table.slice(0, -1)}', order_id::text, null, null from ${table} where slot = $1 and id = $2`).join("\n")}
  union all select 'payout', null, id::text, null from payouts where slot = $1 and id = $2
  union all select 'transfer', order_id::text, case when order_id is null then business_key end, null from transfers where slot = $1 and id = $2`;
const BY_ID_AT_USERS = `
  select 'topup' as kind, null as "orderId", null as "payoutId", id::text as "topupId" from topups where slot = $1 and id = $2
  union all select 'transfer', order_id::text, null, case when order_id is null then business_key end from transfers where slot = $1 and id = $2`;
const BY_CODE = `select 'voucher' as kind, order_id::text as "orderId", null as "payoutId", null as "topupId" from vouchers where slot = $1 and code = $2`;

const BY_CHANNEL_NUMBER = `
  select 'payment' as kind, order_id::text as "orderId", null as "payoutId", null as "topupId" from payments where channel_no = $1
  union all select 'refund', order_id::text, null, null from refunds where channel_no = $1
  union all select 'payout', null, id::text, null from payouts where channel_no = $1`;

export const rootById = async (city: Snapshot, slot: number, id: string): Promise<Root | undefined> =>
  (await city.query<Root>(BY_ID, [slot, id]))[0];
export const rootAtUsers = async (users: Snapshot, slot: number, id: string): Promise<Root | undefined> =>
  (await users.query<Root>(BY_ID_AT_USERS, [slot, id]))[0];
export const rootByCode = async (city: Snapshot, slot: number, code: string): Promise<Root | undefined> =>
  (await city.query<Root>(BY_CODE, [slot, code]))[0];
export const rootByChannelNumber = async (city: Snapshot, number: string): Promise<Root | undefined> =>
  (await city.query<Root>(BY_CHANNEL_NUMBER, [number]))[0];

const ORDER_ROWS = [
  rows("order", "orders", "slot = $1 and id = $2"),
  rows("group", "groups", "slot = $1 and id = (select group_id from orders where slot = $1 and id = $2)"),
  // A seat has no time of its own: it was taken with the order.
  rows(
    "seat",
    "(select s.*, o.created_at from seats s join orders o using (slot, group_id) where o.id = s.order_id)",
    "slot = $1 and order_id = $2",
    "order_id",
  ),
  ...OF_ORDERS.map((table) => rows(table.slice(0, -1), table, "slot = $1 and order_id = $2")),
].join("\nunion all\n");
export const orderRows = (city: Snapshot, slot: number, orderId: string): Promise<TracedRow[]> =>
  city.query<TracedRow>(ORDER_ROWS, [slot, orderId]);

const PAYOUT_ROWS = rows("payout", "payouts", "slot = $1 and id = $2");
export const payoutRows = (city: Snapshot, slot: number, payoutId: string): Promise<TracedRow[]> =>
  city.query<TracedRow>(PAYOUT_ROWS, [slot, payoutId]);

const TOPUP_ROWS = rows("topup", "topups", "slot = $1 and id = $2");
export const topupRows = (users: Snapshot, slot: number, topupId: string): Promise<TracedRow[]> =>
  users.query<TracedRow>(TOPUP_ROWS, [slot, topupId]);

/** Transfers whose business key is one of the ids, or that name the order: whatever their code is, also one that nobody thought of. The root is an order, a payout or a top-up. */
const TRANSFERS = rows("transfer", "transfers", "slot = $1 and at >= $2 and (business_key = any($3) or order_id = $4)");
export const transfersFor = (snapshot: Snapshot, slot: number, since: Date, ids: readonly string[], rootId: string): Promise<TracedRow[]> =>
  snapshot.query<TracedRow>(TRANSFERS, [slot, since, ids, rootId]);

const EVENTS = rows(
  "event",
  "events",
  "slot = $1 and at >= $2 and (subject = any($3::bigint[]) or $4 in (data ->> 'orderId', data ->> 'topupId'))",
);
export const eventsFor = (snapshot: Snapshot, slot: number, since: Date, ids: readonly string[], rootId: string): Promise<TracedRow[]> =>
  snapshot.query<TracedRow>(EVENTS, [slot, since, ids, rootId]);

/** A drain writes one flow a bucket for all that it moves; the flows of an order are those of its deal that were written when it moved. */
const FLOWS = rows(
  "stock",
  "stock_flows",
  "slot = $1 and deal_id = $2 and date_trunc('milliseconds', at) = any($3::timestamptz[]) and (held <> 0 or sold <> 0)",
);
export const flowsAt = (city: Snapshot, slot: number, dealId: string, moments: readonly Date[]): Promise<TracedRow[]> =>
  city.query<TracedRow>(FLOWS, [slot, dealId, moments]);

/** What people did about other money than was asked for, when it was decided. That somebody was named has no time but the payment's. */
const CASES = rows(
  "suspense",
  "(select c.*, coalesce(c.resolved_at, p.paid_at) as at from suspense_cases c join payments p using (slot, id))",
  "slot = $1 and id = any($2::bigint[])",
);
export const casesOf = (city: Snapshot, slot: number, ids: readonly string[]): Promise<TracedRow[]> =>
  city.query<TracedRow>(CASES, [slot, ids]);

/** What channels told of the payments, refunds and payouts. */
const CALLBACKS = rows("callback", "channel_callbacks", "slot = $1 and subject = any($2::bigint[])");
export const callbacksAbout = (city: Snapshot, slot: number, ids: readonly string[]): Promise<TracedRow[]> =>
  city.query<TracedRow>(CALLBACKS, [slot, ids]);

/** The stored answers of the requests that events name. */
const REQUESTS = `
  select distinct on (r.caller, r.idem_key) 'request' as kind, r.operation as id, ${asJson("r")} as row
    from unnest($2::bigint[], $3::text[]) as k(caller, idem_key)
    join requests r on r.slot = $1 and r.caller = k.caller and r.idem_key = k.idem_key`;
export const requestsFor = (
  snapshot: Snapshot,
  slot: number,
  keys: readonly { readonly actor: string; readonly key: string }[],
): Promise<TracedRow[]> => snapshot.query<TracedRow>(REQUESTS, [slot, keys.map(({ actor }) => actor), keys.map(({ key }) => key)]);

/** Events go after a month; what was told of them stays, and names the order. */
const NOTIFICATIONS = rows(
  "notification",
  "notifications",
  "slot = $1 and user_id = $2 and source = $3 and (event_id = any($4::bigint[]) or data ->> 'orderId' = $5)",
);
export const notificationsFor = (
  users: Snapshot,
  of: { slot: number; userId: string; source: string; events: readonly string[]; rootId: string },
): Promise<TracedRow[]> => users.query<TracedRow>(NOTIFICATIONS, [of.slot, of.userId, of.source, of.events, of.rootId]);

const PARKED = rows("parked", "parked_events", "source = $1 and event_id = any($2::bigint[])", "consumer");
export const parkedOf = (snapshot: Snapshot, source: string, events: readonly string[]): Promise<TracedRow[]> =>
  snapshot.query<TracedRow>(PARKED, [source, events]);
