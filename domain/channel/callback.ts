/** When a callback may be believed: the rules every channel's adapter shares. What is signed and how is the channel's; these are not. */
import { createHmac, timingSafeEqual } from "node:crypto";

/**
 * How old, or how far ahead, a signed timestamp may be. WeChat Pay names the same five minutes. Repeats of the schedule are signed anew, so
 * nothing genuine is older; what is replayed within the window is told apart by the callback's id.
 */
export const REPLAY_WINDOW_MS = 300_000;

/** Unix seconds as channels write them: ten digits, no sign, no fraction, no space. Anything else is no timestamp. */
export function parseTimestampMs(text: string | undefined): number | undefined {
  return text !== undefined && /^[1-9]\d{9}$/.test(text) ? Number(text) * 1_000 : undefined;
}

/** Both edges belong to the window. */
export const isFresh = (timestampMs: number, nowMs: number): boolean => Math.abs(nowMs - timestampMs) <= REPLAY_WINDOW_MS;

/** Compares in a time that tells nothing about where the first difference is. */
export function sameText(given: string, expected: string): boolean {
  const [a, b] = [Buffer.from(given, "utf8"), Buffer.from(expected, "utf8")];
  return a.length === b.length && timingSafeEqual(a, b);
}

/** HMAC-SHA256 in hex over lines, each with its end, and the raw bytes after them: what cannot be parsed apart in two ways. */
export function hmacOf(secret: string, lines: readonly string[], body: Uint8Array | string): string {
  return createHmac("sha256", secret)
    .update(`${lines.join("\n")}\n`)
    .update(body)
    .digest("hex");
}

/** Headers as node gives them, one value each; a header sent twice is no header. */
export type Headers = Readonly<Record<string, string | readonly string[] | undefined>>;
export function header(headers: Headers, name: string): string | undefined {
  const value = headers[name];
  return typeof value === "string" && value !== "" ? value : undefined;
}
