/** Prometheus metrics of a node, by prom-client. Every metric there is stands in this file; `/metrics` prints them. */
import { Counter, Gauge, Histogram, Registry } from "prom-client";
import type { MailboxWatch } from "./mailbox.ts";

/** Seconds: from a local commit (0.2 ms) to the request deadline. */
const SECONDS = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10];

export class Metrics {
  readonly registry = new Registry();
  readonly httpRequests = new Histogram({
    name: "tuanbar_http_request_seconds",
    help: "HTTP requests by route and status code",
    labelNames: ["route", "code"] as const,
    buckets: SECONDS,
    registers: [this.registry],
  });
  readonly batchSize = new Histogram({
    name: "tuanbar_mailbox_batch_commands",
    help: "Commands a drain took",
    buckets: [1, 2, 4, 8, 16, 32, 64, 128, 256, 512],
    registers: [this.registry],
  });
  readonly waitSeconds = new Histogram({
    name: "tuanbar_mailbox_wait_seconds",
    help: "Time the oldest command of a batch waited",
    buckets: SECONDS,
    registers: [this.registry],
  });
  readonly drainSeconds = new Histogram({
    name: "tuanbar_drain_seconds",
    help: "Time of one drain, commit included",
    buckets: SECONDS,
    registers: [this.registry],
  });
  readonly mailboxRefusals = new Counter({
    name: "tuanbar_mailbox_refusals_total",
    help: "Commands refused at a mailbox's door",
    labelNames: ["reason"] as const,
    registers: [this.registry],
  });
  readonly orders = new Counter({
    name: "tuanbar_orders_total",
    help: "Orders by what became of them",
    labelNames: ["state"] as const,
    registers: [this.registry],
  });
  readonly refusals = new Counter({
    name: "tuanbar_refusals_total",
    help: "Refusals by code",
    labelNames: ["code"] as const,
    registers: [this.registry],
  });
  readonly gateRefusals = new Counter({
    name: "tuanbar_gate_refusals_total",
    help: "Orders of sold-out deals refused without a transaction: at the gateway, or at their shard",
    labelNames: ["at"] as const,
    registers: [this.registry],
  });
  readonly gateRepairs = new Counter({
    name: "tuanbar_gate_repairs_total",
    help: "Buckets of stock that Redis had not, or not as PostgreSQL has them, found by the repairer",
    registers: [this.registry],
  });
  readonly redisErrors = new Counter({
    name: "tuanbar_redis_errors_total",
    help: "Questions to Redis that were not answered, by what went wrong",
    labelNames: ["kind"] as const,
    registers: [this.registry],
  });
  readonly regionFaults = new Counter({
    name: "tuanbar_region_faults_total",
    help: "Regional policies that failed, by how: refused when loaded, threw, slow or nonsense when asked",
    labelNames: ["region", "kind"] as const,
    registers: [this.registry],
  });
  readonly payments = new Counter({
    name: "tuanbar_payments_total",
    help: "Payments by outcome",
    labelNames: ["outcome"] as const,
    registers: [this.registry],
  });
  readonly channelDifferences = new Counter({
    name: "tuanbar_channel_differences_total",
    help: "Payments of which a channel took another amount or currency than was asked for; each lies in suspense and needs a person",
    registers: [this.registry],
  });
  readonly callbacks = new Counter({
    name: "tuanbar_channel_callbacks_total",
    help: "Callbacks by channel and what they were: kept, repeated, forged, stale or unreadable; failed, when they could not be worked off",
    labelNames: ["channel", "verdict"] as const,
    registers: [this.registry],
  });
  readonly channelCalls = new Counter({
    name: "tuanbar_channel_calls_total",
    help: "Calls to channels by what they came to: answered, refused or unknown",
    labelNames: ["channel", "call", "outcome"] as const,
    registers: [this.registry],
  });
  readonly moneyFen = new Counter({
    name: "tuanbar_money_fen_total",
    help: "Fen moved, by kind of transfer",
    labelNames: ["code"] as const,
    registers: [this.registry],
  });
  readonly events = new Counter({
    name: "tuanbar_events_total",
    help: "Events by event consumer and what became of them: handled or parked",
    labelNames: ["consumer", "outcome"] as const,
    registers: [this.registry],
  });
  readonly redelivered = new Counter({
    name: "tuanbar_events_redelivered_total",
    help: "Batches of events that came again to an event consumer, since their node died or gave them back",
    labelNames: ["consumer"] as const,
    registers: [this.registry],
  });

  readonly searchFallbacks = new Counter({
    name: "tuanbar_search_fallbacks_total",
    help: "Searches that PostgreSQL answered because Elasticsearch did not",
    registers: [this.registry],
  });
  readonly verifyViolations = new Gauge({
    name: "tuanbar_verify_violations",
    help: "Violations of an invariant, as the last verification on this node found them",
    labelNames: ["check"] as const,
    registers: [this.registry],
  });

  /** True while a shared stock gate cannot be asked. Whoever brings one says so here; a process's own never is. */
  gateIsOpen: () => boolean = () => false;

  constructor() {
    this.gauge("tuanbar_gate_open", "1 while the stock gate refuses nobody because it cannot be asked", (set) =>
      set(this.gateIsOpen() ? 1 : 0),
    );
  }

  /** Figures that are read when asked for, not counted along the way. */
  gauge(
    name: string,
    help: string,
    read: (set: (value: number, labels?: Record<string, string>) => void) => void | Promise<void>,
    labelNames: readonly string[] = [],
  ): void {
    new Gauge({
      name,
      help,
      labelNames,
      registers: [this.registry],
      collect() {
        this.reset();
        return read((value, labels) => (labels ? this.set(labels, value) : this.set(value)));
      },
    });
  }

  mailboxWatch(): MailboxWatch {
    return {
      drained: (_shard, batch) => {
        this.batchSize.observe(batch.size);
        this.waitSeconds.observe(batch.waitMs / 1000);
        this.drainSeconds.observe(batch.drainMs / 1000);
      },
      refused: (_shard, reason) => this.mailboxRefusals.inc({ reason }),
    };
  }
}
