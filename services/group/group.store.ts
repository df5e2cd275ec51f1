/** Groups and their seats. */
import type { GroupFacts, NewGroup, NewSeat } from "../../domain/order/place.ts";
import { seatKey } from "../../domain/order/place.ts";
import type { GroupState, SeatState } from "../../domain/group/state.ts";
import type { DealId, GroupId, MerchantId, OrderId, Shard, UserId } from "../../domain/ids.ts";
import { invariant } from "../../domain/invariant.ts";
import { fen, type Fen } from "../../domain/money.ts";
import type { Queryable, Statement, Writable } from "../../db/database.ts";

interface GroupRecord {
  id: GroupId;
  deal_id: DealId;
  merchant_id: MerchantId;
  size: number;
  unit_price: string;
  state: GroupState;
  held: number;
  taken: number;
  filled: number;
  leader_id: UserId;
  leader_name: string;
  ttl_minutes: number;
  sale_ends_at: Date | null;
  auto_fill_bps: number | null;
  deadline: Date | null;
}

/** A group as its row has it. */
export interface GroupRow extends GroupFacts {
  readonly merchantId: MerchantId;
  readonly unitPrice: Fen;
  readonly leaderId: UserId;
  readonly leaderName: string;
  readonly ttlMinutes: number;
  readonly saleEndsAt: Date | undefined;
  readonly autoFillBps: number | undefined;
  readonly deadline: Date | undefined;
}

export interface SeatRow {
  readonly groupId: GroupId;
  readonly orderId: OrderId;
  readonly userId: UserId;
  readonly username: string;
  readonly state: SeatState;
}

const COLUMNS = `id, deal_id, merchant_id, size, unit_price, state, held, taken, filled, leader_id, leader_name, ttl_minutes, sale_ends_at, auto_fill_bps, deadline`;
const toGroup = (row: GroupRecord): GroupRow => ({
  id: row.id,
  dealId: row.deal_id,
  merchantId: row.merchant_id,
  size: row.size,
  unitPrice: fen(row.unit_price),
  state: row.state,
  held: row.held,
  taken: row.taken,
  filled: row.filled,
  leaderId: row.leader_id,
  leaderName: row.leader_name,
  ttlMinutes: row.ttl_minutes,
  saleEndsAt: row.sale_ends_at ?? undefined,
  autoFillBps: row.auto_fill_bps ?? undefined,
  deadline: row.deadline ?? undefined,
  deadlineMs: row.deadline?.getTime(),
});

const BY_ID: Statement = { name: "group/by-id", text: `select ${COLUMNS} from groups_$1 where slot = $1 and id = $2` };
const LOCK: Statement = {
  name: "group/lock",
  text: `select ${COLUMNS} from groups_$1 where slot = $1 and id = any($2) order by id for update`,
};
/**
 * First the deal's open groups by id, then the few of them whose deadline has just passed and which no sweep has closed yet are left out. In one
 * step PostgreSQL, whose statistics of deadlines are always of yesterday, expected nothing and read and sorted every open group of the deal.
 */
const OPEN_OF_DEAL: Statement = {
  name: "group/open-of-deal",
  text: `
    select ${COLUMNS} from (select * from groups_$1 where slot = $1 and deal_id = $2 and state = 'OPEN' order by id limit $3 + 100) g
     where deadline > now() order by id limit $3`,
};
const INSERT: Statement = {
  name: "group/insert",
  text: `
    copy groups_$1 (slot, id, deal_id, merchant_id, size, unit_price, state, held, leader_id, leader_name, ttl_minutes, sale_ends_at, auto_fill_bps, created_at)
      from stdin`,
};
const CHANGE: Statement = {
  name: "group/change",
  text: `
    update groups_$1 g set held = g.held + c.held, taken = g.taken + c.taken, filled = g.filled + c.filled, state = c.state,
           deadline = coalesce(g.deadline, c.deadline),
           ended_at = case when c.state in ('FORMED', 'FAILED') then coalesce(g.ended_at, $9) end
      from (select c.*, r.row
              from unnest($2::bigint[], $3::integer[], $4::integer[], $5::integer[], $6::text[], $7::text[], $8::timestamptz[])
                   as c(id, held, taken, filled, was, state, deadline)
             cross join lateral (select ctid as row from groups_$1 where slot = $1 and id = c.id for update) r) c
     where g.slot = $1 and g.ctid = c.row and g.state = c.was`,
};
const INSERT_SEATS: Statement = {
  name: "group/insert-seats",
  text: `copy seats_$1 (slot, group_id, order_id, user_id, username, state) from stdin`,
};
const LIVE_SEATS: Statement = {
  name: "group/live-seats",
  text: `
    select s.group_id, s.user_id
      from unnest($2::bigint[], $3::bigint[]) as k(group_id, user_id)
     cross join lateral (select * from seats_$1
                          where slot = $1 and group_id = k.group_id and user_id = k.user_id and live offset 0) s`,
};
const SEATS_OF: Statement = {
  name: "group/seats-of",
  text: `select group_id, order_id, user_id, username, state from seats_$1 where slot = $1 and group_id = any($2) order by group_id, order_id`,
};
/** Seat by seat: of two lists PostgreSQL before 17 looks up every pair, 250,000 of them for a batch of 500. */
const MOVE_SEATS: Statement = {
  name: "group/move-seats",
  text: `
    update seats_$1 s set state = $5
      from unnest($2::bigint[], $3::bigint[]) as k(group_id, order_id)
     cross join lateral (select ctid as row, state from seats_$1 where slot = $1 and group_id = k.group_id and order_id = k.order_id offset 0) r
     where s.slot = $1 and s.ctid = r.row and r.state = $4`,
};
const DUE: Statement = {
  name: "group/due",
  text: `select slot, id from groups where slot = any($1) and state in ('OPEN', 'CLOSING') and deadline <= now() order by deadline limit $2`,
};

export const findGroup = async (tx: Queryable, shard: Shard, id: string): Promise<GroupRow | undefined> =>
  (await tx.query<GroupRecord>(BY_ID, [shard.slot, id])).map(toGroup)[0];

/** Locked in the order of their ids. */
export const lockGroups = async (tx: Queryable, shard: Shard, ids: readonly string[]): Promise<Map<GroupId, GroupRow>> =>
  ids.length === 0 ? new Map() : new Map((await tx.query<GroupRecord>(LOCK, [shard.slot, ids])).map((row) => [row.id, toGroup(row)]));

export const openGroupsOfDeal = async (tx: Queryable, shard: Shard, dealId: string, limit: number): Promise<GroupRow[]> =>
  (await tx.query<GroupRecord>(OPEN_OF_DEAL, [shard.slot, dealId, limit])).map(toGroup);

/** New groups, PENDING, their opener's seat held. */
export async function insertGroups(tx: Writable, { slot }: Shard, groups: readonly NewGroup[], now: Date): Promise<void> {
  if (groups.length === 0) return;
  await tx.copy(
    INSERT,
    slot,
    groups.map((g) => [
      ...[slot, g.id, g.dealId, g.merchantId, g.size, g.unitPrice, "PENDING", 1, g.leaderId, g.leaderName],
      ...[g.ttlMinutes, g.saleEndsAt, g.autoFillBps, now],
    ]),
  );
}

/** What happens to one locked group: seats by delta, and its state. */
export interface GroupChange {
  readonly id: GroupId;
  readonly held: number;
  readonly taken: number;
  readonly filled: number;
  readonly was: GroupState;
  readonly state: GroupState;
  /** Set once, when the group opens. */
  readonly deadline: Date | undefined;
}

/** Each group once. The `where` holds the state it was locked in; the CHECK keeps seats within its size. */
export async function changeGroups(tx: Writable, shard: Shard, changes: readonly GroupChange[], now: Date): Promise<void> {
  if (changes.length === 0) return;
  const changed = await tx.change(CHANGE, [
    shard.slot,
    changes.map((change) => change.id),
    changes.map((change) => change.held),
    changes.map((change) => change.taken),
    changes.map((change) => change.filled),
    changes.map((change) => change.was),
    changes.map((change) => change.state),
    changes.map((change) => change.deadline ?? null),
    now,
  ]);
  invariant(changed === changes.length, "every group that changes was in the state it was locked in");
}

export async function insertSeats(tx: Writable, { slot }: Shard, seats: readonly NewSeat[]): Promise<void> {
  if (seats.length === 0) return;
  await tx.copy(
    INSERT_SEATS,
    slot,
    seats.map(({ groupId, orderId, userId, username }) => [slot, groupId, orderId, userId, username, "HELD"]),
  );
}

/** Which of these (group, user) pairs have a live seat, keyed by `seatKey`. The group's lock protects them. */
export async function findLiveSeats(
  tx: Queryable,
  shard: Shard,
  keys: readonly { groupId: string; userId: string }[],
): Promise<Set<string>> {
  if (keys.length === 0) return new Set();
  const rows = await tx.query<{ group_id: string; user_id: string }>(LIVE_SEATS, [
    shard.slot,
    keys.map((key) => key.groupId),
    keys.map((key) => key.userId),
  ]);
  return new Set(rows.map((row) => seatKey(row.group_id, row.user_id)));
}

/** All seats of groups. */
export const seatsOf = async (tx: Queryable, shard: Shard, groups: readonly string[]): Promise<SeatRow[]> => {
  if (groups.length === 0) return [];
  const rows = await tx.query<{ group_id: GroupId; order_id: OrderId; user_id: UserId; username: string; state: SeatState }>(SEATS_OF, [
    shard.slot,
    groups,
  ]);
  return rows.map((row) => ({
    groupId: row.group_id,
    orderId: row.order_id,
    userId: row.user_id,
    username: row.username,
    state: row.state,
  }));
};

/** Moves seats of locked groups along one arrow. */
export async function moveSeats(
  tx: Writable,
  shard: Shard,
  seats: readonly { groupId: string; orderId: string }[],
  arrow: { from: SeatState; to: SeatState },
): Promise<void> {
  if (seats.length === 0) return;
  const moved = await tx.change(MOVE_SEATS, [
    shard.slot,
    seats.map((seat) => seat.groupId),
    seats.map((seat) => seat.orderId),
    arrow.from,
    arrow.to,
  ]);
  invariant(moved === seats.length, `every seat that becomes ${arrow.to} was ${arrow.from}`);
}

/** Groups whose deadline has passed and that are not decided yet, oldest first. */
export const dueGroups = (tx: Queryable, slots: readonly number[], limit: number): Promise<{ slot: number; id: string }[]> =>
  tx.query<{ slot: number; id: string }>(DUE, [slots, limit]);
