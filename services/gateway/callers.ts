/** Who is asking: from the bearer token to a Caller, and whether what is asked for is for them. */
import { LRUCache } from "lru-cache";
import { BlockList, isIP } from "node:net";
import type { IncomingMessage } from "node:http";
import { COMMON_ERRORS } from "../../domain/common-errors.ts";
import { raise } from "../../domain/error.ts";
import type { Audience, Caller } from "../../mixins/contract.ts";
import type { Tokens, Verified } from "../../mixins/tokens.ts";

/** Tokens of a stampede's shoppers: at 300 bytes each these are about 25 MB when full. */
const TOKENS_KEPT_MAX = 50_000;
const BEARER = /^Bearer ([A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+)$/i;
/** Ours have about 300 characters. */
const TOKEN_CHARACTERS_MAX = 2_048;

export class Callers {
  readonly #tokens: Tokens;
  readonly #known = new LRUCache<string, Verified>({ max: TOKENS_KEPT_MAX });

  constructor(tokens: Tokens) {
    this.#tokens = tokens;
  }

  /** The caller of a header seen before, without a promise: checking a signature costs as much as everything else in a refusal. */
  known(authorization: string): Caller | undefined {
    const known = this.#known.get(authorization);
    return known !== undefined && known.expiresAt > Date.now() ? known.caller : undefined;
  }

  /** Throws UNAUTHENTICATED, also where no token would have been needed: a bad one is a mistake worth telling. */
  async verify(authorization: string): Promise<Caller> {
    const token = authorization.length <= TOKEN_CHARACTERS_MAX ? BEARER.exec(authorization)?.[1] : undefined;
    if (token === undefined) return raise(COMMON_ERRORS, "UNAUTHENTICATED", { reason: "the Authorization header is not a bearer token" });
    const verified = await this.#tokens.verify(token);
    this.#known.set(authorization, verified);
    return verified.caller;
  }
}

export function checkAudience(who: Audience, caller: Caller | undefined): void {
  if (who === "anyone") return;
  if (caller === undefined) raise(COMMON_ERRORS, "UNAUTHENTICATED", { reason: "this needs an access token" });
  if (who !== "user" && !caller.roles.includes(who)) raise(COMMON_ERRORS, "FORBIDDEN", { need: NEED[who] });
}
const NEED = { consumer: "consumers", merchant: "merchants", finance: "the finance staff", admin: "administrators" } as const;

/** Proxies of ours, by address or network. */
export function proxyList(networks: readonly string[]): BlockList {
  const list = new BlockList();
  for (const network of networks) {
    const [address = "", bits] = network.split("/");
    const family = isIP(address) === 6 ? "ipv6" : "ipv4";
    list.addSubnet(address, Number(bits ?? (family === "ipv6" ? 128 : 32)), family);
  }
  return list;
}

/**
 * The client's address. X-Forwarded-For is anybody's to write, so it counts only where it comes from a proxy of ours, and then only its last
 * entry, which that proxy has written.
 */
export function addressOf(req: IncomingMessage, proxies: BlockList): string {
  const peer = req.socket.remoteAddress ?? "";
  if (!proxies.check(peer, isIP(peer) === 6 ? "ipv6" : "ipv4")) return peer;
  const forwarded = req.headers["x-forwarded-for"];
  const last = (typeof forwarded === "string" ? forwarded : "").split(",").at(-1)?.trim() ?? "";
  return isIP(last) === 0 ? peer : last;
}

const INSIDE = new BlockList();
INSIDE.addSubnet("127.0.0.0", 8);
INSIDE.addSubnet("10.0.0.0", 8);
INSIDE.addSubnet("172.16.0.0", 12);
INSIDE.addSubnet("192.168.0.0", 16);
INSIDE.addAddress("::1", "ipv6");
INSIDE.addSubnet("fc00::", 7, "ipv6");
INSIDE.addSubnet("fe80::", 10, "ipv6");

/** The loopback and private networks: where a Prometheus is. */
export const isInside = (address: string): boolean => INSIDE.check(address, isIP(address) === 6 ? "ipv6" : "ipv4");
