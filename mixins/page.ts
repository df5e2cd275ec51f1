/** Lists over HTTP: `{ items, nextCursor }`, `?limit=` (default 20, at most 100), `?cursor=`. A cursor is what the last row was sorted by. */
import { COMMON_ERRORS } from "../domain/common-errors.ts";
import { raise } from "../domain/error.ts";
import { isId } from "../domain/ids.ts";
import { shape, type Fields, type Shape } from "./contract.ts";

export const PAGE = {
  limit: { type: "number", integer: true, min: 1, max: 100, default: 20, convert: true },
  cursor: { type: "cursor", optional: true },
} as const;

export const list = <const F extends Fields>(name: string, item: Shape<F>) =>
  shape(name, { items: { type: "array", items: item }, nextCursor: { type: "cursor", nullable: true, optional: true } } as const);

export const encodeCursor = (keys: readonly (string | number)[]): string => Buffer.from(JSON.stringify(keys)).toString("base64url");

/** The sort keys in a cursor; a made-up one is the caller's error. `count` keys, each a string or a number. */
export function decodeCursor(cursor: string, count: number): (string | number)[] {
  try {
    const keys: unknown = JSON.parse(Buffer.from(cursor, "base64url").toString("utf8"));
    if (Array.isArray(keys) && keys.length === count && keys.every((key) => typeof key === "string" || typeof key === "number"))
      return keys;
  } catch {
    // Not ours: told below.
  }
  return raise(COMMON_ERRORS, "VALIDATION_ERROR", { errors: [{ field: "cursor", message: "not a cursor of this list" }] });
}

/** The id a list newest first goes on below; without a cursor, above every id. */
export function cursorId(cursor: string | undefined): string {
  if (cursor === undefined) return "9223372036854775807";
  const [id] = decodeCursor(cursor, 1);
  if (typeof id === "string" && isId(id)) return id;
  return raise(COMMON_ERRORS, "VALIDATION_ERROR", { errors: [{ field: "cursor", message: "not a cursor of this list" }] });
}

/** The id a list oldest first goes on above; without a cursor, below every id. */
export const cursorAfter = (cursor: string | undefined): string => (cursor === undefined ? "0" : cursorId(cursor));

/** Cuts `rows` (one more than `limit` was asked for) into a page. */
export function page<R, T>(
  rows: readonly R[],
  limit: number,
  show: (row: R) => T,
  keys: (row: R) => readonly (string | number)[],
): { items: T[]; nextCursor?: string } {
  const last = rows.length > limit ? rows[limit - 1] : undefined;
  return { items: rows.slice(0, limit).map(show), ...(last === undefined ? {} : { nextCursor: encodeCursor(keys(last)) }) };
}
