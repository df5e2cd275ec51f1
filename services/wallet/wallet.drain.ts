/**
 * The wallet's drains: top-ups, and the three phases of its branch of a TCC. Commands of a phase carry lists, and a batch of commands is
 * flattened into one list: many payers, one barrier statement, one booking.
 */
import type { DomainError } from "../../domain/error.ts";
import type { OrderId, UserId } from "../../domain/ids.ts";
import type { TransferRequest } from "../../domain/ledger.ts";
import { fen, toJson } from "../../domain/money.ts";
import type { Answer, Of } from "../../mixins/contract.ts";
import type { Work } from "../../mixins/drain.ts";
import { appendEvents } from "../../mixins/events.ts";
import type { Keyed } from "../../mixins/idempotency.ts";
import { bookTransfers } from "../../mixins/ledger.ts";
import { enterPhase, leaveTry } from "../../mixins/tcc.ts";
import type { topUp, tryWallets, WalletBranch } from "./wallet.contract.ts";
import { insertTopups, walletOf } from "./wallet.store.ts";

export type Branch = Of<typeof WalletBranch>;
export type Outcomes = Answer<typeof tryWallets>;
type Outcome = Outcomes[number];
export interface TopUpCommand extends Keyed {
  readonly userId: UserId;
  readonly amount: number;
  readonly channel: string;
  readonly requestId: string | undefined;
}

/** This service's branch in the barriers of its slot. */
const BRANCH = "wallet";

/** `pay` moves wallet → transit, `refund` transit → wallet; `transit:<city>` mirrors that city's `transit:user` to the fen. */
function transferOf(branch: Branch, kind: TransferRequest["kind"]): TransferRequest {
  const wallet = walletOf(branch.userId);
  const transit = `transit:${branch.city}`;
  const [debit, credit] = branch.kind === "pay" ? [wallet, transit] : [transit, wallet];
  return {
    kind,
    code: branch.kind,
    businessKey: branch.xid,
    debit,
    credit,
    amount: fen(branch.amount),
    orderId: branch.orderId as OrderId,
  };
}

export async function topUpDrain(work: Work, commands: readonly TopUpCommand[]): Promise<Answer<typeof topUp>[]> {
  const ids = await work.mint(commands.length);
  const topups = commands.map((command, index) => ({ ...command, id: ids[index] ?? "", amount: fen(command.amount) }));
  await Promise.all([
    insertTopups(work, work.shard, topups, await work.now()),
    bookTransfers(
      work,
      topups.map(({ id, userId, channel, amount }) => ({
        kind: "post",
        code: "topup",
        businessKey: id,
        debit: `cash:${channel}`,
        credit: walletOf(userId),
        amount,
        fresh: true,
      })),
    ),
    appendEvents(
      work,
      work.shard,
      topups.map(({ id, userId, amount, requestId, idemKey }) => ({
        type: "wallet.toppedUp",
        subject: userId,
        actor: userId,
        requestId,
        idemKey,
        data: { topupId: id, userId, amount: toJson(amount) },
      })),
    ),
  ]);
  return topups.map(({ id, amount }) => ({ id: id as Answer<typeof topUp>["id"], amount: toJson(amount), status: "SUCCEEDED" }));
}

/** Freezes or announces. A try that finds too little money leaves no trace; one whose cancel was here first is refused. */
export const tryDrain = (work: Work, calls: readonly (readonly Branch[])[]): Promise<(Outcomes | DomainError)[]> =>
  byCall(calls, async (branches) => {
    const entries = await enterPhase(work, work.shard.slot, BRANCH, "try", [...branches.keys()]);
    // A repeat is booked again, and the ledger finds it booked.
    const entered = [...branches.values()].filter(({ xid }) => entries.get(xid) !== "refused");
    const booked = await bookTransfers(
      work,
      entered.map((branch) => ({ ...transferOf(branch, "pend"), fresh: entries.get(branch.xid) === "first" })),
    );
    const outcomes = new Map<string, Outcome>();
    const failed: string[] = [];
    for (const [index, { xid }] of entered.entries()) {
      const outcome = booked[index];
      if (outcome?.ok) outcomes.set(xid, { xid, ok: true });
      else if (outcome) {
        outcomes.set(xid, { xid, ok: false, available: toJson(outcome.available) });
        failed.push(xid);
      }
    }
    await leaveTry(work, work.shard.slot, BRANCH, failed);
    return outcomes;
  });

/** Posts what was tried. Confirming what was cancelled, or never tried, is a fault of ours and fails. */
export const confirmDrain = (work: Work, calls: readonly (readonly Branch[])[]): Promise<(Outcomes | DomainError)[]> =>
  end(work, calls, "confirm");

/** Voids what was tried; a cancel whose try never came leaves its mark and succeeds. */
export const cancelDrain = (work: Work, calls: readonly (readonly Branch[])[]): Promise<(Outcomes | DomainError)[]> =>
  end(work, calls, "cancel");

const end = (work: Work, calls: readonly (readonly Branch[])[], phase: "confirm" | "cancel"): Promise<Outcomes[]> =>
  byCall(calls, async (branches) => {
    const entries = await enterPhase(work, work.shard.slot, BRANCH, phase, [...branches.keys()]);
    const first = [...branches.values()].filter(({ xid }) => entries.get(xid) === "first");
    await bookTransfers(
      work,
      first.map((branch) => transferOf(branch, phase === "confirm" ? "post-pending" : "void-pending")),
    );
    return new Map([...branches.keys()].map((xid) => [xid, { xid, ok: true }]));
  });

/** Runs all lists of a batch as one, each transaction once, and hands the outcomes back to their lists. */
async function byCall(
  calls: readonly (readonly Branch[])[],
  run: (branches: ReadonlyMap<Branch["xid"], Branch>) => Promise<ReadonlyMap<string, Outcome>>,
): Promise<Outcomes[]> {
  const outcomes = await run(new Map(calls.flat().map((branch) => [branch.xid, branch])));
  return calls.map((branches) => branches.map(({ xid }) => outcomes.get(xid) ?? { xid, ok: false }));
}
