/** fastest-validator's schemas as JSON Schema 2020-12, which OpenAPI 3.1 is made of. Named shapes become components. */
import type { Fields, Shape } from "../../mixins/contract.ts";
import { REQUEST_FEN_MAX } from "../../domain/money.ts";

export type JsonSchema = Readonly<Record<string, unknown>>;

/** What a rule may say; the validator knows more, our contracts use these. */
interface Rule {
  readonly type: string;
  readonly name?: string;
  readonly min?: number;
  readonly max?: number;
  readonly integer?: boolean;
  readonly notEqual?: unknown;
  readonly pattern?: RegExp;
  readonly values?: readonly string[];
  readonly items?: unknown;
  readonly props?: Fields;
  readonly optional?: boolean;
  readonly nullable?: boolean;
  readonly default?: unknown;
}

const SCALARS: Readonly<Record<string, JsonSchema>> = {
  string: { type: "string" },
  number: { type: "number" },
  boolean: { type: "boolean" },
  id: {
    type: "string",
    pattern: "^[1-9][0-9]{0,18}$",
    description: "A decimal id; it carries its own address.",
    examples: ["5312068608032785"],
  },
  fen: { type: "integer", minimum: 1, maximum: REQUEST_FEN_MAX, description: "Money in fen, an integer." },
  time: { type: "string", format: "date-time", description: "RFC 3339, UTC." },
  cursor: { type: "string", pattern: "^[A-Za-z0-9_-]{1,512}$", description: "From `nextCursor` of the page before." },
  any: {},
};

const ruleOf = (rule: unknown): Rule =>
  typeof rule === "string" ? { type: rule.split("|")[0] ?? "any", optional: rule.includes("|optional") } : (rule as Rule);

export const isOptional = (rule: unknown): boolean => {
  const { optional, default: otherwise } = ruleOf(rule);
  return optional === true || otherwise !== undefined;
};

/** Collects the components as it goes. `answer`: amounts in answers may be zero, in requests never. */
export class Schemas {
  readonly components: Record<string, JsonSchema> = {};

  of(rule: unknown): JsonSchema {
    const known = ruleOf(rule);
    const schema = this.#bare(known);
    const noted = known.default === undefined ? schema : { ...schema, default: known.default };
    return known.nullable ? { anyOf: [noted, { type: "null" }] } : noted;
  }

  /** An object of fields without a name. */
  fields(fields: Fields, names: readonly string[] = Object.keys(fields)): JsonSchema {
    const required = names.filter((name) => !isOptional(fields[name]));
    return {
      type: "object",
      properties: Object.fromEntries(names.map((name) => [name, this.of(fields[name])])),
      ...(required.length === 0 ? {} : { required }),
      additionalProperties: false,
    };
  }

  #bare(rule: Rule): JsonSchema {
    if (rule.type === "object") return rule.name === undefined ? this.fields(rule.props ?? {}) : this.#component(rule as unknown as Shape);
    if (rule.type === "array")
      return { type: "array", items: this.of(rule.items), ...(rule.max === undefined ? {} : { maxItems: rule.max }) };
    if (rule.type === "enum") return { type: "string", enum: [...(rule.values ?? [])] };
    const scalar = SCALARS[rule.type];
    if (scalar === undefined) throw new TypeError(`no JSON schema for a rule of type ${rule.type}`);
    if (rule.type === "string")
      return { ...scalar, ...bounds(rule, "minLength", "maxLength"), ...(rule.pattern ? { pattern: rule.pattern.source } : {}) };
    if (rule.type === "number") {
      return {
        type: rule.integer ? "integer" : "number",
        ...bounds(rule, "minimum", "maximum"),
        ...(rule.notEqual === undefined ? {} : { not: { const: rule.notEqual } }),
      };
    }
    return scalar;
  }

  #component({ name, props }: Shape): JsonSchema {
    this.components[name] ??= this.fields(props);
    return { $ref: `#/components/schemas/${name}` };
  }
}

const bounds = (rule: Rule, min: string, max: string): JsonSchema => ({
  ...(rule.min === undefined ? {} : { [min]: rule.min }),
  ...(rule.max === undefined ? {} : { [max]: rule.max }),
});
