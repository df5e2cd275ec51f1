import { define } from "./error.ts";

/** What can be wrong with any request, whatever it asks. */
export const COMMON_ERRORS = {
  VALIDATION_ERROR: define<{ errors: readonly { field: string; message: string }[] }>(
    400,
    "never",
    () => "the request does not have the form the contract states",
  ),
  BAD_JSON: define<{ reason: string }>(400, "never", (d) => `the body is not JSON: ${d.reason}`),
  IDEMPOTENCY_KEY_REQUIRED: define<{}>(
    400,
    "never",
    () => "this request needs an Idempotency-Key header of 1 to 128 printable ASCII characters",
  ),
  IDEMPOTENCY_KEY_REUSED: define<{ key: string }>(422, "never", (d) => `the key ${d.key} was used for another request`),
  IDEMPOTENCY_IN_PROGRESS: define<{ key: string }>(409, "later", (d) => `the first request with the key ${d.key} is still running`),
  UNAUTHENTICATED: define<{ reason: string }>(401, "never", (d) => d.reason),
  FORBIDDEN: define<{ need: string }>(403, "never", (d) => `this is for ${d.need}`),
  ROUTE_NOT_FOUND: define<{ method: string; path: string }>(404, "never", (d) => `there is no ${d.method} ${d.path}`),
  METHOD_NOT_ALLOWED: define<{ method: string; allow: readonly string[] }>(
    405,
    "never",
    (d) => `${d.method} is not one of ${d.allow.join(", ")}`,
  ),
  REQUEST_TIMEOUT: define<{}>(408, "later", () => "the request did not arrive in time"),
  BODY_TOO_LARGE: define<{ limitBytes: number }>(413, "never", (d) => `the body is larger than ${d.limitBytes} bytes`),
  UNSUPPORTED_MEDIA_TYPE: define<{ type: string; send?: string }>(
    415,
    "never",
    (d) => `send ${d.send ?? "application/json"}, not ${d.type}`,
  ),
  HEADERS_TOO_LARGE: define<{}>(431, "never", () => "the request headers are too large"),
  BAD_REQUEST: define<{ reason: string }>(400, "never", (d) => d.reason),
  RATE_LIMITED: define<{ retryAfterSeconds: number }>(429, "later", (d) => `too many requests; try again in ${d.retryAfterSeconds} s`),
  OVERLOADED: define<{ retryAfterSeconds: number }>(503, "later", (d) => `busy; try again in ${d.retryAfterSeconds} s`),
  SHARD_MOVING: define<{ retryAfterSeconds: number }>(
    503,
    "later",
    (d) => `its shard is moving to another database; try again in ${d.retryAfterSeconds} s`,
  ),
  UNAVAILABLE: define<{ what: string; retryAfterSeconds: number }>(
    503,
    "later",
    (d) => `${d.what} cannot be reached; try again in ${d.retryAfterSeconds} s`,
  ),
  TIMEOUT: define<{}>(504, "later", () => "no answer in time; whether it happened can be asked with the same key"),
  INTERNAL: define<{}>(500, "never", () => "a fault of ours; it has been recorded"),
  CITY_NOT_FOUND: define<{ city: string }>(404, "never", (d) => `no city ${d.city} is served`),
} as const;
