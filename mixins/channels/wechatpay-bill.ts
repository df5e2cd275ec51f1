/** The trade bill (交易账单) of WeChat Pay: yuan, Beijing time, a backtick before each cell and no quotes, a summary of two lines at the end. */
import type { Readable } from "node:stream";
import { fenOfYuan } from "../../domain/channel/fen.ts";
import type { StatementLine } from "../../domain/channel/records.ts";
import { StatementError } from "./channel.ts";
import { csvRows } from "./statement.ts";

/** Found by name in the heading: WeChat has added columns before. */
const COLUMNS = [
  "交易时间",
  "微信订单号",
  "商户订单号",
  "交易状态",
  "货币种类",
  "微信退款单号",
  "商户退款单号",
  "退款状态",
  "订单金额",
  "申请退款金额",
] as const;
type Cells = Readonly<Record<(typeof COLUMNS)[number], string>>;
const SUMMARY = "总交易单数";

export async function* readTradeBill(bill: Readable): AsyncGenerator<StatementLine> {
  let heading: readonly string[] | undefined;
  let rows = 0;
  let summary: "not yet" | "next" | { readonly rows: string } = "not yet";
  // Goods may have a comma in their name, so cells are parted by a comma and a backtick; the two headings have none and are one cell each.
  for await (const row of csvRows(bill, { delimiter: ",`", quote: false, relax_column_count: true })) {
    if (!heading) heading = headingOf(row);
    else if (typeof summary === "object") throw new StatementError(`line ${rows + 4} comes after the summary`);
    else if (summary === "next") summary = { rows: withoutTick(row[0]) };
    else if (row[0]?.startsWith(SUMMARY)) summary = "next";
    else {
      rows += 1;
      const line = row.length === heading.length ? lineOf(cellsOf(heading, row)) : undefined;
      if (!line) throw new StatementError(`line ${rows + 1} makes no sense: ${row.join()}`);
      yield line;
    }
  }
  if (typeof summary !== "object") throw new StatementError(`the bill was cut off after ${rows} lines: it has no summary`);
  if (summary.rows !== String(rows)) throw new StatementError(`the summary says ${summary.rows} lines, there are ${rows}`);
}

const withoutTick = (cell = ""): string => (cell.startsWith("`") ? cell.slice(1) : cell);

function headingOf(row: readonly string[]): readonly string[] {
  const names = row.join().split(",");
  const missing = COLUMNS.find((name) => !names.includes(name));
  if (missing !== undefined) throw new StatementError(`the bill has no column ${missing}, but ${names.join()}`);
  return names;
}

const cellsOf = (heading: readonly string[], row: readonly string[]): Cells =>
  Object.fromEntries(COLUMNS.map((name) => [name, withoutTick(row[heading.indexOf(name)])])) as Cells;

function lineOf(cells: Cells): StatementLine | undefined {
  const [chargeNumber, currency] = [cells["商户订单号"], cells["货币种类"]];
  const atMs = Date.parse(`${cells["交易时间"].replace(" ", "T")}+08:00`);
  if (Number.isNaN(atMs) || chargeNumber === "" || currency === "") return undefined;
  const paid = fenOfYuan(cells["订单金额"]);
  if (cells["交易状态"] === "SUCCESS") {
    const channelNumber = cells["微信订单号"];
    if (paid === undefined || channelNumber === "") return undefined;
    return { kind: "PAYMENT", channelNumber, number: chargeNumber, amount: paid, currency, atMs };
  }
  const given = fenOfYuan(cells["申请退款金额"]);
  const [channelNumber, number] = [cells["微信退款单号"], cells["商户退款单号"]];
  if (cells["交易状态"] !== "REFUND" || given === undefined || channelNumber === "" || number === "") return undefined;
  // The time of a refund is when it was accepted, and its state the one when the bill was written.
  const line = { kind: "REFUND", channelNumber, number, chargeNumber, amount: given, currency, atMs } as const;
  return cells["退款状态"] === "SUCCESS" ? line : { ...line, underWay: true };
}
