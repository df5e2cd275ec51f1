/**
 * An id ends with its address: `milliseconds since 2025-01-01 (41 bits) | sequence (10) | city (8) | slot (4)`, a positive int8.
 * It travels as a decimal string everywhere (JavaScript numbers end at 2^53, and `pg` hands int8 out as text anyway), and routes itself:
 * 10^12 is divisible by 4,096, so the address stands in the last twelve digits and no bigint is built to read it.
 */
import { invariant } from "./invariant.ts";

declare const kind: unique symbol;
export type Id<K extends string = string> = string & { readonly [kind]: K };
export type UserId = Id<"user">;
export type MerchantId = Id<"merchant">;
export type DealId = Id<"deal">;
export type GroupId = Id<"group">;
export type OrderId = Id<"order">;
export type PaymentId = Id<"payment">;
export type RefundId = Id<"refund">;
export type VoucherId = Id<"voucher">;
export type SettlementId = Id<"settlement">;
export type PayoutId = Id<"payout">;
export type RedemptionId = Id<"redemption">;
export type TransferId = Id<"transfer">;

/** 16 slots a city, as the original has (`merchant_id % 16`): a city split over 4 servers still moves 4 slots at a time. */
export const SLOT_COUNT = 16;
/** The user keyspace is city 0. */
export const USER_CITY = 0;
/** 2025-01-01T00:00:00Z in Unix milliseconds. */
export const ID_EPOCH_MS = 1_735_689_600_000;
/** 19 digits hold every int8; the largest 63-bit id has 19. */
export const ID_PATTERN = /^[1-9][0-9]{0,18}$/;
const INT8_MAX = "9223372036854775807";

/** A shard: one slot of one city (or of the user keyspace). */
export interface Shard {
  readonly city: number;
  readonly slot: number;
}

export const isId = (text: string): boolean => ID_PATTERN.test(text) && (text.length < 19 || text <= INT8_MAX);
export const slotOf = (id: string): number => addressOf(id) % SLOT_COUNT;
export const cityOf = (id: string): number => addressOf(id) >> 4;
export const shardOf = (id: string): Shard => {
  const address = addressOf(id);
  return { city: address >> 4, slot: address % SLOT_COUNT };
};
/** Digit by digit: an order asks its deal a dozen times where it lives, and a slice of its text to make a number of takes three times as long. */
function addressOf(id: string): number {
  let address = 0;
  for (let at = Math.max(0, id.length - 12); at < id.length; at++) address = (address * 10 + id.charCodeAt(at) - ZERO) & 4095;
  return address;
}
const ZERO = "0".charCodeAt(0);

export const shardKey = (shard: Shard): string => `${shard.city}/${shard.slot}`;
export const mintedAtMs = (id: string): number => Number(BigInt(id) >> 22n) + ID_EPOCH_MS;

/** The id that a clock, a sequence and an address make: what `mint_ids` in SQL computes, for tests and tools. */
export function composeId(parts: { ms: number; sequence: number; city: number; slot: number }): Id {
  invariant(parts.ms >= ID_EPOCH_MS && parts.ms < ID_EPOCH_MS + 2 ** 41, "a time has 41 bits");
  invariant(parts.sequence >= 0 && parts.sequence < 1024, "a sequence has 10 bits");
  invariant(parts.city >= 0 && parts.city < 256, "a city has 8 bits");
  invariant(parts.slot >= 0 && parts.slot < SLOT_COUNT, "a slot has 4 bits");
  const base = (BigInt(parts.ms - ID_EPOCH_MS) << 10n) | BigInt(parts.sequence);
  return ((base << 12n) | BigInt((parts.city << 4) | parts.slot)).toString() as Id;
}
