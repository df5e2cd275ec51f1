/**
 * By which channel payouts go: the first of the platform's, else one that a service brings (the test bank of the embedded profile, a test's own).
 * A payout is followed up by the channel it went out by.
 */
import type { ServiceBroker } from "moleculer";
import { invariant } from "../domain/invariant.ts";
import type { Channel } from "./channels/index.ts";
import { platformOf } from "./platform.ts";

/** The part of a channel that carries payouts. */
export type PayoutChannel = Pick<Channel, "name" | "payout" | "queryPayout">;

const offered = new WeakMap<ServiceBroker, Map<string, PayoutChannel>>();

export function offerPayoutChannel(broker: ServiceBroker, channel: PayoutChannel): void {
  const channels = offered.get(broker) ?? new Map<string, PayoutChannel>();
  offered.set(broker, channels);
  invariant(!channels.has(channel.name), `the channel ${channel.name} is offered once`);
  channels.set(channel.name, channel);
}

/** The channel of a name; without one, that of new payouts. Undefined where this node has none. */
export function payoutChannelOf(broker: ServiceBroker, name?: string): PayoutChannel | undefined {
  const { channels } = platformOf(broker);
  const own = offered.get(broker);
  if (name === undefined) return channels.values().next().value ?? own?.values().next().value;
  return channels.get(name) ?? own?.get(name);
}
