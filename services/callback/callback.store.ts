/** What channels told us, as rows: kept once a callback id, done in the transaction that has its effect. */
import type { Queryable, Statement } from "../../db/database.ts";
import type { ChannelNews } from "../../domain/channel/records.ts";
import type { Id, Shard } from "../../domain/ids.ts";
import { LIMITS } from "../../domain/limits.ts";
import { fen } from "../../domain/money.ts";
import { KEPT_SINCE, pruneOld, pruning } from "../../mixins/prune.ts";

export interface Callback {
  readonly channel: string;
  readonly callbackId: string;
  readonly about: ChannelNews["about"] | "unreadable";
  /** Our number, where it could be read. */
  readonly subject: string | undefined;
  readonly body: string;
  readonly news: ChannelNews | undefined;
  /** FAILED: there is nothing to work off, a person must look. */
  readonly state: "KEPT" | "FAILED";
  readonly error: string | undefined;
}
export interface KeptCallback {
  readonly id: Id;
  readonly channel: string;
  readonly attempts: number;
  readonly news: ChannelNews;
}

/**
 * Kept is claimed: whoever hears of it tries at once, and what he did not get done in this time, as when he never heard, is due for the sweep. It
 * spares each callback a transaction and a version of its row. Longer than a batch waits behind others in a stampede.
 */
const FIRST_ATTEMPT_SECONDS = 5;
/** A callback id that is here already is left as it is: told again, it has been heard. */
const KEEP: Statement = {
  name: "callback/keep",
  text: `
    insert into channel_callbacks_$1 (slot, id, channel, callback_id, about, subject, body, news, state, error, attempts, next_attempt_at, received_at)
    select $1, id, channel, callback_id, about, subject, body, news, state, error, 1, now() + interval '${FIRST_ATTEMPT_SECONDS} seconds', now()
      from json_to_recordset($2::json) as c(id bigint, channel text, callback_id text, about text, subject bigint, body text, news json, state text, error text)
        on conflict (slot, channel, callback_id) do nothing
    returning id`,
};
/** Backs off 2, 4, 8 … 64 seconds, give or take a quarter, like payments; what was not worked off after so many attempts is a person's. */
const CLAIM: Statement = {
  name: "callback/claim",
  text: `
    with due as (
      select slot, ctid as row from channel_callbacks
       where slot = any($1) and unfinished and next_attempt_at <= now()
       order by next_attempt_at limit $2 for update skip locked)
    update channel_callbacks c set attempts = c.attempts + 1, next_attempt_at = now() + make_interval(secs => 2 ^ least(c.attempts + 1, 6) * (0.75 + random() / 2))
      from due where c.slot = due.slot and c.ctid = due.row
    returning c.slot, c.id`,
};
const BY_IDS: Statement = {
  name: "callback/by-ids",
  text: `select id, channel, attempts, news from channel_callbacks_$1 where slot = $1 and id = any($2::bigint[]) and state = 'KEPT' order by id`,
};
const FINISH: Statement = {
  name: "callback/finish",
  text: `
    update channel_callbacks_$1 c set state = 'DONE', done_at = now(), error = null
      from (select id from unnest($2::bigint[]) as k(id) order by id) k
     cross join lateral (select ctid as row, state from channel_callbacks_$1 where slot = $1 and id = k.id offset 0 for update) r
     where c.slot = $1 and c.ctid = r.row and r.state <> 'DONE'`,
};
const NOTE: Statement = {
  name: "callback/note",
  text: `
    update channel_callbacks_$1 set error = $3, state = case when $4 then 'FAILED' else state end
     where slot = $1 and id = $2 and state = 'KEPT'`,
};
const REPLAY: Statement = {
  name: "callback/replay",
  text: `
    update channel_callbacks_$1 set state = 'KEPT', attempts = 0, next_attempt_at = now()
     where slot = $1 and id = $2 and state = 'FAILED' and news is not null returning id`,
};
/** Who has looked stands beside what was wrong, for whoever traces it. */
const RESOLVE: Statement = {
  name: "callback/resolve",
  text: `
    update channel_callbacks_$1 set state = 'RESOLVED', done_at = now(), error = concat_ws('; ', error, 'resolved by ' || $3::text)
     where slot = $1 and id = $2 and state = 'FAILED' returning id`,
};
/** What is not worked off stays, however old, and what waits for a person. In the order they came: a callback is worked off soon, or by a person. */
const PRUNE: Statement = pruning("channel_callbacks", "state in ('DONE', 'RESOLVED') order by id", `t.done_at < ${KEPT_SINCE}`);

/** The ids of those that are new. */
export async function keepCallbacks(tx: Queryable, shard: Shard, callbacks: readonly (Callback & { readonly id: Id })[]): Promise<Set<Id>> {
  const rows = callbacks.map(({ callbackId, ...rest }) => ({
    ...rest,
    callback_id: callbackId,
    news: rest.news && withAmounts(rest.news, String),
  }));
  return new Set((await tx.query<{ id: Id }>(KEEP, [shard.slot, JSON.stringify(rows)])).map(({ id }) => id));
}

/** Takes callbacks that are due, for one attempt. */
export const claimCallbacks = (db: Queryable, slots: readonly number[], limit: number): Promise<{ slot: number; id: string }[]> =>
  db.query<{ slot: number; id: string }>(CLAIM, [slots, limit]);

/** Of some callbacks, those not worked off, in the order they came. */
export const findCallbacks = async (db: Queryable, shard: Shard, ids: readonly string[]): Promise<KeptCallback[]> =>
  (await db.query<KeptCallback>(BY_IDS, [shard.slot, ids])).map((row) => ({ ...row, news: withAmounts(row.news, fen) as ChannelNews }));

/** Their effect is in this transaction, or they have none. */
export const finishCallbacks = async (tx: Queryable, shard: Shard, ids: readonly (string | undefined)[]): Promise<void> => {
  const known = [...new Set(ids.filter((id) => id !== undefined))];
  if (known.length > 0) await tx.query(FINISH, [shard.slot, known]);
};

/** What kept one from being worked off; `forGood`: trying again helps nobody. */
export const noteCallbackFailure = async (db: Queryable, shard: Shard, id: string, error: string, forGood: boolean): Promise<void> => {
  await db.query(NOTE, [shard.slot, id, error.slice(0, 500), forGood]);
};

/** A person wants a FAILED one worked off again; false where there is none. */
export const replayCallback = async (db: Queryable, shard: Shard, id: string): Promise<boolean> =>
  (await db.query(REPLAY, [shard.slot, id])).length > 0;

/** A person has seen that a FAILED one is nothing to us; false where there is none. */
export const resolveCallback = async (db: Queryable, shard: Shard, id: string, by: string): Promise<boolean> =>
  (await db.query(RESOLVE, [shard.slot, id, by])).length > 0;

export const pruneCallbacks = pruneOld("callbacks", "city", PRUNE, LIMITS.callbacksKeptDays);

/** Amounts as text and back: JSON has no bigint. */
function withAmounts(news: ChannelNews, make: (amount: bigint) => unknown): unknown {
  const changed = <T extends { readonly amount?: bigint }>(one: T): object =>
    one.amount === undefined ? one : { ...one, amount: make(one.amount) };
  switch (news.about) {
    case "charge":
      return news.charge.paid ? { ...news, charge: { ...news.charge, paid: changed(news.charge.paid) } } : news;
    case "refund":
      return { ...news, refund: changed(news.refund) };
    case "payout":
      return { ...news, payout: changed(news.payout) };
  }
}
