/**
 * Access tokens: signed by the user service, checked by the gateway. JWT by `jose`, HS256 and nothing else: a token that names another
 * algorithm (`none`, RS256 with our secret as its public key) is refused before its signature is looked at.
 */
import { jwtVerify, SignJWT, type JWTPayload } from "jose";
import { COMMON_ERRORS } from "../domain/common-errors.ts";
import { raise } from "../domain/error.ts";
import { isId, type Id } from "../domain/ids.ts";
import { invariant } from "../domain/invariant.ts";
import { ROLES, type Role } from "../domain/user/role.ts";
import type { Caller } from "./contract.ts";

const NAME = "tuanbar";
/** Of HS256's own block: a shorter secret can be guessed faster than its hash. */
const SECRET_BYTES_MIN = 32;

export interface Verified {
  readonly caller: Caller;
  /** Unix milliseconds. */
  readonly expiresAt: number;
}

export interface Tokens {
  sign(caller: Caller, ttlSeconds: number): Promise<string>;
  /** Throws UNAUTHENTICATED for anything but a token of ours that is still good. */
  verify(token: string): Promise<Verified>;
}

export function makeTokens(secret: string): Tokens {
  const bytes = Buffer.from(secret, "utf8");
  invariant(bytes.length >= SECRET_BYTES_MIN, `the JWT secret has at least ${SECRET_BYTES_MIN} bytes`);
  // Made once: of a secret as bytes, or as a KeyObject, jose makes a key for every token, which costs more than the signature.
  const key = crypto.subtle.importKey("raw", bytes, { name: "HMAC", hash: "SHA-256" }, false, ["sign", "verify"]);
  return {
    sign: async (caller, ttlSeconds) =>
      new SignJWT({
        name: caller.username,
        roles: [...caller.roles],
        typ: "access",
        ...(caller.merchantId === undefined ? {} : { mid: caller.merchantId }),
      })
        .setProtectedHeader({ alg: "HS256", typ: "JWT" })
        .setSubject(caller.userId)
        .setIssuer(NAME)
        .setAudience(NAME)
        .setIssuedAt()
        .setExpirationTime(`${ttlSeconds}s`)
        .sign(await key),
    async verify(token) {
      const payload = await jwtVerify(token, await key, {
        algorithms: ["HS256"],
        issuer: NAME,
        audience: NAME,
        requiredClaims: ["sub", "exp"],
      }).then(
        (verified) => verified.payload,
        // jose's own sentences name the check that failed; which one is nobody's business but the expiry.
        (error: { code?: string }) =>
          raise(COMMON_ERRORS, "UNAUTHENTICATED", {
            reason: error.code === "ERR_JWT_EXPIRED" ? "the access token has expired" : "the access token is not valid",
          }),
      );
      return { caller: callerOf(payload), expiresAt: (payload.exp ?? 0) * 1000 };
    },
  };
}

const isRole = (value: unknown): value is Role => ROLES.some((role) => role === value);

/** A signature of ours makes the claims ours; they are still read by their form, because another version may have signed them. */
function callerOf(payload: JWTPayload): Caller {
  const { sub, name, roles, mid, typ } = payload as JWTPayload & Readonly<Record<"name" | "roles" | "mid" | "typ", unknown>>;
  if (
    typ !== "access" ||
    sub === undefined ||
    !isId(sub) ||
    typeof name !== "string" ||
    !Array.isArray(roles) ||
    !roles.every(isRole) ||
    !(mid === undefined || (typeof mid === "string" && isId(mid)))
  ) {
    return raise(COMMON_ERRORS, "UNAUTHENTICATED", { reason: "the token is not an access token" });
  }
  return { userId: sub as Id<"user">, username: name, roles, ...(mid === undefined ? {} : { merchantId: mid as Id<"merchant"> }) };
}
