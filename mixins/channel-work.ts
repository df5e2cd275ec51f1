/** Calls to channels that nobody waits for, at the pace channels allow; each channel has its own, so that one that hangs holds up no other. */
import type { Logger } from "moleculer";
import type { Outcome } from "../domain/channel/records.ts";
import { LIMITS } from "../domain/limits.ts";
import { Background } from "./background.ts";
import { Limiter } from "./limiter.ts";
import type { Metrics } from "./metrics.ts";
import type { Platform } from "./platform.ts";

export class ChannelWork<C> {
  readonly #channelOf: (name: string) => C | undefined;
  readonly #metrics: Metrics;
  readonly #logger: Logger;
  readonly #limiter: Limiter;
  readonly #byChannel = new Map<string, Background>();

  constructor(channelOf: (name: string) => C | undefined, { metrics, redis }: Pick<Platform, "metrics" | "redis">, logger: Logger) {
    this.#channelOf = channelOf;
    this.#metrics = metrics;
    this.#limiter = new Limiter({ name: "channel", points: LIMITS.channelCallsPerSecond, seconds: 1 }, redis);
    this.#logger = logger;
  }

  /** `key` is what it is about: of one thing one call at a time. A channel this node does not have leaves its work where it is. */
  add(name: string, key: string, work: (channel: C) => Promise<unknown>): void {
    const channel = this.#channelOf(name);
    if (!channel) {
      this.#logger.error(`${key} waits: this node has no channel ${name}`);
      return;
    }
    this.#of(name).add(key, () => work(channel));
  }

  count(channel: string, call: string, outcome: Outcome<unknown>): void {
    this.#metrics.channelCalls.inc({ channel, call, outcome: outcome.kind });
  }

  async stop(): Promise<void> {
    await Promise.all([...this.#byChannel.values()].map((one) => one.stop()));
  }

  #of(name: string): Background {
    const made = this.#byChannel.get(name);
    if (made) return made;
    const pace = { atOnceMax: LIMITS.channelCallsMax, limiter: this.#limiter, key: name };
    const background = new Background(pace, (key, error) => this.#logger.warn({ err: error }, `${key} is left to its next attempt`));
    this.#byChannel.set(name, background);
    return background;
  }
}
