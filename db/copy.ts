import { isoText } from "../domain/moment.ts";

/** What a column is given by COPY; bytes as their hex. */
export type CopyValue = string | number | bigint | boolean | Date | Hex | null | undefined;
export interface Hex {
  readonly hex: string;
}

/** Of a message: its code and its length. CopyDone is nothing more. */
const HEAD_BYTES = 5;
const [COPY_DATA, COPY_DONE] = [0x64, 0x63];
/** What a UTF-16 unit takes in UTF-8. */
const UNIT_BYTES_MAX = 3;
const BUFFER_BYTES_MIN = 65_536;
/** What a batch of an unusual size needed is not kept. */
const SPARE_BYTES_MAX = 1_048_576;
const SPARE_MAX = 4;

/** Buffers whose message has left. A drain sends 60 kB of rows, and memory that is new each time is given to us page by page, by a kernel that clears it first. */
const spare: Buffer<ArrayBuffer>[] = [];

/**
 * Rows as the messages of a COPY, CopyData and CopyDone, in PostgreSQL's text format: a line a row, a tab between columns. Each line is encoded where it is to
 * lie; one text of them all was copied three times before the connection had it. Whoever has sent it says so (`hasLeft`). Throws
 * at a moment that is none.
 */
export function copyMessages(rows: readonly (readonly CopyValue[])[]): Buffer<ArrayBuffer> {
  let buffer = spare.pop() ?? Buffer.allocUnsafeSlow(BUFFER_BYTES_MIN);
  let at = HEAD_BYTES;
  // A batch is mostly of one deal: two columns in three have in every row what they have in the first.
  const first = rows[0] ?? [];
  const texts = first.map(cell);
  for (const row of rows) {
    let line = "";
    for (let column = 0; column < row.length; column++) {
      const value = row[column];
      line += value === first[column] ? texts[column] : cell(value, column);
    }
    line += "\n";
    buffer = withRoom(buffer, at, line.length * UNIT_BYTES_MAX + HEAD_BYTES);
    at += buffer.write(line, at);
  }
  buffer[0] = COPY_DATA;
  buffer.writeInt32BE(at - 1, 1);
  buffer[at] = COPY_DONE;
  buffer.writeInt32BE(HEAD_BYTES - 1, at + 1);
  return buffer.subarray(0, at + HEAD_BYTES);
}

/** The connection has taken these messages: their memory may be used again. */
export function hasLeft({ buffer }: Buffer<ArrayBuffer>): void {
  if (spare.length < SPARE_MAX && buffer.byteLength <= SPARE_BYTES_MAX) spare.push(Buffer.from(buffer));
}

/** The buffer, or a larger one with what is in it up to `at`. */
function withRoom(buffer: Buffer<ArrayBuffer>, at: number, bytes: number): Buffer<ArrayBuffer> {
  if (at + bytes <= buffer.length) return buffer;
  const larger = Buffer.allocUnsafeSlow(Math.max(at + bytes, 2 * buffer.length));
  buffer.copy(larger, 0, 0, at);
  return larger;
}

const cell = (value: CopyValue, column: number): string => (column === 0 ? "" : "\t") + field(value);

function field(value: CopyValue): string {
  if (typeof value === "string") return COPY_SPECIAL.test(value) ? escaped(value) : value;
  if (value === null || value === undefined) return "\\N";
  if (typeof value !== "object") return String(value);
  return value instanceof Date ? isoText(value) : `\\\\x${value.hex}`;
}

const escaped = (text: string): string => text.replaceAll(COPY_SPECIALS, (character) => COPY_ESCAPES[character] ?? "");
const COPY_SPECIAL = /[\\\t\n\r]/;
const COPY_SPECIALS = /[\\\t\n\r]/g;
const COPY_ESCAPES: Readonly<Record<string, string>> = { "\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r" };
