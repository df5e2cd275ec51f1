/** Statements come in: uploaded as the channel wrote them, or put together from a channel's answers about its latest hours. */
import { COMMON_ERRORS } from "../../domain/common-errors.ts";
import { raise } from "../../domain/error.ts";
import type { StatementLine } from "../../domain/channel/records.ts";
import { shardOf, USER_CITY, type Shard } from "../../domain/ids.ts";
import { invariant } from "../../domain/invariant.ts";
import { RECON_ERRORS } from "../../domain/recon/errors.ts";
import { USER_ERRORS } from "../../domain/user/errors.ts";
import { slotByHash } from "../../db/spread.ts";
import { StatementError, type Channel } from "../../mixins/channels/channel.ts";
import type { Platform } from "../../mixins/platform.ts";
import { insertStatement, LEASE_SECONDS, moveStatement, type NewStatement, renewLease, type StatementRow } from "./recon.store.ts";
import { dropLines, Stage } from "./stage.ts";

/** Longer numbers than any channel has; what is longer would not fit into an index. */
const TEXT_MAX = 128;
const TYPES = /^(text\/csv|application\/(gzip|x-gzip|octet-stream))\s*(;|$)/i;

export const channelOf = (platform: Platform, name: string): Channel =>
  platform.channels.get(name) ?? raise(USER_ERRORS, "CHANNEL_UNKNOWN", { channel: name });

/** A statement is of no city: its shard is the users', by its channel. */
export const homeOf = (channel: string): Shard => ({ city: USER_CITY, slot: slotByHash(channel) });

/** Packed or not is told by the first bytes, whatever the headers say: a file that was saved has lost its encoding. */
export function checkType(type: string | undefined): void {
  if (!TYPES.test(type ?? "")) raise(COMMON_ERRORS, "UNSUPPORTED_MEDIA_TYPE", { type: type?.slice(0, 100) ?? "nothing", send: "text/csv" });
}

/** A day that is in the calendar: 30 February is none. */
export function checkDay(day: string): void {
  if (new Date(`${day}T00:00:00Z`).toISOString().slice(0, 10) !== day)
    raise(COMMON_ERRORS, "VALIDATION_ERROR", { errors: [{ field: "date", message: "not a day of the calendar" }] });
}

/** A statement that is to come; its id is what everything about it is asked by. */
export async function begin(platform: Platform, of: NewStatement): Promise<StatementRow> {
  const home = homeOf(of.channel);
  const statement = await insertStatement(platform.databaseOf(home), home, of);
  invariant(statement !== undefined, "an insert gives its row");
  return statement;
}

/** All lines are durable when this returns; matching goes on by itself. Throws STATEMENT_UNREADABLE for what the channel cannot have written. */
export async function receive(platform: Platform, { id }: StatementRow, lines: AsyncIterable<StatementLine>): Promise<void> {
  const home = shardOf(id);
  const database = platform.databaseOf(home);
  // A beat that is missed is made up by the next; missing them all, somebody takes us for dead, and then we cannot move it to RECEIVED.
  const renewal = setInterval(() => void renewLease(database, home, id).catch(() => undefined), (LEASE_SECONDS * 1_000) / 3);
  try {
    const count = await stageLines(platform, id, home, lines);
    const moved = await moveStatement(database, home, { id, from: "RECEIVING", to: "RECEIVED", lines: count });
    if (!moved) return raise(COMMON_ERRORS, "UNAVAILABLE", { what: "a node that was taken for dead", retryAfterSeconds: 2 });
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    await moveStatement(database, home, { id, from: "RECEIVING", to: "FAILED", error: reason.slice(0, 500) });
    await dropLines(platform, id);
    if (error instanceof StatementError) return raise(RECON_ERRORS, "STATEMENT_UNREADABLE", { reason: reason.slice(0, 300) });
    throw error;
  } finally {
    clearInterval(renewal);
  }
}

async function stageLines(platform: Platform, id: string, home: Shard, lines: AsyncIterable<StatementLine>): Promise<number> {
  const stage = await Stage.open(platform, id, home);
  try {
    for await (const line of lines) {
      const { number, channelNumber, currency } = line;
      if (Math.max(number.length, channelNumber.length) > TEXT_MAX || currency.length > 8 || /\0/.test(number + channelNumber + currency))
        throw new StatementError(`line ${stage.lines + 1} has a number that no channel gives`);
      const full = stage.add(line);
      if (full) await full;
    }
    await stage.commit();
  } catch (error) {
    await stage.abandon();
    throw error;
  }
  return stage.lines;
}
