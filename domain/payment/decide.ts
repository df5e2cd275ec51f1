/**
 * The decision of a payment, made once: CONFIRMING or CANCELLING by wallet, CONFIRMED or FAILED by a channel's word, together with everything that
 * follows from it in the city: order paid, units sold, seat taken, group opened or formed, orders confirmed. Pure: locked rows and commands in,
 * writes and answers out. Commands are decided one after the other over the state the earlier ones left, so both seats of a group of two, paid
 * in one batch, form it once.
 */
import { COMMON_ERRORS } from "../common-errors.ts";
import { refusal, type DomainError } from "../error.ts";
import { GROUP_ERRORS } from "../group/errors.ts";
import { GROUP, type GroupState } from "../group/state.ts";
import type { DealId, GroupId, OrderId, PaymentId, UserId } from "../ids.ts";
import { invariant } from "../invariant.ts";
import { ORDER_ERRORS } from "../order/errors.ts";
import type { BucketChange, OrderRow } from "../order/place.ts";
import { next } from "../transition.ts";
import { chargeAfter, differenceOf, type ChargeMove, type ChargeNews } from "./charge.ts";
import { OPEN_CHARGE } from "./state.ts";
import type { Paid, PaymentRow } from "./try.ts";

export interface WalletDecision {
  readonly paymentId: PaymentId;
  readonly orderId: OrderId;
  /** What its Try came to: the wallet's money is set aside, or it is not. */
  readonly confirm: boolean;
  /** With `confirm: false`: the error code its buyer is told. */
  readonly reason: string;
  readonly requestId: string | undefined;
}

export type DecideCommand = WalletDecision | ChargeNews;

interface GroupRow {
  readonly id: GroupId;
  readonly dealId: DealId;
  readonly leaderId: UserId;
  readonly size: number;
  readonly state: GroupState;
  readonly held: number;
  readonly taken: number;
  readonly filled: number;
  readonly ttlMinutes: number;
  readonly saleEndsAt: Date | undefined;
  readonly deadline: Date | undefined;
}

export interface DecideState {
  readonly payments: ReadonlyMap<PaymentId, PaymentRow>;
  /** The orders of the payments, and the paid ones of every group that may form. */
  readonly orders: ReadonlyMap<string, OrderRow>;
  readonly groups: ReadonlyMap<GroupId, GroupRow>;
}

/** What became of a payment; with the refusal its buyer is told where it was cancelled. */
export interface Decided {
  readonly payment: PaymentRow;
  readonly refused: DomainError | undefined;
}

export interface GroupMove {
  readonly group: GroupRow;
  state: GroupState;
  held: number;
  taken: number;
  deadline: Date | undefined;
}

export interface DecideWrites {
  readonly confirming: { readonly payment: PaymentRow; readonly requestId: string | undefined }[];
  readonly cancelling: { readonly payment: PaymentRow; readonly reason: string; readonly requestId: string | undefined }[];
  /** Payments by channel, as they are now. */
  readonly charges: Map<PaymentId, ChargeMove>;
  /** Charges that paid their orders. */
  readonly captured: PaymentRow[];
  /** Money of a channel that pays for nothing: too late, or a second time. All of it goes back. */
  readonly surplus: { readonly payment: PaymentRow; readonly order: OrderRow }[];
  /** Another amount or currency than was asked for. */
  readonly differing: { readonly payment: PaymentRow; readonly paid: Paid; readonly reason: string }[];
  /** PENDING_PAYMENT → PAID. */
  readonly paid: OrderRow[];
  /** PAID → CONFIRMED, their vouchers to be issued. Some of them were paid in this batch. */
  readonly confirmed: OrderRow[];
  readonly buckets: BucketChange[];
  readonly seats: { readonly groupId: GroupId; readonly orderId: OrderId }[];
  readonly groups: Map<GroupId, GroupMove>;
  readonly formed: { readonly group: GroupRow; readonly members: readonly UserId[] }[];
}

export function decidePayments(
  state: DecideState,
  commands: readonly DecideCommand[],
  now: Date,
): { outcomes: Decided[]; writes: DecideWrites } {
  const deciding = new Deciding(state, now);
  return { outcomes: commands.map((command) => deciding.decide(command)), writes: deciding.writes };
}

class Deciding {
  readonly writes: DecideWrites = {
    confirming: [],
    cancelling: [],
    charges: new Map(),
    captured: [],
    surplus: [],
    differing: [],
    paid: [],
    confirmed: [],
    buckets: [],
    seats: [],
    groups: new Map(),
    formed: [],
  };
  readonly #state: DecideState;
  readonly #now: Date;
  /** What this batch made of payments and orders. */
  readonly #decided = new Map<PaymentId, Decided>();
  readonly #orders = new Map<string, OrderRow>();
  /** Orders waiting for their group, by group: what forming confirms. */
  readonly #waiting: Map<GroupId, OrderRow[]>;

  constructor(state: DecideState, now: Date) {
    this.#state = state;
    this.#now = now;
    this.#waiting = new Map();
    for (const order of state.orders.values()) if (order.state === "PAID") this.#wait(order);
  }

  decide(command: DecideCommand): Decided {
    const payment = this.#state.payments.get(command.paymentId);
    invariant(payment !== undefined, "a payment that is decided was begun");
    if ("news" in command) return { payment: this.#hear(payment, command), refused: undefined };
    const earlier = this.#decided.get(payment.id);
    if (earlier) return earlier;
    const decided = payment.state === "TRYING" ? this.#make(payment, command) : this.#seen(payment);
    this.#decided.set(payment.id, decided);
    return decided;
  }

  /** Decided before, by the recovery worker or by this command's first run. */
  #seen(payment: PaymentRow): Decided {
    if (payment.state === "CONFIRMING" || payment.state === "CONFIRMED") return { payment, refused: undefined };
    return { payment, refused: this.#unpayable(this.#order(payment)) ?? refusal(COMMON_ERRORS, "TIMEOUT", {}) };
  }

  /** A channel's word. Money is believed whenever it comes; everything else only while nobody has given up or paid. */
  #hear(payment: PaymentRow, { news, channelNo, requestId }: ChargeNews): PaymentRow {
    const now = this.writes.charges.get(payment.id)?.payment ?? payment;
    const after = chargeAfter(now, news);
    if (after === undefined) return now;
    const change = (more: Partial<ChargeMove>, row: PaymentRow): PaymentRow => {
      this.writes.charges.set(payment.id, {
        was: payment.state,
        payment: row,
        channelNo,
        surplus: false,
        error: undefined,
        requestId,
        ...more,
      });
      return row;
    };
    if (news.kind !== "paid") return change({ error: news.kind === "lost" ? news.why : undefined }, after);
    const reason = differenceOf(payment, news.paid);
    if (reason !== undefined) {
      this.writes.differing.push({ payment, paid: news.paid, reason });
      return change({}, { ...after, state: "FAILED", reason });
    }
    const order = this.#order(payment);
    if (!OPEN_CHARGE.includes(now.state) || this.#unpayable(order)) {
      this.writes.surplus.push({ payment, order });
      return change({ surplus: true }, after);
    }
    this.#pay(order, payment);
    this.writes.captured.push(payment);
    return change({}, after);
  }

  #make(payment: PaymentRow, { confirm, reason, requestId }: WalletDecision): Decided {
    const order = this.#order(payment);
    const refused = this.#unpayable(order);
    if (!confirm || refused) {
      const why = confirm && refused ? refused.type : reason;
      this.writes.cancelling.push({ payment, reason: why, requestId });
      return { payment: { ...payment, state: "CANCELLING", reason: why }, refused: refused ?? refusal(COMMON_ERRORS, "TIMEOUT", {}) };
    }
    this.writes.confirming.push({ payment, requestId });
    this.#pay(order, payment);
    return { payment: { ...payment, state: "CONFIRMING" }, refused: undefined };
  }

  /** From here the order is paid. */
  #pay(order: OrderRow, payment: PaymentRow): void {
    invariant(payment.amount === order.amount, "a payment pays its order, exactly");
    const paid: OrderRow = { ...order, state: "PAID", paidAt: this.#now };
    this.#orders.set(order.id, paid);
    this.writes.paid.push(paid);
    this.writes.buckets.push({ dealId: order.dealId, bucket: order.bucket, total: 0, held: -order.quantity, sold: order.quantity });
    if (order.groupId === undefined) this.#confirm(paid);
    else this.#takeSeat(order.groupId, paid);
  }

  #order(payment: PaymentRow): OrderRow {
    const order = this.#orders.get(payment.orderId) ?? this.#state.orders.get(payment.orderId);
    invariant(order !== undefined, "the order of a payment is there");
    return order;
  }

  /**
   * Why the money would come too late. The clock is not asked: a payment that began in time is taken as long as its order was not expired
   * under it, and at CLOSING the seats in payment are waited for.
   */
  #unpayable(order: OrderRow): DomainError | undefined {
    if (order.state !== "PENDING_PAYMENT") return refusal(ORDER_ERRORS, "ORDER_STATE", { orderId: order.id, state: order.state });
    if (order.groupId === undefined) return undefined;
    const { state } = this.#group(order.groupId);
    const takes = state === "PENDING" || state === "OPEN" || state === "CLOSING";
    return takes ? undefined : refusal(GROUP_ERRORS, "GROUP_CLOSED", { groupId: order.groupId, state });
  }

  #group(id: GroupId): GroupMove {
    const moving = this.writes.groups.get(id);
    if (moving) return moving;
    const group = this.#state.groups.get(id);
    invariant(group !== undefined, "the group of an order is locked");
    return { group, state: group.state, held: 0, taken: 0, deadline: undefined };
  }

  #takeSeat(id: GroupId, order: OrderRow): void {
    const move = this.#group(id);
    this.writes.groups.set(id, move);
    this.writes.seats.push({ groupId: id, orderId: order.id });
    this.#wait(order);
    move.held -= 1;
    move.taken += 1;
    const { group } = move;
    if (move.state === "PENDING") {
      invariant(order.consumerId === group.leaderId, "its opener's payment opens a group");
      move.state = this.#after(move.state, "open");
      move.deadline = new Date(Math.min(this.#now.getTime() + group.ttlMinutes * 60_000, group.saleEndsAt?.getTime() ?? Infinity));
    }
    const seats = group.taken + move.taken + group.filled;
    invariant(seats <= group.size, "a group has no extra member");
    if (seats === group.size) this.#form(move);
  }

  #form(move: GroupMove): void {
    const { group } = move;
    const members = this.#waiting.get(group.id) ?? [];
    invariant(members.length === group.taken + move.taken, "every taken seat of a group that forms is a paid order's");
    move.state = this.#after(move.state, "fill");
    for (const member of members) this.#confirm(member);
    this.#waiting.delete(group.id);
    this.writes.formed.push({ group, members: members.map((member) => member.consumerId) });
  }

  #after(state: GroupState, event: "open" | "fill"): GroupState {
    const after = next(GROUP, state, event);
    invariant(after !== undefined, `a ${state} group can ${event}`);
    return after;
  }

  #confirm(order: OrderRow): void {
    const confirmed: OrderRow = { ...order, state: "CONFIRMED" };
    this.#orders.set(order.id, confirmed);
    this.writes.confirmed.push(confirmed);
  }

  #wait(order: OrderRow): void {
    if (order.groupId === undefined) return;
    const waiting = this.#waiting.get(order.groupId);
    if (waiting) waiting.push(order);
    else this.#waiting.set(order.groupId, [order]);
  }
}
