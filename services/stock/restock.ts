/** Restocking: a merchant adds units to a deal, or takes unsold ones back. The rule is in `domain/deal/buckets.ts`. */
import { COMMON_ERRORS } from "../../domain/common-errors.ts";
import { restock, STOCK_UNITS_MAX, sumStock, type StockSum } from "../../domain/deal/buckets.ts";
import { DEAL_ERRORS } from "../../domain/deal/errors.ts";
import { refusal, type DomainError } from "../../domain/error.ts";
import type { DealId, MerchantId } from "../../domain/ids.ts";
import type { Bucket, BucketChange } from "../../domain/order/place.ts";
import type { Work } from "../../mixins/drain.ts";
import { appendEvents, type NewEvent } from "../../mixins/events.ts";
import { storedAnswers, type Keyed } from "../../mixins/idempotency.ts";
import { isRefusal } from "../../mixins/mailbox.ts";
import type { Platform } from "../../mixins/platform.ts";
import { findDealOwners } from "../deal/deal.store.ts";
import { changeBuckets, lockBuckets, mergeBucketChanges } from "./stock.store.ts";

export interface RestockCommand extends Keyed {
  readonly dealId: DealId;
  readonly merchantId: MerchantId | undefined;
  readonly requestId: string | undefined;
  readonly quantity: number;
}

/** All buckets of a deal are locked, in their order: what may be taken back is a sum over them. */
export const makeRestockDrain = (platform: Platform) =>
  storedAnswers(async (work: Work, commands: readonly RestockCommand[]): Promise<(StockSum | DomainError)[]> => {
    const { shard } = work;
    const owners = await findDealOwners(work, shard, [...new Set(commands.map((command) => command.dealId))]);
    const isOwn = ({ dealId, merchantId }: RestockCommand): boolean => merchantId !== undefined && owners.get(dealId) === merchantId;
    const buckets = await lockBuckets(work, shard, [...new Set(commands.filter(isOwn).map((command) => command.dealId))]);
    const changes: BucketChange[] = [];
    const events: NewEvent<"deal.restocked">[] = [];
    const outcomes = commands.map((command): StockSum | DomainError => {
      const { dealId, quantity } = command;
      const mine = isOwn(command) ? buckets.get(dealId) : undefined;
      if (!mine) return refusal(DEAL_ERRORS, "DEAL_NOT_FOUND", { dealId });
      const outcome = decide(dealId, mine, quantity);
      if (isRefusal(outcome)) return outcome;
      changes.push(...outcome);
      events.push({
        type: "deal.restocked",
        subject: dealId,
        actor: command.callerId,
        requestId: command.requestId,
        idemKey: command.idemKey,
        data: { dealId, quantity },
      });
      return sumStock(mine);
    });
    const facts = await changeBuckets(work, shard, mergeBucketChanges(changes), "restocked");
    await appendEvents(work, shard, events);
    work.afterCommit(() => platform.stockChanged(facts));
    return outcomes;
  });

/** Decides one command over the buckets the commands before it left, and leaves them as it would. */
function decide(dealId: DealId, buckets: readonly Bucket[], quantity: number): BucketChange[] | DomainError {
  if (sumStock(buckets).total + quantity > STOCK_UNITS_MAX) {
    return refusal(COMMON_ERRORS, "VALIDATION_ERROR", {
      errors: [{ field: "quantity", message: `a deal has at most ${STOCK_UNITS_MAX} units` }],
    });
  }
  const totals = restock(dealId, buckets, quantity);
  if (isRefusal(totals)) return totals;
  return buckets.flatMap((bucket, index) => {
    const total = totals[index] ?? 0;
    bucket.total += total;
    return total === 0 ? [] : [{ dealId, bucket: bucket.bucket, total, held: 0, sold: 0 }];
  });
}
