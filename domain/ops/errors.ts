import { define } from "../error.ts";

export const OPS_ERRORS = {
  MOVE_IN_PROGRESS: define<{ what: string }>(409, "later", (d) => `${d.what}; one move at a time`),
  MOVE_REFUSED: define<{ reason: string }>(409, "never", (d) => d.reason),
} as const;
