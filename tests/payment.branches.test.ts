/** How the coordinator of a payment asks many wallets at once: one that is broken stands alone, and a node that is gone is asked once, not once a wallet. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Errors, type ServiceBroker } from "moleculer";
import { composeId, type Id } from "../domain/ids.ts";
import { callBranches, type Branch } from "../services/payment/branches.ts";
import { tryWallets } from "../services/wallet/wallet.contract.ts";

/** All in one slot of the users. */
const branches = Array.from({ length: 16 }, (_, n): Branch => {
  const id = composeId({ ms: 1_750_000_000_000 + n, sequence: 0, city: 0, slot: 3 });
  return { xid: String(n), userId: id as Id<"user">, city: 1, amount: 100, orderId: id } as Branch;
});

async function asked(answer: (items: readonly Branch[]) => Error | undefined): Promise<{ calls: number; failed: string[] }> {
  let calls = 0;
  const broker = {
    call: async (_name: string, { items }: { items: readonly Branch[] }) => {
      calls++;
      const error = answer(items);
      if (error) throw error;
      return items.map(({ xid }) => ({ xid, ok: true }));
    },
  } as unknown as ServiceBroker;
  const outcomes = await callBranches(broker, tryWallets, branches);
  assert.equal(outcomes.size, branches.length);
  return { calls, failed: [...outcomes].flatMap(([xid, outcome]) => (outcome instanceof Error ? [xid] : [])) };
}

test("a wallet whose call fails stands alone; its neighbours have their answers", async () => {
  const { failed } = await asked((items) => (items.some(({ xid }) => xid === "5") ? new Error("a broken wallet") : undefined));
  assert.deepEqual(failed, ["5"]);
});

test("a node that does not answer is asked once for all of them", async () => {
  const { calls, failed } = await asked(() => new Errors.RequestTimeoutError({ action: tryWallets.name, nodeID: "worker-1" }));
  assert.deepEqual([calls, failed.length], [1, branches.length]);
});
