/** What people do about money in suspense, as rows: one a payment of other money, or a difference, once somebody has taken it up. */
import type { Queryable, Statement } from "../../db/database.ts";
import { USER_CITY, type Shard } from "../../domain/ids.ts";
import type { Outcome } from "../../domain/recon/suspense.ts";

const OUTCOMES_OF: Statement = {
  name: "suspense/outcomes",
  text: `select id, outcome from suspense_cases_$1 where slot = $1 and id = any($2::bigint[]) and outcome is not null`,
};
const RESOLVE: Statement = {
  name: "suspense/resolve",
  text: `
    insert into suspense_cases_$1 as c (slot, id, outcome, note, resolved_by, resolved_at)
    select $1, id, outcome, note, resolved_by, $2 from unnest($3::bigint[], $4::text[], $5::text[], $6::bigint[]) as r(id, outcome, note, resolved_by)
        on conflict (slot, id) do update
       set outcome = excluded.outcome, note = excluded.note, resolved_by = excluded.resolved_by, resolved_at = excluded.resolved_at
     where c.outcome is null
    returning id`,
};
/** Only of what is there and waits; the users' keyspace has no payments. */
const assigning = (waiting: string): string => `
    insert into suspense_cases_$1 as c (slot, id, assignee)
    select $1, id, $3 from (${waiting}) w
        on conflict (slot, id) do update set assignee = excluded.assignee where c.outcome is null
    returning id`;
const OPEN_DIFFERENCE = "select id from recon_differences_$1 where slot = $1 and id = $2 and state = 'OPEN'";
const ASSIGN: Statement = {
  name: "suspense/assign",
  text: assigning(`select id from payments_$1 where slot = $1 and id = $2 and differs union all ${OPEN_DIFFERENCE}`),
};
const ASSIGN_AT_USERS: Statement = { name: "suspense/assign-at-users", text: assigning(OPEN_DIFFERENCE) };

/** What was decided before, by id. Behind the lock of what it is about: nobody decides at this moment. */
export const findOutcomes = async (tx: Queryable, shard: Shard, ids: readonly string[]): Promise<Map<string, Outcome>> =>
  new Map((await tx.query<{ id: string; outcome: Outcome }>(OUTCOMES_OF, [shard.slot, ids])).map((row) => [row.id, row.outcome]));

/** How many were not decided before. */
export const resolveCases = async (
  tx: Queryable,
  shard: Shard,
  cases: readonly { readonly id: string; readonly outcome: Outcome; readonly note: string; readonly by: string }[],
  now: Date,
): Promise<number> =>
  (
    await tx.query(RESOLVE, [
      shard.slot,
      now,
      cases.map(({ id }) => id),
      cases.map(({ outcome }) => outcome),
      cases.map(({ note }) => note),
      cases.map(({ by }) => by),
    ])
  ).length;

/** False where nothing waits under this id. */
export const assignCase = async (db: Queryable, shard: Shard, id: string, assignee: string): Promise<boolean> =>
  (await db.query(shard.city === USER_CITY ? ASSIGN_AT_USERS : ASSIGN, [shard.slot, id, assignee])).length > 0;
