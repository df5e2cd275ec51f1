/** Voucher (券): the right to one unit at the bar. Issued when its order is confirmed (by `payment` and `group`); shown and redeemed here. */
import type { Context, Service, ServiceSchema } from "moleculer";
import { COMMON_ERRORS } from "../../domain/common-errors.ts";
import { raise } from "../../domain/error.ts";
import { cityOf, shardOf } from "../../domain/ids.ts";
import { invariant } from "../../domain/invariant.ts";
import { ORDER_ERRORS } from "../../domain/order/errors.ts";
import { VOUCHER_ERRORS } from "../../domain/voucher/errors.ts";
import { slotOfCode } from "../../domain/voucher/issue.ts";
import { handle, type Answer, type CallMeta, type Caller, type Ctx } from "../../mixins/contract.ts";
import { keyOf, storedAnswers, type Replayable } from "../../mixins/idempotency.ts";
import { platformOf, type Platform } from "../../mixins/platform.ts";
import { redeemDrain, type KeyedRedeem } from "./redeem.drain.ts";
import { listVouchers, redeemVoucher } from "./voucher.contract.ts";
import { vouchersOf } from "./voucher.store.ts";

interface Vars {
  platform: Platform;
}
type This = Service<{}> & Vars;

const voucher: ServiceSchema<{}, {}, Vars> = {
  name: "voucher",
  actions: {
    ofOrder: handle(listVouchers, ofOrder),
    redeem: handle(redeemVoucher, redeem),
  },
  created() {
    this.platform = platformOf(this.broker);
    this.platform.offer("voucher.redeem", storedAnswers(redeemDrain));
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
  const { code } = ctx.params;
  const { merchantId } = callerOf(ctx);
  if (merchantId === undefined) return raise(COMMON_ERRORS, "FORBIDDEN", { need: "a merchant" });
  const shard = shardOf(merchantId);
  // A code ends with its shard's slot: one that ends with another is of another merchant, or made up.
  if (slotOfCode(code) !== shard.slot) return raise(VOUCHER_ERRORS, "VOUCHER_NOT_FOUND", {});
  const command: KeyedRedeem = { ...keyOf(ctx, redeemVoucher.name), code, merchantId, requestId: ctx.meta.requestId };
  return this.platform.post<KeyedRedeem, Replayable<Answer<typeof redeemVoucher>>>(shard, "voucher.redeem", command, { merchantId });
}

function callerOf(ctx: Context<unknown, CallMeta>): Caller {
  invariant(ctx.meta.caller !== undefined, "the gateway lets nobody in here without a token");
  return ctx.meta.caller;
}
