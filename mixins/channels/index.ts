/** The channels this node knows, made once at start from what the operator configured. */
import type { Channel } from "./channel.ts";
import { simpayChannel, type SimpaySettings } from "./simpay.ts";
import type { WechatPaySettings } from "./wechatpay.ts";

export type { Channel } from "./channel.ts";

/** A channel that is not set does not exist. They hold secrets: hand them to `makeChannels` and to nothing that logs or publishes. */
export interface ChannelSettings {
  readonly simpay?: SimpaySettings;
  readonly wechatpay?: WechatPaySettings;
}
export type Channels = ReadonlyMap<string, Channel>;

/** `publicUrl`: where channels reach us; each tells its news at `/api/v1/callbacks/{channel}`. An SDK is loaded only where its channel is set. */
export async function makeChannels({ simpay, wechatpay }: ChannelSettings, publicUrl: string): Promise<Channels> {
  const notifyUrl = (name: string): string => new URL(`/api/v1/callbacks/${name}`, publicUrl).href;
  const made = [
    ...(simpay ? [simpayChannel(simpay, { notifyUrl: notifyUrl("simpay") })] : []),
    ...(wechatpay ? [(await import("./wechatpay.ts")).wechatPayChannel(wechatpay, { notifyUrl: notifyUrl("wechatpay") })] : []),
  ];
  return new Map(made.map((channel) => [channel.name, channel]));
}
