/** From bytes and text to the parameters a contract states. Everything refused here costs no call, and nothing of another form gets past. */
import { hash } from "node:crypto";
import type { IncomingMessage } from "node:http";
import { isUtf8 } from "node:buffer";
import { LRUCache } from "lru-cache";
import { COMMON_ERRORS } from "../../domain/common-errors.ts";
import { raise, refusal, type DomainError } from "../../domain/error.ts";
import { LIMITS } from "../../domain/limits.ts";
import type { Contract, Fields } from "../../mixins/contract.ts";
import { makeValidator } from "../../mixins/validator.ts";

export interface FieldError {
  readonly field: string;
  readonly message: string;
}
export const invalid = (errors: readonly FieldError[]): never => raise(COMMON_ERRORS, "VALIDATION_ERROR", { errors });

/** A request whose sender has left before the end: nobody reads an answer. */
export class ClientGone extends Error {
  override readonly name = "ClientGone";
}

/** Reads a body to its end. One listener per event and no copy for the one chunk that nearly every body is. */
export function readBody(req: IncomingMessage): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    let body: Buffer | undefined;
    let chunks: Buffer[] | undefined;
    let sizeBytes = 0;
    req.on("data", (chunk: Buffer) => {
      sizeBytes += chunk.length;
      // The rest is read and dropped: a connection that is cut before it is empty often loses the answer with it.
      if (sizeBytes > LIMITS.bodyBytesMax) reject(tooLarge());
      else if (body === undefined) body = chunk;
      else (chunks ??= [body]).push(chunk);
    });
    req.on("end", () => resolve(chunks === undefined ? (body ?? Buffer.alloc(0)) : Buffer.concat(chunks)));
    req.on("error", () => reject(new ClientGone("the client left before the end of its request")));
  });
}

export const tooLarge = (): DomainError => refusal(COMMON_ERRORS, "BODY_TOO_LARGE", { limitBytes: LIMITS.bodyBytesMax });

/** False where no body was announced. Throws for one that is too long, or is not JSON, before a byte of it is read. */
export function announcesBody(req: IncomingMessage): boolean {
  const { "content-length": length, "content-type": type, "content-encoding": encoding, "transfer-encoding": transfer } = req.headers;
  if (length === undefined ? transfer === undefined : length === "0") return false;
  if (Number(length ?? 0) > LIMITS.bodyBytesMax) throw tooLarge();
  if (type !== "application/json" && !JSON_TYPE.test(type ?? ""))
    raise(COMMON_ERRORS, "UNSUPPORTED_MEDIA_TYPE", { type: type?.slice(0, 100) ?? "nothing" });
  if (encoding !== undefined && encoding !== "identity")
    raise(COMMON_ERRORS, "UNSUPPORTED_MEDIA_TYPE", { type: `${encoding.slice(0, 100)} encoding` });
  return true;
}
const JSON_TYPE = /^application\/json\s*(;\s*charset="?utf-8"?\s*)?$/i;

/** The fields of a JSON body, and whether any text in it was escaped (only then can it hold a NUL or half of a surrogate pair). */
export function parseBody(bytes: Buffer): { fields: Fields; escaped: boolean } {
  if (bytes.length === 0) return { fields: {}, escaped: false };
  if (!isUtf8(bytes)) raise(COMMON_ERRORS, "BAD_JSON", { reason: "not UTF-8" });
  const text = bytes.toString("utf8");
  const value = parseJson(text);
  if (typeof value !== "object" || value === null || Array.isArray(value))
    return invalid([{ field: "", message: "The body must be an object." }]);
  return { fields: value as Fields, escaped: text.includes("\\u") };
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    // The parser's sentence quotes the body: a password may stand there.
    return raise(COMMON_ERRORS, "BAD_JSON", { reason: "it cannot be parsed" });
  }
}

const decode = (text: string, field: string): string => {
  if (!text.includes("%")) return text;
  try {
    const decoded = decodeURIComponent(text);
    return decoded.includes("\0") ? invalid([{ field, message: "NUL characters are not allowed." }]) : decoded;
  } catch {
    return invalid([{ field, message: "The percent-encoding is not UTF-8." }]);
  }
};

type Kind = "number" | "boolean" | "text";
const kindOf = (rule: unknown): Kind => {
  const type = typeof rule === "string" ? rule.split("|")[0] : (rule as { type?: string }).type;
  return type === "number" || type === "fen" ? "number" : type === "boolean" ? "boolean" : "text";
};
/** Decimal only: `Number` would also take "0x10", "1e3" and "". */
const DECIMAL = /^-?\d{1,15}(\.\d{1,15})?$/;

/** Text that is not of its kind stays text, and the validator says so in its own words. */
function convert(text: string, kind: Kind): unknown {
  if (kind === "number") return DECIMAL.test(text) ? Number(text) : { text };
  if (kind === "boolean") return text === "true" || text === "false" ? text === "true" : { text };
  return text;
}

export interface FormInput {
  /** Percent-encoded, in the order of the names in the path's template. */
  readonly path: readonly string[];
  /** Behind the `?`. */
  readonly query: string;
  readonly body: Fields;
  readonly escaped: boolean;
}

interface Failure {
  readonly type: string;
  readonly field?: string;
  readonly message?: string;
}
type Check = (value: Record<string, unknown>) => true | readonly Failure[];

/** How the parameters of one contract are put together from a request, checked, and hashed. */
export class Form {
  readonly pathNames: readonly string[];
  readonly queryNames: readonly string[];
  readonly bodyNames: readonly string[];
  readonly #queryKinds: ReadonlyMap<string, Kind>;
  readonly #isUnknown: (name: string) => boolean;
  readonly #check: Check;
  readonly #hashed: string;
  /** By the parameters as JSON. */
  readonly #hashes = new LRUCache<string, string>({ max: HASHES_KEPT_MAX });

  constructor(contract: Pick<Contract, "params">, method: string, template: string) {
    this.pathNames = [...template.matchAll(/\{(\w+)\}/g)].map((match) => match[1] ?? "");
    const others = Object.keys(contract.params).filter((name) => !this.pathNames.includes(name));
    this.queryNames = method === "GET" ? others : [];
    this.bodyNames = method === "GET" ? [] : others;
    this.#queryKinds = new Map(this.queryNames.map((name) => [name, kindOf(contract.params[name])]));
    const bodyNames = new Set(this.bodyNames);
    this.#isUnknown = (name) => !bodyNames.has(name);
    // An action on another node checks again (`mixins/validator.ts`); here it spares refusals the call, and lets the address be read from the parameters.
    this.#check = makeValidator().compile({ $$strict: true, ...contract.params } as never) as unknown as Check;
    this.#hashed = `${method} ${template}\n`;
  }

  /** Throws VALIDATION_ERROR. Own properties of a fresh object, in the contract's order: `__proto__` and its like are unknown fields. */
  read(input: FormInput): Record<string, unknown> {
    const params: Record<string, unknown> = {};
    for (let at = 0; at < this.pathNames.length; at++) {
      const name = this.pathNames[at] ?? "";
      params[name] = decode(input.path[at] ?? "", name);
    }
    if (input.query !== "") this.#readQuery(input.query, params);
    for (const name of this.bodyNames) if (Object.hasOwn(input.body, name)) params[name] = input.body[name];
    const checked = this.#check(params);
    const given = Object.keys(input.body);
    if (checked !== true || given.some(this.#isUnknown)) {
      const failures = checked === true ? [] : checked.map(asFieldError);
      invalid([...failures, ...given.filter(this.#isUnknown).map(unknownField)].slice(0, FIELD_ERRORS_MAX));
    }
    if (input.escaped) refuseUnsoundText(params);
    return params;
  }

  /**
   * SHA-256 of what was asked, in hex: white space and the order of a body's fields do not make it another request. As bytes it takes three times as long.
   * A stampede asks for the same thing again and again, and to remember it takes a third of the time.
   */
  hash(params: Record<string, unknown>): string {
    const asked = JSON.stringify(params);
    const known = this.#hashes.get(asked);
    if (known !== undefined) return known;
    const made = hash("sha256", this.#hashed + asked, "hex");
    if (asked.length <= HASHED_CHARACTERS_MAX) this.#hashes.set(asked, made);
    return made;
  }

  #readQuery(query: string, params: Record<string, unknown>): void {
    for (const pair of query.split("&", QUERY_PAIRS_MAX)) {
      if (pair === "") continue;
      const at = pair.indexOf("=");
      const name = decode((at < 0 ? pair : pair.slice(0, at)).replaceAll("+", " "), "query");
      const kind = this.#queryKinds.get(name);
      if (kind === undefined) return invalid([unknownField(name)]);
      if (Object.hasOwn(params, name)) return invalid([{ field: name, message: `The '${name}' parameter may be given once.` }]);
      params[name] = convert(at < 0 ? "" : decode(pair.slice(at + 1).replaceAll("+", " "), name), kind);
    }
  }
}

/** Of one route, of what is short: 100 kB at most. */
const HASHES_KEPT_MAX = 256;
const HASHED_CHARACTERS_MAX = 200;
/** More than any contract has; what is behind it was repeated or unknown anyway. */
const QUERY_PAIRS_MAX = 100;
/** A body of 100 kB can be wrong in thousands of places; ten tell enough. */
const FIELD_ERRORS_MAX = 10;

const unknownField = (name: string): FieldError => ({ field: name.slice(0, 100), message: "This field is not known here." });

const asFieldError = (failure: Failure): FieldError =>
  failure.type === "objectStrict"
    ? { field: failure.field ?? "", message: "This object has fields that are not known here." }
    : { field: failure.field ?? "", message: failure.message ?? "This field is not valid." };

/** PostgreSQL stores no NUL, and half of a surrogate pair is no text: found here, because there it would be a 500. */
function refuseUnsoundText(params: Record<string, unknown>): void {
  const walk = (value: unknown, field: string): void => {
    if (typeof value === "string") {
      if (value.includes("\0") || !value.isWellFormed())
        invalid([{ field, message: `The '${field}' field holds characters that are not text.` }]);
    } else if (typeof value === "object" && value !== null) {
      // No deeper than the contract: the form has been checked.
      for (const [name, inner] of Object.entries(value)) walk(inner, field === "" ? name : `${field}.${name}`);
    }
  };
  walk(params, "");
}
