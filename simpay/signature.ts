/**
 * How simpay and its merchant know each other, the same in both directions: HMAC-SHA256 with the merchant's key over the timestamp, a nonce
 * and the raw bytes of the body. A request signs its method and target as well, or a signed query could be sent again as something else.
 */
import { createHmac, randomBytes, timingSafeEqual } from "node:crypto";
import type { IncomingHttpHeaders } from "node:http";

/** Either side's clock may be off by this much. */
export const WINDOW_MS = 300_000;

export interface Signed {
  readonly "simpay-timestamp": string;
  readonly "simpay-nonce": string;
  readonly "simpay-signature": string;
}

/** `first` is what the message is about: `POST /v1/charges` of a request, the request's nonce of an answer, "callback" of a callback. */
export function sign(secret: string, first: string, body: Buffer | string, nowMs: number): Signed {
  const timestamp = String(Math.floor(nowMs / 1000));
  const nonce = randomBytes(16).toString("hex");
  return { "simpay-timestamp": timestamp, "simpay-nonce": nonce, "simpay-signature": mac(secret, [timestamp, nonce, first], body) };
}

/**
 * Whether the caller holds the key and its clock is right. Nonces are not remembered: every call is idempotent by its number, so a request
 * that is heard twice does what it did already.
 */
export function isGenuine(secret: string, first: string, body: Buffer, headers: IncomingHttpHeaders, nowMs: number): boolean {
  const { "simpay-timestamp": timestamp, "simpay-nonce": nonce, "simpay-signature": signature } = headers;
  if (typeof timestamp !== "string" || typeof nonce !== "string" || typeof signature !== "string") return false;
  if (!/^\d{10}$/.test(timestamp) || Math.abs(Number(timestamp) * 1000 - nowMs) > WINDOW_MS) return false;
  return sameText(signature, mac(secret, [timestamp, nonce, first], body));
}

/** Takes as long for a near miss as for a far one. */
export function sameText(given: string, expected: string): boolean {
  const [a, b] = [Buffer.from(given), Buffer.from(expected)];
  return a.length === b.length && timingSafeEqual(a, b);
}

const mac = (secret: string, lines: readonly string[], body: Buffer | string): string =>
  createHmac("sha256", secret)
    .update(`${lines.join("\n")}\n`)
    .update(body)
    .digest("hex");
