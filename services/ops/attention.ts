/** What of channels waits for a person. A scatter over every city; the rows have indexes of their own, and there are few, or somebody is awake anyway. */
import { raise } from "../../domain/error.ts";
import { cityOf, isId, mintedAtMs, shardOf, type Id } from "../../domain/ids.ts";
import { JOURNAL_ERRORS } from "../../domain/journal/errors.ts";
import type { Statement } from "../../db/database.ts";
import type { Of } from "../../mixins/contract.ts";
import { cursorId, page } from "../../mixins/page.ts";
import type { Platform } from "../../mixins/platform.ts";
import { replayCallback } from "../callback/callback.store.ts";
import type { Attention } from "./ops.contract.ts";

type View = Of<typeof Attention>;
interface Row {
  kind: View["kind"];
  id: Id;
  channel: string;
  order_id: Id | null;
  why: string;
}

/** By id, which tells the time. */
const WAITING: Statement = {
  name: "ops/attention",
  text: `
    (select 'PAYMENT' as kind, id, channel, order_id, concat(reason, ': ', paid_amount, ' ', paid_currency, ' instead of ', amount, ' CNY') as why
       from payments where differs and id > $1 order by id limit $2)
    union all
    (select 'REFUND', id, channel, order_id, coalesce(last_error, '') from refunds where abnormal and id > $1 order by id limit $2)
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
      channel,
      ...(orderId === null ? {} : { orderId }),
      why,
      since: new Date(mintedAtMs(id)).toISOString(),
    }),
    ({ id }) => [id],
  );
}

/** One that could not be worked off; what could not be read cannot be replayed either. */
export async function replayKept(platform: Platform, id: string): Promise<void> {
  const shard = shardOf(id);
  const isThere = isId(id) && platform.servesCity(shard.city) && (await replayCallback(platform.databaseOf(shard), shard, id));
  if (!isThere) return raise(JOURNAL_ERRORS, "DEAD_LETTER_NOT_FOUND", { id });
}
