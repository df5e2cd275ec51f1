/** What simpay's own log says happened, beside what we say: the only check that notices money we never heard of. */
import type { Line, Stored } from "../../simpay/records.ts";

/** A payment, refund or payout by channel, as our tables have it. */
export interface Ours {
  readonly type: "charge" | "refund" | "payout";
  readonly number: string;
  readonly state: string;
  readonly amount: string;
  readonly currency: string;
  /** Not at its end yet. */
  readonly open: boolean;
}
export const OURS = `
  select 'charge' as type, id::text as number, case when paid_at is null then state else 'PAID' end as state,
         coalesce(paid_amount, amount)::text as amount, coalesce(paid_currency, 'CNY') as currency, unfinished as open
    from payments where channel <> 'wallet'
  union all
  select 'refund', id::text, state, amount::text, 'CNY', unfinished from refunds where channel <> 'wallet'
  union all
  select 'payout', id::text, state, amount::text, 'CNY', unfinished from payouts where channel <> 'bank'`;

/** The newest state of everything simpay ever did. */
export function witnessed(log: readonly Line[]): Map<string, Stored> {
  const seen = new Map<string, Stored>();
  for (const line of log) if ("records" in line) for (const record of line.records) seen.set(`${record.type} ${record.number}`, record);
  return seen;
}

/** Money that moved there, and nothing that did not: a charge nobody paid is as good as none. */
function theirs(record: Stored): string | undefined {
  if (record.type === "charge") return record.paid ? `PAID ${record.paid.amount} ${record.paid.currency}` : undefined;
  return `${record.status} ${record.amount} ${record.currency}`;
}
/** A payout that was refused never was there. */
const ofUs = ({ type, state, amount, currency }: Ours): string | undefined =>
  (type === "charge" && state !== "PAID") || (type === "payout" && state === "FAILED") ? undefined : `${state} ${amount} ${currency}`;

/** simpay's log ⟗ our payments, refunds and payouts, by number, amount and what became of it: a sentence for each difference. */
export function differences(witness: ReadonlyMap<string, Stored>, ours: readonly Ours[]): string[] {
  const byNumber = new Map(ours.map((one) => [`${one.type} ${one.number}`, one]));
  return [...new Set([...witness.keys(), ...byNumber.keys()])].flatMap((key) => {
    const [there, here] = [witness.get(key), byNumber.get(key)];
    const [said, known] = [there && theirs(there), here && ofUs(here)];
    if (said === known) return [];
    if (said === undefined) return [`${key}: only we know of ${known}`];
    return [known === undefined ? `${key}: only simpay knows of ${said}` : `${key}: simpay says ${said}, we say ${known}`];
  });
}
