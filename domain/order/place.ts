/**
 * Placing orders: what a batch of commands does to the rows it locked. Pure: rows, commands, a clock and ids in; outcomes and writes out.
 * Commands are decided one after the other over the state the earlier ones left, as if each had been alone.
 *
 * Checks in order of precedence (the order is API): seen before → deal → group → on sale → tier → group open → already in it → group full →
 * units per user → unpaid orders → stock. After the last check the order is made.
 */
import { DEAL_ERRORS } from "../deal/errors.ts";
import { COMMON_ERRORS } from "../common-errors.ts";
import type { DealState } from "../deal/state.ts";
import { type DomainError, refusal } from "../error.ts";
import { GROUP_ERRORS } from "../group/errors.ts";
import type { GroupState } from "../group/state.ts";
import type { DealId, GroupId, MerchantId, OrderId, UserId } from "../ids.ts";
import { invariant } from "../invariant.ts";
import { LIMITS } from "../limits.ts";
import { fen, type Fen } from "../money.ts";
import { unitDiscount, type RegionRules } from "../region/policy.ts";
import { ORDER_ERRORS } from "./errors.ts";
import type { OrderState } from "./state.ts";

export interface PlaceCommand {
  readonly consumerId: UserId;
  readonly username: string;
  readonly dealId: DealId;
  readonly quantity: number;
  readonly groupSize: number | undefined;
  readonly groupId: GroupId | undefined;
  readonly idemKey: string;
  /** Hex SHA-256 of the request. */
  readonly bodyHash: string;
  readonly requestId: string | undefined;
}

export interface DealFacts {
  readonly id: DealId;
  readonly merchantId: MerchantId;
  readonly price: Fen;
  readonly tiers: readonly { readonly size: number; readonly price: number }[];
  readonly perUserLimit: number | undefined;
  readonly groupTtlMinutes: number;
  readonly autoFillBps: number | undefined;
  readonly saleStartsAtMs: number | undefined;
  readonly saleEndsAtMs: number | undefined;
  readonly commissionBps: number;
  readonly voucherValidDays: number;
  readonly state: DealState;
}

export interface Bucket {
  readonly dealId: DealId;
  readonly bucket: number;
  total: number;
  held: number;
  sold: number;
}

export interface GroupFacts {
  readonly id: GroupId;
  readonly dealId: DealId;
  readonly size: number;
  readonly unitPrice: Fen;
  readonly state: GroupState;
  held: number;
  readonly taken: number;
  readonly filled: number;
  readonly deadlineMs: number | undefined;
}

/** An order as its row has it. */
export interface OrderRow {
  readonly id: OrderId;
  readonly consumerId: UserId;
  readonly merchantId: MerchantId;
  readonly dealId: DealId;
  readonly groupId: GroupId | undefined;
  readonly bucket: number;
  readonly quantity: number;
  readonly unitPrice: Fen;
  readonly discount: Fen;
  readonly amount: Fen;
  /** The regional policy it was made under, and the discount that policy gave. */
  readonly region: string;
  readonly regionVersion: string;
  readonly discountBps: number;
  readonly commissionBps: number;
  readonly voucherValidDays: number;
  readonly state: OrderState;
  readonly idemKey: string;
  readonly bodyHash: string;
  readonly createdAt: Date;
  readonly expiresAt: Date;
  readonly paidAt: Date | undefined;
}

/** The rows a batch is decided on. `quotas` and `seats` by the keys made below. */
export interface PlaceState {
  readonly orders: ReadonlyMap<string, OrderRow>;
  readonly deals: ReadonlyMap<DealId, DealFacts>;
  readonly buckets: ReadonlyMap<DealId, readonly Bucket[]>;
  readonly groups: ReadonlyMap<GroupId, GroupFacts>;
  readonly seats: ReadonlySet<string>;
  readonly quotas: ReadonlyMap<string, number>;
}

export const orderKey = (consumerId: string, idemKey: string): string => `${consumerId} ${idemKey}`;
export const seatKey = (groupId: string, userId: string): string => `${groupId} ${userId}`;
export const quotaKey = (scope: string, userId: string): string => `${scope} ${userId}`;

export interface QuotaChange {
  readonly scope: string;
  readonly userId: UserId;
  delta: number;
  readonly cap: number | undefined;
}
export interface BucketChange {
  readonly dealId: DealId;
  readonly bucket: number;
  total: number;
  held: number;
  sold: number;
}
export interface NewGroup {
  readonly id: GroupId;
  readonly dealId: DealId;
  readonly merchantId: MerchantId;
  readonly size: number;
  readonly unitPrice: Fen;
  readonly leaderId: UserId;
  readonly leaderName: string;
  readonly ttlMinutes: number;
  readonly saleEndsAt: Date | undefined;
  readonly autoFillBps: number | undefined;
}
export interface NewSeat {
  readonly groupId: GroupId;
  readonly orderId: OrderId;
  readonly userId: UserId;
  readonly username: string;
}

export interface PlaceWrites {
  readonly orders: OrderRow[];
  readonly requestIds: Map<OrderId, string | undefined>;
  /** By the bucket that was locked. */
  readonly buckets: Map<Bucket, BucketChange>;
  readonly quotas: Map<string, QuotaChange>;
  readonly groups: NewGroup[];
  readonly seats: NewSeat[];
  /** Seats newly held, by group that was there before. */
  readonly held: Map<GroupId, number>;
}

/** An order, new or (`replayed`) made by an earlier request with the same key. */
export interface Placed {
  readonly order: OrderRow;
  readonly replayed: boolean;
}

export interface PlaceContext {
  readonly now: Date;
  readonly orderTtlMs: number;
  /** What the region's policy says at this moment: all orders of a batch are of one city. */
  readonly rules: RegionRules;
  readonly nextId: () => string;
}

export function decidePlace(
  state: PlaceState,
  commands: readonly PlaceCommand[],
  context: PlaceContext,
): { outcomes: (Placed | DomainError)[]; writes: PlaceWrites } {
  const placing = new Placing(state, context);
  return { outcomes: commands.map((command) => placing.place(command)), writes: placing.writes };
}

class Placing {
  readonly writes: PlaceWrites = {
    orders: [],
    requestIds: new Map(),
    buckets: new Map(),
    quotas: new Map(),
    groups: [],
    seats: [],
    held: new Map(),
  };
  readonly #state: PlaceState;
  readonly #context: PlaceContext;
  readonly #made = new Map<string, OrderRow>();
  readonly #seats = new Set<string>();

  constructor(state: PlaceState, context: PlaceContext) {
    this.#state = state;
    this.#context = context;
  }

  place(command: PlaceCommand): Placed | DomainError {
    const key = orderKey(command.consumerId, command.idemKey);
    const seen = this.#made.get(key) ?? this.#state.orders.get(key);
    if (seen)
      return seen.bodyHash === command.bodyHash
        ? { order: seen, replayed: true }
        : refusal(COMMON_ERRORS, "IDEMPOTENCY_KEY_REUSED", { key: command.idemKey });

    const { dealId, quantity } = command;
    const deal = this.#state.deals.get(dealId);
    if (!deal || deal.state === "DRAFT") return refusal(DEAL_ERRORS, "DEAL_NOT_FOUND", { dealId });
    const group = command.groupId === undefined ? undefined : this.#state.groups.get(command.groupId);
    if (command.groupId !== undefined && (!group || group.state === "PENDING" || group.dealId !== dealId)) {
      return refusal(GROUP_ERRORS, "GROUP_NOT_FOUND", { groupId: command.groupId });
    }
    if (!this.#onSale(deal)) return refusal(DEAL_ERRORS, "DEAL_NOT_ON_SALE", { dealId });
    const tier = command.groupSize === undefined ? undefined : this.#tierOf(deal, command.groupSize);
    if (command.groupSize !== undefined && !tier) return refusal(ORDER_ERRORS, "NO_SUCH_TIER", { dealId, size: command.groupSize });
    const noSeat = group && this.#seatRefusal(group, command.consumerId);
    if (noSeat) return noSeat;
    const ofMerchant = quotaKey(deal.merchantId, command.consumerId);
    const ofDeal = deal.perUserLimit === undefined ? undefined : quotaKey(dealId, command.consumerId);
    const overQuota = this.#quotaRefusal(deal, quantity, ofMerchant, ofDeal);
    if (overQuota) return overQuota;
    const bucket = this.#takeStock(dealId, quantity);
    if (!bucket) return refusal(DEAL_ERRORS, "SOLD_OUT", { dealId, available: this.#available(dealId) });

    // From here the order is made.
    const unitPrice = group?.unitPrice ?? (tier ? fen(tier.price) : deal.price);
    const groupId = group?.id ?? (tier ? this.#openGroup(deal, tier.size, unitPrice, command) : undefined);
    const order = this.#makeOrder(command, deal, { unitPrice, groupId, bucket: bucket.bucket, deadlineMs: group?.deadlineMs });
    this.#made.set(key, order);
    this.#count(ofMerchant, {
      scope: deal.merchantId,
      userId: command.consumerId,
      delta: 1,
      cap: LIMITS.unpaidOrdersMax,
    });
    if (ofDeal !== undefined) {
      this.#count(ofDeal, {
        scope: dealId,
        userId: command.consumerId,
        delta: quantity,
        cap: deal.perUserLimit,
      });
    }
    if (groupId !== undefined) this.#holdSeat(groupId, group, order.id, command);
    return { order, replayed: false };
  }

  #onSale(deal: DealFacts): boolean {
    const nowMs = this.#context.now.getTime();
    return deal.state === "ON_SALE" && nowMs >= (deal.saleStartsAtMs ?? 0) && nowMs < (deal.saleEndsAtMs ?? Infinity);
  }

  /** A region may have made groups smaller since the deal was drafted. */
  #tierOf(deal: DealFacts, size: number): DealFacts["tiers"][number] | undefined {
    return size > this.#context.rules.sizeMax ? undefined : deal.tiers.find((tier) => tier.size === size);
  }

  #seatRefusal(group: GroupFacts, userId: UserId): DomainError | undefined {
    const { id: groupId, size, state } = group;
    if (state !== "OPEN" || this.#context.now.getTime() >= (group.deadlineMs ?? 0)) {
      return state === "FORMED"
        ? refusal(GROUP_ERRORS, "GROUP_FULL", { groupId, size })
        : refusal(GROUP_ERRORS, "GROUP_CLOSED", { groupId, state });
    }
    const key = seatKey(groupId, userId);
    if (this.#state.seats.has(key) || this.#seats.has(key)) return refusal(GROUP_ERRORS, "ALREADY_IN_GROUP", { groupId });
    if (group.held + group.taken + group.filled >= size) return refusal(GROUP_ERRORS, "GROUP_FULL", { groupId, size });
    return undefined;
  }

  #quotaRefusal(deal: DealFacts, quantity: number, ofMerchant: string, ofDeal: string | undefined): DomainError | undefined {
    const limit = deal.perUserLimit;
    if (limit !== undefined && ofDeal !== undefined) {
      const used = this.#used(ofDeal);
      if (used + quantity > limit) return refusal(ORDER_ERRORS, "USER_LIMIT_EXCEEDED", { dealId: deal.id, limit, used });
    }
    if (this.#used(ofMerchant) >= LIMITS.unpaidOrdersMax) {
      return refusal(ORDER_ERRORS, "TOO_MANY_UNPAID", { merchantId: deal.merchantId, limit: LIMITS.unpaidOrdersMax });
    }
    return undefined;
  }

  #used(key: string): number {
    return (this.#state.quotas.get(key) ?? 0) + (this.writes.quotas.get(key)?.delta ?? 0);
  }

  #count(key: string, change: QuotaChange): void {
    const counted = this.writes.quotas.get(key);
    if (counted) counted.delta += change.delta;
    else this.writes.quotas.set(key, change);
  }

  #available(dealId: DealId): number {
    return (this.#state.buckets.get(dealId) ?? []).reduce((units, bucket) => units + bucket.total - bucket.held - bucket.sold, 0);
  }

  /** Holds units in one bucket. Where only several together have enough, their free units are first moved into one. */
  #takeStock(dealId: DealId, quantity: number): Bucket | undefined {
    const buckets = this.#state.buckets.get(dealId) ?? [];
    let chosen = buckets.find((bucket) => bucket.total - bucket.held - bucket.sold >= quantity);
    if (!chosen && buckets.length > 1 && this.#available(dealId) >= quantity) {
      chosen = buckets[0];
      for (const other of buckets.slice(1)) {
        const free = other.total - other.held - other.sold;
        if (chosen && free > 0) {
          this.#changeBucket(other, { total: -free, held: 0 });
          this.#changeBucket(chosen, { total: free, held: 0 });
        }
      }
    }
    if (chosen) this.#changeBucket(chosen, { total: 0, held: quantity });
    return chosen;
  }

  #changeBucket(bucket: Bucket, delta: { total: number; held: number }): void {
    bucket.total += delta.total;
    bucket.held += delta.held;
    const change = this.writes.buckets.get(bucket);
    if (change) {
      change.total += delta.total;
      change.held += delta.held;
    } else this.writes.buckets.set(bucket, { dealId: bucket.dealId, bucket: bucket.bucket, total: delta.total, held: delta.held, sold: 0 });
  }

  #openGroup(deal: DealFacts, size: number, unitPrice: Fen, command: PlaceCommand): GroupId {
    const id = this.#context.nextId() as GroupId;
    this.writes.groups.push({
      id,
      dealId: deal.id,
      merchantId: deal.merchantId,
      size,
      unitPrice,
      leaderId: command.consumerId,
      leaderName: command.username,
      ttlMinutes: Math.min(deal.groupTtlMinutes, this.#context.rules.ttlMinutesMax),
      saleEndsAt: deal.saleEndsAtMs === undefined ? undefined : new Date(deal.saleEndsAtMs),
      autoFillBps: deal.autoFillBps,
    });
    return id;
  }

  #holdSeat(groupId: GroupId, group: GroupFacts | undefined, orderId: OrderId, command: PlaceCommand): void {
    this.#seats.add(seatKey(groupId, command.consumerId));
    this.writes.seats.push({ groupId, orderId, userId: command.consumerId, username: command.username });
    if (!group) return;
    group.held += 1;
    this.writes.held.set(groupId, (this.writes.held.get(groupId) ?? 0) + 1);
  }

  #makeOrder(
    command: PlaceCommand,
    deal: DealFacts,
    of: { unitPrice: Fen; groupId: GroupId | undefined; bucket: number; deadlineMs: number | undefined },
  ): OrderRow {
    const { now, orderTtlMs, rules } = this.#context;
    // An unpaid order never outlives its group's deadline, nor its deal's sale: the money could no longer be of use.
    const expiresMs = Math.min(
      now.getTime() + orderTtlMs,
      of.deadlineMs ?? Infinity,
      of.groupId === undefined ? Infinity : (deal.saleEndsAtMs ?? Infinity),
    );
    const quantity = BigInt(command.quantity);
    const discountBps = of.groupId === undefined ? rules.aloneBps : rules.groupBps;
    const discount = fen(unitDiscount(of.unitPrice, discountBps) * quantity);
    const amount = fen(of.unitPrice * quantity - discount);
    invariant(amount > 0n, "an order costs something");
    const order: OrderRow = {
      id: this.#context.nextId() as OrderId,
      consumerId: command.consumerId,
      merchantId: deal.merchantId,
      dealId: deal.id,
      groupId: of.groupId,
      bucket: of.bucket,
      quantity: command.quantity,
      unitPrice: of.unitPrice,
      discount,
      amount,
      region: rules.region,
      regionVersion: rules.version,
      discountBps,
      commissionBps: deal.commissionBps,
      voucherValidDays: deal.voucherValidDays,
      state: "PENDING_PAYMENT",
      idemKey: command.idemKey,
      bodyHash: command.bodyHash,
      createdAt: now,
      expiresAt: new Date(expiresMs),
      paidAt: undefined,
    };
    this.writes.orders.push(order);
    this.writes.requestIds.set(order.id, command.requestId);
    return order;
  }
}
