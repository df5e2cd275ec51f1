import { define } from "../error.ts";

export const JOURNAL_ERRORS = {
  DEAD_LETTER_NOT_FOUND: define<{ id: string }>(404, "never", (d) => `no dead letter ${d.id}: it was handled or dropped, or never was`),
} as const;
