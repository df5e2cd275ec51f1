/**
 * Settlement (结算): what a used voucher brings its merchant, and the way to the merchant's bank. A settlement is written with the redemption (by
 * `voucher`), claimed when it is due, and settled in batches; payouts go out by a channel.
 */
import type { Context, Service, ServiceSchema } from "moleculer";
import { DEAL_ERRORS } from "../../domain/deal/errors.ts";
import { raise } from "../../domain/error.ts";
import { cityOf, shardOf, type Id, type MerchantId, type Shard } from "../../domain/ids.ts";
import { invariant } from "../../domain/invariant.ts";
import { available } from "../../domain/ledger.ts";
import { fen, toJson } from "../../domain/money.ts";
import { payoutWord } from "../../domain/payout/decide.ts";
import { escrowOf, payableOf, type Claim } from "../../domain/settlement/decide.ts";
import { USER_ERRORS } from "../../domain/user/errors.ts";
import { handle, type Answer, type Caller, type CallMeta, type Ctx } from "../../mixins/contract.ts";
import { keyOf, storedAnswers, type Replayable } from "../../mixins/idempotency.ts";
import { readAccount } from "../../mixins/ledger.ts";
import { cursorId, page } from "../../mixins/page.ts";
import { offerPayoutChannel, payoutChannelOf } from "../../mixins/payout-channel.ts";
import { platformOf, type Platform } from "../../mixins/platform.ts";
import { sweep, type Sweep } from "../../mixins/sweep.ts";
import { makeRequestPayoutsDrain, makeTellPayoutsDrain, type PayoutCommand } from "./payout.drain.ts";
import { claimPayouts, findPayouts, readPaidOut } from "./payout.store.ts";
import { Payouts, TEST_BANK } from "./payouts.ts";
import { makeSettleDrain } from "./settle.drain.ts";
import {
  advancePayouts,
  hearPayout,
  listSettlements,
  merchantBalance,
  PAYOUTS_REQUESTED,
  payoutsRequested,
  requestPayout,
  settleVouchers,
} from "./settlement.contract.ts";
import { claimSettlements, dueSettlements, settlementsOf } from "./settlement.store.ts";

interface Settings {
  /** A bank that pays at once exists only in the embedded profile. */
  readonly testChannel: boolean;
}
interface Parts {
  settings: Settings;
  platform: Platform;
  payouts: Payouts;
  sweeps: Sweep[];
}
type This = Service<{}> & Parts;

/** Vouchers one drain settles: buyers wait behind a drain, and what it costs by itself is long paid for. */
const SETTLE_MAX = 256;

const settlement: ServiceSchema<{}, {}, Parts> = {
  name: "settlement",
  settings: { testChannel: false },
  actions: {
    balance: handle(merchantBalance, balance),
    list: handle(listSettlements, list),
    payout: handle(requestPayout, payout),
    settle: handle(settleVouchers, settle),
    payOut: handle(advancePayouts, advance),
    hearPayout: handle(hearPayout, hear),
  },
  events: {
    [PAYOUTS_REQUESTED]: { handler: onPayoutsRequested },
  },
  created() {
    this.platform = platformOf(this.broker);
    const { metrics } = this.platform;
    this.payouts = new Payouts(this.broker, this.platform, this.logger);
    this.sweeps = [];
    if (this.settings.testChannel) offerPayoutChannel(this.broker, TEST_BANK);
    const request = makeRequestPayoutsDrain(({ shard }) => payoutsRequested(this.broker, shard));
    this.platform.offer("payout.request", storedAnswers(request));
    this.platform.offer("payout.tell", makeTellPayoutsDrain(metrics));
    const settled = makeSettleDrain(metrics, (failed) =>
      this.logger.error(`settlements wait for a person: ${failed.map(({ settlement: { id }, reason }) => `${id} ${reason}`).join(", ")}`),
    );
    this.platform.offer("settlement.settle", settled);
  },
  started() {
    this.sweeps = [
      sweep(this, "due settlements", { find: dueSettlements, act: settleVouchers }),
      sweep(this, "unfinished payouts", { find: claimPayouts, act: advancePayouts }),
    ];
  },
  async stopped() {
    await Promise.all(this.sweeps.map((one) => one.stop()));
    await this.payouts.stop();
  },
};
export default settlement;

async function balance(this: This, ctx: Ctx<typeof merchantBalance>): Promise<Answer<typeof merchantBalance>> {
  const { merchantId, shard } = seen(this.platform, ctx, ctx.params.id);
  const database = this.platform.databaseOf(shard);
  const [escrow, payable, paidOut] = await Promise.all([
    readAccount(database, shard.slot, escrowOf(merchantId)),
    readAccount(database, shard.slot, payableOf(merchantId)),
    readPaidOut(database, shard, merchantId),
  ]);
  if (paidOut === undefined) return raise(DEAL_ERRORS, "MERCHANT_NOT_FOUND", { merchantId });
  return { escrow: toJson(available(escrow)), payable: toJson(available(payable)), paidOut: toJson(paidOut), currency: "CNY" };
}

async function list(this: This, ctx: Ctx<typeof listSettlements>): Promise<Answer<typeof listSettlements>> {
  const { cursor, limit = 20 } = ctx.params;
  const { merchantId, shard } = seen(this.platform, ctx, ctx.params.id);
  const rows = await settlementsOf(this.platform.databaseOf(shard), shard, merchantId, cursorId(cursor), limit + 1);
  return page(
    rows,
    limit,
    ({ id, orderId, voucherCode, gross, commission, state, at }) => ({
      id,
      orderId,
      voucherCode,
      gross: toJson(gross),
      commission: toJson(commission),
      net: toJson(gross - commission),
      status: state,
      at: at.toISOString(),
    }),
    (row) => [row.id],
  );
}

async function payout(this: This, ctx: Ctx<typeof requestPayout>): Promise<Replayable<Answer<typeof requestPayout>>> {
  const { id, amount } = ctx.params;
  const { merchantId } = callerOf(ctx);
  if (merchantId !== id) return raise(DEAL_ERRORS, "MERCHANT_NOT_FOUND", { merchantId: id });
  const channel = payoutChannelOf(this.broker);
  if (channel === undefined) return raise(USER_ERRORS, "CHANNEL_UNKNOWN", { channel: TEST_BANK.name });
  const command: PayoutCommand = {
    ...keyOf(ctx, requestPayout.name),
    merchantId,
    amount,
    channel: channel.name,
    requestId: ctx.meta.requestId,
  };
  return this.platform.post(shardOf(merchantId), "payout.request", command, { merchantId });
}

/** Claimed by the shard's own node, all at once, then settled; a claim that is not settled (this process died) is anybody's when its lease is over. */
async function settle(this: This, ctx: Ctx<typeof settleVouchers>): Promise<undefined> {
  const { city, slot, ids } = ctx.params;
  const shard = { city, slot };
  const claims = await claimSettlements(this.platform.databaseOf(shard), shard, ids);
  for (let from = 0; from < claims.length; from += SETTLE_MAX)
    await this.platform.post<readonly Claim[], null>(shard, "settlement.settle", claims.slice(from, from + SETTLE_MAX));
}

async function advance(this: This, ctx: Ctx<typeof advancePayouts>): Promise<undefined> {
  const { city, slot, ids } = ctx.params;
  await this.payouts.add({ city, slot }, ids);
}

/** Only a payout of that channel is its to speak of. */
async function hear(this: This, ctx: Ctx<typeof hearPayout>): Promise<Answer<typeof hearPayout>> {
  const { id, channel, status, amount, currency, channelNo, callbackId } = ctx.params;
  const shard = shardOf(id);
  const [payout] = await findPayouts(this.platform.databaseOf(shard), shard, [id]);
  if (payout?.channel !== channel) return { known: false };
  const said = { status, ...(amount === undefined ? {} : { amount: fen(amount) }), ...(currency === undefined ? {} : { currency }) };
  const word = payoutWord(said, payout);
  if (word.error !== undefined) this.logger.error(`alarm: ${channel} says of payout ${id}: ${word.error}`);
  const { state } = await this.payouts.tell({ id: payout.id, ...word, channelNo, callbackId });
  return { known: true, ...(state === undefined ? {} : { status: state }) };
}

/** A hint, not a promise: what fails here is due for the sweep. */
async function onPayoutsRequested(this: This, ctx: { readonly params: Shard }): Promise<void> {
  await this.payouts.payOut(ctx.params).catch((error: unknown) => this.logger.warn({ err: error }, "payouts are left to the sweep"));
}

/** A merchant's money is its own staff's to see, and finance's and the administrators'; to everybody else there is no such merchant. */
function seen(platform: Platform, ctx: Context<unknown, CallMeta>, id: Id): { merchantId: MerchantId; shard: Shard } {
  const { merchantId, roles } = callerOf(ctx);
  const mayRead = merchantId === id || roles.includes("finance") || roles.includes("admin");
  if (!mayRead || !platform.servesCity(cityOf(id))) return raise(DEAL_ERRORS, "MERCHANT_NOT_FOUND", { merchantId: id });
  return { merchantId: id as MerchantId, shard: shardOf(id) };
}

function callerOf(ctx: Context<unknown, CallMeta>): Caller {
  invariant(ctx.meta.caller !== undefined, "the gateway lets nobody in here without a token");
  return ctx.meta.caller;
}
