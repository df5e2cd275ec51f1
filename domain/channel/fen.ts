import { fen, FEN_MAX, type Fen } from "../money.ts";

/** Amounts come from outside: what is no whole, bounded number of fen is nothing, never rounded and never an exception. */
export function fenOf(value: unknown): Fen | undefined {
  const whole =
    typeof value === "number" ? Number.isSafeInteger(value) && value >= 0 : typeof value === "string" && /^\d{1,16}$/.test(value);
  if (!whole) return undefined;
  const amount = BigInt(value as number | string);
  return amount <= FEN_MAX ? fen(amount) : undefined;
}

/** "19.90" of a statement written in yuan, exactly: at most two decimals, no sign, no grouping. */
export function fenOfYuan(text: string): Fen | undefined {
  const [, yuan, decimals = ""] = /^(\d{1,14})(?:\.(\d{1,2}))?$/.exec(text) ?? [];
  return yuan === undefined ? undefined : fenOf(`${yuan}${decimals.padEnd(2, "0")}`);
}
