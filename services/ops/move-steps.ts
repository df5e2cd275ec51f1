/**
 * Moving slots to another database, step by step. Each step may be done again from its beginning, and the state is in the two databases alone
 * (`db/move-fence.ts`), so whoever dies in any of them, the same command goes on with it. What must hold at every moment: of the two, at most one
 * database takes writes of a slot.
 *
 * The decision is one row at the source. Before it, everything can be taken back; after it, there is only forward.
 */
import { setTimeout as sleep } from "node:timers/promises";
import pg from "pg";
import { USER_CITY } from "../../domain/ids.ts";
import { invariant } from "../../domain/invariant.ts";
import { displayName, withSlotsMoved, type Keyspace } from "../../db/keyspaces.ts";
import { migrate } from "../../db/migrate.ts";
import { compareSlots } from "../../db/move-compare.ts";
import { beginCopy, copyProgress, copyRest, endCopy, type Ends, isCaughtUp, logEnd, pullSequencesAhead } from "../../db/move-copy.ts";
import {
  decideMove,
  emptySlots,
  fenceSlots,
  forgetSlots,
  makeMovingSchema,
  markSlots,
  readMarks,
  unfenceSlots,
} from "../../db/move-fence.ts";
import { inTurn, keepKeyspaces, newestKeyspaces } from "../../db/routing.ts";
import { dropReplicationSlot, lookAtReplicationSlot, replicationSlotName } from "../../mixins/journal-store.ts";
import type { Queryable } from "../../db/database.ts";
import type { Platform } from "../../mixins/platform.ts";
import type { Everywhere } from "./everywhere.ts";

/** One move, as its steps see it. */
export interface Move extends Ends {
  readonly keyspace: Keyspace;
  /** Names in the routing table. */
  readonly from: string;
  readonly to: string;
  readonly platform: Platform;
  readonly everywhere: Everywhere;
  readonly stopping: AbortSignal;
  tell(detail: string): void;
}

interface Step {
  readonly name: string;
  /** Behind the decision: whoever goes on with a move that is decided begins with the first of these. */
  readonly decided: boolean;
  readonly run: (move: Move) => Promise<void>;
}

/** A copy that gets nowhere for so long has a reason, and PostgreSQL's log tells it. */
const COPY_ERRORS_MAX = 5;
const LOOK_MS = 50;
const CATCH_UP_MS = 30_000;
/** A node that looked a database up before the routing changed has done with it by then. */
const LAST_LOOKS_MS = 2_000;
const RELAY_GONE_MS = 15_000;

export const STEPS: readonly Step[] = [
  { name: "prepare", decided: false, run: prepare },
  { name: "copy", decided: false, run: copy },
  { name: "hold", decided: false, run: (move) => move.everywhere.hold() },
  { name: "fence", decided: false, run: ({ source, slots, to }) => fenceSlots(source, slots, "fenced", to) },
  { name: "catch up", decided: false, run: catchUp },
  { name: "compare", decided: false, run: compare },
  // ------------------------------------------- the decision
  { name: "decide", decided: false, run: ({ source, slots }) => decideMove(source, slots) },
  { name: "route", decided: true, run: route },
  { name: "open", decided: true, run: ({ target, slots }) => unfenceSlots(target, slots, ["receiving", "opened"], "opened") },
  { name: "release", decided: true, run: (move) => move.everywhere.release() },
  { name: "clear", decided: true, run: clear },
];

/** The target has our schema and refuses writes to the slots; both know of each other. */
async function prepare({ source, target, slots, from, to, keyspace, platform }: Move): Promise<void> {
  await migrate(platform.urlOf(to), keyspace, displayName(to));
  await Promise.all([makeMovingSchema(source), makeMovingSchema(target)]);
  await fenceSlots(target, slots, "receiving", from);
  const fenced = (await readMarks(source, slots)).filter(({ state }) => state === "fenced").map(({ slot }) => slot);
  await markSlots(
    source,
    slots.filter((slot) => !fenced.includes(slot)),
    "leaving",
    to,
  );
}

async function copy(move: Move): Promise<void> {
  await beginCopy(move);
  for (;;) {
    const { ready, tables, errors } = await copyProgress(move);
    move.tell(`${ready} of ${tables} partitions`);
    if (tables > 0 && ready === tables) return;
    if (errors > COPY_ERRORS_MAX) throw new Error(`PostgreSQL failed to copy ${errors} times: the log of ${displayName(move.to)} says why`);
    move.stopping.throwIfAborted();
    await sleep(LOOK_MS);
  }
}

async function catchUp(move: Move): Promise<void> {
  const at = await logEnd(move);
  const until = performance.now() + CATCH_UP_MS;
  while (!(await isCaughtUp(move, at))) {
    move.stopping.throwIfAborted();
    if (performance.now() > until) throw new Error(`the copy did not catch up within ${CATCH_UP_MS / 1_000} s`);
    await sleep(5);
  }
  await copyRest(move);
}

async function compare(move: Move): Promise<void> {
  const differences = await compareSlots(move, await pullSequencesAhead(move));
  if (differences.length > 0) throw new Error(`the copy is not the same: ${differences.slice(0, 5).join("; ")}`);
}

/** Every node that can be reached reads from the new database before any writes there: what one acknowledges, all others see. */
async function route({ source, target, platform, keyspace, slots, to, everywhere }: Move): Promise<void> {
  const turnstile = platform.keyspaces.databaseOf({ city: USER_CITY, slot: 0 });
  invariant(turnstile !== undefined, "users live somewhere");
  await inTurn(platform.urlOf(turnstile), async () => {
    const current = await newestKeyspaces(platform.keyspaces, platform.urlOf);
    const isRouted = slots.every((slot) => current.byCode(keyspace.code)?.databases[slot] === to);
    const next = isRouted ? current : withSlotsMoved(current, keyspace.code, slots, to);
    await keepKeyspaces(source, next);
    await keepKeyspaces(target, next);
    await everywhere.route(next);
  });
}

/** Nobody looks at the source's copy any more. Its fence stays, for a node that comes back with an old routing table. */
async function clear(move: Move): Promise<void> {
  const { source, target, slots, city, from, platform } = move;
  await endCopy(move);
  await sleep(LAST_LOOKS_MS);
  await emptySlots(source, slots, city);
  if (!platform.databases.has(from)) await endRelay(source, from);
  await forgetSlots(target, slots);
}

/** A database that serves nothing has no relay, and its replication slot would keep the server's log for ever. */
async function endRelay(source: pg.Client, from: string): Promise<void> {
  const database: Queryable = {
    query: async <Row extends object>({ text }: { text: string }, values: readonly unknown[] = []) =>
      (await source.query<Row & pg.QueryResultRow>(text, [...values])).rows,
  };
  const name = await replicationSlotName(database);
  const until = performance.now() + RELAY_GONE_MS;
  for (;;) {
    const found = await lookAtReplicationSlot(database, name);
    if (found === "missing") return;
    if (found !== "busy") return void (await dropReplicationSlot(database, name));
    if (performance.now() > until) throw new Error(`the relay of ${displayName(from)} still reads`);
    await sleep(200);
  }
}

/** Takes a move back: the source serves on, its copy goes. Not behind the decision. */
export async function abort(move: Move): Promise<void> {
  const { source, target, slots, city, from, to, keyspace, platform } = move;
  await unfenceSlots(source, slots, ["leaving", "fenced"], undefined);
  await move.everywhere.release();
  await endCopy(move);
  await migrate(platform.urlOf(to), keyspace, displayName(to));
  await makeMovingSchema(target);
  // Fenced for good: it does not serve these slots.
  await fenceSlots(target, slots, "moved", from);
  await emptySlots(target, slots, city);
}
