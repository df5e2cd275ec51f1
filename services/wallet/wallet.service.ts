/** Wallet: a consumer's balance, and its branch of paying and being refunded. An account `wallet:<user>` in the user keyspace's books. */
import type { Context, Service, ServiceSchema } from "moleculer";
import { raise } from "../../domain/error.ts";
import { shardOf, slotOf, USER_CITY, type Shard } from "../../domain/ids.ts";
import { invariant } from "../../domain/invariant.ts";
import { available } from "../../domain/ledger.ts";
import { toJson } from "../../domain/money.ts";
import { USER_ERRORS } from "../../domain/user/errors.ts";
import { handle, type Answer, type CallMeta, type Caller, type Ctx } from "../../mixins/contract.ts";
import { keyOf, storedAnswers, type Replayable } from "../../mixins/idempotency.ts";
import { readAccount } from "../../mixins/ledger.ts";
import { cursorId, page } from "../../mixins/page.ts";
import { platformOf, type Platform } from "../../mixins/platform.ts";
import { cancelWallets, confirmWallets, getWallet, listWalletTransfers, topUp, tryWallets } from "./wallet.contract.ts";
import { cancelDrain, confirmDrain, topUpDrain, tryDrain, type Branch, type Outcomes, type TopUpCommand } from "./wallet.drain.ts";
import { findMoves, walletOf } from "./wallet.store.ts";

interface Settings {
  /** Money out of nothing: the channel `test` exists only in the embedded profile. */
  readonly testChannel: boolean;
}
interface Parts {
  platform: Platform;
  settings: Settings;
}
type This = Service<{}> & Parts;

const wallet: ServiceSchema<{}, {}, Parts> = {
  name: "wallet",
  settings: { testChannel: false },
  actions: {
    get: handle(getWallet, get),
    topup: handle(topUp, topup),
    transfers: handle(listWalletTransfers, transfers),
    try: handle(tryWallets, phase("wallet.try")),
    confirm: handle(confirmWallets, phase("wallet.confirm")),
    cancel: handle(cancelWallets, phase("wallet.cancel")),
  },
  created() {
    this.platform = platformOf(this.broker);
    this.platform.offer("wallet.topup", storedAnswers(topUpDrain));
    this.platform.offer("wallet.try", tryDrain);
    this.platform.offer("wallet.confirm", confirmDrain);
    this.platform.offer("wallet.cancel", cancelDrain);
  },
};
export default wallet;

async function get(this: This, ctx: Ctx<typeof getWallet>): Promise<Answer<typeof getWallet>> {
  const { userId } = callerOf(ctx);
  const shard = shardOf(userId);
  const balance = await readAccount(this.platform.databaseOf(shard), shard.slot, walletOf(userId));
  return { available: toJson(available(balance)), frozen: toJson(balance.debitsPending), currency: "CNY" };
}

async function topup(this: This, ctx: Ctx<typeof topUp>): Promise<Replayable<Answer<typeof topUp>>> {
  const { amount, channel } = ctx.params;
  if (channel !== "test" || !this.settings.testChannel) return raise(USER_ERRORS, "CHANNEL_UNKNOWN", { channel });
  const { userId } = callerOf(ctx);
  const command: TopUpCommand = { ...keyOf(ctx, topUp.name), userId, amount, channel, requestId: ctx.meta.requestId };
  const answer = await this.platform.post<TopUpCommand, Replayable<Answer<typeof topUp>>>(shardOf(userId), "wallet.topup", command);
  this.platform.metrics.moneyFen.inc({ code: "topup" }, answer.replayed ? 0 : amount);
  return answer;
}

async function transfers(this: This, ctx: Ctx<typeof listWalletTransfers>): Promise<Answer<typeof listWalletTransfers>> {
  const { userId } = callerOf(ctx);
  const { cursor, limit = 20 } = ctx.params;
  const shard = shardOf(userId);
  const rows = await findMoves(this.platform.databaseOf(shard), shard, walletOf(userId), cursorId(cursor), limit + 1);
  return page(
    rows,
    limit,
    ({ id, amount, direction, code, orderId, at }) => ({
      id,
      amount: toJson(amount),
      direction,
      code,
      ...(orderId === undefined ? {} : { orderId }),
      at: at.toISOString(),
    }),
    (row) => [row.id],
  );
}

/** A phase on wallets of one user slot: one command, however many branches it carries. */
function phase(kind: "wallet.try" | "wallet.confirm" | "wallet.cancel") {
  return async function (this: This, ctx: Ctx<typeof tryWallets>): Promise<Outcomes> {
    const { slot, items } = ctx.params;
    const shard: Shard = { city: USER_CITY, slot };
    invariant(
      items.every(({ userId }) => slotOf(userId) === slot),
      "the wallets of a phase live in its slot",
    );
    return this.platform.post<readonly Branch[], Outcomes>(shard, kind, items);
  };
}

function callerOf(ctx: Context<unknown, CallMeta>): Caller {
  invariant(ctx.meta.caller !== undefined, "the gateway lets nobody in here without a token");
  return ctx.meta.caller;
}
