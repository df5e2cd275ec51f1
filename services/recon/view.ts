/** A statement and its differences, for programs and for people. */
import { raise } from "../../domain/error.ts";
import { isId, shardOf } from "../../domain/ids.ts";
import { moneyOff, ownerOf } from "../../domain/recon/difference.ts";
import { RECON_ERRORS } from "../../domain/recon/errors.ts";
import type { Of } from "../../mixins/contract.ts";
import { cursorAfter, page } from "../../mixins/page.ts";
import type { Platform } from "../../mixins/platform.ts";
import type { Difference, ReconStatement } from "./recon.contract.ts";
import { differencesOf, findStatement, toDifference, type DifferenceRow, type StatementRow } from "./recon.store.ts";

type View = Of<typeof ReconStatement>;

/** Differences lie in the shards of what they are about: every database is asked, by an index, and their answers merged by id. */
export async function viewStatement(
  platform: Platform,
  of: { id: string; class?: string | undefined; limit: number; cursor?: string | undefined },
): Promise<View> {
  const { id, limit, cursor } = of;
  const statement = (await findIn(platform, id)) ?? raise(RECON_ERRORS, "STATEMENT_NOT_FOUND", { id });
  const ask = { statementId: id, after: cursorAfter(cursor), class: of.class, limit: limit + 1 };
  const found = (await Promise.all([...platform.databases.values()].map((database) => differencesOf(database, ask)))).flat();
  const sorted = found.toSorted((a, b) => (BigInt(a.id) < BigInt(b.id) ? -1 : 1)).slice(0, limit + 1);
  const { items, ...more } = page(sorted, limit, viewDifference, (row) => [row.id]);
  return { ...head(statement), differences: items, ...more };
}

async function findIn(platform: Platform, id: string): Promise<StatementRow | undefined> {
  const shard = shardOf(id);
  // Only the users' keyspace has statements.
  return isId(id) && shard.city === 0 ? findStatement(platform.databaseOf(shard), shard, id) : undefined;
}

const head = (row: StatementRow): Omit<View, "differences"> => ({
  id: row.id as View["id"],
  channel: row.channel,
  source: row.source,
  day: row.day,
  status: row.state,
  lines: row.lines,
  counts: (row.counts ?? []).map(({ amount, ...count }) => ({ ...count, amount: Number(amount) })),
  ...(row.error === null ? {} : { error: row.error }),
  createdAt: row.created_at.toISOString(),
  ...(row.ended_at === null ? {} : { endedAt: row.ended_at.toISOString() }),
});

export const viewDifference = (row: DifferenceRow): Of<typeof Difference> => {
  const difference = toDifference(row);
  return {
    id: row.id as View["id"],
    class: row.class,
    kind: row.kind,
    number: row.number,
    ...(row.channel_no === null ? {} : { channelNumber: row.channel_no }),
    ...(row.ours === null ? {} : { ours: Number(row.ours) }),
    ...(row.theirs === null ? {} : { theirs: Number(row.theirs) }),
    currency: row.currency,
    ...(row.our_state === null ? {} : { ourStatus: row.our_state }),
    suspended: row.state === "CLEARED" || row.state === "RESOLVED" || !row.booked ? 0 : Number(moneyOff(difference)),
    owner: ownerOf(difference),
    ...(row.assignee === null ? {} : { assignee: row.assignee }),
    status: row.state,
    ...(row.why === null ? {} : { why: row.why }),
    ...(row.answer === null ? {} : { answer: row.answer }),
    ageSeconds: Math.round(row.age),
    createdAt: row.created_at.toISOString(),
  };
};
