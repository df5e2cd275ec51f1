/**
 * The barrier of Try–Confirm–Cancel: a phase of a branch is entered by writing its row, in the transaction that has its effect. From one unique
 * key follow: a repeated phase is a no-op; a cancel whose try never came leaves its mark in the try's place and succeeds; a try that comes
 * after it finds the mark and is refused.
 */
import type { Queryable, Statement } from "../db/database.ts";
import { invariant } from "../domain/invariant.ts";

export type Phase = "try" | "confirm" | "cancel";
/** `first`: do it. `repeat`: it is done. `empty`: a cancel with nothing to undo. `refused`: a try after its cancel. */
export type Entry = "first" | "repeat" | "empty" | "refused";

/** A cancel also takes the place of the try: both rows in one statement, so that no try slips in between. */
const ENTER: Statement = {
  name: "tcc/enter",
  text: `
    insert into tcc_barriers (slot, xid, branch, phase, by_phase)
    select $1, xid, $2, phase, $3 from unnest($4::bigint[]) as x(xid), unnest(case $3 when 'cancel' then array['try', 'cancel'] else array[$3] end) as p(phase)
    on conflict do nothing returning xid, phase`,
};
const LOOK: Statement = {
  name: "tcc/look",
  text: `select xid, phase, by_phase from tcc_barriers where slot = $1 and xid = any($3::bigint[]) and branch = $2`,
};
const LEAVE: Statement = {
  name: "tcc/leave",
  text: `delete from tcc_barriers where slot = $1 and xid = any($3::bigint[]) and branch = $2 and phase = 'try'`,
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
  const [entered, barriers] = await Promise.all([
    tx.query<{ xid: X; phase: Phase }>(ENTER, [slot, branch, phase, sorted]),
    tx.query<{ xid: X; phase: Phase; by_phase: Phase }>(LOOK, [slot, branch, sorted]),
  ]);
  const mine = new Set(entered.map((row) => `${row.xid} ${row.phase}`));
  const marks = new Set(barriers.map((row) => `${row.xid} ${row.phase} ${row.by_phase}`));
  return new Map(sorted.map((xid) => [xid, entryOf(xid, phase, mine, marks)]));
}

function entryOf(xid: string, phase: Phase, mine: ReadonlySet<string>, marks: ReadonlySet<string>): Entry {
  const first = mine.has(`${xid} ${phase}`);
  const cancelled = marks.has(`${xid} cancel cancel`);
  const confirmed = marks.has(`${xid} confirm confirm`);
  invariant(!(cancelled && confirmed), `transaction ${xid} is confirmed or cancelled, never both`);
  switch (phase) {
    case "try":
      return first ? "first" : cancelled ? "refused" : "repeat";
    case "confirm":
      invariant(marks.has(`${xid} try try`), `transaction ${xid} was tried before it is confirmed`);
      return first ? "first" : "repeat";
    case "cancel":
      return !first ? "repeat" : mine.has(`${xid} try`) ? "empty" : "first";
  }
}

/** Takes back the row of a try that failed in this transaction: a try without an effect has not happened. */
export async function leaveTry(tx: Queryable, slot: number, branch: string, xids: readonly string[]): Promise<void> {
  if (xids.length > 0) await tx.query(LEAVE, [slot, branch, xids]);
}
