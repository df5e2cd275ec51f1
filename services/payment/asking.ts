/** Asking for money back, and a merchant's word on it: the requests and their drains. The rules are in `domain/refund/request.ts`. */
import type { Context, Service } from "moleculer";
import { COMMON_ERRORS } from "../../domain/common-errors.ts";
import { raise, refusal, type DomainError } from "../../domain/error.ts";
import { cityOf, shardOf, type MerchantId, type RefundId, type Shard } from "../../domain/ids.ts";
import { invariant } from "../../domain/invariant.ts";
import { toJson } from "../../domain/money.ts";
import { ORDER_ERRORS } from "../../domain/order/errors.ts";
import { orderMoved } from "../../domain/order/moved.ts";
import type { OrderRow } from "../../domain/order/place.ts";
import { REFUND_ERRORS } from "../../domain/refund/errors.ts";
import { decideRequests, type RefundRequest, type UnitRefund } from "../../domain/refund/request.ts";
import { nulFaults } from "../../domain/text.ts";
import type { Answer, Caller, CallMeta, Ctx } from "../../mixins/contract.ts";
import type { Work } from "../../mixins/drain.ts";
import { appendEvents, type NewEvent } from "../../mixins/events.ts";
import { keyOf, type Keyed, type Replayable } from "../../mixins/idempotency.ts";
import { isRefusal } from "../../mixins/mailbox.ts";
import { platformOf, type Platform } from "../../mixins/platform.ts";
import { findMerchants, type MerchantRow } from "../merchant/merchant.store.ts";
import { findOrders, lockOrders, moveOrders } from "../order/order.store.ts";
import { findCommissions } from "../settlement/settlement.store.ts";
import { findRefundTerms, lockVouchers } from "../voucher/voucher.store.ts";
import type { approveRefund, listRefunds, requestRefund, resumeRefund } from "./payment.contract.ts";
import { findCaptures } from "./payment.store.ts";
import { approveRefunds, lockRefunds, refundsOf, resumeRefunds, type RefundRow } from "./refund.store.ts";
import { giveBackUnits } from "./units.store.ts";

type Shown = Answer<typeof requestRefund>;
const show = ({ id, amount, state }: Pick<RefundRow, "id" | "amount" | "state">): Shown => ({ id, amount: toJson(amount), status: state });

interface KeyedRequest extends Keyed, RefundRequest {
  readonly requestId: string | undefined;
}
interface KeyedApproval extends Keyed {
  readonly refundId: string;
  readonly merchantId: MerchantId;
  readonly requestId: string | undefined;
}

/** `due` hears, after the commit, of a shard in which refunds can be paid. */
export const makeRequestDrain =
  (platform: Platform, due: (shard: Shard) => void) =>
  async (work: Work, commands: readonly KeyedRequest[]): Promise<(Shown | DomainError)[]> => {
    const { shard } = work;
    const orderIds = [...new Set(commands.map(({ orderId }) => orderId))].sort();
    const orders = await lockOrders(work, shard, orderIds);
    const known = [...orders.values()].map(({ id }) => id);
    const vouchers = await lockVouchers(work, shard, known);
    const settled = vouchers.filter(({ state }) => state === "SETTLED").map(({ id }) => id);
    const [terms, captures, commissions, ids] = await Promise.all([
      findRefundTerms(
        work,
        shard,
        vouchers.map(({ dealId }) => dealId),
      ),
      findCaptures(work, shard, known),
      findCommissions(work, shard, settled),
      work.mint(commands.length) as Promise<RefundId[]>,
    ]);
    const now = await work.now();
    const { outcomes, refunds, completed } = decideRequests({ orders, vouchers, terms, captures, commissions }, commands, {
      now,
      nextId: () => ids.shift() as RefundId,
    });
    const over = completed.map((id): OrderRow => {
      const order = orders.get(id);
      invariant(order !== undefined, "the order of a refund is there");
      return { ...order, state: "COMPLETED" };
    });
    const [facts] = await Promise.all([
      giveBackUnits(work, refunds, now),
      moveOrders(work, shard, completed, { from: "CONFIRMED", to: "COMPLETED", endedAt: now }),
      askMerchants(
        work,
        refunds.filter(({ used }) => used),
      ),
      appendEvents(
        work,
        shard,
        over.map((order) => orderMoved(order, "CONFIRMED")),
      ),
    ]);
    work.afterCommit(() => {
      platform.stockChanged(facts);
      if (refunds.some(({ used }) => !used)) due(shard);
    });
    return outcomes.map((outcome) => (isRefusal(outcome) ? outcome : show({ ...outcome, state: "REQUESTED" })));
  };

/** Used units: the merchant's owner is told, and has a day. */
async function askMerchants(work: Work, refunds: readonly UnitRefund[]): Promise<void> {
  if (refunds.length === 0) return;
  const merchants: ReadonlyMap<MerchantId, MerchantRow> = await findMerchants(work, work.shard, [
    ...new Set(refunds.map(({ merchantId }) => merchantId)),
  ]);
  const asked = refunds.map(({ id, orderId, merchantId, amount, approveBy }): NewEvent<"refund.approvalAsked"> => {
    const ownerId = merchants.get(merchantId)?.ownerId;
    invariant(ownerId !== undefined && approveBy !== undefined, "the merchant of an order is there, and has until then");
    return {
      type: "refund.approvalAsked",
      subject: id,
      data: { refundId: id, orderId, merchantId, ownerId, amount: toJson(amount), approveBy: approveBy.toISOString() },
    };
  });
  await appendEvents(work, work.shard, asked);
}

/** Approving twice is approving once; what needs no approval, or is another merchant's, is not found. */
export const approveDrain =
  (due: (shard: Shard) => void) =>
  async (work: Work, commands: readonly KeyedApproval[]): Promise<(Shown | DomainError)[]> => {
    const { shard } = work;
    const refunds = new Map(
      (await lockRefunds(work, shard, commands.map(({ refundId }) => refundId).toSorted())).map((row) => [row.id as string, row]),
    );
    const found = commands.map(({ refundId, merchantId }) => {
      const refund = refunds.get(refundId);
      return refund?.used && refund.merchantId === merchantId ? refund : undefined;
    });
    const waiting = new Set(found.filter((refund) => refund !== undefined && refund.state === "REQUESTED" && !refund.approvedAt));
    const approved = [...waiting].flatMap((refund) => (refund ? [refund] : []));
    const now = await work.now();
    await Promise.all([
      approveRefunds(
        work,
        shard,
        approved.map(({ id }) => id),
        now,
      ),
      appendEvents(
        work,
        shard,
        approved.map(({ id, orderId, consumerId, merchantId, amount }): NewEvent<"refund.approved"> => {
          const by = commands.find(({ refundId }) => refundId === id);
          return {
            type: "refund.approved",
            subject: id,
            actor: by?.callerId,
            requestId: by?.requestId,
            idemKey: by?.idemKey,
            data: { refundId: id, orderId, consumerId, merchantId, amount: toJson(amount) },
          };
        }),
      ),
    ]);
    work.afterCommit(() => {
      if (approved.length > 0) due(shard);
    });
    return commands.map(({ refundId }, index) => {
      const refund = found[index];
      return refund ? show(refund) : refusal(REFUND_ERRORS, "REFUND_NOT_FOUND", { refundId });
    });
  };

/** Whoever resumes a refund that goes on already is told that it does. */
export const resumeDrain =
  (due: (shard: Shard) => void) =>
  async (work: Work, commands: readonly { readonly refundId: string }[]): Promise<(Shown | DomainError)[]> => {
    const { shard } = work;
    const refunds = new Map(
      (await lockRefunds(work, shard, commands.map(({ refundId }) => refundId).toSorted())).map((row) => [row.id as string, row]),
    );
    const abnormal = [...refunds.values()].filter(({ state }) => state === "ABNORMAL");
    await resumeRefunds(
      work,
      shard,
      abnormal.map(({ id }) => id),
      await work.now(),
    );
    work.afterCommit(() => {
      if (abnormal.length > 0) due(shard);
    });
    return commands.map(({ refundId }) => {
      const refund = refunds.get(refundId);
      if (!refund || refund.state === "REQUESTED") return refusal(REFUND_ERRORS, "REFUND_NOT_ABNORMAL", { refundId });
      return show(refund.state === "ABNORMAL" ? { ...refund, state: "PROCESSING" } : refund);
    });
  };

export async function request(this: Service<{}>, ctx: Ctx<typeof requestRefund>): Promise<Replayable<Shown>> {
  const { id: orderId, quantity, reason } = ctx.params;
  const platform = platformOf(this.broker);
  const errors = nulFaults({ reason: reason ?? "" });
  if (errors.length > 0) return raise(COMMON_ERRORS, "VALIDATION_ERROR", { errors });
  if (!platform.servesCity(cityOf(orderId))) return raise(ORDER_ERRORS, "ORDER_NOT_FOUND", { orderId });
  const command: KeyedRequest = {
    ...keyOf(ctx, "payment.requestRefund"),
    orderId,
    consumerId: callerOf(ctx).userId,
    quantity,
    note: reason,
    requestId: ctx.meta.requestId,
  };
  return platform.post(shardOf(orderId), "refund.request", command);
}

/** Somebody else's order is not found: its existence is not told. */
export async function list(this: Service<{}>, ctx: Ctx<typeof listRefunds>): Promise<Answer<typeof listRefunds>> {
  const { id: orderId } = ctx.params;
  const { userId, merchantId } = callerOf(ctx);
  const platform = platformOf(this.broker);
  if (!platform.servesCity(cityOf(orderId))) return raise(ORDER_ERRORS, "ORDER_NOT_FOUND", { orderId });
  const shard = shardOf(orderId);
  const database = platform.databaseOf(shard);
  const order = (await findOrders(database, shard, [orderId])).get(orderId);
  if (!order || (order.consumerId !== userId && order.merchantId !== merchantId))
    return raise(ORDER_ERRORS, "ORDER_NOT_FOUND", { orderId });
  return (await refundsOf(database, shard, orderId)).map((refund) => ({
    ...show(refund),
    quantity: refund.quantity,
    reason: refund.reason,
    createdAt: refund.createdAt.toISOString(),
    ...(refund.approveBy ? { approveBy: refund.approveBy.toISOString() } : {}),
    ...(refund.approvedAt ? { approvedAt: refund.approvedAt.toISOString() } : {}),
  }));
}

export async function approve(this: Service<{}>, ctx: Ctx<typeof approveRefund>): Promise<Replayable<Shown>> {
  const { id, refundId } = ctx.params;
  const { merchantId } = callerOf(ctx);
  if (merchantId !== id || shardOf(refundId).slot !== shardOf(id).slot) return raise(REFUND_ERRORS, "REFUND_NOT_FOUND", { refundId });
  const command: KeyedApproval = { ...keyOf(ctx, "payment.approveRefund"), refundId, merchantId, requestId: ctx.meta.requestId };
  return platformOf(this.broker).post(shardOf(merchantId), "refund.approve", command, { merchantId });
}

export async function resume(this: Service<{}>, ctx: Ctx<typeof resumeRefund>): Promise<Shown> {
  const { id: refundId } = ctx.params;
  const platform = platformOf(this.broker);
  if (!platform.servesCity(cityOf(refundId))) return raise(REFUND_ERRORS, "REFUND_NOT_ABNORMAL", { refundId });
  this.logger.warn(`refund ${refundId} is resumed by ${callerOf(ctx).username}`);
  return platform.post(shardOf(refundId), "refund.resume", { refundId });
}

function callerOf(ctx: Context<unknown, CallMeta>): Caller {
  invariant(ctx.meta.caller !== undefined, "the gateway lets nobody in here without a token");
  return ctx.meta.caller;
}
