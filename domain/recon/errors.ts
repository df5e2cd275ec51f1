import { define } from "../error.ts";

export const RECON_ERRORS = {
  STATEMENT_NOT_FOUND: define<{ id: string }>(404, "never", (d) => `no statement ${d.id}`),
  STATEMENT_UNREADABLE: define<{ reason: string }>(422, "never", (d) => `this is not what the channel wrote: ${d.reason}`),
  DIFFERENCE_NOT_FOUND: define<{ id: string }>(404, "never", (d) => `no difference ${d.id}`),
  SUSPENSE_NOT_FOUND: define<{ id: string }>(404, "never", (d) => `nothing was put in suspense under ${d.id}`),
  SUSPENSE_OVER: define<{ id: string; state: string }>(409, "never", (d) => `${d.id} waits for nobody any more: it is ${d.state}`),
  DIFFERENCE_NOT_ASKED: define<{ id: string }>(409, "never", (d) => `the channel may explain difference ${d.id}: ask it first`),
  NOT_TO_GIVE_BACK: define<{ id: string; reason: string }>(409, "never", (d) => `${d.id} cannot be given back: ${d.reason}`),
} as const;
