import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import fc from "fast-check";
import type { TransferId } from "../domain/ids.ts";
import { InvariantViolation } from "../domain/invariant.ts";
import {
  CHAIN_START,
  EMPTY,
  hashOf,
  postTransfers,
  type Balance,
  type ChainHead,
  type RecordedTransfer,
  type TransferOutcome,
  type TransferRequest,
  type TransferRow,
} from "../domain/ledger.ts";
import { fen } from "../domain/money.ts";
import { Database } from "../db/database.ts";
import { Drainer, type DrainFunction } from "../mixins/drain.ts";
import { bookTransfers, readAccount } from "../mixins/ledger.ts";
import { enterPhase, leaveTry, type Phase } from "../mixins/tcc.ts";
import { LEDGER_CHECKS } from "../services/ops/checks/ledger.ts";
import { admin, testKeyspaces, testServer, type TestKeyspaces, type TestServer } from "./support/databases.ts";

const AT = new Date("2026-01-31T18:00:00Z");

/** Books in memory: what the store would keep between batches. */
class Shelf {
  readonly rows: TransferRow[] = [];
  readonly balances = new Map<string, Balance>();
  head: ChainHead = CHAIN_START;

  book(requests: readonly TransferRequest[]): readonly TransferOutcome[] {
    for (const { debit, credit } of requests)
      for (const account of [debit, credit]) this.balances.set(account, this.balances.get(account) ?? EMPTY);
    const ids = requests.map((_, index) => String(this.rows.length + index + 1) as TransferId);
    const recorded: RecordedTransfer[] = this.rows;
    const posting = postTransfers({ slot: 3, at: AT, head: this.head, balances: this.balances, recorded, ids }, requests);
    for (const [account, change] of posting.changes) {
      const old = this.balances.get(account) ?? EMPTY;
      this.balances.set(account, {
        debitsPending: old.debitsPending + change.debitsPending,
        debitsPosted: old.debitsPosted + change.debitsPosted,
        creditsPending: old.creditsPending + change.creditsPending,
        creditsPosted: old.creditsPosted + change.creditsPosted,
      });
    }
    this.rows.push(...posting.rows);
    this.head = posting.head;
    return posting.outcomes;
  }
}

const request = (
  kind: TransferRequest["kind"],
  businessKey: string,
  debit: string,
  credit: string,
  amount: number,
  code: TransferRequest["code"] = "pay",
): TransferRequest => ({
  kind,
  code,
  businessKey,
  debit,
  credit,
  amount: fen(amount),
});

describe("the ledger, as a function", () => {
  test("a wallet spends what it has and not a fen more, within one batch too", () => {
    const shelf = new Shelf();
    const outcomes = shelf.book([
      request("post", "1", "cash:test", "wallet:7", 100, "topup"),
      request("pend", "2", "wallet:7", "transit:1", 60),
      request("pend", "3", "wallet:7", "transit:1", 41),
      request("pend", "4", "wallet:7", "transit:1", 40),
    ]);
    assert.deepEqual(
      outcomes.map((outcome) => (outcome.ok ? "ok" : outcome.available)),
      ["ok", "ok", 40n, "ok"],
    );
  });
  test("money that is promised to a wallet cannot be spent before it is there", () => {
    const shelf = new Shelf();
    shelf.book([request("pend", "1", "transit:1", "wallet:7", 100, "refund")]);
    assert.deepEqual(shelf.book([request("pend", "2", "wallet:7", "transit:1", 1)]), [
      { ok: false, error: "INSUFFICIENT_FUNDS", available: 0n },
    ]);
    shelf.book([request("post-pending", "1", "transit:1", "wallet:7", 100, "refund")]);
    assert.equal(shelf.book([request("pend", "2", "wallet:7", "transit:1", 100)])[0]?.ok, true);
  });
  test("a repeat is answered with the first row and moves nothing", () => {
    const shelf = new Shelf();
    const [first] = shelf.book([request("post", "1", "cash:test", "wallet:7", 100, "topup")]);
    const [again, twin] = shelf.book([
      request("post", "1", "cash:test", "wallet:7", 100, "topup"),
      request("post", "1", "cash:test", "wallet:7", 100, "topup"),
    ]);
    assert.ok(first?.ok && again?.ok && twin?.ok);
    assert.deepEqual([again.transferId, twin.transferId, again.repeated, shelf.rows.length], [first.transferId, first.transferId, true, 1]);
  });
  test("a repeat that says something else is a fault of ours", () => {
    const shelf = new Shelf();
    shelf.book([request("post", "1", "cash:test", "wallet:7", 100, "topup")]);
    assert.throws(() => shelf.book([request("post", "1", "cash:test", "wallet:7", 101, "topup")]), InvariantViolation);
  });
  test("what is voided is never posted, what is posted is never voided, and nothing ends that was not promised", () => {
    const shelf = new Shelf();
    const all = (kind: TransferRequest["kind"], key: string) => shelf.book([request(kind, key, "transit:user", "escrow:9", 5)]);
    all("pend", "1");
    all("void-pending", "1");
    assert.throws(() => all("post-pending", "1"), InvariantViolation);
    all("pend", "2");
    all("post-pending", "2");
    assert.throws(() => all("void-pending", "2"), InvariantViolation);
    assert.throws(() => all("post-pending", "3"), InvariantViolation);
  });
  test("every row's hash covers the row before it", () => {
    const shelf = new Shelf();
    shelf.book([request("post", "1", "cash:test", "wallet:7", 100, "topup"), request("pend", "2", "wallet:7", "transit:1", 60)]);
    shelf.book([request("post-pending", "2", "wallet:7", "transit:1", 60)]);
    let prevHash = CHAIN_START.hash;
    for (const row of shelf.rows) {
      assert.equal(row.prevHash, prevHash);
      assert.equal(row.hash, hashOf(3, row));
      assert.notEqual(row.hash, hashOf(3, { ...row, amount: row.amount + 1n }));
      prevHash = row.hash;
    }
    assert.deepEqual(shelf.rows[2]?.pendingId, shelf.rows[1]?.id);
  });
});

/** The model knows purses and promises, and nothing of rows, sides or hashes. */
class Model {
  readonly purses = new Map<string, number>();
  readonly promises = new Map<string, { from: string; to: string; amount: number; end?: "kept" | "given up" }>();

  has(purse: string): number {
    return this.purses.get(purse) ?? 0;
  }
  free(purse: string): number {
    const promised = [...this.promises.values()].filter(({ from, end }) => from === purse && end === undefined);
    return this.has(purse) - promised.reduce((total, { amount }) => total + amount, 0);
  }
  give(purse: string, amount: number): void {
    this.purses.set(purse, this.has(purse) + amount);
  }
}

const WALLETS = ["wallet:1", "wallet:2", "wallet:3"] as const;
type Step =
  | { do: "topup"; wallet: string; amount: number }
  | { do: "pay"; wallet: string; amount: number }
  | { do: "refund"; wallet: string; amount: number }
  | { do: "keep" | "give up"; which: number }
  | { do: "repeat"; which: number };
const amount = fc.integer({ min: 1, max: 500 });
const wallet = fc.constantFrom(...WALLETS);
const step: fc.Arbitrary<Step> = fc.oneof(
  fc.record({ do: fc.constant("topup" as const), wallet, amount }),
  fc.record({ do: fc.constantFrom("pay" as const, "refund" as const), wallet, amount }),
  fc.record({ do: fc.constantFrom("keep" as const, "give up" as const), which: fc.nat(20) }),
  fc.record({ do: fc.constant("repeat" as const), which: fc.nat(20) }),
);

test("10,000 sequences of batches agree with a model of purses and promises", () => {
  fc.assert(
    fc.property(fc.array(fc.array(step, { minLength: 1, maxLength: 6 }), { maxLength: 8 }), (batches) => {
      const shelf = new Shelf();
      const model = new Model();
      const asked: TransferRequest[] = [];
      for (const [at, batch] of batches.entries()) {
        const requests: TransferRequest[] = [];
        const expected: (number | "ok")[] = [];
        for (const [index, one] of batch.entries()) {
          const made = act(model, asked, one, `${at}-${index}`);
          if (!made) continue;
          requests.push(made.request);
          expected.push(made.expect);
          if (made.expect === "ok") asked.push(made.request);
        }
        const outcomes = shelf.book(requests);
        assert.deepEqual(
          outcomes.map((outcome) => (outcome.ok ? "ok" : Number(outcome.available))),
          expected,
        );
      }
      for (const purse of WALLETS) {
        const balance = shelf.balances.get(purse) ?? EMPTY;
        assert.equal(Number(balance.creditsPosted - balance.debitsPosted), model.has(purse));
        assert.equal(Number(balance.creditsPosted - balance.debitsPosted - balance.debitsPending), model.free(purse));
      }
    }),
    { numRuns: 10_000 },
  );
});

/** Lets the model take one step, and says which request it is and what must come of it. Steps that would be a fault are skipped. */
function act(
  model: Model,
  asked: readonly TransferRequest[],
  one: Step,
  key: string,
): { request: TransferRequest; expect: number | "ok" } | undefined {
  switch (one.do) {
    case "topup":
      model.give(one.wallet, one.amount);
      return { request: request("post", key, "cash:test", one.wallet, one.amount, "topup"), expect: "ok" };
    case "pay":
    case "refund": {
      const [from, to] = one.do === "pay" ? [one.wallet, "transit:1"] : ["transit:1", one.wallet];
      const asking = request("pend", key, from, to, one.amount, one.do);
      const free = model.free(one.wallet);
      if (one.do === "pay" && free < one.amount) return { request: asking, expect: free };
      model.promises.set(`${one.do} ${key}`, { from, to, amount: one.amount });
      return { request: asking, expect: "ok" };
    }
    case "keep":
    case "give up": {
      const promises = [...model.promises].filter(([, promise]) => promise.end === undefined);
      const found = promises[one.which % Math.max(1, promises.length)];
      if (!found) return undefined;
      const [name, promise] = found;
      const [code, businessKey] = name.split(" ") as [TransferRequest["code"], string];
      promise.end = one.do === "keep" ? "kept" : "given up";
      if (one.do === "keep") {
        model.give(promise.from, -promise.amount);
        model.give(promise.to, promise.amount);
      }
      return {
        request: request(one.do === "keep" ? "post-pending" : "void-pending", businessKey, promise.from, promise.to, promise.amount, code),
        expect: "ok",
      };
    }
    case "repeat": {
      const earlier = asked[one.which % Math.max(1, asked.length)];
      return earlier && { request: earlier, expect: "ok" };
    }
  }
}

describe("the ledger and the barrier, on PostgreSQL", () => {
  let server: TestServer;
  let keyspaces: TestKeyspaces;
  let database: Database;
  const shard = { city: 0, slot: 5 };

  before(async () => {
    server = await testServer();
    keyspaces = await testKeyspaces(server);
    const [user] = keyspaces.keyspaces.databases();
    database = new Database({ name: user!.name, city: 0, slots: user!.slots, url: keyspaces.urlOf(user!.name), onError: () => undefined });
  });
  after(async () => {
    await database.close();
    await keyspaces.drop();
    await server.stop();
  });

  /** Runs commands of one kind as a batch. */
  const drain = async <I, O>(run: DrainFunction<I, O>, inputs: readonly I[]): Promise<(O | Error)[]> => {
    const outcomes = new Array<O | Error>(inputs.length);
    const drainer = new Drainer(database, new Map([["k", run as DrainFunction<unknown, unknown>]]), () => undefined);
    const commands = inputs.map((input, index) => ({
      kind: "k",
      input,
      merchantId: undefined,
      deadlineMs: Infinity,
      enqueuedMs: 0,
      settle: (outcome: unknown) => void (outcomes[index] = outcome as O | Error),
    }));
    await drainer.drain(shard, commands);
    return outcomes;
  };
  const book = (requests: readonly TransferRequest[]) => drain(bookTransfers, requests) as Promise<TransferOutcome[]>;

  /** The names of the checks of `/ops/verify` that the books fail. */
  const broken = async () => {
    const found: string[] = [];
    for (const { name, statement, values } of LEDGER_CHECKS.filter(({ scope }) => scope === "every")) {
      const rows = await database.query({ name, text: statement }, typeof values === "function" ? values(database) : values);
      if (rows.length > 0) found.push(name);
    }
    return found;
  };

  test("batches are booked, repeats are found, and balances are the sums of their rows", async () => {
    const first = await book([
      request("post", "11", "cash:test", "wallet:1", 1_000, "topup"),
      request("pend", "12", "wallet:1", "transit:1", 400),
    ]);
    assert.deepEqual(
      first.map(({ ok }) => ok),
      [true, true],
    );
    const again = await book([
      request("post", "11", "cash:test", "wallet:1", 1_000, "topup"),
      request("post-pending", "12", "wallet:1", "transit:1", 400),
    ]);
    assert.deepEqual(
      again.map((outcome) => outcome.ok && outcome.repeated),
      [true, false],
    );
    assert.deepEqual(await book([request("pend", "13", "wallet:1", "transit:1", 601)]), [
      { ok: false, error: "INSUFFICIENT_FUNDS", available: 600n },
    ]);
    assert.deepEqual(await readAccount(database, shard.slot, "wallet:1"), {
      debitsPending: 0n,
      debitsPosted: 400n,
      creditsPending: 0n,
      creditsPosted: 1_000n,
    });
    assert.deepEqual(await broken(), []);
  });
  test("two nodes that book in one slot at once lose nothing", async () => {
    const before = await readAccount(database, shard.slot, "wallet:2");
    const rounds = Array.from({ length: 8 }, (_, round) =>
      book(Array.from({ length: 20 }, (_, index) => request("post", `2${round}${index + 10}`, "cash:test", "wallet:2", 1, "topup"))),
    );
    assert.ok((await Promise.all(rounds)).flat().every(({ ok }) => ok));
    const after = await readAccount(database, shard.slot, "wallet:2");
    assert.equal(after.creditsPosted - before.creditsPosted, 160n);
    assert.deepEqual(await broken(), []);
  });
  test("a transfer's row cannot be changed or removed, and a change past that guard shows in the chain", async () => {
    for (const change of ["update transfers set amount = amount + 1 where slot = 5", "delete from transfers where slot = 5"])
      await assert.rejects(
        admin(server, (client) => client.query(change), database.name),
        /append-only/,
      );
    await admin(
      server,
      (client) =>
        client.query("set session_replication_role = replica; update transfers set amount = amount + 1 where slot = 5 and seq = 3"),
      database.name,
    );
    assert.deepEqual(await broken(), ["ledger.chain", "ledger.transfers", "ledger.accounts"]);
    await admin(
      server,
      (client) =>
        client.query("set session_replication_role = replica; update transfers set amount = amount - 1 where slot = 5 and seq = 3"),
      database.name,
    );
  });
  test("phases: repeats are no-ops, an empty cancel succeeds, a try after it is refused, a failed try leaves nothing", async () => {
    const enter = async (phase: Phase, xid: string) => {
      const [entry] = await drain<string, string>(
        async (work, xids) => {
          const entries = await enterPhase(work, shard.slot, "wallet", phase, xids);
          return xids.map((one) => entries.get(one) ?? "");
        },
        [xid],
      );
      return entry instanceof Error ? entry.name : entry;
    };
    const trace = async (steps: string) => {
      for (const [, phase, xid, entry] of steps.matchAll(/(\w+) (\d+) → (\w+)/g))
        assert.equal(await enter(phase as Phase, xid!), entry, `${phase} ${xid}`);
    };
    await trace(`
      try 31 → first          // an ordinary life
      try 31 → repeat
      confirm 31 → first
      confirm 31 → repeat
      try 31 → repeat
      cancel 31 → InvariantViolation   // after Confirm there is no Cancel

      try 32 → first
      cancel 32 → first
      cancel 32 → repeat
      try 32 → refused
      confirm 32 → InvariantViolation

      cancel 33 → empty       // its try never came
      cancel 33 → repeat
      try 33 → refused        // … until now

      confirm 34 → InvariantViolation`);
    await drain(
      async (work, xids: readonly string[]) => {
        await enterPhase(work, shard.slot, "wallet", "try", xids);
        await leaveTry(work, shard.slot, "wallet", xids);
        return xids.map(() => "left");
      },
      ["35"],
    );
    await trace(`try 35 → first  cancel 35 → first`);
  });
});
