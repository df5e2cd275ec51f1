/** The part of the settings that is about payment channels. Secrets come from a variable or from the file that `<NAME>_FILE` names. */
import { createPrivateKey, createPublicKey } from "node:crypto";
import { readFileSync } from "node:fs";
import type { ChannelSettings } from "../mixins/channels/index.ts";
import type { SimpaySettings } from "../mixins/channels/simpay.ts";
import type { WechatPaySettings } from "../mixins/channels/wechatpay.ts";
import { StartError } from "./start-error.ts";

type Environment = Readonly<Record<string, string | undefined>>;

/** Whole or not at all: a channel with half of its settings would refuse its first customer instead of the start. */
export function readChannelSettings(environment: Environment): ChannelSettings {
  const simpay = group(environment, SIMPAY) ? simpaySettings(environment) : undefined;
  const wechatpay = group(environment, WECHATPAY) ? wechatPaySettings(environment) : undefined;
  return { ...(simpay ? { simpay } : {}), ...(wechatpay ? { wechatpay } : {}) };
}

const WECHATPAY = [
  "WECHATPAY_MCHID",
  "WECHATPAY_APPID",
  "WECHATPAY_SERIAL",
  "WECHATPAY_PRIVATE_KEY",
  "WECHATPAY_PLATFORM_KEY_ID",
  "WECHATPAY_PLATFORM_KEY",
  "WECHATPAY_APIV3_KEY",
] as const;
const SIMPAY = ["SIMPAY_URL", "SIMPAY_SECRET"] as const;

/** Every variable a deployment may set for channels, each also as the name of a file. */
export const CHANNEL_VARIABLES: readonly string[] = [...SIMPAY, ...WECHATPAY].flatMap((name) => [name, `${name}_FILE`]);

/** What of an environment is about channels, to be handed on to the nodes of a cluster. */
export const channelEnvironment = (environment: Environment, publicUrl: string | undefined): Readonly<Record<string, string>> =>
  Object.fromEntries([
    ...CHANNEL_VARIABLES.flatMap((name) => (environment[name] ? [[name, environment[name]]] : [])),
    ...(publicUrl === undefined ? [] : [["PUBLIC_URL", publicUrl]]),
  ]) as Record<string, string>;

function simpaySettings(environment: Environment): SimpaySettings {
  const url = valueOf(environment, "SIMPAY_URL");
  if (!URL.canParse(url) || !/^https?:/.test(url)) throw wrong("SIMPAY_URL", url, "an http address");
  const secret = valueOf(environment, "SIMPAY_SECRET");
  if (secret.length < 32) throw new StartError(`environment: SIMPAY_SECRET has ${secret.length} characters, allowed: 32 or more`);
  return { url, secret };
}

function wechatPaySettings(environment: Environment): WechatPaySettings {
  const mchid = valueOf(environment, "WECHATPAY_MCHID");
  if (!/^\d{8,10}$/.test(mchid)) throw wrong("WECHATPAY_MCHID", mchid, "8 to 10 digits");
  const apiV3Key = valueOf(environment, "WECHATPAY_APIV3_KEY");
  if (Buffer.byteLength(apiV3Key) !== 32)
    throw new StartError(`environment: WECHATPAY_APIV3_KEY has ${Buffer.byteLength(apiV3Key)} bytes, allowed: 32`);
  return {
    mchid,
    appid: valueOf(environment, "WECHATPAY_APPID"),
    serial: valueOf(environment, "WECHATPAY_SERIAL"),
    privateKey: pem(environment, "WECHATPAY_PRIVATE_KEY", createPrivateKey),
    platformKeyId: valueOf(environment, "WECHATPAY_PLATFORM_KEY_ID"),
    platformKey: pem(environment, "WECHATPAY_PLATFORM_KEY", createPublicKey),
    apiV3Key,
  };
}

/** Whether the group is set; a part of it is an error. */
function group(environment: Environment, names: readonly string[]): boolean {
  const isSet = (name: string): boolean => Boolean(environment[name] || environment[`${name}_FILE`]);
  const missing = names.find((name) => !isSet(name));
  if (missing === undefined) return true;
  const present = names.find(isSet);
  if (present === undefined) return false;
  throw new StartError(`environment: ${present} is set, ${missing} is not: a channel needs ${names.join(", ")}`);
}

const valueOf = (environment: Environment, name: string): string => environment[name] || readSecretFile(environment, name);

/** A key that cannot be read is refused at the start, without a word of it. */
function pem(environment: Environment, name: string, parse: (text: string) => unknown): string {
  const text = valueOf(environment, name);
  try {
    parse(text);
  } catch (error) {
    throw new StartError(`environment: ${name} is not a key in PEM format`, { cause: error });
  }
  return text;
}

function readSecretFile(environment: Environment, name: string): string {
  const path = environment[`${name}_FILE`] ?? "";
  try {
    return readFileSync(path, "utf8").trim();
  } catch (error) {
    throw new StartError(`environment: ${name}_FILE is ${JSON.stringify(path)}, allowed: a file that can be read`, { cause: error });
  }
}

const wrong = (name: string, value: string, allowed: string): StartError =>
  new StartError(`environment: ${name} is ${JSON.stringify(value)}, allowed: ${allowed}`);
