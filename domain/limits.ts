/** Everything has a limit; they stand together so that they can be checked against each other, once, at load. Units are in the names. */
import { invariant } from "./invariant.ts";

export const LIMITS = {
  /** Commands one drain takes at most: at 512 orders a transaction the commit (0.2 ms) is long paid for, and latency stays tens of milliseconds. */
  drainCommandsMax: 512,
  /** Commands waiting in one mailbox. At 10,000 commands a second this is under half a second of work: longer waits are answered 503 at once. */
  mailboxCommandsMax: 4_096,
  /** Of those, commands for one merchant: half, so that a stampede at one bar leaves room for its neighbours in the slot. */
  mailboxMerchantCommandsMax: 2_048,
  /** Units the stock gate lets in beyond those a deal has, and commands of a deal while it knows nothing: what one drain takes. */
  gateCrowdMax: 512,
  /** A drain may wait this long for a row another node holds before it answers BUSY. */
  lockWaitMs: 1_000,
  /** A transaction whose process says nothing for this long is ended: one that was stopped in the middle keeps its rows from whoever takes over. */
  transactionIdleMs: 2_000,
  /** One statement of a drain. */
  statementMs: 8_000,
  /** What a client may wait for any answer. */
  requestMs: 10_000,
  /** After this a payment in TRYING whose coordinator is silent is cancelled by the recovery worker. */
  tryMs: 20_000,
  /** After this a charge whose coordinator is silent is queried: its call ended long ago. */
  chargeMs: 10_000,
  /** An order that is being paid by a channel waits so long after its time for the channel to say that the charge is closed; then it expires anyway. */
  chargeCloseMs: 30_000,
  /** Calls to one channel under way at once from one node, and calls to it a second, of all nodes where there is Redis: what channels allow a merchant. */
  channelCallsMax: 16,
  channelCallsPerSecond: 100,
  /** For so long a payout that arrived may come back, and is asked about. */
  payoutWatchDays: 3,
  /** After this a settlement in PROCESSING is somebody else's: its drain is long answered or dead. */
  settlementLeaseMs: 30_000,
  /** Some eight minutes of attempts, which back off to a minute (a payout's to a quarter of an hour): what is at fault by then is not the moment. */
  attemptsMax: 12,
  /** A channel answers in this time, or nobody knows what came of the call. */
  channelMs: 4_000,
  /** A merchant may look at a refund of used units for this long before it is paid without a word. */
  refundApprovalHours: 24,
  quantityMax: 99,
  groupSizeMin: 2,
  groupSizeMax: 100,
  unpaidOrdersMax: 5,
  bodyBytesMax: 100_000,
  /** Events and inbox rows older than this go, once every event consumer has handled them: long enough to look into last month's complaint. */
  eventsKeptDays: 30,
  /** Notices older than this go: nobody asks his stream for so much, and each has outlived its event, whose mark it is. */
  notificationsKeptDays: 90,
  /**
   * Callbacks done longer ago than this go. Channels tell again for a day, a disputed payment is looked into for weeks. One told again even after
   * that, signed anew, would find the payment, refund or payout where it left it.
   */
  callbacksKeptDays: 90,
  /** A key and its stored answer go after so long, and a request with it is a new one. Whoever repeats a request does so within hours, or days. */
  requestsKeptDays: 90,
  /** Barriers of a payment or refund that has ended go after so long: what is under way is asked again within seconds, and kept however old. */
  barriersKeptDays: 30,
} as const;

invariant(LIMITS.lockWaitMs < LIMITS.statementMs, "a lock wait ends before its statement does");
invariant(LIMITS.transactionIdleMs < LIMITS.requestMs, "rows of a stopped process are free again before those who wait for them give up");
invariant(LIMITS.statementMs < LIMITS.requestMs, "a statement ends before its client gives up");
invariant(LIMITS.requestMs < LIMITS.tryMs, "recovery never cancels a payment whose buyer still waits");
invariant(LIMITS.channelMs < LIMITS.requestMs && LIMITS.channelMs < LIMITS.chargeMs, "a channel's answer is waited for by whoever asked");
invariant(LIMITS.gateCrowdMax < LIMITS.mailboxMerchantCommandsMax, "an open gate lets in fewer than a closed one");
invariant(LIMITS.statementMs + LIMITS.requestMs < LIMITS.settlementLeaseMs, "a lease outlives the drain it is for");
invariant(LIMITS.eventsKeptDays < LIMITS.notificationsKeptDays, "an event that is told again finds that its notice was written");
invariant(LIMITS.eventsKeptDays < LIMITS.requestsKeptDays, "what an event names of its request is still there");
invariant(LIMITS.tryMs < LIMITS.barriersKeptDays * 86_400_000, "nobody tries what has no barrier any more");
invariant(LIMITS.mailboxMerchantCommandsMax < LIMITS.mailboxCommandsMax, "one merchant never fills a mailbox");
