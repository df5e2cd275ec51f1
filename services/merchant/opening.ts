/**
 * Opening a merchant crosses two keyspaces: the merchant is a row of its city, its owner a user. Four transactions, each of which may be
 * repeated, so a retry with the same key goes on where the last attempt ended, and the sweeper does so without one:
 *
 * 1. claim: the key is tied to a merchant id (in the admin's shard);
 * 2. insert: the merchant stands in its city, OPENING, seen by nobody;
 * 3. employ: the owner works for it. The user's row decides between two merchants who want one owner;
 * 4. settle: employed → OPEN, and the event is written; refused → the row goes, and nothing was ever seen of it.
 *
 * Whether 3 succeeds is decided for good the first time it is asked, so whoever runs 4, and however often, does the same.
 */
import type { Service } from "moleculer";
import { COMMON_ERRORS } from "../../domain/common-errors.ts";
import { raise } from "../../domain/error.ts";
import { shardOf, type Shard, type UserId } from "../../domain/ids.ts";
import { invariant } from "../../domain/invariant.ts";
import { nulFaults } from "../../domain/text.ts";
import { slotByHash } from "../../db/spread.ts";
import { call, type Answer, type Ctx, type Via } from "../../mixins/contract.ts";
import { keyOf, type Replayable } from "../../mixins/idempotency.ts";
import { isRefusal } from "../../mixins/mailbox.ts";
import { platformOf, type Platform } from "../../mixins/platform.ts";
import { employUser, findUser } from "../user/user.contract.ts";
import type { createMerchant } from "./merchant.contract.ts";
import type { ClaimCommand, InsertCommand, SettleCommand } from "./merchant.drain.ts";
import { findStuckMerchants, mintMerchantId, type MerchantRow } from "./merchant.store.ts";

type By = Pick<SettleCommand, "actor" | "requestId" | "idemKey">;

export async function openMerchant(this: Service<{}>, ctx: Ctx<typeof createMerchant>): Promise<Answer<typeof createMerchant>> {
  const platform = platformOf(this.broker);
  const { name, city, commissionBps, ownerUsername } = ctx.params;
  const errors = nulFaults({ name });
  if (errors.length > 0) return raise(COMMON_ERRORS, "VALIDATION_ERROR", { errors });
  const keyspace = platform.keyspaces.byCode(city);
  if (keyspace?.kind !== "city") return raise(COMMON_ERRORS, "CITY_NOT_FOUND", { city });
  const owner = await call(ctx, findUser, { username: ownerUsername });
  const keyed = keyOf(ctx, "merchant.create");
  const claim = await claimId(platform, { city: keyspace.id, slot: slotByHash(`${keyed.callerId} ${keyed.idemKey ?? ctx.id}`) }, keyed);
  const wanted: InsertCommand = { id: claim.merchantId, name, commissionBps, ownerId: owner.id as UserId, ownerUsername };
  const merchant = await platform.post<InsertCommand, MerchantRow>(shardOf(wanted.id), "merchant.insert", wanted);
  if (merchant.state === "OPENING")
    await finishOpening(platform, ctx, merchant, { actor: keyed.callerId, requestId: ctx.meta.requestId, idemKey: keyed.idemKey });
  const answer: Replayable<Answer<typeof createMerchant>> = {
    id: merchant.id,
    name: merchant.name,
    city: keyspace.code,
    commissionBps: merchant.commissionBps,
    ownerUsername: merchant.ownerUsername,
    ...(merchant.state === "OPEN" ? { replayed: true } : {}),
  };
  return answer;
}

async function claimId(
  platform: Platform,
  shard: Shard,
  keyed: Omit<ClaimCommand, "merchantId">,
): Promise<{ readonly merchantId: MerchantRow["id"] }> {
  const merchantId = await mintMerchantId(platform.databaseOf(shard), shard);
  invariant(merchantId !== undefined, "one id was asked for");
  return platform.post(shardOf(keyed.callerId), "merchant.claim", { ...keyed, merchantId } satisfies ClaimCommand);
}

/** Steps 3 and 4. A refusal ends the opening and is thrown; anything else (no answer, no database) leaves it to be finished later. */
async function finishOpening(platform: Platform, via: Via, merchant: MerchantRow, by: By): Promise<void> {
  const settle = (employed: boolean): Promise<unknown> =>
    platform.post<SettleCommand, unknown>(shardOf(merchant.id), "merchant.settle", { merchantId: merchant.id, employed, ...by });
  try {
    await call(via, employUser, { username: merchant.ownerUsername, merchantId: merchant.id });
  } catch (error) {
    if (isRefusal(error) && (error.type === "ALREADY_A_MERCHANT" || error.type === "USER_NOT_FOUND")) await settle(false);
    throw error;
  }
  await settle(true);
}

/** Finishes openings whose request ended in the middle: a crash, a lost connection. Returns how many it finished. */
export async function finishStuckOpenings(service: Service<{}>, olderThanMs: number): Promise<number> {
  const platform = platformOf(service.broker);
  let finished = 0;
  for (const { name, keyspace } of platform.keyspaces.databases()) {
    const database = keyspace.kind === "city" ? platform.databases.get(name) : undefined;
    for (const merchant of database ? await findStuckMerchants(database, olderThanMs) : []) {
      try {
        await finishOpening(platform, service.broker, merchant, {
          actor: undefined,
          requestId: undefined,
          idemKey: undefined,
        });
        finished++;
      } catch (error) {
        service.logger.warn(
          `the opening of merchant ${merchant.id} was not finished: ${error instanceof Error ? error.message : String(error)}`,
        );
      }
    }
  }
  return finished;
}
