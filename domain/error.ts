/**
 * Errors that are the caller's luck: sold out, forbidden, too late. Each domain has one table of them; `domain/errors.ts` joins the tables.
 * A refusal is an ordinary answer here (20,000 of them a second when a deal is sold out), so it carries no stack: capturing one cost more
 * than the whole rest of the refusal.
 */

/** May the same request, unchanged, succeed later? `later` also tells Moleculer that a retry is allowed. */
export type Retry = "never" | "later";

/** One row of an error table. `status` is the HTTP status; `say` is the sentence a person reads. */
export interface ErrorDef<D> {
  readonly status: number;
  readonly retry: Retry;
  readonly say: (data: D) => string;
}

export const define = <D>(status: number, retry: Retry, say: (data: D) => string): ErrorDef<D> => ({ status, retry, say });

/** What crosses the wire. `code` is the HTTP status and `type` the stable name, as Moleculer names them. */
export interface PlainError {
  readonly message: string;
  readonly code: number;
  readonly type: string;
  readonly data: unknown;
  readonly retryable: boolean;
}

export class DomainError extends Error {
  override readonly name = "DomainError";
  readonly code: number;
  readonly type: string;
  readonly data: unknown;
  readonly retryable: boolean;
  constructor(plain: PlainError) {
    const limit = Error.stackTraceLimit;
    Error.stackTraceLimit = 0;
    super(plain.message);
    Error.stackTraceLimit = limit;
    this.code = plain.code;
    this.type = plain.type;
    this.data = plain.data;
    this.retryable = plain.retryable;
  }
}

type Table = Readonly<Record<string, ErrorDef<never>>>;
type DataOf<T extends Table, K extends keyof T> = T[K] extends ErrorDef<infer D> ? D : never;

/** Makes the error of a table's row; wrong name or wrong data does not compile. Batches return it, single calls `raise` it. */
export function refusal<T extends Table, K extends keyof T & string>(table: T, type: K, data: DataOf<T, K>): DomainError {
  const def = table[type] as unknown as ErrorDef<unknown>;
  return new DomainError({ message: def.say(data), code: def.status, type, data, retryable: def.retry === "later" });
}

export function raise<T extends Table, K extends keyof T & string>(table: T, type: K, data: DataOf<T, K>): never {
  throw refusal(table, type, data);
}
