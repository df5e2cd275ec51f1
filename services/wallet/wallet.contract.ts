import { shardOf, USER_CITY, type Shard } from "../../domain/ids.ts";
import { action, shape } from "../../mixins/contract.ts";
import { list, PAGE } from "../../mixins/page.ts";

export const Wallet = shape("Wallet", { available: "number", frozen: "number", currency: { type: "enum", values: ["CNY"] } });
export const Topup = shape("Topup", { id: "id", amount: "fen", status: { type: "enum", values: ["PROCESSING", "SUCCEEDED", "FAILED"] } });
export const WalletTransfer = shape("WalletTransfer", {
  id: "id",
  amount: "fen",
  direction: { type: "enum", values: ["in", "out"] },
  code: "string",
  orderId: { type: "id", optional: true },
  at: "time",
});

export const getWallet = action("wallet.get", {
  summary: "My wallet",
  params: {},
  answer: Wallet,
  rest: { method: "GET", path: "/wallet", who: "user", status: 200, tag: "People" },
});
export const topUp = action("wallet.topup", {
  summary: "Put money into my wallet; channel `test` credits at once and exists only in the embedded profile",
  params: { amount: "fen", channel: { type: "string", min: 1, max: 32 } },
  answer: Topup,
  errors: ["CHANNEL_UNKNOWN"],
  rest: {
    method: "POST",
    path: "/wallet/topups",
    who: "user",
    status: 201,
    key: "required",
    tag: "People",
    example: { amount: 10000, channel: "test" },
  },
  address: (_params, caller) => caller && shardOf(caller.userId),
});
export const listWalletTransfers = action("wallet.transfers", {
  summary: "What moved in and out of my wallet, newest first",
  params: { ...PAGE },
  answer: list("WalletTransferList", WalletTransfer),
  rest: { method: "GET", path: "/wallet/transfers", who: "user", status: 200, tag: "People" },
});

/** One branch of a TCC in the user keyspace: `pay` moves wallet → transit, `refund` transit → wallet. */
export const WalletBranch = shape("WalletBranch", {
  xid: "id",
  kind: { type: "enum", values: ["pay", "refund"] },
  userId: "id",
  /** The city whose books hold the other side. */
  city: "number",
  orderId: "id",
  // Not "fen": an order of 99 units may cost more than one request may name.
  amount: { type: "number", integer: true, min: 1 },
});
const Outcome = shape("WalletBranchOutcome", { xid: "id", ok: "boolean", available: { type: "number", optional: true } });
/** Internal, batches: the three phases of TCC on wallets of one user slot. Each enters through a barrier, so each may be repeated. */
const phase = <const N extends string>(name: N, summary: string) =>
  action(name, {
    summary,
    params: { slot: "number", items: { type: "array", items: WalletBranch, max: 512 } },
    answer: { type: "array", items: Outcome },
    retrySafe: true,
    address: (params): Shard => ({ city: USER_CITY, slot: params.slot }),
  });
export const tryWallets = phase("wallet.try", "Freeze (pay) or announce (refund)");
export const confirmWallets = phase("wallet.confirm", "Post what was tried");
export const cancelWallets = phase("wallet.cancel", "Void what was tried; a cancel whose try never came is recorded and succeeds");
