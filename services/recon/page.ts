/** The report of a statement as a page: one file, no script, readable on paper. */
import type { Of } from "../../mixins/contract.ts";
import type { ReconStatement } from "./recon.contract.ts";

type Report = Of<typeof ReconStatement>;

const ENTITIES: Readonly<Record<string, string>> = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" };
/** Numbers on a statement are whatever somebody wrote there. */
const escaped = (text: string): string => text.replaceAll(/[&<>"']/g, (char) => ENTITIES[char] ?? "");
const yuan = (fen: number | undefined): string =>
  fen === undefined ? "–" : (fen / 100).toLocaleString("en-US", { minimumFractionDigits: 2, maximumFractionDigits: 2 });
const cells = (kind: "th" | "td", texts: readonly string[]): string =>
  `<tr>${texts.map((text) => `<${kind}>${text}</${kind}>`).join("")}</tr>`;
const age = (seconds: number): string =>
  seconds < 3_600
    ? `${Math.floor(seconds / 60)} min`
    : seconds < 172_800
      ? `${Math.floor(seconds / 3_600)} h`
      : `${Math.floor(seconds / 86_400)} d`;

const MEANING: Readonly<Record<string, string>> = {
  MATCHED: "line, record and books agree",
  LONG: "the channel alone has it",
  SHORT: "we alone have it",
  AMOUNT: "another amount or currency",
  STATUS: "with us at no end yet",
  DUPLICATE: "the same line once more",
  TIMING: "near to midnight; on the next statement",
};
const STYLE = `body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:76rem;padding:0 1rem;color:#1b1b1b;background:#fff}
h1{font-size:1.4rem}table{border-collapse:collapse;width:100%;margin:1rem 0}th,td{border-bottom:1px solid #ccc;padding:.3rem .6rem;text-align:left}
td:nth-child(n){font-variant-numeric:tabular-nums}`;

/** Asking is safe and comes first; what it has not explained, a person decides. */
const waysOut = ({ id, status, answer }: Report["differences"][number]): string =>
  status !== "OPEN"
    ? ""
    : `POST /api/v1/recon/differences/${id}/repair${answer === undefined ? "" : `, or POST /api/v1/ops/suspense/${id}/resolve`}`;

export function reportPage(report: Report): string {
  const { channel, day, source, status, lines, counts, differences, error, nextCursor } = report;
  const title = `${source === "QUERY" ? "Asked" : "Statement"} 对账 · ${escaped(channel)} · ${escaped(day)}`;
  const found = differences.map((one) =>
    cells("td", [
      one.class,
      one.kind,
      escaped(one.number),
      escaped(one.channelNumber ?? ""),
      yuan(one.ours),
      yuan(one.theirs),
      escaped(one.currency),
      yuan(one.suspended),
      escaped(one.assignee ?? one.owner),
      `${one.status}${one.why === undefined ? "" : `: ${escaped(one.why)}`}`,
      age(one.ageSeconds),
      waysOut(one),
    ]),
  );
  return `<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>${title}</title><style>${STYLE}</style>
<h1>${title}</h1>
<p>${lines.toLocaleString("en-US")} lines, ${status}${error === undefined ? "" : `: ${escaped(error)}`}. Amounts in yuan.</p>
<table>${cells("th", ["Class", "Meaning", "Count", "Amount"])}
${counts.map((one) => cells("td", [one.class, MEANING[one.class] ?? "", one.count.toLocaleString("en-US"), yuan(one.amount)])).join("\n")}</table>
<table>${cells("th", ["Class", "Kind", "Number", "Channel's", "Ours", "Theirs", "", "In suspense", "Owner", "Status", "Age", "Repair"])}
${found.join("\n")}</table>
${differences.length === 0 ? "<p>No differences.</p>" : ""}${typeof nextCursor === "string" ? `<p>The first ${differences.length} are shown; GET /api/v1/recon/statements/${report.id} lists all.</p>` : ""}
</html>
`;
}
