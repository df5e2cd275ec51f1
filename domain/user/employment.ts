import { refusal, type DomainError } from "../error.ts";
import type { MerchantId } from "../ids.ts";
import { DEAL_ERRORS } from "../deal/errors.ts";
import type { Role } from "./role.ts";

export interface Employable {
  readonly username: string;
  readonly roles: readonly Role[];
  readonly merchantId: MerchantId | undefined;
}

/** The user as an employee of the merchant; the same user where nothing is left to do. A user works for one merchant, and stays a consumer. */
export function employ<U extends Employable>(user: U, merchantId: MerchantId): U | DomainError {
  if (user.merchantId === merchantId) return user;
  if (user.merchantId !== undefined) return refusal(DEAL_ERRORS, "ALREADY_A_MERCHANT", { username: user.username });
  return { ...user, merchantId, roles: user.roles.includes("merchant") ? user.roles : [...user.roles, "merchant"] };
}
