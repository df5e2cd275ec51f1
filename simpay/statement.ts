/** The statement of a day as CSV: what the log holds, or, under a fault, not quite. */
import type { Book } from "./book.ts";
import type { Faults } from "./faults.ts";
import type { Change, Falsified, StatementKind, Stored } from "./records.ts";

export const HEADER = "time,kind,channel_number,number,charge_number,amount,currency,status\n";

interface Row {
  readonly time: string;
  readonly kind: StatementKind;
  readonly channelNumber: string;
  readonly number: string;
  readonly chargeNumber: string;
  readonly amount: number;
  readonly currency: string;
  readonly status: string;
}

/**
 * Line after line, with a total at the end: a statement whose total does not fit was cut off on the way. Under a fault the total fits the
 * false lines, as with a real channel's mistake. `falsified` hears of each false line.
 */
export function* statement(book: Book, day: string, faults: Faults, falsified: (line: Falsified) => void): Generator<string> {
  yield HEADER;
  let lines = 0;
  let sum = 0;
  for (const change of book.happenedOn(day)) {
    const record = change.records.at(-1);
    if (!record) continue;
    for (const row of rows(rowOf(change, record), record, faults, falsified)) {
      lines += 1;
      sum += row.amount;
      // Numbers are letters, digits, - and _: nothing needs quotes.
      yield `${Object.values(row).join(",")}\n`;
    }
  }
  yield `${day},TOTAL,${lines},,,${sum},,\n`;
}

/** One line as it should be; none, two or another under a fault. */
function rows(row: Row, record: Stored, faults: Faults, falsified: (line: Falsified) => void): Row[] {
  const subject = `${row.kind} ${row.channelNumber}`;
  const strikes = (name: "statementMissing" | "statementExtra" | "statementDoubled" | "statementAltered"): boolean =>
    faults.strikes(name, subject, record.faults);
  const { channelNumber } = row;
  if (strikes("statementMissing")) {
    falsified({ how: "missing", channelNumber });
    return [];
  }
  const result = [row];
  if (strikes("statementAltered")) {
    falsified({ how: "altered", channelNumber });
    result[0] = { ...row, amount: row.amount + 1 };
  }
  if (strikes("statementDoubled")) {
    falsified({ how: "doubled", channelNumber });
    result.push(...result);
  }
  if (strikes("statementExtra")) {
    const nobodys = `${channelNumber}X`;
    falsified({ how: "extra", channelNumber: nobodys });
    result.push({ ...row, channelNumber: nobodys, number: `${row.number}X` });
  }
  return result;
}

function rowOf(change: Change, record: Stored): Row {
  const { channelNumber, number } = record;
  const time = new Date(change.at).toISOString();
  const money = record.type === "charge" && record.paid ? record.paid : record;
  const common = { time, kind: kindOf(change), channelNumber, number };
  const chargeNumber = record.type === "refund" ? record.chargeNumber : "";
  return { ...common, chargeNumber, amount: money.amount, currency: money.currency, status: record.status };
}

function kindOf({ event }: Change): StatementKind {
  if (event === "charge.paid") return "PAYMENT";
  if (event === "refund.succeeded") return "REFUND";
  return event === "payout.returned" ? "PAYOUT_RETURN" : "PAYOUT";
}
