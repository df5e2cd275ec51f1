/**
 * The wallet's side of a TCC, as its coordinator sees it: branches of many users, one call a user slot. A call that fails for good is halved
 * until the branch it fails for stands alone: one broken wallet never holds up another.
 */
import type { ServiceBroker } from "moleculer";
import { slotOf } from "../../domain/ids.ts";
import { call, type Answer, type Of } from "../../mixins/contract.ts";
import type { cancelWallets, confirmWallets, tryWallets, WalletBranch } from "../wallet/wallet.contract.ts";

export type Branch = Of<typeof WalletBranch>;
/** What a branch answered, or why it did not. */
export type BranchOutcome = Answer<typeof tryWallets>[number] | Error;
type PhaseContract = typeof tryWallets | typeof confirmWallets | typeof cancelWallets;

/** Branches in one call: what one drain books well within a tenth of a second. */
const BRANCHES_MAX = 256;

/**
 * Calls one phase, and answers for every branch. From the broker, not from a request: a child call would inherit its remaining time, and
 * Confirm and Cancel must not hang on what a buyer may still wait.
 */
export async function callBranches(
  broker: ServiceBroker,
  phase: PhaseContract,
  branches: readonly Branch[],
): Promise<Map<string, BranchOutcome>> {
  const outcomes = new Map<string, BranchOutcome>();
  const bySlot = Map.groupBy(branches, ({ userId }) => slotOf(userId));
  const send = async (slot: number, items: readonly Branch[]): Promise<void> => {
    try {
      const answers = await call(broker, phase as typeof tryWallets, { slot, items: [...items] });
      for (const answer of answers) outcomes.set(answer.xid, answer);
    } catch (error) {
      // Ours and Moleculer's own: the node is gone, busy or too late for all of them, and halves would each wait as long.
      const isLater = (error as { readonly retryable?: boolean } | undefined)?.retryable === true;
      if (items.length === 1 || isLater) {
        for (const { xid } of items) outcomes.set(xid, error instanceof Error ? error : new Error(String(error)));
        return;
      }
      const half = items.length >> 1;
      await send(slot, items.slice(0, half));
      await send(slot, items.slice(half));
    }
  };
  const chunks = [...bySlot].flatMap(([slot, items]) =>
    Array.from({ length: Math.ceil(items.length / BRANCHES_MAX) }, (_, at) => ({
      slot,
      items: items.slice(at * BRANCHES_MAX, (at + 1) * BRANCHES_MAX),
    })),
  );
  await Promise.all(chunks.map(({ slot, items }) => send(slot, items)));
  return outcomes;
}

/**
 * Tries asked for in one turn of the event loop go together: the buyers of one drained batch resume in one turn, so a batch of payments is a
 * call a user slot, not a call a buyer.
 */
export class Tries {
  readonly #broker: ServiceBroker;
  readonly #phase: PhaseContract;
  #waiting: { readonly branch: Branch; readonly resolve: (outcome: BranchOutcome) => void }[] = [];

  constructor(broker: ServiceBroker, phase: PhaseContract) {
    this.#broker = broker;
    this.#phase = phase;
  }

  /** Never rejects: what went wrong is an outcome. */
  ask(branch: Branch): Promise<BranchOutcome> {
    return new Promise((resolve) => {
      if (this.#waiting.push({ branch, resolve }) === 1) setImmediate(() => void this.#send());
    });
  }

  async #send(): Promise<void> {
    const asked = this.#waiting;
    this.#waiting = [];
    const outcomes = await callBranches(
      this.#broker,
      this.#phase,
      asked.map(({ branch }) => branch),
    );
    for (const { branch, resolve } of asked) resolve(outcomes.get(branch.xid) ?? new Error(`the wallet did not answer for ${branch.xid}`));
  }
}
