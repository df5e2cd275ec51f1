/**
 * What of the money waits for a person: what nothing goes on with by itself, and what has been tried so often that somebody should look, although it is
 * tried on. A scatter over every database; the rows have indexes of their own, and there are few, or somebody is awake anyway.
 */
import { raise } from "../../domain/error.ts";
import { cityOf, isId, mintedAtMs, shardOf, type Id } from "../../domain/ids.ts";
import { JOURNAL_ERRORS } from "../../domain/journal/errors.ts";
import { LIMITS } from "../../domain/limits.ts";
import type { Database, Statement } from "../../db/database.ts";
import type { Of } from "../../mixins/contract.ts";
import { cursorId, page } from "../../mixins/page.ts";
import type { Platform } from "../../mixins/platform.ts";
import { replayCallback, resolveCallback } from "../callback/callback.store.ts";
import type { Attention } from "./ops.contract.ts";

type View = Of<typeof Attention>;
interface Row {
  kind: View["kind"];
  id: Id;
  channel: string | null;
  order_id: Id | null;
  why: string;
  assignee: string | null;
}

/** A charge waits for its customer, and a refund or payout for its bank, as long as the channel answers. */
const STUCK = `unfinished and attempts >= ${LIMITS.attemptsMax} and last_error is not null`;
/** From its wallet nothing keeps a payment but what is tried, and after its time nothing keeps a charge. */
const STUCK_PAYMENT = `unfinished and attempts >= ${LIMITS.attemptsMax} and (expires_at is null or expires_at < now() - interval '2 minutes')`;
/** Why one that is tried again is still there. */
const TRIED = "concat(attempts, ' attempts: ', coalesce(last_error, state))";

/** What nothing has explained, and the channel's answer where it was asked. Those of numbers that lead nowhere lie at the users. */
const DIFFERENCES = `
    (select 'DIFFERENCE' as kind, d.id, channel, null::bigint as order_id,
            concat(class, ' ', kind, ' ', number, ': ', coalesce(theirs::text, 'nothing'), ' instead of ', coalesce(ours::text, 'nothing'), ' ', currency,
                   '; the channel, asked, says ' || answer) as why, c.assignee
       from recon_differences d left join suspense_cases c on c.slot = d.slot and c.id = d.id
      where state = 'OPEN' and class not in ('STATUS', 'TIMING') and d.id > $1 order by d.id limit $2)`;
const WAITING_AT_USERS: Statement = { name: "ops/attention-at-users", text: DIFFERENCES };
/** By id, which tells the time. */
const WAITING: Statement = {
  name: "ops/attention",
  text: `
    ${DIFFERENCES}
    union all
    (select 'PAYMENT', p.id, channel, order_id, concat(reason, ': ', paid_amount, ' ', paid_currency, ' instead of ', amount, ' CNY'), c.assignee
       from payments p left join suspense_cases c on c.slot = p.slot and c.id = p.id
      where differs and c.outcome is null and p.id > $1 order by p.id limit $2)
    union all
    (select 'PAYMENT', id, channel, order_id, ${TRIED}, null from payments where ${STUCK_PAYMENT} and id > $1 order by id limit $2)
    union all
    (select 'REFUND', id, channel, order_id, coalesce(last_error, ''), null from refunds where abnormal and id > $1 order by id limit $2)
    union all
    (select 'REFUND', id, channel, order_id, ${TRIED}, null from refunds where ${STUCK} and id > $1 order by id limit $2)
    union all
    (select 'PAYOUT', id, channel, null, ${TRIED}, null from payouts where ${STUCK} and id > $1 order by id limit $2)
    union all
    (select 'SETTLEMENT', id, null, order_id, coalesce(reason, ''), null from settlements where failed and id > $1 order by id limit $2)
    union all
    (select 'CALLBACK', id, channel, null, coalesce(error, ''), null from channel_callbacks where state = 'FAILED' and id > $1 order by id limit $2)`,
};

export async function viewAttention(
  platform: Platform,
  { cursor, limit }: { cursor?: string | undefined; limit: number },
): Promise<{ items: View[]; nextCursor?: string }> {
  const after = cursor === undefined ? "0" : cursorId(cursor);
  const statementOf = (database: Database): Statement => (platform.servesCity(database.city) ? WAITING : WAITING_AT_USERS);
  const databases = [...platform.databases.values()];
  const found = (await Promise.all(databases.map((one) => one.query<Row>(statementOf(one), [after, limit + 1])))).flat();
  const inOrder = found.toSorted((a, b) => (BigInt(a.id) < BigInt(b.id) ? -1 : 1));
  return page(
    inOrder,
    limit,
    ({ kind, id, channel, order_id: orderId, why, assignee }): View => ({
      kind,
      id,
      city: platform.keyspaces.byId(cityOf(id))?.code ?? "",
      ...(channel === null ? {} : { channel }),
      ...(orderId === null ? {} : { orderId }),
      why,
      ...(assignee === null ? {} : { assignee }),
      since: new Date(mintedAtMs(id)).toISOString(),
    }),
    ({ id }) => [id],
  );
}

/**
 * A settlement that failed is due again, as if it were new. The number of its attempt stays and only grows, so a worker of the attempt that failed still
 * does nothing; and whoever asks twice finds it due, or under way, and changes nothing.
 */
const RETRY_SETTLEMENT: Statement = {
  name: "ops/retry-settlement",
  text: `
    update settlements_$1 set state = case state when 'FAILED' then 'INIT' else state end, reason = null, ended_at = null
     where slot = $1 and id = $2 and state in ('INIT', 'PROCESSING', 'FAILED') returning id`,
};
/** What is tried again anyway is due now; what has no end of its own is left alone. */
const HURRY = (["payments", "refunds", "payouts"] as const).map((table): Statement => ({
  name: `ops/hurry-${table}`,
  text: `update ${table}_$1 set next_attempt_at = now() where slot = $1 and id = $2 and unfinished returning id`,
}));

/** A person does not want to wait for the next attempt at a payment, refund or payout, or has mended what made a settlement fail. */
export async function retryNow(platform: Platform, id: string): Promise<void> {
  const shard = shardOf(id);
  const database = isId(id) && platform.servesCity(shard.city) ? platform.databaseOf(shard) : undefined;
  const found =
    database && (await Promise.all([...HURRY, RETRY_SETTLEMENT].map((statement) => database.query(statement, [shard.slot, id])))).flat();
  if (!found?.length) return raise(JOURNAL_ERRORS, "DEAD_LETTER_NOT_FOUND", { id });
}

/** One that could not be worked off; what could not be read cannot be replayed either. */
export const replayKept = (platform: Platform, id: string): Promise<void> => ofKept(platform, id, replayCallback);
/** One that a person has looked at. */
export const resolveKept = (platform: Platform, id: string, by: string): Promise<void> =>
  ofKept(platform, id, (database, shard) => resolveCallback(database, shard, id, by));

async function ofKept(platform: Platform, id: string, change: typeof replayCallback): Promise<void> {
  const shard = shardOf(id);
  const isThere = isId(id) && platform.servesCity(shard.city) && (await change(platform.databaseOf(shard), shard, id));
  if (!isThere) return raise(JOURNAL_ERRORS, "DEAD_LETTER_NOT_FOUND", { id });
}
