/** COPY within a pipeline: rows of values in PostgreSQL's text format, sent without waiting to be asked for. */
import pg from "pg";

/** What a column is given; bytes as `\\x…`. */
export type CopyValue = string | number | bigint | boolean | Date | null | undefined;

/** Its data leave with it, before the server has asked for them: where it does not ask, it drops them. So a pipeline does not wait. */
export class CopyIn extends pg.Query {
  override readonly submit: (connection: pg.Connection) => void;

  constructor(text: string, data: Buffer, callback: (error: Error | undefined) => void) {
    super({ text });
    Object.assign(this, { callback });
    this.submit = (connection) => {
      const wire = connection as pg.Connection & { sendCopyFromChunk(chunk: Buffer): void; endCopyFrom(): void };
      wire.query(text);
      wire.sendCopyFromChunk(data);
      wire.endCopyFrom();
    };
  }

  handleCopyInResponse(): void {
    // They are on their way.
  }
}

/** PostgreSQL's text format: a line a row, a tab between columns. */
export const copyText = (rows: readonly (readonly CopyValue[])[]): Buffer =>
  Buffer.from(rows.map((row) => `${row.map(copyField).join("\t")}\n`).join(""));

function copyField(value: CopyValue): string {
  if (value === null || value === undefined) return "\\N";
  if (typeof value === "string")
    return COPY_SPECIAL.test(value) ? value.replaceAll(COPY_SPECIALS, (character) => COPY_ESCAPES[character] ?? "") : value;
  return value instanceof Date ? value.toISOString() : String(value);
}
const COPY_SPECIAL = /[\\\t\n\r]/;
const COPY_SPECIALS = /[\\\t\n\r]/g;
const COPY_ESCAPES: Readonly<Record<string, string>> = { "\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r" };
