/**
 * Beginning to pay: which orders may be paid now, and which are being paid or paid already. Pure, like `decide.ts`.
 *
 * Checks in order of precedence (the order is API): the order is the caller's → not given up → paid or being paid already → unpaid and in time →
 * its group takes members. After the last check a payment begins.
 */
import { refusal, type DomainError } from "../error.ts";
import { GROUP_ERRORS } from "../group/errors.ts";
import type { GroupState } from "../group/state.ts";
import type { GroupId, MerchantId, OrderId, PaymentId, UserId } from "../ids.ts";
import { invariant } from "../invariant.ts";
import type { Fen } from "../money.ts";
import { ORDER_ERRORS } from "../order/errors.ts";
import type { OrderState } from "../order/state.ts";
import { CHARGE_INITIAL, PAYMENT_INITIAL, type PaymentState } from "./state.ts";

export interface PayCommand {
  readonly orderId: string;
  readonly consumerId: UserId;
  readonly channel: string;
}

/** The channel that is ours; every other is outside. */
export const WALLET = "wallet";

/** A payment as its row has it. */
export interface PaymentRow {
  readonly id: PaymentId;
  readonly orderId: OrderId;
  readonly consumerId: UserId;
  readonly merchantId: MerchantId;
  readonly amount: Fen;
  readonly channel: string;
  readonly state: PaymentState;
  /** Why it was cancelled, or failed: an error code, or the channel's word for it. */
  readonly reason: string | undefined;
  /** By channel: until when the charge may be paid, and where. */
  readonly expiresAt?: Date | undefined;
  readonly payUrl?: string | undefined;
  /** What the channel really took. Set in FAILED: another amount or currency than was asked for. */
  readonly paid?: Paid | undefined;
}

/** What a channel says a customer paid, in the small unit of the currency. */
export interface Paid {
  readonly amount: Fen;
  readonly currency: string;
  readonly at: Date;
}

interface PayableOrder {
  readonly id: OrderId;
  readonly consumerId: UserId;
  readonly merchantId: MerchantId;
  readonly groupId: GroupId | undefined;
  readonly amount: Fen;
  readonly state: OrderState;
  readonly expiresAt: Date;
}

export interface TryState {
  readonly orders: ReadonlyMap<string, PayableOrder>;
  /** The payment of an order that is not given up, by order. */
  readonly live: ReadonlyMap<string, PaymentRow>;
  readonly groups: ReadonlyMap<GroupId, { readonly state: GroupState; readonly deadline: Date | undefined }>;
}

/** `begun` by this command, or somebody else's whose end it may share. */
export interface Tried {
  readonly payment: PaymentRow;
  readonly begun: boolean;
}

export function decideTry(
  state: TryState,
  commands: readonly PayCommand[],
  context: { readonly now: Date; readonly nextId: () => PaymentId },
): { outcomes: (Tried | DomainError)[]; begun: PaymentRow[] } {
  const begun = new Map<string, PaymentRow>();
  const outcomes = commands.map(({ orderId, consumerId, channel }): Tried | DomainError => {
    const order = state.orders.get(orderId);
    if (order?.consumerId !== consumerId) return refusal(ORDER_ERRORS, "ORDER_NOT_FOUND", { orderId });
    // Its charge may still be open: until it is closed, nobody is sent to its pay page again.
    if (order.state === "CANCELLED" || order.state === "EXPIRED")
      return refusal(ORDER_ERRORS, "ORDER_STATE", { orderId, state: order.state });
    const live = begun.get(orderId) ?? state.live.get(orderId);
    if (live) return { payment: live, begun: false };
    const refused = unpayable(order, state, context.now);
    if (refused) return refused;
    // From here the payment begins.
    const { merchantId, amount } = order;
    const payment: PaymentRow = {
      id: context.nextId(),
      orderId: order.id,
      consumerId,
      merchantId,
      amount,
      channel,
      state: channel === WALLET ? PAYMENT_INITIAL : CHARGE_INITIAL,
      reason: undefined,
      expiresAt: channel === WALLET ? undefined : order.expiresAt,
    };
    begun.set(orderId, payment);
    return { payment, begun: true };
  });
  return { outcomes, begun: [...begun.values()] };
}

/** An order that nobody has swept up yet is expired all the same; so is a group whose deadline has passed closed to new payments. */
function unpayable(order: PayableOrder, state: TryState, now: Date): DomainError | undefined {
  if (order.state !== "PENDING_PAYMENT") return refusal(ORDER_ERRORS, "ORDER_STATE", { orderId: order.id, state: order.state });
  if (order.expiresAt <= now) return refusal(ORDER_ERRORS, "ORDER_STATE", { orderId: order.id, state: "EXPIRED" });
  if (order.groupId === undefined) return undefined;
  const group = state.groups.get(order.groupId);
  invariant(group !== undefined, "the group of an order is there");
  if (group.state === "PENDING") return undefined;
  const open = group.state === "OPEN" && group.deadline !== undefined && group.deadline > now;
  return open
    ? undefined
    : refusal(GROUP_ERRORS, "GROUP_CLOSED", { groupId: order.groupId, state: group.state === "OPEN" ? "CLOSING" : group.state });
}
