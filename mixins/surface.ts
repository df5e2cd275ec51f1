/**
 * The wire surface: what contracts look like to those who call them, as text. A test prints it and compares it with the reviewed file, and a
 * node tells it to the others when it joins, so that two versions that would misread each other never serve side by side.
 */
import { createHash } from "node:crypto";
import type { Contract, Fields, Shape } from "./contract.ts";

export interface Rule {
  readonly type: string;
  readonly [more: string]: unknown;
}
export const isRule = (value: unknown): value is Rule => typeof value === "object" && value !== null && "type" in value;

/** `name:type`, optional ones with `?`. */
export const describeFields = (fields: Fields): string =>
  Object.entries(fields)
    .map(([name, rule]) => `${name}${isRule(rule) && rule["optional"] ? "?" : ""}:${describeRule(rule)}`)
    .join(" ");

export function describeRule(rule: unknown): string {
  if (!isRule(rule)) return String(rule);
  const more = Object.entries(rule)
    .filter(([key]) => !["type", "optional", "items", "props", "name", "values"].includes(key))
    .map(([key, value]) => `${key}=${String(value)}`);
  const bounds = more.length === 0 ? "" : `(${more.join(",")})`;
  if (rule.type === "enum") return (rule["values"] as string[]).join("|") + bounds;
  if (rule.type === "array") return `${describeRule(rule["items"])}[]${bounds}`;
  if (rule.type === "object") return (rule["name"] as string | undefined) ?? `{${describeFields(rule["props"] as Fields)}}`;
  return rule.type + bounds;
}

/** Every named shape of the contracts, also those inside others. */
export function shapesOf(contracts: readonly Contract[]): Shape[] {
  const found: Shape[] = [];
  const visit = (rule: unknown): void => {
    if (!isRule(rule)) return;
    if (rule.type === "object" && typeof rule["name"] === "string") found.push(rule as unknown as Shape);
    for (const inner of Object.values((rule["props"] as Fields | undefined) ?? {})) visit(inner);
    visit(rule["items"]);
  };
  for (const { params, answer } of contracts) for (const rule of [...Object.values(params), answer]) visit(rule);
  return found;
}

/** Fields of one action by their path: `items[].amount` is `number`, `groupSize?` is an optional `number`. Bounds are left out: they may change. */
type Paths = Readonly<Record<string, string>>;
interface ActionSurface {
  readonly params: Paths;
  readonly answer: Paths;
}
/** What a node tells the others of the contracts it was built with. */
export interface Surface {
  readonly hash: string;
  readonly actions: Readonly<Record<string, ActionSurface>>;
}

export function surfaceOf(contracts: readonly Pick<Contract, "name" | "params" | "answer">[]): Surface {
  const actions = Object.fromEntries(
    contracts
      .toSorted((a, b) => (a.name < b.name ? -1 : 1))
      .map(({ name, params, answer }) => [name, { params: pathsOfFields(params, ""), answer: pathsOf(answer, "answer") }]),
  );
  return { hash: createHash("sha256").update(JSON.stringify(actions)).digest("hex").slice(0, 16), actions };
}

/**
 * Why a node with the surface `ours` must not join one with `theirs`, as a sentence; undefined where they understand each other. Compatible is: an
 * action only one side knows; bounds, errors and timeouts; a new field in an answer; an optional field only one side knows. Everything else
 * (a field gone from an answer, another type, a parameter one side insists on) would be misread by one of the two.
 */
export function conflictOf(ours: Surface, theirs: Surface): string | undefined {
  if (ours.hash === theirs.hash) return undefined;
  for (const [name, our] of Object.entries(ours.actions)) {
    const their = theirs.actions[name];
    if (their === undefined) continue;
    const [path] = [...differing(our.params, their.params, () => true), ...differing(our.answer, their.answer, (isOurs) => !isOurs)];
    if (path !== undefined) return `${name} disagrees about ${path}`;
  }
  return undefined;
}

/** Paths with another type, and paths that one side lacks although they are not optional, where `matters` says so of that side. */
function differing(ours: Paths, theirs: Paths, matters: (isOurs: boolean) => boolean): string[] {
  const paths = new Set([...Object.keys(ours), ...Object.keys(theirs)]);
  return [...paths].filter((path) => {
    const [our, their] = [ours[path], theirs[path]];
    if (our !== undefined && their !== undefined) return our !== their;
    if (path.endsWith("?")) {
      // Optional here, required there.
      const required = path.slice(0, -1);
      return required in ours || required in theirs;
    }
    return matters(our !== undefined) && !(`${path}?` in ours || `${path}?` in theirs);
  });
}

const isOptional = (rule: unknown): boolean =>
  isRule(rule) ? rule["optional"] === true || rule["default"] !== undefined : String(rule).includes("|optional");

function pathsOfFields(fields: Fields, prefix: string): Record<string, string> {
  return Object.assign(
    {},
    ...Object.entries(fields)
      .filter(([name]) => !name.startsWith("$$"))
      .map(([name, rule]) => pathsOf(rule, `${prefix}${name}${isOptional(rule) ? "?" : ""}`)),
  ) as Record<string, string>;
}

function pathsOf(rule: unknown, path: string): Record<string, string> {
  if (!isRule(rule)) return { [path]: typeof rule === "string" ? (rule.split("|")[0] ?? "") : "nothing" };
  if (rule.type === "array") return pathsOf(rule["items"], `${path}[]`);
  if (rule.type === "object") return { [path]: "object", ...pathsOfFields(rule["props"] as Fields, `${path}.`) };
  if (rule.type === "enum") return { [path]: "enum" };
  return { [path]: rule.type };
}
