import { define } from "../error.ts";

export const RECON_ERRORS = {
  STATEMENT_NOT_FOUND: define<{ id: string }>(404, "never", (d) => `no statement ${d.id}`),
  STATEMENT_UNREADABLE: define<{ reason: string }>(422, "never", (d) => `this is not what the channel wrote: ${d.reason}`),
  DIFFERENCE_NOT_FOUND: define<{ id: string }>(404, "never", (d) => `no difference ${d.id}`),
} as const;
