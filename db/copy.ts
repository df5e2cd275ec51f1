/** What a column is given by COPY; bytes as `\\x…`. */
export type CopyValue = string | number | bigint | boolean | Date | null | undefined;

/** PostgreSQL's text format: a line a row, a tab between columns. The rows of a batch share their moments: each is written out once. */
export function copyText(rows: readonly (readonly CopyValue[])[]): Buffer {
  const moments = new Map<number, string>();
  const moment = (at: Date): string => {
    const known = moments.get(at.getTime());
    if (known !== undefined) return known;
    const text = at.toISOString();
    moments.set(at.getTime(), text);
    return text;
  };
  const field = (value: CopyValue): string => {
    if (typeof value === "string") return COPY_SPECIAL.test(value) ? escaped(value) : value;
    if (value === null || value === undefined) return "\\N";
    return value instanceof Date ? moment(value) : String(value);
  };
  return Buffer.from(rows.map((row) => `${row.map(field).join("\t")}\n`).join(""));
}

const escaped = (text: string): string => text.replaceAll(COPY_SPECIALS, (character) => COPY_ESCAPES[character] ?? "");
const COPY_SPECIAL = /[\\\t\n\r]/;
const COPY_SPECIALS = /[\\\t\n\r]/g;
const COPY_ESCAPES: Readonly<Record<string, string>> = { "\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r" };
