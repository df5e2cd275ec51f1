/** Every check there is, in the order operators read them. `docs/invariants.md` lists the same names; a test compares them both ways. */
import { ADDRESS_CHECKS } from "./addresses.ts";
import { BOOK_CHECKS } from "./books.ts";
import { CHANNEL_CHECKS } from "./channels.ts";
import type { Check } from "./check.ts";
import { GROUP_CHECKS } from "./groups.ts";
import { GUARD_CHECKS } from "./guards.ts";
import { LEDGER_CHECKS } from "./ledger.ts";
import { MESSAGING_CHECKS } from "./messaging.ts";
import { ORDER_CHECKS } from "./orders.ts";
import { PAYMENT_CHECKS } from "./payments.ts";
import { QUOTA_CHECKS } from "./quotas.ts";
import { RECON_CHECKS } from "./recon.ts";
import { SETTLEMENT_CHECKS } from "./settlements.ts";
import { STOCK_CHECKS } from "./stock.ts";
import { VOUCHER_CHECKS } from "./vouchers.ts";

export const CHECKS: readonly Check[] = [
  ...GUARD_CHECKS,
  ...ADDRESS_CHECKS,
  ...STOCK_CHECKS,
  ...QUOTA_CHECKS,
  ...ORDER_CHECKS,
  ...GROUP_CHECKS,
  ...PAYMENT_CHECKS,
  ...CHANNEL_CHECKS,
  ...VOUCHER_CHECKS,
  ...SETTLEMENT_CHECKS,
  ...LEDGER_CHECKS,
  ...BOOK_CHECKS,
  ...RECON_CHECKS,
  ...MESSAGING_CHECKS,
];
