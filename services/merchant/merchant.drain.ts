/** The three transactions of opening a merchant; what ties them together is `opening.ts`. */
import type { MerchantId } from "../../domain/ids.ts";
import { invariant } from "../../domain/invariant.ts";
import type { Work } from "../../mixins/drain.ts";
import { appendEvents, type NewEvent } from "../../mixins/events.ts";
import { storedAnswers, type Keyed } from "../../mixins/idempotency.ts";
import { dropMerchants, findMerchants, insertMerchants, lockMerchants, openMerchants, type MerchantRow } from "./merchant.store.ts";

export interface ClaimCommand extends Keyed {
  readonly merchantId: MerchantId;
}

/** In the admin's own shard: the key is tied to the id the merchant will have, whatever city a second request with it names. */
export const drainClaim = storedAnswers(
  async (_work: Work, commands: readonly ClaimCommand[]): Promise<{ readonly merchantId: MerchantId }[]> =>
    commands.map(({ merchantId }) => ({ merchantId })),
);

export type InsertCommand = Omit<MerchantRow, "state">;

/** Answers the merchant as it stands now: OPEN already when this is a repeat. */
export async function drainInsert(work: Work, commands: readonly InsertCommand[]): Promise<MerchantRow[]> {
  await insertMerchants(work, work.shard, commands);
  const rows = await findMerchants(work, work.shard, [...new Set(commands.map((command) => command.id))]);
  return commands.map(({ id }) => {
    const row = rows.get(id);
    invariant(row !== undefined, "a merchant is there after its insert");
    return row;
  });
}

export interface SettleCommand {
  readonly merchantId: MerchantId;
  /** Whether the owner works for it; if not, it is taken away again. */
  readonly employed: boolean;
  readonly actor: string | undefined;
  readonly requestId: string | undefined;
  readonly idemKey: string | undefined;
}

/** Ends the opening, once: only an OPENING merchant moves, and only its opening is an event. */
export async function drainSettle(work: Work, commands: readonly SettleCommand[]): Promise<{ readonly settled: true }[]> {
  const rows = await lockMerchants(work, work.shard, [...new Set(commands.map((command) => command.merchantId))].sort());
  const opening = new Map(
    commands.flatMap((command) => {
      const merchant = rows.get(command.merchantId);
      return merchant?.state === "OPENING" ? [[command.merchantId, { command, merchant }] as const] : [];
    }),
  );
  const moves = [...opening.values()];
  const opened = moves.filter(({ command }) => command.employed);
  await openMerchants(
    work,
    work.shard,
    opened.map(({ merchant }) => merchant.id),
  );
  await dropMerchants(
    work,
    work.shard,
    moves.filter(({ command }) => !command.employed).map(({ merchant }) => merchant.id),
  );
  await appendEvents(
    work,
    work.shard,
    opened.map(({ command: { actor, requestId, idemKey }, merchant }): NewEvent<"merchant.created"> => ({
      type: "merchant.created",
      subject: merchant.id,
      actor,
      requestId,
      idemKey,
      data: { merchantId: merchant.id, ownerId: merchant.ownerId },
    })),
  );
  return commands.map(() => ({ settled: true }));
}
