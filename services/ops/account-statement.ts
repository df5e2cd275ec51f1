/**
 * What an account held at a time. It is reckoned back from what it holds now, by the transfers since: they lie at the end of a table that only
 * grows, an index of a few pages (BRIN on `at`) finds where they begin, and yesterday's balance costs a day's transfers, not a year's. That
 * totals are the sums of all transfers, from the first, is what the check `ledger.accounts` proves.
 */
import { AUDIT_ERRORS } from "../../domain/audit/errors.ts";
import { COMMON_ERRORS } from "../../domain/common-errors.ts";
import { raise } from "../../domain/error.ts";
import type { Of } from "../../mixins/contract.ts";
import { decodeCursor, page } from "../../mixins/page.ts";
import type { Platform } from "../../mixins/platform.ts";
import type { AccountStatement } from "./ops.contract.ts";
import { Snapshot } from "./snapshot.ts";

/** Rows of `account` after a time; what each adds to its posted balance, and to the promises open on either side. */
const MOVES = `
  select seq, id, at, code, business_key, order_id, case when debit_account = $2 then credit_account else debit_account end as account,
         case when state <> 'POSTED' then 0 when debit_account = $2 then -amount else amount end as moved,
         case when debit_account <> $2 then 0 when state = 'PENDING' then amount when pending_id is not null then -amount else 0 end as promised_out,
         case when credit_account <> $2 then 0 when state = 'PENDING' then amount when pending_id is not null then -amount else 0 end as promised_in
    from transfers where slot = $1 and at > $3 and (debit_account = $2 or credit_account = $2)`;
const TOTALS = `
  select (a.balance - coalesce(sum(m.moved), 0))::bigint as opening,
         (a.balance - coalesce(sum(m.moved) filter (where m.at > $4), 0))::bigint as closing,
         (a.debits_pending - coalesce(sum(m.promised_out) filter (where m.at > $4), 0))::bigint as promised_out,
         (a.credits_pending - coalesce(sum(m.promised_in) filter (where m.at > $4), 0))::bigint as promised_in
    from (select credits_posted - debits_posted as balance, debits_pending, credits_pending from accounts where slot = $1 and account = $2) a
    left join (${MOVES}) m on true
   group by a.balance, a.debits_pending, a.credits_pending`;
const LINES = `
  select seq, id, at, code, business_key, order_id, account, moved, ($5::bigint + sum(moved) over (order by seq))::bigint as balance
    from (${MOVES}) m where moved <> 0 and at <= $4 order by seq offset $6 limit $7`;

interface TotalsRow {
  readonly opening: string;
  readonly closing: string;
  readonly promised_out: string;
  readonly promised_in: string;
}
interface LineRow {
  readonly seq: string;
  readonly id: string;
  readonly at: Date;
  readonly code: string;
  readonly business_key: string;
  readonly order_id: string | null;
  readonly account: string;
  readonly moved: string;
  readonly balance: string;
}

export interface StatementAsk {
  readonly account: string;
  readonly city: string;
  readonly slot: number;
  readonly from?: string | undefined;
  readonly to?: string | undefined;
  readonly limit: number;
  readonly cursor?: string | undefined;
}

/** Without `from` it is the balance at `to` alone; without `to`, the balance now. */
export async function accountStatement(platform: Platform, ask: StatementAsk): Promise<Of<typeof AccountStatement>> {
  const { account, city, slot, limit, cursor } = ask;
  const keyspace = platform.keyspaces.byCode(city) ?? raise(COMMON_ERRORS, "CITY_NOT_FOUND", { city });
  const snapshot = await Snapshot.open(platform.databaseOf({ city: keyspace.id, slot }));
  try {
    const to = ask.to === undefined ? snapshot.at : new Date(ask.to);
    const from = ask.from === undefined ? to : new Date(ask.from);
    if (from > to) raise(COMMON_ERRORS, "VALIDATION_ERROR", { errors: [{ field: "from", message: "later than `to`" }] });
    const [totals] = await snapshot.query<TotalsRow>(TOTALS, [slot, account, from, to]);
    if (totals === undefined) return raise(AUDIT_ERRORS, "ACCOUNT_NOT_FOUND", { account: `${account} in ${city}/${slot}` });
    const after = cursor === undefined ? 0 : placeIn(cursor);
    const lines = from < to ? await snapshot.query<LineRow>(LINES, [slot, account, from, to, totals.opening, after, limit + 1]) : [];
    const shown = page(lines, limit, view, () => [after + limit]);
    return {
      ...{ account, city, slot, to: to.toISOString() },
      ...{ opening: Number(totals.opening), closing: Number(totals.closing) },
      ...{ promisedOut: Number(totals.promised_out), promisedIn: Number(totals.promised_in) },
      ...shown,
    };
  } finally {
    await snapshot.close();
  }
}

/** Lines before the page: of a time that has passed none is added, so a page stays where it is. */
function placeIn(cursor: string): number {
  const [place] = decodeCursor(cursor, 1);
  if (typeof place === "number" && Number.isSafeInteger(place) && place >= 0) return place;
  return raise(COMMON_ERRORS, "VALIDATION_ERROR", { errors: [{ field: "cursor", message: "not a cursor of this list" }] });
}

const view = (line: LineRow): Of<typeof AccountStatement>["items"][number] => ({
  id: line.id as Of<typeof AccountStatement>["items"][number]["id"],
  seq: Number(line.seq),
  at: line.at.toISOString(),
  code: line.code,
  businessKey: line.business_key,
  ...(line.order_id === null ? {} : { orderId: line.order_id as Of<typeof AccountStatement>["items"][number]["id"] }),
  account: line.account,
  amount: Number(line.moved),
  balance: Number(line.balance),
});
