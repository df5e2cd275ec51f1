/**
 * What is asked of a connection in one turn of the event loop, as one message: the statements one behind the other, and one Sync behind them all.
 *
 * `pg` sends a Sync with each statement, and PostgreSQL answers each Sync with a write of its own, which wakes this process: sixteen for a drain. It
 * also has every answer describe its columns, and makes an emitter, a result and an error's stack of every statement. Here a statement is parsed once a
 * connection, its columns are described once, and what was asked together is answered together. Behind one that fails PostgreSQL drops the rest of
 * the burst, so the first error is everybody's.
 */
import pg from "pg";
import { isoText } from "../domain/moment.ts";
import { hasLeft } from "./copy.ts";

export interface Asked {
  /** Of the prepared statement; one name, one text. */
  readonly name: string;
  readonly text: string;
  readonly values: readonly Parameter[];
  /** Rows of a COPY, as `copyMessages` has put them. They leave with it, before the server has asked for them: where it does not ask, it drops them. */
  readonly rows?: Buffer<ArrayBuffer> | undefined;
  /** With the rows it returned, and how many it changed. */
  readonly resolve: (rows: object[], changed: number) => void;
  readonly reject: (error: Error) => void;
}

/** In PostgreSQL's text, or bytes as they are. */
export type Parameter = string | Buffer | null;

/** What `pg` has for queries with a protocol of their own, and its types do not name. */
interface Wire {
  readonly stream: { cork(): void; uncork(): void; write(bytes: Buffer, taken: () => void): void };
  parse(of: { name: string; text: string }): void;
  bind(of: { statement: string; values: readonly Parameter[] }): void;
  describe(of: { type: "P" }): void;
  execute(of: undefined): void;
  close(of: { type: "S"; name: string }): void;
  sync(): void;
}
interface Columns {
  addFields(fields: unknown): void;
  parseRow(values: readonly (string | null)[]): object;
}

/** A prepared statement of a connection. Its columns stay what they are: PostgreSQL refuses a plan whose result would be another. */
interface Prepared {
  readonly text: string;
  /** Undefined until it was run once; null where it returns no rows. */
  columns: Columns | null | undefined;
}
const prepared = new WeakMap<Wire, Map<string, Prepared>>();

export class Burst extends pg.Query {
  readonly #asked: readonly Asked[];
  #at = 0;
  #rows: object[] = [];
  #unreadable: Error | undefined;
  /** Of each that is asked, its statement. */
  readonly #statements: Prepared[] = [];
  override readonly submit: (connection: pg.Connection) => void;

  constructor(asked: readonly Asked[]) {
    // As an object it is copied, property by property: 65 µs.
    super("");
    this.#asked = asked;
    this.submit = (connection) => this.#send(connection as unknown as Wire);
  }

  /** What it returns is what `pg` fails it with. */
  #send(wire: Wire): Error | null {
    const known = prepared.get(wire) ?? new Map<string, Prepared>();
    prepared.set(wire, known);
    const wrong = this.#asked.find(({ name, text }) => name !== "" && (known.get(name)?.text ?? text) !== text);
    if (wrong) return new Error(`${wrong.name} is the name of two statements`);
    wire.stream.cork();
    for (const { name, text, values, rows } of this.#asked) {
      // One without a name is the connection's until the next without.
      const old = name === "" ? undefined : known.get(name);
      const isNew = old?.columns === undefined;
      const statement = isNew ? { text, columns: undefined } : old;
      this.#statements.push(statement);
      if (isNew) {
        // It may be there, of a burst that has failed or is not answered yet; closing what is not there is no error.
        wire.close({ type: "S", name });
        wire.parse({ name, text });
        known.set(name, statement);
      }
      wire.bind({ statement: name, values });
      if (isNew) wire.describe({ type: "P" });
      wire.execute(undefined);
      if (rows !== undefined) wire.stream.write(rows, () => hasLeft(rows));
    }
    wire.sync();
    wire.stream.uncork();
    return null;
  }

  handleRowDescription({ fields }: { readonly fields: unknown }): void {
    const columns = new pg.Result("", pg.types) as unknown as Columns;
    columns.addFields(fields);
    const statement = this.#statements[this.#at];
    if (statement) statement.columns = columns;
  }

  handleDataRow({ fields }: { readonly fields: readonly (string | null)[] }): void {
    const columns = this.#statements[this.#at]?.columns;
    try {
      if (columns) this.#rows.push(columns.parseRow(fields));
    } catch (error) {
      this.#unreadable ??= error as Error;
    }
  }

  handleCommandComplete({ text }: { readonly text: string }): void {
    const statement = this.#statements[this.#at];
    if (statement) statement.columns ??= null;
    const done = this.#asked[this.#at++];
    if (this.#unreadable) done?.reject(this.#unreadable);
    else done?.resolve(this.#rows, Number(text.slice(text.lastIndexOf(" ") + 1)));
    this.#rows = [];
    this.#unreadable = undefined;
  }

  handleCopyInResponse(): void {
    // They are on their way.
  }

  handleReadyForQuery(): void {
    // Each was told when it was done.
  }

  handleError(error: Error): void {
    const left = this.#asked.slice(this.#at);
    this.#at = this.#asked.length;
    for (const { reject } of left) reject(error);
  }
}

/** A value as PostgreSQL reads it. Throws at a moment that is none. */
export function parameter(value: unknown): Parameter {
  if (value === null || value === undefined) return null;
  if (typeof value === "string" || Buffer.isBuffer(value)) return value;
  if (typeof value === "number" || typeof value === "bigint" || typeof value === "boolean") return String(value);
  if (value instanceof Date) return isoText(value);
  return Array.isArray(value) ? arrayText(value) : JSON.stringify(value);
}

/** Lists of keys are made whole: looking at each element is what a drain, which sends half a dozen lists of a hundred, has no time for. */
function arrayText(items: readonly unknown[]): string {
  if (items.length === 0) return "{}";
  if (items.every((item) => typeof item === "string" || typeof item === "number") && !QUOTED.test(items.join("")))
    return `{"${items.join('","')}"}`;
  return `{${items.map(element).join()}}`;
}
const QUOTED = /["\\]/;

function element(item: unknown): string {
  if (Array.isArray(item)) return arrayText(item);
  const text = Buffer.isBuffer(item) ? `\\x${item.toString("hex")}` : parameter(item)?.toString();
  return text === undefined ? "NULL" : `"${text.replaceAll(/["\\]/g, "\\$&")}"`;
}
