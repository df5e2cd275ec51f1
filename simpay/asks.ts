/** What a merchant may ask for, read out of a request's body; anything else is refused with a reason. */
import { Refused, type ChargeAsk, type PayoutAsk, type RefundAsk } from "./book.ts";
import type { FaultName } from "./faults.ts";

/** A hundred billion yuan: nobody pays it, and sums of a day stay below 2^53. */
const AMOUNT_MAX = 10_000_000_000_000;
const URL_LENGTH_MAX = 500;
const SUBJECT_LENGTH_MAX = 127;

type Body = Readonly<Record<string, unknown>>;

export function bodyOf(raw: Buffer): Body {
  let body: unknown;
  try {
    body = JSON.parse(raw.toString("utf8"));
  } catch (error) {
    throw new Refused(400, "BAD_REQUEST", `the body is not JSON: ${String(error)}`);
  }
  if (typeof body !== "object" || body === null || Array.isArray(body)) throw bad("the body is not an object");
  return body as Body;
}

export function chargeAsk(body: Body, faults: readonly FaultName[]): ChargeAsk {
  only(body, ["number", "amount", "currency", "subject", "notifyUrl", "returnUrl", "expiresAt"]);
  const { subject, returnUrl, expiresAt } = body;
  if (typeof subject !== "string" || subject.length === 0 || subject.length > SUBJECT_LENGTH_MAX)
    throw bad(`subject is text of 1 to ${SUBJECT_LENGTH_MAX}`);
  if (expiresAt !== undefined && (typeof expiresAt !== "string" || Number.isNaN(Date.parse(expiresAt)))) throw bad("expiresAt is a time");
  return {
    ...money(body),
    subject,
    faults,
    ...(returnUrl === undefined ? {} : { returnUrl: url(body, "returnUrl") }),
    ...(expiresAt === undefined ? {} : { expiresAt: Date.parse(expiresAt) }),
  };
}

export function refundAsk(body: Body, faults: readonly FaultName[]): RefundAsk {
  only(body, ["number", "chargeNumber", "amount", "currency", "notifyUrl"]);
  return { ...money(body), chargeNumber: number(body, "chargeNumber"), faults };
}

export function payoutAsk(body: Body, faults: readonly FaultName[]): PayoutAsk {
  only(body, ["number", "amount", "currency", "account", "notifyUrl"]);
  const { account } = body;
  if (typeof account !== "string" || !/^[\x21-\x7e]{1,64}$/.test(account)) throw bad("account is 1 to 64 printable ASCII characters");
  return { ...money(body), account, faults };
}

function money(body: Body): { number: string; amount: number; currency: string; notifyUrl: string } {
  const { amount, currency } = body;
  if (typeof amount !== "number" || !Number.isInteger(amount) || amount < 1 || amount > AMOUNT_MAX)
    throw bad(`amount is whole fen, 1 to ${AMOUNT_MAX}`);
  if (typeof currency !== "string" || !/^[A-Z]{3}$/.test(currency)) throw bad("currency is three capital letters");
  return { number: number(body, "number"), amount, currency, notifyUrl: url(body, "notifyUrl") };
}

function number(body: Body, name: string): string {
  const value = body[name];
  if (typeof value !== "string" || !/^[\w-]{1,64}$/.test(value)) throw bad(`${name} is 1 to 64 letters, digits, _ or -`);
  return value;
}

function url(body: Body, name: string): string {
  const value = body[name];
  if (typeof value === "string" && URL.canParse(value)) {
    const { href, protocol } = new URL(value);
    if (/^https?:$/.test(protocol) && href.length <= URL_LENGTH_MAX) return href;
  }
  throw bad(`${name} is an http address of at most ${URL_LENGTH_MAX} characters`);
}

function only(body: Body, names: readonly string[]): void {
  const other = Object.keys(body).find((name) => !names.includes(name));
  if (other !== undefined) throw bad(`${other} is not known`);
}

const bad = (message: string): Refused => new Refused(400, "BAD_REQUEST", message);
