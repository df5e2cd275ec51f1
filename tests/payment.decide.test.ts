import assert from "node:assert/strict";
import { describe, it } from "node:test";
import fc from "fast-check";
import { DomainError } from "../domain/error.ts";
import type { GroupState } from "../domain/group/state.ts";
import type { DealId, GroupId, PaymentId, UserId } from "../domain/ids.ts";
import type { OrderRow } from "../domain/order/place.ts";
import type { OrderState } from "../domain/order/state.ts";
import { decidePayments, type DecideWrites, type WalletDecision } from "../domain/payment/decide.ts";
import { decideTry, WALLET, type PaymentRow, type TryState } from "../domain/payment/try.ts";
import { later, NOW, orderOf, paymentOf } from "./support/orders.ts";

interface Group {
  id: GroupId;
  dealId: DealId;
  leaderId: UserId;
  size: number;
  state: GroupState;
  held: number;
  taken: number;
  filled: number;
  ttlMinutes: number;
  saleEndsAt: Date | undefined;
  deadline: Date | undefined;
}
const groupOf = (n: number, of: Partial<Group> = {}): Group => ({
  id: `g${n}` as GroupId,
  dealId: "d" as DealId,
  leaderId: "u0" as UserId,
  size: 3,
  state: "OPEN",
  held: 1,
  taken: 0,
  filled: 0,
  ttlMinutes: 60,
  saleEndsAt: undefined,
  deadline: later(60),
  ...of,
});

describe("beginning to pay", () => {
  const open = groupOf(1);
  const state = (orders: OrderRow[], live: PaymentRow[] = [], groups: Group[] = [open]): TryState => ({
    orders: new Map(orders.map((order) => [order.id, order])),
    live: new Map(live.map((payment) => [payment.orderId, payment])),
    groups: new Map(groups.map((group) => [group.id, group])),
  });
  const tried = (of: TryState, consumerId = "u1") => {
    const { outcomes } = decideTry(of, [{ orderId: "o1", consumerId: consumerId as UserId, channel: WALLET }], {
      now: NOW,
      nextId: () => "new" as PaymentId,
    });
    const [outcome] = outcomes;
    return outcome instanceof DomainError
      ? `${outcome.type} ${(outcome.data as { state?: string }).state ?? ""}`.trim()
      : `${outcome?.payment.id} ${outcome?.begun}`;
  };
  it("answers in the order of the checks", () => {
    const order = orderOf(1);
    const grouped = orderOf(1, { groupId: open.id });
    const paid = { ...paymentOf(order), state: "CONFIRMED" as const };
    assert.equal(tried(state([])), "ORDER_NOT_FOUND");
    assert.equal(tried(state([order], [paid]), "u2"), "ORDER_NOT_FOUND");
    assert.equal(tried(state([{ ...order, state: "CONFIRMED" }], [paid])), "po1 false");
    assert.equal(tried(state([order], [paymentOf(order)])), "po1 false");
    const charge = { ...paymentOf(order), channel: "simpay", state: "PROCESSING" as const };
    assert.equal(tried(state([order], [charge])), "po1 false");
    for (const dead of ["CANCELLED", "EXPIRED"] satisfies OrderState[]) {
      assert.equal(tried(state([{ ...order, state: dead }])), `ORDER_STATE ${dead}`);
      // Its charge is being closed: nobody is sent to its pay page any more.
      assert.equal(tried(state([{ ...order, state: dead }], [charge])), `ORDER_STATE ${dead}`);
    }
    assert.equal(tried(state([{ ...order, expiresAt: NOW }])), "ORDER_STATE EXPIRED");
    assert.equal(tried(state([grouped], [], [groupOf(1, { deadline: NOW })])), "GROUP_CLOSED CLOSING");
    for (const closed of ["CLOSING", "FAILED", "FORMED"] satisfies GroupState[])
      assert.equal(tried(state([grouped], [], [groupOf(1, { state: closed })])), `GROUP_CLOSED ${closed}`);
    assert.equal(tried(state([grouped], [], [groupOf(1, { state: "PENDING", deadline: undefined })])), "new true");
    assert.equal(tried(state([grouped])), "new true");
    assert.equal(tried(state([order])), "new true");
  });
  it("begins one payment for twins in a batch", () => {
    const ids = ["a", "b"];
    const command = { orderId: "o1", consumerId: "u1" as UserId, channel: WALLET };
    const { outcomes, begun } = decideTry(state([orderOf(1)]), [command, command], { now: NOW, nextId: () => ids.shift() as PaymentId });
    assert.deepEqual(
      outcomes.map((outcome) => (outcome instanceof DomainError ? outcome.type : [outcome.payment.id, outcome.begun])),
      [
        ["a", true],
        ["a", false],
      ],
    );
    assert.equal(begun.length, 1);
  });
});

/** What the tables hold, and what a batch's writes make of them. */
class Tables {
  readonly orders = new Map<string, OrderRow>();
  readonly payments = new Map<PaymentId, PaymentRow>();
  readonly groups = new Map<GroupId, Group>();
  readonly formed: GroupId[] = [];
  held = 0;
  sold = 0;

  apply(writes: DecideWrites): void {
    for (const { payment } of writes.confirming) this.#decide(payment, "CONFIRMING");
    for (const { payment } of writes.cancelling) this.#decide(payment, "CANCELLING");
    for (const order of writes.paid) this.#move(order, "PENDING_PAYMENT", "PAID");
    for (const order of writes.confirmed) this.#move(order, "PAID", "CONFIRMED");
    for (const bucket of writes.buckets) {
      this.held += bucket.held;
      this.sold += bucket.sold;
    }
    for (const [id, move] of writes.groups) {
      const group = this.groups.get(id)!;
      Object.assign(group, {
        state: move.state,
        held: group.held + move.held,
        taken: group.taken + move.taken,
        deadline: group.deadline ?? move.deadline,
      });
    }
    this.formed.push(...writes.formed.map(({ group }) => group.id));
  }
  #decide(payment: PaymentRow, state: "CONFIRMING" | "CANCELLING"): void {
    assert.equal(this.payments.get(payment.id)?.state, "TRYING", "a payment is decided once");
    this.payments.set(payment.id, { ...payment, state });
  }
  #move({ id }: OrderRow, from: OrderState, to: OrderState): void {
    const order = this.orders.get(id)!;
    assert.equal(order.state, from);
    this.orders.set(id, { ...order, state: to });
  }
}

/** Groups of 2 to 4, some short of a member, with solo orders between them; then batches of decisions, some twice, some late. */
const world = fc.record({
  sizes: fc.array(
    fc.record({
      size: fc.integer({ min: 2, max: 4 }),
      joined: fc.integer({ min: 1, max: 4 }),
      fate: fc.constantFrom("open", "open", "closing", "failed"),
    }),
    {
      maxLength: 4,
    },
  ),
  solos: fc.integer({ min: 0, max: 3 }),
  order: fc.array(fc.nat(1_000), { minLength: 30, maxLength: 30 }),
  confirm: fc.array(fc.boolean(), { minLength: 20, maxLength: 20 }),
  cancelled: fc.array(fc.nat(19), { maxLength: 3 }),
  batches: fc.array(fc.integer({ min: 1, max: 6 }), { minLength: 30, maxLength: 30 }),
});

it("10,000 evenings: every payment is decided once, and a group is formed once, exactly when all its seats are paid", () => {
  fc.assert(
    fc.property(world, ({ sizes, solos, order: shuffle, confirm, cancelled, batches }) => {
      const tables = new Tables();
      let n = 0;
      for (const [index, { size, joined, fate }] of sizes.entries()) {
        const members = Array.from({ length: Math.min(size, joined) }, () => orderOf(n++, { groupId: `g${index}` as GroupId }));
        const state: GroupState = members.length > 1 ? "OPEN" : "PENDING";
        const [leader, ...others] = members;
        // Whoever could join found the group open: its leader has paid.
        const opened = state === "OPEN";
        tables.orders.set(leader!.id, opened ? { ...leader!, state: "PAID" } : leader!);
        for (const other of others) tables.orders.set(other.id, other);
        const group = groupOf(index, {
          size,
          state,
          leaderId: leader!.consumerId,
          held: opened ? others.length : 1,
          taken: opened ? 1 : 0,
        });
        if (!opened) group.deadline = undefined;
        if (opened && fate === "closing") group.state = "CLOSING";
        if (fate === "failed") group.state = "FAILED";
        tables.groups.set(group.id, group);
      }
      for (let solo = 0; solo < solos; solo++) tables.orders.set(`o${n}`, orderOf(n++));
      for (const which of cancelled) {
        const order = tables.orders.get(`o${which}`);
        if (order?.state !== "PENDING_PAYMENT") continue;
        tables.orders.set(order.id, { ...order, state: "CANCELLED" });
        const group = order.groupId && tables.groups.get(order.groupId);
        if (group) group.held -= 1;
        if (group?.state === "PENDING") group.state = "FAILED";
      }
      const paying = [...tables.orders.values()].filter(({ state }) => state !== "PAID");
      for (const order of paying) tables.payments.set(paymentOf(order).id, paymentOf(order));
      const before = { orders: new Map(tables.orders), groups: new Map([...tables.groups].map(([id, group]) => [id, { ...group }])) };

      const commands = [...paying, ...paying.slice(0, 5)]
        .map((order, index): WalletDecision => ({
          paymentId: paymentOf(order).id,
          orderId: order.id,
          confirm: confirm[index % 20]!,
          reason: "INSUFFICIENT_FUNDS",
          requestId: undefined,
        }))
        .map((command, index) => ({ command, at: shuffle[index % 30]! }))
        .sort((a, b) => a.at - b.at)
        .map(({ command }) => command);
      const first = new Map<PaymentId, boolean>();
      for (let from = 0, batch = 0; from < commands.length; batch++) {
        const taken = commands.slice(from, from + batches[batch % 30]!);
        from += taken.length;
        const { outcomes, writes } = decidePayments(
          { payments: tables.payments, orders: tables.orders, groups: tables.groups },
          taken,
          NOW,
        );
        tables.apply(writes);
        for (const [index, { payment, refused }] of outcomes.entries()) {
          const confirmed = payment.state === "CONFIRMING";
          assert.equal(refused === undefined, confirmed, "whoever is not told why has paid");
          assert.equal(first.get(payment.id) ?? confirmed, confirmed, "a decision is answered again as it was made");
          if (!first.has(payment.id)) {
            const order = before.orders.get(payment.orderId)!;
            const payable =
              order.state === "PENDING_PAYMENT" && (order.groupId === undefined || before.groups.get(order.groupId)?.state !== "FAILED");
            assert.equal(confirmed, payable && taken[index]!.confirm, "money is taken for what can be had, and only if it is there");
          }
          first.set(payment.id, confirmed);
        }
      }

      assert.ok([...tables.payments.values()].every(({ state }) => state === "CONFIRMING" || state === "CANCELLING"));
      const units = (state: readonly OrderState[], of: OrderRow[]) =>
        of.filter((order) => state.includes(order.state)).reduce((sum, { quantity }) => sum + quantity, 0);
      const paidNow = paying.map(({ id }) => tables.orders.get(id)!);
      assert.deepEqual([tables.sold, tables.held], [units(["PAID", "CONFIRMED"], paidNow), 0 - units(["PAID", "CONFIRMED"], paidNow)]);
      for (const group of tables.groups.values()) {
        const members = [...tables.orders.values()].filter(({ groupId }) => groupId === group.id);
        const count = (...states: OrderState[]) => members.filter(({ state }) => states.includes(state)).length;
        assert.equal(group.taken, count("PAID", "CONFIRMED"));
        assert.equal(group.held, group.state === "FAILED" ? group.held : count("PENDING_PAYMENT"));
        assert.equal(group.state === "FORMED", group.taken === group.size);
        assert.equal(tables.formed.filter((id) => id === group.id).length, group.state === "FORMED" ? 1 : 0);
        assert.equal(count("CONFIRMED"), group.state === "FORMED" ? group.size : 0, "orders are confirmed with their group, not before");
        if (group.state === "OPEN" && before.groups.get(group.id)?.state === "PENDING") assert.deepEqual(group.deadline, later(60));
      }
      for (const order of tables.orders.values())
        if (order.groupId === undefined) assert.notEqual(order.state, "PAID", "whoever buys alone waits for nobody");
    }),
    { numRuns: 10_000 },
  );
});

it("an opener who pays shortly before the end of the sale gets no deadline beyond it", () => {
  const order = orderOf(0, { groupId: "g1" as GroupId });
  const group = groupOf(1, { state: "PENDING", deadline: undefined, saleEndsAt: later(20) });
  const payment = paymentOf(order);
  const { writes } = decidePayments(
    { payments: new Map([[payment.id, payment]]), orders: new Map([[order.id, order]]), groups: new Map([[group.id, group]]) },
    [{ paymentId: payment.id, orderId: order.id, confirm: true, reason: "", requestId: undefined }],
    NOW,
  );
  assert.deepEqual(writes.groups.get(group.id)?.deadline, later(20));
});
