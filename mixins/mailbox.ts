/**
 * The actor's mailbox: commands to one shard wait here and are drained in batches, one after the other: the next begins when the COMMIT of the one before
 * is sent. There is no timer: a batch is whatever arrived until then, so a quiet shard answers at once and a busy one pays one commit for hundreds.
 *
 * Exits of a command: answered by its drain; refused at the door (OVERLOADED: the box, or this merchant's share of it, is full, or it is
 * closing, or SHARD_MOVING: it is held while its shard goes to another database); dropped before it costs a transaction (TIMEOUT: its caller has stopped waiting); failed with its batch.
 */
import { performance } from "node:perf_hooks";
import type { SpanContext } from "@opentelemetry/api";
import { COMMON_ERRORS } from "../domain/common-errors.ts";
import { DomainError, refusal } from "../domain/error.ts";
import type { Shard } from "../domain/ids.ts";

/** What a command asks, as its drain sees it. */
export interface Command<I = unknown, O = unknown> {
  readonly kind: string;
  readonly input: I;
  /** Whose share of the box it takes; undefined for work of the platform's own. */
  readonly merchantId: string | undefined;
  /** `performance.now()` at which its caller stops waiting. */
  readonly deadlineMs: number;
  readonly enqueuedMs: number;
  /** The span it comes from, where it is traced. */
  readonly traced?: SpanContext | undefined;
  readonly settle: (outcome: O | Error) => void;
}

export type Refused = "full" | "merchant" | "closing" | "moving" | "late";

export interface MailboxLimits {
  readonly drainCommandsMax: number;
  readonly mailboxCommandsMax: number;
  readonly mailboxMerchantCommandsMax: number;
}

/** What is watched of a mailbox: `mixins/metrics.ts` makes histograms of it. */
export interface MailboxWatch {
  drained(shard: Shard, batch: { readonly size: number; readonly waitMs: number; readonly drainMs: number }): void;
  refused(shard: Shard, reason: Refused): void;
}

/**
 * Runs a drain when this box's turn has come, where boxes share a connection; `passOn` ends the turn before the drain does. Resolves when the drain is done,
 * rejects where there is nowhere to drain to.
 */
export type InTurn = (run: (passOn: () => void) => Promise<void>) => Promise<void>;

export class Mailbox {
  readonly shard: Shard;
  readonly #drain: (commands: readonly Command[], passOn: () => void) => Promise<void>;
  readonly #inTurn: InTurn;
  readonly #limits: MailboxLimits;
  readonly #watch: MailboxWatch;
  #waiting: Command[] = [];
  readonly #byMerchant = new Map<string, number>();
  #draining: Promise<void> | undefined;
  /** Batches that are not done: one that is drained, and one whose COMMIT is under way. */
  readonly #underWay = new Set<Promise<void>>();
  #closing = false;
  /** Held: nothing is drained. Commands wait for a while (`timer`), then they are refused. */
  #held: { timer: NodeJS.Timeout | undefined } | undefined;
  #lastBatch = 0;
  /** Outcomes of this turn, told in the next. */
  readonly #told: (() => void)[] = [];

  constructor(
    shard: Shard,
    drain: (commands: readonly Command[], passOn: () => void) => Promise<void>,
    limits: MailboxLimits,
    watch: MailboxWatch,
    inTurn: InTurn = (run) => run(() => undefined),
  ) {
    this.shard = shard;
    this.#drain = drain;
    this.#inTurn = inTurn;
    this.#limits = limits;
    this.#watch = watch;
  }

  get depth(): number {
    return this.#waiting.length;
  }

  /** Commands of the last batch: how hard the box works. */
  get lastBatchSize(): number {
    return this.#lastBatch;
  }

  /** Puts a command in; resolves with its answer, rejects with its refusal. */
  post<I, O>(
    kind: string,
    input: I,
    options: { readonly merchantId?: string | undefined; readonly timeoutMs: number; readonly traced?: SpanContext | undefined },
  ): Promise<O> {
    const full = this.#fullFor(options.merchantId);
    if (full) {
      this.#watch.refused(this.shard, full);
      return Promise.reject(full === "moving" ? moving() : refusal(COMMON_ERRORS, "OVERLOADED", { retryAfterSeconds: 1 }));
    }
    return new Promise<O>((resolve, reject) => {
      const enqueuedMs = performance.now();
      this.#waiting.push({
        kind,
        input,
        merchantId: options.merchantId,
        deadlineMs: enqueuedMs + options.timeoutMs,
        enqueuedMs,
        traced: options.traced,
        settle: (outcome) => this.#tell(() => (outcome instanceof Error ? reject(outcome) : resolve(outcome as O))),
      });
      if (options.merchantId !== undefined) this.#byMerchant.set(options.merchantId, (this.#byMerchant.get(options.merchantId) ?? 0) + 1);
      this.#wake();
    });
  }

  /**
   * In the next turn: the batch that waits has sent its statements by then, and PostgreSQL works while the answers are written. A whole batch in
   * one: what it wakes goes on together, and its answers leave the gateway together.
   */
  #tell(settle: () => void): void {
    if (this.#told.push(settle) > 1) return;
    setImmediate(() => {
      for (const one of this.#told.splice(0)) one();
    });
  }

  /**
   * Drains nothing until `release`; resolves when the batch under way is committed. Commands wait `waitMs`, since most moves are over by then;
   * what still waits after that is refused, and so is what comes later.
   */
  async hold(waitMs: number): Promise<void> {
    this.#held ??= { timer: setTimeout(() => this.#refuseHeld(), waitMs) };
    await this.#done();
  }

  release(): void {
    clearTimeout(this.#held?.timer);
    this.#held = undefined;
    if (this.#waiting.length > 0) this.#wake();
  }

  #refuseHeld(): void {
    if (this.#held) this.#held.timer = undefined;
    for (const command of this.#take(Infinity)) {
      this.#watch.refused(this.shard, "moving");
      command.settle(moving());
    }
  }

  /** Takes nothing new, drains what waits, and resolves when the last batch is committed. */
  async close(): Promise<void> {
    this.#closing = true;
    this.release();
    await this.#done();
  }

  async #done(): Promise<void> {
    await this.#draining;
    await Promise.all(this.#underWay);
  }

  #fullFor(merchantId: string | undefined): Exclude<Refused, "late"> | undefined {
    if (this.#closing) return "closing";
    if (this.#held && this.#held.timer === undefined) return "moving";
    if (this.#waiting.length >= this.#limits.mailboxCommandsMax) return "full";
    if (merchantId !== undefined && (this.#byMerchant.get(merchantId) ?? 0) >= this.#limits.mailboxMerchantCommandsMax) return "merchant";
    return undefined;
  }

  /** Starts draining in the next turn of the event loop: requests that were parsed in this one share the first batch. */
  #wake(): void {
    if (this.#held) return;
    this.#draining ??= new Promise<void>((resolve) => setImmediate(resolve)).then(() => this.#drainAll());
  }

  async #drainAll(): Promise<void> {
    while (this.#waiting.length > 0 && !this.#held) {
      await new Promise<void>((over) => {
        const batch = this.#inTurn((passOn) =>
          this.#drainBatch(() => {
            passOn();
            over();
          }),
        )
          .catch((error: unknown) => {
            for (const command of this.#take(Infinity)) command.settle(error instanceof Error ? error : new Error(String(error)));
          })
          .finally(() => {
            this.#underWay.delete(batch);
            over();
          });
        this.#underWay.add(batch);
      });
    }
    this.#draining = undefined;
  }

  /** Takes what has come until now: the box may have been held or emptied while it waited for its turn. */
  async #drainBatch(passOn: () => void): Promise<void> {
    if (this.#held) return;
    const startMs = performance.now();
    const batch = this.#take(this.#limits.drainCommandsMax).filter((command) => command.deadlineMs > startMs || this.#dropLate(command));
    if (batch.length === 0) return;
    this.#lastBatch = batch.length;
    await this.#drain(batch, passOn).catch((error: unknown) => {
      for (const command of batch) command.settle(error instanceof Error ? error : new Error(String(error)));
    });
    const waitMs = startMs - (batch[0]?.enqueuedMs ?? startMs);
    this.#watch.drained(this.shard, { size: batch.length, waitMs, drainMs: performance.now() - startMs });
  }

  #take(count: number): Command[] {
    const taken = this.#waiting.splice(0, count);
    for (const { merchantId } of taken) if (merchantId !== undefined) this.#leave(merchantId);
    return taken;
  }

  #dropLate(command: Command): false {
    this.#watch.refused(this.shard, "late");
    command.settle(refusal(COMMON_ERRORS, "TIMEOUT", {}));
    return false;
  }

  #leave(merchantId: string): void {
    const left = (this.#byMerchant.get(merchantId) ?? 1) - 1;
    if (left > 0) this.#byMerchant.set(merchantId, left);
    else this.#byMerchant.delete(merchantId);
  }
}

const moving = (): DomainError => refusal(COMMON_ERRORS, "SHARD_MOVING", { retryAfterSeconds: 1 });

/** Refusals are answers; anything else in a batch is a fault of the batch. */
export const isRefusal = (outcome: unknown): outcome is DomainError => outcome instanceof DomainError;
