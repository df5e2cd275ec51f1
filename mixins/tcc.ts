/**
 * The barrier of Try–Confirm–Cancel: a phase of a branch is entered by writing its row, in the transaction that has its effect. From one unique
 * key follow: a repeated phase is a no-op; a cancel whose try never came leaves its mark in the try's place and succeeds; a try that comes
 * after it finds the mark and is refused.
 */
import type { Database, Queryable, Statement, Writable } from "../db/database.ts";
import { USER_CITY } from "../domain/ids.ts";
import { invariant } from "../domain/invariant.ts";
import { LIMITS } from "../domain/limits.ts";
import { idBefore, type Prune, pruneOld, pruning } from "./prune.ts";

export type Phase = "try" | "confirm" | "cancel";
/** `first`: do it. `repeat`: it is done. `empty`: a cancel with nothing to undo. `refused`: a try after its cancel. */
export type Entry = "first" | "repeat" | "empty" | "refused";

/**
 * A cancel also takes the place of the try: both rows in one statement, so that no try slips in between. What was there before the statement is
 * told with what it entered. Two nodes that enter one phase at once: the second waits, and its batch fails on the key and is run again, when it
 * sees the first (`mixins/drain.ts`). `on conflict do nothing` in the place of `not exists` would spare that and write a third log record a row.
 */
const ENTER: Statement = {
  name: "tcc/enter",
  text: `
    with entered as (
      insert into tcc_barriers_$1 (slot, xid, branch, phase, by_phase)
      select $1, x.xid, $2, p.phase, $3
        from unnest($4::bigint[]) as x(xid), unnest(case $3 when 'cancel' then array['try', 'cancel'] else array[$3] end) as p(phase)
       where not exists (select from tcc_barriers_$1 b where b.slot = $1 and b.xid = x.xid and b.branch = $2 and b.phase = p.phase offset 0)
      returning xid, phase)
    select xid, phase, $3 as by_phase, true as mine from entered
    union all
    select b.xid, b.phase, b.by_phase, false
      from unnest($4::bigint[]) as x(xid)
     cross join lateral (select xid, phase, by_phase from tcc_barriers_$1 where slot = $1 and xid = x.xid and branch = $2 offset 0) b`,
};
const ENTER_FRESH: Statement = { name: "tcc/enter-fresh", text: `copy tcc_barriers_$1 (slot, xid, branch, phase, by_phase) from stdin` };
const LEAVE: Statement = {
  name: "tcc/leave",
  text: `
    delete from tcc_barriers_$1 t
     using unnest($3::bigint[]) as x(xid)
     cross join lateral (select ctid as row from tcc_barriers_$1 where slot = $1 and xid = x.xid and branch = $2 and phase = 'try' offset 0) r
     where t.slot = $1 and t.ctid = r.row`,
};

/**
 * A transaction's id tells when it began. In the order of the key, in which a confirm goes ahead of the try it rests on: between two rounds no barrier
 * says less than it means.
 */
const PRUNE: Statement = pruning("tcc_barriers", `xid < ${idBefore("$3")} and xid <> all($4::bigint[]) order by xid, branch, phase`);

/**
 * Once a transaction has ended everywhere, nobody enters a phase of it again. `findOpen` tells of those that began so many days ago and have not, in one
 * city; a wallet cannot know, so all cities are asked before anything goes, and one that cannot be asked keeps everything.
 */
export const pruneBarriers =
  (findOpen: (city: Database, days: number) => Promise<readonly string[]>): Prune =>
  async (databases, stopping) => {
    const days = LIMITS.barriersKeptDays;
    const cities = databases.filter(({ city }) => city !== USER_CITY);
    const open = (await Promise.all(cities.map((city) => findOpen(city, days)))).flat();
    return pruneOld("barriers", "every", PRUNE, days, open)(databases, stopping);
  };

/** Enters a phase for many transactions at once; tells for each what to do. Ids sorted, so that two batches wait and do not deadlock. */
export async function enterPhase<X extends string>(
  tx: Queryable,
  slot: number,
  branch: string,
  phase: Phase,
  xids: readonly X[],
): Promise<ReadonlyMap<X, Entry>> {
  const sorted = [...new Set(xids)].sort();
  if (sorted.length === 0) return new Map();
  const rows = await tx.query<Mark<X>>(ENTER, [slot, branch, phase, sorted]);
  const told = Map.groupBy(rows, ({ xid }) => xid);
  return new Map(sorted.map((xid) => [xid, entryOf(xid, phase, told.get(xid) ?? [])]));
}

/** Enters the try of transactions whose ids were minted in this very one: nobody can have been there before. */
export async function enterFresh(tx: Writable, slot: number, branch: string, xids: readonly string[]): Promise<void> {
  if (xids.length > 0)
    await tx.copy(
      ENTER_FRESH,
      slot,
      xids.map((xid) => [slot, xid, branch, "try", "try"]),
    );
}

interface Mark<X> {
  readonly xid: X;
  readonly phase: Phase;
  readonly by_phase: Phase;
  readonly mine: boolean;
}

function entryOf(xid: string, phase: Phase, marks: readonly Mark<string>[]): Entry {
  const mine = (of: Phase): boolean => marks.some((mark) => mark.mine && mark.phase === of);
  const stands = (of: Phase, by: Phase): boolean => marks.some((mark) => mark.phase === of && mark.by_phase === by);
  const first = mine(phase);
  invariant(!(stands("cancel", "cancel") && stands("confirm", "confirm")), `transaction ${xid} is confirmed or cancelled, never both`);
  switch (phase) {
    case "try":
      return first ? "first" : stands("cancel", "cancel") ? "refused" : "repeat";
    case "confirm":
      invariant(stands("try", "try"), `transaction ${xid} was tried before it is confirmed`);
      return first ? "first" : "repeat";
    case "cancel":
      return !first ? "repeat" : mine("try") ? "empty" : "first";
  }
}

/** Takes back the row of a try that failed in this transaction: a try without an effect has not happened. */
export async function leaveTry(tx: Queryable, slot: number, branch: string, xids: readonly string[]): Promise<void> {
  if (xids.length > 0) await tx.query(LEAVE, [slot, branch, xids]);
}
