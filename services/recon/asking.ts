/** What only the channel can say: whether a difference is one, and what moved there in the last hours. */
import type { ServiceBroker } from "moleculer";
import type pg from "pg";
import { COMMON_ERRORS } from "../../domain/common-errors.ts";
import { raise } from "../../domain/error.ts";
import type { ChannelCharge, ChannelPayout, ChannelRefund, Outcome, StatementLine } from "../../domain/channel/records.ts";
import { isId, shardOf, type Id } from "../../domain/ids.ts";
import { fen } from "../../domain/money.ts";
import { isExplained, toldBy, type Asked, type Difference, type LineKind } from "../../domain/recon/difference.ts";
import { RECON_ERRORS } from "../../domain/recon/errors.ts";
import type { Channel } from "../../mixins/channels/channel.ts";
import { call } from "../../mixins/contract.ts";
import type { Platform } from "../../mixins/platform.ts";
import { advanceRefunds, recoverPayments } from "../payment/payment.contract.ts";
import { advancePayouts } from "../settlement/settlement.contract.ts";
import { findMoved, type MovedRow } from "./match.store.ts";
import { channelOf } from "./receive.ts";
import { bookDifferences } from "./recon.contract.ts";
import { bookedUnder, findDifference, noteAnswer, toDifference, type DifferenceRow } from "./recon.store.ts";
import { stageClient } from "./stage.ts";

/** Numbers asked at once: a channel's limit is some tens of calls a second, and payments need them more. */
const ASKED_AT_ONCE = 4;
/** Of one query of the latest hours. */
const ASKED_MAX = 20_000;

/** Asks the channel about a number, as the kind of line it is. */
async function ask(channel: Channel, kind: LineKind, number: string): Promise<Asked | Exclude<Outcome<never>, { kind: "answered" }>> {
  const told = <T>(outcome: Outcome<T>, as: (value: T) => Asked) => (outcome.kind === "answered" ? as(outcome.value) : outcome);
  if (kind === "PAYMENT") return told(await channel.query(number), (charge: ChannelCharge) => ({ about: "charge", charge }));
  if (kind === "REFUND") return told(await channel.queryRefund(number), (refund: ChannelRefund) => ({ about: "refund", refund }));
  return told(await channel.queryPayout(number), (payout: ChannelPayout) => ({ about: "payout", payout }));
}

/**
 * The one repair there is, and it is safe: to ask. A payment, refund or payout of ours that is at no end yet hears the answer first, as recovery
 * would have it. Then, if the channel says what our books say, the difference is explained and its suspense goes back. Asking twice does nothing more.
 */
export async function repair(broker: ServiceBroker, platform: Platform, id: string, by: string | undefined): Promise<DifferenceRow> {
  const shard = shardOf(id);
  const database = platform.databaseOf(shard);
  const read = async (): Promise<DifferenceRow> =>
    (await findDifference(database, shard, id)) ?? raise(RECON_ERRORS, "DIFFERENCE_NOT_FOUND", { id });
  const row = await read();
  if (row.state === "CLEARED" || row.state === "RESOLVED") return row;
  const difference = toDifference(row);
  if (row.state === "OPEN") {
    const channel = channelOf(platform, difference.channel);
    if (difference.class === "STATUS") await driveOn(broker, difference);
    const answer = await ask(channel, difference.kind, difference.number);
    const ours = platform.servesCity(shard.city) ? await bookedUnder(database, shard, difference) : undefined;
    const explained = "about" in answer && isExplained(answer, difference.kind, ours);
    const why = explained ? "the channel, asked, says what our books say" : undefined;
    await noteAnswer(database, shard, { id, answer: inWords(answer, difference.kind), why, by });
  }
  await call(broker, bookDifferences, { ...shard, ids: [id as Id] });
  return read();
}

async function driveOn(broker: ServiceBroker, { kind, number }: Difference): Promise<void> {
  if (!isId(number)) return;
  const drive = kind === "PAYMENT" ? recoverPayments : kind === "REFUND" ? advanceRefunds : advancePayouts;
  await call(broker, drive, { ...shardOf(number), ids: [number as Id] });
}

function inWords(answer: Awaited<ReturnType<typeof ask>>, kind: LineKind): string {
  if (!("about" in answer)) return answer.kind === "refused" ? `refused: ${answer.code}` : `unknown: ${answer.reason}`;
  const { status } = answer.about === "charge" ? answer.charge : answer.about === "refund" ? answer.refund : answer.payout;
  const told = toldBy(answer, kind);
  return told ? `${status} ${told.amount} ${told.currency}` : status;
}

/**
 * The lines that a channel's answers make, number by number, for everything we say moved there between two times. Throws where the channel does
 * not answer: what could not be asked about must not look missing.
 */
export async function* askedLines(platform: Platform, channel: Channel, of: { from: Date; to: Date }): AsyncGenerator<StatementLine> {
  for (const database of platform.databases.values()) {
    if (!platform.servesCity(database.city)) continue;
    const client = stageClient(database);
    await client.connect();
    const moved = await askedAbout(client, channel.name, of);
    for (let at = 0; at < moved.length; at += ASKED_AT_ONCE) {
      const some = moved.slice(at, at + ASKED_AT_ONCE);
      const lines = await Promise.all(some.map((one) => askedLine(channel, one)));
      yield* lines.filter((line) => line !== undefined);
    }
  }
}

async function askedAbout(client: pg.Client, channel: string, of: { from: Date; to: Date }): Promise<readonly MovedRow[]> {
  try {
    return await findMoved(client, { channel, ...of, limit: ASKED_MAX });
  } finally {
    await client.end();
  }
}

async function askedLine(
  channel: Channel,
  { kind, number, at }: { kind: LineKind; number: string; at: Date },
): Promise<StatementLine | undefined> {
  const answer = await ask(channel, kind, number);
  if (!("about" in answer))
    return raise(COMMON_ERRORS, "UNAVAILABLE", { what: `${channel.name} (${inWords(answer, kind)})`, retryAfterSeconds: 60 });
  const told = toldBy(answer, kind);
  if (told === undefined) return undefined;
  const record = answer.about === "charge" ? answer.charge : answer.about === "refund" ? answer.refund : answer.payout;
  return { kind, number, channelNumber: record.channelNumber ?? "", amount: fen(told.amount), currency: told.currency, atMs: at.getTime() };
}
