/** What the merchant sees of a record: the same in answers and callbacks. */
import type { Stored } from "./records.ts";

const time = (at: number | undefined): string | undefined => (at === undefined ? undefined : new Date(at).toISOString());

export function view(record: Stored, baseUrl: string, tokenOf: (number: string) => string): Readonly<Record<string, unknown>> {
  const { type, number, channelNumber, amount, currency, status } = record;
  const common = { type, number, channelNumber, amount, currency, status, createdAt: time(record.createdAt) };
  if (record.type === "charge") {
    const { subject, refunded, paid } = record;
    return {
      ...common,
      subject,
      refunded,
      payUrl: `${baseUrl}/pay/${number}/${tokenOf(number)}`,
      expiresAt: time(record.expiresAt),
      ...(paid ? { paid: { ...paid, at: time(paid.at) } } : {}),
    };
  }
  if (record.type === "refund") return { ...common, chargeNumber: record.chargeNumber, doneAt: time(record.doneAt) };
  return { ...common, account: record.account, doneAt: time(record.doneAt), returnedAt: time(record.returnedAt) };
}
