/**
 * What of the money waits for a person: what nothing goes on with by itself, and what has been tried so often that somebody should look, although it is
 * tried on. A scatter over every city; the rows have indexes of their own, and there are few, or somebody is awake anyway.
 */
import { raise } from "../../domain/error.ts";
import { cityOf, isId, mintedAtMs, shardOf, type Id } from "../../domain/ids.ts";
import { JOURNAL_ERRORS } from "../../domain/journal/errors.ts";
import { LIMITS } from "../../domain/limits.ts";
import type { Statement } from "../../db/database.ts";
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
}

/** A charge waits for its customer, and a refund or payout for its bank, as long as the channel answers. */
const STUCK = `unfinished and attempts >= ${LIMITS.attemptsMax} and last_error is not null`;
/** From its wallet nothing keeps a payment but what is tried, and after its time nothing keeps a charge. */
const STUCK_PAYMENT = `unfinished and attempts >= ${LIMITS.attemptsMax} and (expires_at is null or expires_at < now() - interval '2 minutes')`;
/** Why one that is tried again is still there. */
const TRIED = "concat(attempts, ' attempts: ', coalesce(last_error, state))";

/** By id, which tells the time. */
const WAITING: Statement = {
  name: "ops/attention",
  text: `
    (select 'PAYMENT' as kind, id, channel, order_id, concat(reason, ': ', paid_amount, ' ', paid_currency, ' instead of ', amount, ' CNY') as why
       from payments where differs and id > $1 order by id limit $2)
    union all
    (select 'PAYMENT', id, channel, order_id, ${TRIED} from payments where ${STUCK_PAYMENT} and id > $1 order by id limit $2)
    union all
    (select 'REFUND', id, channel, order_id, coalesce(last_error, '') from refunds where abnormal and id > $1 order by id limit $2)
    union all
    (select 'REFUND', id, channel, order_id, ${TRIED} from refunds where ${STUCK} and id > $1 order by id limit $2)
    union all
    (select 'PAYOUT', id, channel, null, ${TRIED} from payouts where ${STUCK} and id > $1 order by id limit $2)
    union all
    (select 'SETTLEMENT', id, null, order_id, coalesce(reason, '') from settlements where failed and id > $1 order by id limit $2)
    union all
    (select 'CALLBACK', id, channel, null, coalesce(error, '') from channel_callbacks where state = 'FAILED' and id > $1 order by id limit $2)`,
};

export async function viewAttention(
  platform: Platform,
  { cursor, limit }: { cursor?: string | undefined; limit: number },
): Promise<{ items: View[]; nextCursor?: string }> {
  const after = cursor === undefined ? "0" : cursorId(cursor);
  const cities = [...platform.databases.values()].filter(({ city }) => platform.servesCity(city));
  const found = (await Promise.all(cities.map((database) => database.query<Row>(WAITING, [after, limit + 1])))).flat();
  const inOrder = found.toSorted((a, b) => (BigInt(a.id) < BigInt(b.id) ? -1 : 1));
  return page(
    inOrder,
    limit,
    ({ kind, id, channel, order_id: orderId, why }): View => ({
      kind,
      id,
      city: platform.keyspaces.byId(cityOf(id))?.code ?? "",
      ...(channel === null ? {} : { channel }),
      ...(orderId === null ? {} : { orderId }),
      why,
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
