/** One bar of a lane, with its deal and its shoppers: what the steps of a life do to it, and what its tables say. */
import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import { DomainError } from "../../../domain/error.ts";
import { composeId, shardOf, type Id, type Shard } from "../../../domain/ids.ts";
import { call } from "../../../mixins/contract.ts";
import type { Caller, Contract, Fields, Infer, Of } from "../../../mixins/contract.ts";
import type { dueAction } from "../../../mixins/sweep.ts";
import { placeOrder, cancelOrder, expireOrders } from "../../../services/order/order.contract.ts";
import { closeGroups } from "../../../services/group/group.contract.ts";
import {
  advanceRefunds,
  approveRefund,
  payOrder,
  recoverPayments,
  requestRefund,
  resumeRefund,
} from "../../../services/payment/payment.contract.ts";
import { merchantBalance, requestPayout, settleVouchers, advancePayouts } from "../../../services/settlement/settlement.contract.ts";
import { lapseVouchers, listVouchers, redeemVoucher, reverseVoucher } from "../../../services/voucher/voucher.contract.ts";
import { getWallet, topUp } from "../../../services/wallet/wallet.contract.ts";
import { makeDeal } from "../deals.ts";
import { callAs, caller } from "../node.ts";
import { OURS, differences, type Ours } from "../witness.ts";
import { AGE, BOOKED, LEFT, LOOK, named, QUIET, type Raw, TALLY, TERMS, untilFree } from "./bar.sql.ts";
import { DEAL, POOR, SHOPPERS, WALLET_FEN, type Life, type Order, type Seen, type Terms, type Way } from "./model.ts";
import type { Held, Lane, Town } from "./town.ts";

let people = 0;
/** However loaded the machine: what must happen has happened by then. */
const PATIENCE_MS = 40_000;

export class Bar {
  readonly town: Town;
  readonly lane: Lane;
  readonly merchantId: Id;
  readonly #deal: Id;
  readonly #shard: Shard;
  readonly #users: readonly Id<"user">[];
  /** By their numbers in the model. */
  readonly orders: Id[] = [];
  readonly groups: Id[] = [];
  readonly #heldBefore: number;

  private constructor(town: Town, lane: Lane, deal: Id, merchantId: Id, users: readonly Id<"user">[]) {
    this.town = town;
    this.lane = lane;
    this.merchantId = merchantId;
    this.#deal = deal;
    this.#shard = shardOf(deal);
    this.#users = users;
    this.#heldBefore = town.held.get(lane.city)?.length ?? 0;
  }

  static async open(town: Town, lane: Lane, terms: Terms): Promise<Bar> {
    lane.mood = "up";
    const { stock, price, groupSize, groupPrice, perUserLimit } = DEAL;
    const tiers = [{ size: groupSize, price: groupPrice }];
    const deal = await makeDeal({ node: lane.node }, { city: lane.city, stock, price, tiers, perUserLimit });
    const users = Array.from({ length: SHOPPERS }, (): Id<"user"> => {
      const n = ++people;
      return composeId({ ms: 1_765_000_000_000 + n, sequence: 0, city: 0, slot: n % 16 }) as Id<"user">;
    });
    const database = lane.node.platform.databaseOf(shardOf(deal));
    const [row] = await database.query<{ merchant_id: Id }>(TERMS, [shardOf(deal).slot, deal, terms.anytime, terms.expired]);
    assert.ok(row);
    for (const [index, user] of users.entries())
      if (index !== POOR) await callAs(lane.node, topUp, { amount: WALLET_FEN, channel: "test" }, caller(user));
    return new Bar(town, lane, deal, row.merchant_id, users);
  }

  // -- asking: each answers what its caller was told --------------------------------------------------------------------------

  async place(user: number, quantity: number, way: Way, key: string): Promise<string> {
    const group =
      typeof way === "object" ? { groupId: this.groups[way.join] ?? ("16" as Id) } : way === "open" ? { groupSize: DEAL.groupSize } : {};
    return this.#ask(placeOrder, { dealId: this.#deal, quantity, ...group }, this.#consumer(user), key, ({ id, groupId }) => {
      if (!this.orders.includes(id)) this.orders.push(id);
      if (groupId !== undefined && !this.groups.includes(groupId)) this.groups.push(groupId);
      return "made";
    });
  }
  pay(index: number, { user }: Order, channel: "wallet" | "simpay", key: string): Promise<string> {
    return this.#ask(payOrder, { id: this.#order(index), channel }, this.#consumer(user), key, ({ status }) => status);
  }
  cancel(index: number, { user }: Order, key: string): Promise<string> {
    return this.#ask(cancelOrder, { id: this.#order(index) }, this.#consumer(user), key, ({ status }) => status);
  }
  refund(index: number, { user }: Order, quantity: number | undefined, key: string): Promise<string> {
    const params = { id: this.#order(index), ...(quantity === undefined ? {} : { quantity }) };
    return this.#ask(requestRefund, params, this.#consumer(user), key, ({ status, amount }) => `${status} ${amount}`);
  }
  async redeem(index: number, order: Order, unit: number, key: string): Promise<string> {
    const code = await this.#code(index, order, unit);
    return this.#ask(redeemVoucher, { code }, this.#staff, key, ({ status }) => status);
  }
  async reverse(index: number, order: Order, unit: number, key: string): Promise<string> {
    const code = await this.#code(index, order, unit);
    return this.#ask(reverseVoucher, { code }, this.#staff, key, ({ status }) => status);
  }
  payOut(amount: number, key: string): Promise<string> {
    return this.#ask(requestPayout, { id: this.merchantId, amount }, this.#staff, key, ({ status }) => status);
  }

  // -- time passes --------------------------------------------------------------------------------------------------------------

  /** An unpaid order's time is over, and so long ago that nobody waits for its channel any more. */
  async expire(index: number): Promise<void> {
    const id = this.#order(index);
    await this.#run("update orders set expires_at = now() - interval '31 s' where slot = $1 and id = $2 and state = 'PENDING_PAYMENT'", [
      id,
    ]);
    await this.#run("update payments set expires_at = now() where slot = $1 and order_id = $2 and unfinished", [id]);
    await this.#until("it expires", async () => {
      await this.#call(expireOrders, [id]);
      return (await this.#rows("select 1 from orders where slot = $1 and id = $2 and state = 'PENDING_PAYMENT'", [id])).length === 0;
    });
  }
  /** A group's time is over: whoever has not paid is out first. */
  async close(index: number, members: readonly number[]): Promise<void> {
    for (const member of members) await this.expire(member);
    const id = this.groups[index] ?? "";
    await this.#run("update groups set deadline = now() where slot = $1 and id = $2", [id]);
    await this.#until("the group is closed", async () => {
      await this.#call(closeGroups, [id as Id]);
      return (await this.#rows("select 1 from groups where slot = $1 and id = $2 and state in ('OPEN', 'CLOSING')", [id])).length === 0;
    });
  }
  /** So many minutes have passed since the redemptions of an order, as only somebody with the database's password could have it. */
  async age(index: number, minutes: number): Promise<void> {
    const database = this.lane.node.platform.databaseOf(this.#shard);
    const values = [this.#shard.slot, this.#order(index), minutes];
    await untilFree(() =>
      database.transaction(async (tx) => {
        for (const statement of AGE) await tx.query(statement, statement === QUIET ? [] : values);
      }),
    );
  }
  async settle(index: number): Promise<void> {
    await this.age(index, 121);
    const id = this.#order(index);
    await this.#until("it is settled", async () => {
      await this.#run(
        "update settlements set lease_until = now() where slot = $1 and order_id = $2 and lease_until > now() + interval '25 s'",
        [id],
      );
      const due = await this.#rows<{ id: Id }>(
        "select id from settlements where slot = $1 and order_id = $2 and unfinished and due_at <= now()",
        [id],
      );
      if (due.length > 0)
        await this.#call(
          settleVouchers,
          due.map((row) => row.id),
        );
      return due.length === 0;
    });
  }
  async lapse(index: number): Promise<void> {
    const id = this.#order(index);
    await this.#until("its vouchers lapse", async () => {
      const left = await this.#rows<{ id: Id }>(
        "update vouchers set valid_until = now() where slot = $1 and order_id = $2 and state = 'ISSUED' returning id",
        [id],
      );
      if (left.length > 0)
        await this.#call(
          lapseVouchers,
          left.map((row) => row.id),
        );
      return left.length === 0;
    });
  }
  /** The bar agrees to what is asked for of an order; at the latest then it is booked. */
  async approve(index: number, key: string): Promise<void> {
    const id = this.#order(index);
    await this.#until("it is approved", async () => {
      const asked = await this.#rows<{ id: Id }>(
        "select id from refunds where slot = $1 and order_id = $2 and used and state = 'REQUESTED'",
        [id],
      );
      for (const { id: refundId } of asked)
        await callAs(this.lane.node, approveRefund, { id: this.merchantId, refundId }, this.#staff, `${key} ${refundId}`);
      await this.#hurry("refunds");
      return asked.length === 0;
    });
  }
  /** Until the newest payout is where its channel leaves it; what the channel has not said then is not asked again before somebody heals it. */
  async followPayout(ends: "UNDER_WAY" | "SUCCEEDED" | "FAILED" | "RETURNED"): Promise<void> {
    await this.#until(`the payout is ${ends}`, async () => {
      const [newest] = await this.#rows<{ id: Id; state: string; last_error: string | null }>(
        "select id, state, last_error from payouts where slot = $1 and merchant_id = $2 order by id desc limit 1",
        [this.merchantId],
      );
      if (!newest || newest.state === ends) return true;
      if (ends === "UNDER_WAY") return newest.last_error !== null;
      await this.#call(advancePayouts, [newest.id]);
      return false;
    });
    await this.freeze();
  }
  /** What waits for its next attempt waits for the test. */
  async freeze(): Promise<void> {
    for (const table of ["payments", "payouts"])
      await this.#run(`update ${table} set next_attempt_at = now() + interval '1 h' where slot = $1 and merchant_id = $2 and unfinished`, [
        this.merchantId,
      ]);
  }
  /** After a crash: the payments in the middle of which it came are somebody else's to end, 20 s later. */
  async recover(): Promise<void> {
    await this.#until("undecided payments end", async () => {
      const left = await this.#rows<{ id: Id }>(
        "select id from payments where slot = $1 and merchant_id = $2 and state in ('TRYING', 'CANCELLING')",
        [this.merchantId],
      );
      if (left.length > 0)
        await this.#call(
          recoverPayments,
          left.map((row) => row.id),
        );
      return left.length === 0;
    });
  }

  // -- the channel ------------------------------------------------------------------------------------------------------------------

  /** A customer pays where the newest charge of an order says; false when nothing is taken there. */
  async click(index: number): Promise<boolean> {
    const [charge] = await this.#rows<{ id: Id; pay_url: string | null }>(
      "select id, pay_url from payments where slot = $1 and order_id = $2 and channel = 'simpay' order by id desc limit 1",
      [this.#order(index)],
    );
    assert.ok(charge?.pay_url, "we know where to pay it");
    await this.town.simpay.pay(charge.pay_url);
    const said = await this.lane.query(charge.id);
    const paid = said.kind === "answered" && said.value.status === "PAID";
    if (paid) await this.#until("simpay tells of it", () => Promise.resolve(this.callbacks().some(({ number }) => number === charge.id)));
    return paid;
  }
  /** What simpay has told since the bar was opened, heard or not. */
  callbacks(): readonly Held[] {
    return (this.town.held.get(this.lane.city) ?? []).slice(this.#heldBefore);
  }
  /** Which order's charge a callback tells of, by its number in the model; undefined: of a refund or a payout. */
  async subject({ number }: Held): Promise<{ order: number; charge: number } | undefined> {
    const rows = await this.#rows<{ id: Id; order_id: Id }>(
      "select p.id, p.order_id from payments p join payments k using (slot, order_id) where k.slot = $1 and k.id = $2 and p.channel = 'simpay' order by p.id",
      [number],
    );
    const [first] = rows;
    return first && { order: this.orders.indexOf(first.order_id), charge: rows.findIndex(({ id }) => id === number) };
  }
  /** At our door, so many times at once; and worked off. */
  async hear(callback: Held, times: number): Promise<void> {
    const said = await Promise.all(Array.from({ length: times }, () => this.lane.deliver(callback)));
    assert.deepEqual(
      said,
      said.map(() => 200),
    );
    await this.#heard();
  }
  async hearForged(callback: Held): Promise<void> {
    const body = Buffer.from(callback.raw.toString("utf8").replace(/"amount":(\d)/g, '"amount":9$1'));
    await assert.rejects(this.lane.deliver(callback, body), (error) => error instanceof DomainError && error.type === "BAD_SIGNATURE");
  }

  // -- healing --------------------------------------------------------------------------------------------------------------------------

  /** The channel is well; every callback comes, late or again; time passes until nothing is left to do, and a person asks again for what was refused. */
  async heal(): Promise<void> {
    this.lane.mood = "up";
    for (const callback of this.callbacks()) await this.lane.deliver(callback);
    await this.#run(
      "update refunds set approve_by = least(approve_by, now()) where slot = $1 and merchant_id = $2 and used and state = 'REQUESTED'",
      [this.merchantId],
    );
    await this.#run("update payments set last_error = 'not asked yet' where slot = $1 and merchant_id = $2 and unfinished", [
      this.merchantId,
    ]);
    await this.#until("everything ends", async () => {
      const stalled = await this.#rows<{ id: Id }>("select id from refunds where slot = $1 and merchant_id = $2 and abnormal", [
        this.merchantId,
      ]);
      for (const { id } of stalled) await callAs(this.lane.node, resumeRefund, { id }, caller("16", ["admin"]));
      const left = await this.#rows<{ what: "payment" | "refund" | "payout" | "callback"; id: Id; done: boolean }>(LEFT, [this.merchantId]);
      const of = (what: string): Id[] => left.flatMap((row) => (row.what === what ? [row.id] : []));
      if (of("payment").length > 0) await this.#call(recoverPayments, of("payment"));
      if (of("refund").length > 0) await this.#call(advanceRefunds, of("refund"));
      if (of("payout").length > 0) await this.#call(advancePayouts, of("payout"));
      return left.every(({ done }) => done);
    });
    await this.freeze();
  }

  // -- looking ----------------------------------------------------------------------------------------------------------------------------

  async look(): Promise<Seen> {
    const [row] = await this.#rows<{ seen: Raw }>(LOOK, [this.merchantId, this.#deal]);
    const { orders, groups, vouchers, stock, quotas } = row?.seen ?? { orders: [], groups: [], vouchers: [], stock: [], quotas: [] };
    const stateOf = (all: Raw["orders"], id: Id): string => all?.find((one) => one.id === id)?.state ?? "missing";
    return {
      orders: this.orders
        .map((id) => stateOf(orders, id))
        .concat((orders ?? []).flatMap(({ id }) => (this.orders.includes(id) ? [] : ["nobody's"]))),
      groups: this.groups.map((id) => stateOf(groups, id)),
      units: this.orders.map((id) => (vouchers ?? []).filter((voucher) => voucher.order_id === id).map(({ state }) => state)),
      held: stock?.[0]?.held ?? NaN,
      sold: stock?.[0]?.sold ?? NaN,
      counters: Object.fromEntries(
        (quotas ?? []).map(({ scope, user_id: user, used }) => [
          `${scope === this.#deal ? "units" : "unpaid"} ${this.#users.indexOf(user as Id<"user">)}`,
          used,
        ]),
      ),
    };
  }

  /** Everything has ended: model = tables, to the fen; and what simpay's own log says of this bar is what we say. */
  async agreesToTheFen(life: Life): Promise<void> {
    assert.deepEqual(life.differences(await this.look(), true), []);
    const booked = await this.#rows<{ account: string; fen: string }>(BOOKED, [this.merchantId]);
    assert.deepEqual(
      new Map(booked.map(({ account, fen }) => [account.replace(/:\d{9,}$/, ""), Number(fen)])),
      life.books(),
      "money by account",
    );
    const [tally] = await this.#rows<Record<string, number>>(TALLY, [this.merchantId]);
    assert.deepEqual({ ...tally }, life.tally(), "payments by what became of them");
    for (const [index, user] of this.#users.entries())
      assert.equal(
        (await callAs(this.lane.node, getWallet, {}, caller(user))).available,
        life.wallet(index),
        `the wallet of user ${index}`,
      );
    const { escrow, payable, paidOut } = await callAs(this.lane.node, merchantBalance, { id: this.merchantId }, this.#staff);
    const books = life.books();
    assert.deepEqual(
      [escrow, payable, paidOut],
      [books.get("escrow") ?? 0, books.get("payable") ?? 0, books.get("payout:simpay") ?? 0],
      "the balance it is shown",
    );
    const ours = await this.#rows<Ours & { merchant_id: Id }>(`select * from (${OURS}) o where o.number::bigint & 15 = $1`, []);
    const { city, slot } = this.#shard;
    const theirs = new Map([...this.town.witness(city)].filter(([, { number }]) => shardOf(number).slot === slot));
    assert.deepEqual(differences(theirs, ours), [], "simpay's log and ours");
  }

  // -- within -------------------------------------------------------------------------------------------------------------------------------

  get #staff(): Caller {
    return caller("16", ["merchant"], this.merchantId);
  }
  #consumer = (index: number): Caller => caller(this.#users[index] ?? "");
  #order = (index: number): Id => this.orders[index] ?? ("16" as Id);

  async #ask<N extends string, P extends Fields, A>(
    contract: Contract<N, P, A>,
    params: Infer<P>,
    as: Caller,
    key: string,
    said: (answer: Of<A>) => string,
  ): Promise<string> {
    try {
      return said(await callAs(this.lane.node, contract, params, as, key));
    } catch (error) {
      if (error instanceof DomainError) return error.type;
      throw error;
    }
  }
  async #code(index: number, { user }: Order, unit: number): Promise<string> {
    const shown = await callAs(this.lane.node, listVouchers, { id: this.#order(index) }, this.#consumer(user));
    return shown[unit]?.code ?? "0000000000000000";
  }
  async #heard(): Promise<void> {
    await this.#until("callbacks are worked off", async () => {
      const [left] = await this.#rows<{ left: string }>(
        "select count(*) as left from channel_callbacks where slot = $1 and state = 'KEPT'",
        [],
      );
      return left?.left === "0";
    });
  }
  #hurry(table: "payments" | "refunds" | "payouts"): Promise<unknown> {
    return this.#run(
      `update ${table} set next_attempt_at = now() where slot = $1 and merchant_id = $2 and unfinished and next_attempt_at > now()`,
      [this.merchantId],
    );
  }
  #call(action: ReturnType<typeof dueAction<string>>, ids: readonly Id[]): Promise<unknown> {
    return call(this.lane.node.broker, action, { ...this.#shard, ids: [...ids] });
  }
  #rows<Row extends object>(text: string, values: readonly unknown[]): Promise<Row[]> {
    const database = this.lane.node.platform.databaseOf(this.#shard);
    return untilFree(() => database.query<Row>(named(text), [this.#shard.slot, ...values]));
  }
  async #run(text: string, values: readonly unknown[]): Promise<void> {
    await this.#rows(text, values);
  }
  async #until(what: string, holds: () => Promise<boolean>): Promise<void> {
    const end = performance.now() + PATIENCE_MS;
    for (let pauseMs = 2; !(await holds()); pauseMs = Math.min(2 * pauseMs, 50)) {
      assert.ok(performance.now() < end, `${what} within ${PATIENCE_MS} ms`);
      await sleep(pauseMs);
    }
  }
}
