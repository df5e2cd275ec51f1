import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { DomainError } from "../domain/error.ts";
import { composeId, slotOf, type Id } from "../domain/ids.ts";
import { call, type Of } from "../mixins/contract.ts";
import {
  cancelWallets,
  confirmWallets,
  getWallet,
  listWalletTransfers,
  topUp,
  tryWallets,
  type WalletBranch,
} from "../services/wallet/wallet.contract.ts";
import { callAs, caller, testNode, type TestNode } from "./support/node.ts";
import { refused, tally } from "./support/shop.ts";

describe("the wallet", () => {
  let test: TestNode;
  before(async () => {
    test = await testNode(["wallet"], { wallet: { testChannel: true } });
  });
  after(() => test.stop());

  let people = 0;
  const person = (slot = 4): Id<"user"> => composeId({ ms: 1_750_000_000_000 + ++people, sequence: 0, city: 0, slot }) as Id<"user">;
  const put = (user: Id, amount: number, key?: string) => callAs(test.node, topUp, { amount, channel: "test" }, caller(user), key);
  const wallet = (user: Id) => callAs(test.node, getWallet, {}, caller(user));
  const moves = (user: Id, of: { limit?: number; cursor?: string } = {}) => callAs(test.node, listWalletTransfers, of, caller(user));

  let xids = 0;
  const branch = (userId: Id, kind: "pay" | "refund", amount: number): Of<typeof WalletBranch> => {
    const xid = composeId({ ms: 1_780_000_000_000 + ++xids, sequence: 0, city: 1, slot: 7 });
    return { xid, kind, userId, city: 1, orderId: xid, amount };
  };
  const phase = (contract: typeof tryWallets | typeof confirmWallets | typeof cancelWallets, ...items: Of<typeof WalletBranch>[]) =>
    call(test.node.broker as never, contract as typeof tryWallets, { slot: slotOf(items[0]!.userId), items });
  const outcomes = async (
    contract: typeof tryWallets | typeof confirmWallets | typeof cancelWallets,
    ...items: Of<typeof WalletBranch>[]
  ) => (await phase(contract, ...items)).map(({ ok, available }) => (ok ? "ok" : (available ?? "refused")));

  it("is empty for somebody who never used it", async () => {
    assert.deepEqual(await wallet(person()), { available: 0, frozen: 0, currency: "CNY" });
    assert.deepEqual(await moves(person()), { items: [] });
  });

  it("credits a top-up once, however often the key comes", async () => {
    const user = person();
    const answers = await Promise.all(Array.from({ length: 50 }, () => put(user, 5_000, "one")));
    assert.equal(new Set(answers.map(({ id }) => id)).size, 1);
    assert.equal(answers[0]?.status, "SUCCEEDED");
    assert.equal((await wallet(user)).available, 5_000);
    await assert.rejects(put(user, 6_000, "one"), refused("IDEMPOTENCY_KEY_REUSED"));
  });

  it("knows no channel but `test`, and that one only where it is switched on", async () => {
    await assert.rejects(callAs(test.node, topUp, { amount: 1, channel: "alipay" }, caller(person())), refused("CHANNEL_UNKNOWN"));
    const settings = test.node.broker.getLocalService("wallet").settings as { testChannel: boolean };
    settings.testChannel = false;
    try {
      await assert.rejects(put(person(), 1), refused("CHANNEL_UNKNOWN"));
    } finally {
      settings.testChannel = true;
    }
  });

  it("freezes what is tried, takes it when confirmed, frees it when cancelled", async () => {
    const user = person();
    await put(user, 1_000);
    const [kept, left] = [branch(user, "pay", 300), branch(user, "pay", 200)];
    assert.deepEqual(await outcomes(tryWallets, kept, left), ["ok", "ok"]);
    assert.deepEqual(await wallet(user), { available: 500, frozen: 500, currency: "CNY" });
    assert.deepEqual(await outcomes(confirmWallets, kept), ["ok"]);
    assert.deepEqual(await outcomes(cancelWallets, left), ["ok"]);
    assert.deepEqual(await wallet(user), { available: 700, frozen: 0, currency: "CNY" });
  });

  it("never freezes more than there is, with 40 tries at once", async () => {
    const user = person();
    await put(user, 1_000);
    const tried = await Promise.all(Array.from({ length: 40 }, () => outcomes(tryWallets, branch(user, "pay", 90))));
    const results = tried.flat().map((outcome) => (outcome === "ok" ? "ok" : "short"));
    assert.equal(results.filter((one) => one === "ok").length, 11);
    assert.deepEqual(await wallet(user), { available: 10, frozen: 990, currency: "CNY" });
  });

  it("says what is available to a try it refuses, and lets it come again when there is more", async () => {
    const user = person();
    await put(user, 100);
    const pay = branch(user, "pay", 150);
    assert.deepEqual(await outcomes(tryWallets, pay), [100]);
    await put(user, 50);
    assert.deepEqual(await outcomes(tryWallets, pay), ["ok"]);
  });

  it("does a phase once, however often it comes, also twice in one list", async () => {
    const user = person();
    await put(user, 1_000);
    const pay = branch(user, "pay", 400);
    assert.deepEqual(await outcomes(tryWallets, pay, pay), ["ok", "ok"]);
    assert.deepEqual(await outcomes(tryWallets, pay), ["ok"]);
    await Promise.all(Array.from({ length: 10 }, () => outcomes(confirmWallets, pay)));
    assert.deepEqual(await outcomes(tryWallets, pay), ["ok"]);
    assert.deepEqual(await wallet(user), { available: 600, frozen: 0, currency: "CNY" });
  });

  it("records a cancel whose try never came, and refuses the try when it does", async () => {
    const user = person();
    await put(user, 1_000);
    const pay = branch(user, "pay", 400);
    assert.deepEqual(await outcomes(cancelWallets, pay), ["ok"]);
    assert.deepEqual(await outcomes(cancelWallets, pay), ["ok"]);
    assert.deepEqual(await outcomes(tryWallets, pay), ["refused"]);
    assert.deepEqual(await wallet(user), { available: 1_000, frozen: 0, currency: "CNY" });
  });

  it("neither cancels what it confirmed nor confirms what it cancelled, and others in the batch do not suffer", async () => {
    const user = person();
    await put(user, 1_000);
    const [done, undone, other] = [branch(user, "pay", 100), branch(user, "pay", 100), branch(user, "pay", 100)];
    await outcomes(tryWallets, done, undone, other);
    await outcomes(confirmWallets, done);
    await outcomes(cancelWallets, undone);
    const results = await Promise.allSettled([phase(cancelWallets, done), phase(confirmWallets, undone), phase(confirmWallets, other)]);
    assert.deepEqual(
      results.map(({ status }) => status),
      ["rejected", "rejected", "fulfilled"],
    );
    assert.deepEqual(await wallet(user), { available: 800, frozen: 0, currency: "CNY" });
  });

  it("announces a refund before it is there, and lets nobody spend it until it is", async () => {
    const user = person();
    const back = branch(user, "refund", 700);
    assert.deepEqual(await outcomes(tryWallets, back), ["ok"]);
    assert.deepEqual(await wallet(user), { available: 0, frozen: 0, currency: "CNY" });
    assert.deepEqual(await outcomes(tryWallets, branch(user, "pay", 1)), [0]);
    await outcomes(confirmWallets, back);
    assert.equal((await wallet(user)).available, 700);
  });

  it("lists what moved, newest first, in pages, and nothing that was only tried", async () => {
    const user = person();
    for (const amount of [100, 200, 300]) await put(user, amount);
    const [paid, tried] = [branch(user, "pay", 50), branch(user, "pay", 60)];
    await outcomes(tryWallets, paid, tried);
    await outcomes(confirmWallets, paid);
    const first = await moves(user, { limit: 3 });
    assert.deepEqual(
      first.items.map(({ amount, direction, code, orderId }) => [amount, direction, code, orderId]),
      [
        [50, "out", "pay", paid.orderId],
        [300, "in", "topup", undefined],
        [200, "in", "topup", undefined],
      ],
    );
    const second = await moves(user, { limit: 3, cursor: first.nextCursor! });
    assert.deepEqual(
      second.items.map(({ amount }) => amount),
      [100],
    );
    assert.equal(second.nextCursor, undefined);
    await assert.rejects(moves(user, { cursor: Buffer.from('["x"]').toString("base64url") }), refused("VALIDATION_ERROR"));
  });

  it("serves a thousand payers at once, each their own", async () => {
    const users = Array.from({ length: 100 }, () => person(9));
    await Promise.all(users.map((user) => put(user, 1_000)));
    const results = await Promise.allSettled(
      users.flatMap((user) =>
        Array.from({ length: 10 }, async () => {
          const pay = branch(user, "pay", 99);
          const [outcome] = await outcomes(tryWallets, pay);
          if (outcome !== "ok") throw new DomainError({ message: "", code: 409, type: "INSUFFICIENT_FUNDS", data: {}, retryable: false });
          await outcomes(confirmWallets, pay);
        }),
      ),
    );
    assert.deepEqual(tally(results), { ok: 1_000 });
    for (const user of users) assert.deepEqual(await wallet(user), { available: 10, frozen: 0, currency: "CNY" });
  });
});
