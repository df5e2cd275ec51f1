/**
 * What a channel must be able to do to carry payouts: be told, with our id as its key, and be asked. A channel is offered by the service that
 * brings it; a payout goes out by the one that was offered first, and is followed up by the one it went out by.
 */
import type { ServiceBroker } from "moleculer";
import type { MerchantId, PayoutId } from "../domain/ids.ts";
import { invariant } from "../domain/invariant.ts";
import type { Fen } from "../domain/money.ts";

export interface PayoutOrder {
  /** The same on every call: a channel pays one id once. */
  readonly id: PayoutId;
  readonly merchantId: MerchantId;
  readonly amount: Fen;
}

export type PayoutReply =
  | { readonly status: "PAID" }
  /** It is under way; ask again later. */
  | { readonly status: "PROCESSING" }
  /** It did not pay, or the bank sent it back, and it will not try again. */
  | { readonly status: "REFUSED"; readonly reason: string };

/** What throws, or does not answer in time, leaves the payout UNKNOWN: it is asked about, never guessed. */
export interface PayoutChannel {
  readonly name: string;
  pay(order: PayoutOrder, signal: AbortSignal): Promise<PayoutReply>;
  /** ABSENT: it has never heard of this id, so it may be told again. */
  query(id: PayoutId, signal: AbortSignal): Promise<PayoutReply | { readonly status: "ABSENT" }>;
}

const offered = new WeakMap<ServiceBroker, Map<string, PayoutChannel>>();

export function offerPayoutChannel(broker: ServiceBroker, channel: PayoutChannel): void {
  const channels = offered.get(broker) ?? new Map<string, PayoutChannel>();
  offered.set(broker, channels);
  invariant(!channels.has(channel.name), `the channel ${channel.name} is offered once`);
  channels.set(channel.name, channel);
}

/** The channel of a name; without one, that of new payouts. Undefined where this node has none. */
export function payoutChannelOf(broker: ServiceBroker, name?: string): PayoutChannel | undefined {
  const channels = offered.get(broker);
  return name === undefined ? channels?.values().next().value : channels?.get(name);
}
