/**
 * Voucher (券): the right to one unit at the bar. Issued when its order is confirmed (by `payment` and `group`); shown, redeemed and reversed here,
 * and swept up when nobody used it in time.
 */
import type { Context, Service, ServiceSchema } from "moleculer";
import { COMMON_ERRORS } from "../../domain/common-errors.ts";
import { raise } from "../../domain/error.ts";
import { cityOf, shardOf, type MerchantId } from "../../domain/ids.ts";
import { invariant } from "../../domain/invariant.ts";
import { ORDER_ERRORS } from "../../domain/order/errors.ts";
import { VOUCHER_ERRORS } from "../../domain/voucher/errors.ts";
import { slotOfCode } from "../../domain/voucher/issue.ts";
import { handle, type Answer, type CallMeta, type Caller, type Ctx } from "../../mixins/contract.ts";
import { keyOf, storedAnswers, type Replayable } from "../../mixins/idempotency.ts";
import { platformOf, type Platform } from "../../mixins/platform.ts";
import { sweep, type Sweep } from "../../mixins/sweep.ts";
import { refundsRequested } from "../payment/payment.contract.ts";
import { makeLapseDrain } from "./lapse.drain.ts";
import { makeRedeemDrain, type KeyedRedeem } from "./redeem.drain.ts";
import { makeReverseDrain, type KeyedReverse } from "./reverse.drain.ts";
import { lapseVouchers, listVouchers, redeemVoucher, reverseVoucher } from "./voucher.contract.ts";
import { findLapsed, vouchersOf } from "./voucher.store.ts";

interface Vars {
  platform: Platform;
  sweeper: Sweep;
}
type This = Service<{}> & Vars;

const voucher: ServiceSchema<{}, {}, Vars> = {
  name: "voucher",
  actions: {
    ofOrder: handle(listVouchers, ofOrder),
    redeem: handle(redeemVoucher, redeem),
    reverse: handle(reverseVoucher, reverse),
    lapse: handle(lapseVouchers, lapse),
  },
  created() {
    this.platform = platformOf(this.broker);
    const { trade } = this.platform;
    this.platform.offer("voucher.redeem", storedAnswers(makeRedeemDrain(trade)));
    this.platform.offer("voucher.reverse", storedAnswers(makeReverseDrain(trade)));
    const lapsed = makeLapseDrain(({ shard }, refunded, facts) => {
      this.platform.stockChanged(facts);
      if (refunded.length > 0) refundsRequested(this.broker, shard);
    });
    this.platform.offer("voucher.lapse", lapsed);
  },
  started() {
    this.sweeper = sweep(this, "vouchers not used in time", { find: findLapsed, act: lapseVouchers });
  },
  stopped() {
    return this.sweeper.stop();
  },
};
export default voucher;

/** For its consumer only; to anybody else there is no such order. */
async function ofOrder(this: This, ctx: Ctx<typeof listVouchers>): Promise<Answer<typeof listVouchers>> {
  const { id } = ctx.params;
  const shard = shardOf(id);
  const found = this.platform.servesCity(cityOf(id))
    ? await vouchersOf(this.platform.databaseOf(shard), shard, id, callerOf(ctx).userId)
    : undefined;
  if (!found) return raise(ORDER_ERRORS, "ORDER_NOT_FOUND", { orderId: id });
  return found.map(({ code, state, validUntil, redeemedAt }) => ({
    code,
    status: state,
    validUntil: validUntil.toISOString(),
    ...(redeemedAt === undefined ? {} : { redeemedAt: redeemedAt.toISOString() }),
  }));
}

async function redeem(this: This, ctx: Ctx<typeof redeemVoucher>): Promise<Replayable<Answer<typeof redeemVoucher>>> {
  const command: KeyedRedeem = { ...keyOf(ctx, redeemVoucher.name), ...atTheBar(ctx) };
  const { merchantId } = command;
  return this.platform.post(shardOf(merchantId), "voucher.redeem", command, { merchantId });
}

async function reverse(this: This, ctx: Ctx<typeof reverseVoucher>): Promise<Replayable<Answer<typeof reverseVoucher>>> {
  const command: KeyedReverse = { ...keyOf(ctx, reverseVoucher.name), ...atTheBar(ctx) };
  const { merchantId } = command;
  return this.platform.post(shardOf(merchantId), "voucher.reverse", command, { merchantId });
}

/** Whose bar it is. A code ends with its shard's slot: one that ends with another is of another merchant, or made up. */
function atTheBar(ctx: Ctx<typeof redeemVoucher>): { code: string; merchantId: MerchantId; requestId: string | undefined } {
  const { code } = ctx.params;
  const { merchantId } = callerOf(ctx);
  if (merchantId === undefined) return raise(COMMON_ERRORS, "FORBIDDEN", { need: "a merchant" });
  if (slotOfCode(code) !== shardOf(merchantId).slot) return raise(VOUCHER_ERRORS, "VOUCHER_NOT_FOUND", {});
  return { code, merchantId, requestId: ctx.meta.requestId };
}

/** One command, however many vouchers it carries. */
async function lapse(this: This, ctx: Ctx<typeof lapseVouchers>): Promise<undefined> {
  const { city, slot, ids } = ctx.params;
  await this.platform.post<readonly string[], null>({ city, slot }, "voucher.lapse", ids);
}

function callerOf(ctx: Context<unknown, CallMeta>): Caller {
  invariant(ctx.meta.caller !== undefined, "the gateway lets nobody in here without a token");
  return ctx.meta.caller;
}
