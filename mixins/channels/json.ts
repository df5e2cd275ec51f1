/** Reading what a channel sent: a field is there with the right type, or it is not there. */
export type Json = Readonly<Record<string, unknown>>;

export function text(json: Json | undefined, name: string): string | undefined {
  const value = json?.[name];
  return typeof value === "string" ? value : undefined;
}

export function oneOf<const T extends string>(json: Json | undefined, name: string, allowed: readonly T[]): T | undefined {
  return allowed.find((one) => one === json?.[name]);
}

/** RFC 3339, as milliseconds. */
export function timeMs(json: Json | undefined, name: string): number | undefined {
  const ms = Date.parse(text(json, name) ?? "");
  return Number.isNaN(ms) ? undefined : ms;
}
