/** fastest-validator with the scalars of our contracts: ids, money, times and cursors. Handlers never see a value of another form. */
import { Validators, type ActionSchema, type Context, type Middleware, type ServiceBroker } from "moleculer";
import { ID_PATTERN, isId } from "../domain/ids.ts";
import { REQUEST_FEN_MAX } from "../domain/money.ts";

/** RFC 3339 in UTC with seconds. The parser takes 30 February for 2 March and 24:00 for tomorrow; PostgreSQL refuses both, and the year 0. */
const TIME_PATTERN = /^(?!0000)\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,3})?Z$/;
const isTime = (text: string): boolean =>
  TIME_PATTERN.test(text) && !Number.isNaN(Date.parse(text)) && new Date(text).toISOString().slice(0, 19) === text.slice(0, 19);
/** What a list gives as `nextCursor`: opaque to the client, base64url. */
const CURSOR_PATTERN = /^[A-Za-z0-9_-]{1,512}$/;

const checked = (type: string, holds: (value: unknown) => boolean) => (value: unknown, errors: { type: string; actual: unknown }[]) => {
  if (value !== undefined && value !== null && !holds(value)) errors.push({ type, actual: value });
  return value;
};

export const SCALARS = {
  id: { type: "string", custom: checked("id", (value) => typeof value === "string" && ID_PATTERN.test(value) && isId(value)) },
  fen: { type: "number", integer: true, min: 1, max: REQUEST_FEN_MAX },
  time: {
    type: "string",
    custom: checked("time", (value) => typeof value === "string" && isTime(value)),
  },
  cursor: { type: "string", custom: checked("cursor", (value) => typeof value === "string" && CURSOR_PATTERN.test(value)) },
} as const;

type Handler = (ctx: Context) => Promise<unknown>;
type LocalAction = (this: ServiceBroker, next: Handler, action: ActionSchema) => Handler;

/** Moleculer's, which does not check again what the gateway of the same process has checked, nor compiles anything for it: half a microsecond an order. */
class OnceValidator extends Validators.Fastest {
  override middleware(broker: ServiceBroker): Middleware {
    const moleculers = super.middleware(broker) as Middleware & { localAction: LocalAction };
    const localAction: LocalAction = (next, action) => {
      let checking: Handler | undefined;
      return (ctx) => (ctx.options.checked ? next(ctx) : (checking ??= moleculers.localAction.call(broker, next, action))(ctx));
    };
    return { ...moleculers, localAction };
  }
}

export const makeValidator = (): Validators.Fastest =>
  new OnceValidator({
    useNewCustomCheckerFunction: true,
    defaults: { object: { strict: true } },
    aliases: SCALARS,
    messages: {
      id: "The '{field}' field must be an id: a decimal string.",
      time: "The '{field}' field must be an RFC 3339 time in UTC, such as 2026-01-31T18:00:00Z.",
      cursor: "The '{field}' field must be a cursor from an earlier answer.",
    },
  } as ConstructorParameters<typeof Validators.Fastest>[0]);
