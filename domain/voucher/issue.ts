/** Issuing vouchers: one a unit, each worth its part of what was paid. Pure: ids, chance and the clock are arguments. */
import type { DealId, MerchantId, OrderId, UserId, VoucherId } from "../ids.ts";
import { invariant } from "../invariant.ts";
import { share, type Fen } from "../money.ts";

/** An order whose vouchers fall due. */
export interface VoucheredOrder {
  readonly id: OrderId;
  readonly dealId: DealId;
  readonly merchantId: MerchantId;
  readonly consumerId: UserId;
  readonly quantity: number;
  readonly amount: Fen;
  readonly voucherValidDays: number;
}

export interface NewVoucher {
  readonly id: VoucherId;
  readonly orderId: OrderId;
  readonly dealId: DealId;
  readonly merchantId: MerchantId;
  readonly consumerId: UserId;
  readonly unit: number;
  readonly amount: Fen;
  readonly code: string;
  readonly validUntil: Date;
}

/** Random bytes a code is drawn from: 64 bits, so that the leftover of 10^14 favours no code by more than one part in 180,000. */
export const CODE_CHANCE_BYTES = 8;
const CODES = 10n ** 14n;

/** 14 digits drawn at random, then the slot: unguessable, and unique in its city although the city may be several databases. */
export function codeOf(chance: Buffer, slot: number): string {
  invariant(chance.length === CODE_CHANCE_BYTES, "a code is drawn from 64 bits");
  return (chance.readBigUInt64BE() % CODES).toString().padStart(14, "0") + String(slot).padStart(2, "0");
}

/** The slot a code ends with; whoever made one up may name a slot there is not. */
export const slotOfCode = (code: string): number => Number(code.slice(-2));

/** `ids` and `chance` hold one id, and `CODE_CHANCE_BYTES`, for every unit. */
export function issueVouchers(
  orders: readonly VoucheredOrder[],
  context: { readonly slot: number; readonly now: Date; readonly ids: readonly VoucherId[]; readonly chance: Buffer },
): NewVoucher[] {
  let issued = 0;
  return orders.flatMap((order) => {
    const validUntil = new Date(context.now.getTime() + order.voucherValidDays * 86_400_000);
    const amounts = share(order.amount, new Array<bigint>(order.quantity).fill(1n));
    return amounts.map((amount, unit): NewVoucher => {
      const at = issued++;
      const id = context.ids[at];
      invariant(id !== undefined, "there is an id for every voucher");
      const code = codeOf(context.chance.subarray(at * CODE_CHANCE_BYTES, (at + 1) * CODE_CHANCE_BYTES), context.slot);
      const { id: orderId, dealId, merchantId, consumerId } = order;
      return { id, orderId, dealId, merchantId, consumerId, unit: unit + 1, amount, code, validUntil };
    });
  });
}
