/** Errors over HTTP are RFC 9457 problem documents with a stable `code`. Bad input is never a 500, and a fault of ours tells nothing but its trace id. */
import { Errors } from "moleculer";
import { COMMON_ERRORS } from "../../domain/common-errors.ts";
import { DomainError, refusal } from "../../domain/error.ts";
import type { FieldError } from "./form.ts";

export const PROBLEM_TYPE = "application/problem+json";
export const problemUrn = (code: string): string => `urn:tuanbar:error:${code}`;

/** `SOLD_OUT` → `Sold out`: the same for every occurrence, as the RFC wants of a title. */
export const titleOf = (code: string): string => code.charAt(0) + code.slice(1).toLowerCase().replaceAll("_", " ");

export interface Problem {
  readonly type: string;
  readonly title: string;
  readonly status: number;
  readonly code: string;
  readonly detail: string;
  readonly traceId: string;
  readonly errors?: readonly FieldError[];
}

const titles = new Map<string, string>();
const titleOnce = (code: string): string => {
  const known = titles.get(code) ?? titleOf(code);
  titles.set(code, known);
  return known;
};

export function problemOf(error: DomainError, traceId: string): Problem {
  const { errors } = (error.data ?? {}) as { errors?: readonly FieldError[] };
  return {
    type: problemUrn(error.type),
    title: titleOnce(error.type),
    status: error.code,
    code: error.type,
    detail: error.message,
    traceId,
    ...(errors === undefined ? {} : { errors }),
  };
}

/** Headers that go with an error, as name and value in turn. */
export function problemHeaders(error: DomainError): readonly string[] {
  const { retryAfterSeconds, allow } = (error.data ?? {}) as { retryAfterSeconds?: number; allow?: readonly string[] };
  if (retryAfterSeconds !== undefined) return ["Retry-After", String(retryAfterSeconds)];
  if (allow !== undefined) return ["Allow", allow.join(", ")];
  if (error.type === "UNAUTHENTICATED") return ["WWW-Authenticate", 'Bearer realm="tuanbar"'];
  return [];
}

const RETRY_AFTER_SECONDS = 2;
const { QueueIsFullError, RequestRejectedError, RequestSkippedError, RequestTimeoutError, ServiceNotAvailableError, ServiceNotFoundError } =
  Errors;

/** What a failed call is to its client; undefined: a fault of ours, to be logged and answered INTERNAL. */
export function refusalOf(error: unknown, action: string): DomainError | undefined {
  if (error instanceof DomainError) return error;
  if (!(error instanceof Error)) return undefined;
  if (error instanceof RequestTimeoutError || error instanceof RequestSkippedError) return refusal(COMMON_ERRORS, "TIMEOUT", {});
  if (error instanceof QueueIsFullError) return refusal(COMMON_ERRORS, "OVERLOADED", { retryAfterSeconds: RETRY_AFTER_SECONDS });
  if (error instanceof ServiceNotFoundError || error instanceof ServiceNotAvailableError || error instanceof RequestRejectedError)
    return refusal(COMMON_ERRORS, "UNAVAILABLE", { what: "the service", retryAfterSeconds: RETRY_AFTER_SECONDS });
  // By its name, because the class does not survive a hop.
  if (error.name === "DatabaseUnavailable")
    return refusal(COMMON_ERRORS, "UNAVAILABLE", { what: "the database", retryAfterSeconds: RETRY_AFTER_SECONDS });
  if (error instanceof Errors.ValidationError) return asValidationError(error.data, action);
  return undefined;
}

/** Another version of the service may want another form than our contract; a form that one service got wrong towards another is a fault of ours. */
function asValidationError(data: unknown, action: string): DomainError | undefined {
  const failures = data as readonly { action?: string; field?: string; message?: string }[];
  if (!Array.isArray(failures) || failures[0]?.action !== action) return undefined;
  return refusal(COMMON_ERRORS, "VALIDATION_ERROR", {
    errors: failures.map(({ field, message }) => ({ field: field ?? "", message: message ?? "" })),
  });
}
