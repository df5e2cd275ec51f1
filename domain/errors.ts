/** Every error there is, by its stable name. `docs/errors.md` lists the same rows; a test compares them both ways. */
import { AUDIT_ERRORS } from "./audit/errors.ts";
import { COMMON_ERRORS } from "./common-errors.ts";
import { DEAL_ERRORS } from "./deal/errors.ts";
import { GROUP_ERRORS } from "./group/errors.ts";
import { JOURNAL_ERRORS } from "./journal/errors.ts";
import { OPS_ERRORS } from "./ops/errors.ts";
import { ORDER_ERRORS } from "./order/errors.ts";
import { PAYMENT_ERRORS } from "./payment/errors.ts";
import { RECON_ERRORS } from "./recon/errors.ts";
import { REFUND_ERRORS } from "./refund/errors.ts";
import { USER_ERRORS } from "./user/errors.ts";
import { VOUCHER_ERRORS } from "./voucher/errors.ts";

export const ERRORS = {
  ...COMMON_ERRORS,
  ...USER_ERRORS,
  ...DEAL_ERRORS,
  ...ORDER_ERRORS,
  ...GROUP_ERRORS,
  ...VOUCHER_ERRORS,
  ...JOURNAL_ERRORS,
  ...REFUND_ERRORS,
  ...AUDIT_ERRORS,
  ...RECON_ERRORS,
  ...PAYMENT_ERRORS,
  ...OPS_ERRORS,
} as const;
export type ErrorCode = keyof typeof ERRORS;
