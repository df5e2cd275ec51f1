/** The coordinator of a payment: Try at the wallet, decide in the city, answer. What comes after the answer is the finisher's. */
import { setTimeout as sleep } from "node:timers/promises";
import type { ServiceBroker } from "moleculer";
import { COMMON_ERRORS } from "../../domain/common-errors.ts";
import { DomainError, refusal } from "../../domain/error.ts";
import { shardOf, type PaymentId } from "../../domain/ids.ts";
import { LIMITS } from "../../domain/limits.ts";
import type { Decided, WalletDecision } from "../../domain/payment/decide.ts";
import type { PaymentRow } from "../../domain/payment/try.ts";
import { USER_ERRORS } from "../../domain/user/errors.ts";
import type { Platform } from "../../mixins/platform.ts";
import { cancelWallets, tryWallets } from "../wallet/wallet.contract.ts";
import { callBranches, Tries, type BranchOutcome } from "./branches.ts";
import { branchOf } from "./finisher.ts";
import { findGivenUpPayments } from "./payment.store.ts";

/** Between two attempts at a decision: PostgreSQL is back from a crash in a second or two. */
const DECIDE_AGAIN_MS = 250;

export class Desk {
  readonly #broker: ServiceBroker;
  readonly #platform: Platform;
  readonly #tries: Tries;
  /** Payments this process is deciding: a second request for one waits for the first one's end. */
  readonly #deciding = new Map<PaymentId, Promise<PaymentRow>>();

  constructor(broker: ServiceBroker, platform: Platform) {
    this.#broker = broker;
    this.#platform = platform;
    this.#tries = new Tries(broker, tryWallets);
  }

  /**
   * Drives a payment to its decision, or waits for it where this process does already. Rejects with what its buyer is told when it is cancelled.
   * Two processes that drive one payment do no harm: the wallet's barrier lets one Try in, its row has one decision, and whoever comes second is told
   * of it. So one that stood still and goes on is only late.
   */
  drive(payment: PaymentRow, requestId: string | undefined): Promise<PaymentRow> {
    const underWay = this.#deciding.get(payment.id);
    if (underWay) return underWay;
    const decided = this.#drive(payment, requestId).finally(() => this.#deciding.delete(payment.id));
    this.#deciding.set(payment.id, decided);
    return decided;
  }

  /** Whether it is this process that decides it. */
  drives(id: PaymentId): boolean {
    return this.#deciding.has(id);
  }

  async #drive(payment: PaymentRow, requestId: string | undefined): Promise<PaymentRow> {
    const untilMs = performance.now() + LIMITS.requestMs;
    const refused = refusalOf(await this.#try(payment));
    const decided = await this.#insist(payment, { confirm: refused === undefined, reason: refused?.type ?? "", requestId }, untilMs);
    // The wallet's own reason says more than what became of the order meanwhile.
    const why = refused ?? decided.refused;
    if (why) throw why;
    return decided.payment;
  }

  /**
   * Where the wallet is too short, an earlier attempt at this order may hold the money still: its cancel goes there in the background, at worst by
   * recovery. So it is sent now, which may be repeated, and the wallet is asked once more. Whoever has the money is spared the look.
   */
  async #try(payment: PaymentRow): Promise<BranchOutcome> {
    const outcome = await this.#tries.ask(branchOf(payment));
    if (outcome instanceof Error || outcome.available === undefined) return outcome;
    const shard = shardOf(payment.orderId);
    const earlier = await findGivenUpPayments(this.#platform.databaseOf(shard), shard, payment.orderId);
    if (earlier.length === 0) return outcome;
    const cancels = await callBranches(this.#broker, cancelWallets, earlier.map(branchOf));
    return [...cancels.values()].find((cancel) => cancel instanceof Error) ?? this.#tries.ask(branchOf(payment));
  }

  /**
   * Asks for the decision until it is made, as long as its buyer may wait. Given up at the first "later", the payment would stay undecided, its
   * money set aside and its order neither payable nor free, until recovery looks at it (`LIMITS.tryMs`).
   */
  async #insist(payment: PaymentRow, decision: Omit<WalletDecision, "paymentId" | "orderId">, untilMs: number): Promise<Decided> {
    for (;;) {
      try {
        return await this.decide(payment, decision);
      } catch (error) {
        if (!(error instanceof DomainError && error.retryable) || performance.now() + DECIDE_AGAIN_MS > untilMs) throw error;
        await sleep(DECIDE_AGAIN_MS);
      }
    }
  }

  decide(payment: PaymentRow, decision: Omit<WalletDecision, "paymentId" | "orderId">): Promise<Decided> {
    const command: WalletDecision = { paymentId: payment.id, orderId: payment.orderId, ...decision };
    return this.#platform.post<WalletDecision, Decided>(shardOf(payment.orderId), "payment.decide", command);
  }
}

/** Without an answer nobody knows whether the money was set aside; cancelling is right either way. */
function refusalOf(outcome: BranchOutcome): DomainError | undefined {
  if (outcome instanceof Error)
    return outcome instanceof DomainError ? outcome : refusal(COMMON_ERRORS, "UNAVAILABLE", { what: "the wallet", retryAfterSeconds: 2 });
  if (outcome.ok) return undefined;
  return outcome.available === undefined
    ? refusal(COMMON_ERRORS, "TIMEOUT", {})
    : refusal(USER_ERRORS, "INSUFFICIENT_FUNDS", { available: outcome.available });
}
