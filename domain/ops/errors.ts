import { define } from "../error.ts";

export const OPS_ERRORS = {
  MOVE_IN_PROGRESS: define<{ what: string }>(409, "later", (d) => `${d.what}; one move at a time`),
  NODE_NOT_FOUND: define<{ node: string; nodes: string }>(404, "never", (d) => `there is no node ${d.node}; there are ${d.nodes}`),
  NODE_NEEDED: define<{ node: string; what: string }>(409, "later", (d) => `nobody but ${d.node} has ${d.what}`),
  MOVE_REFUSED: define<{ reason: string }>(409, "never", (d) => d.reason),
} as const;
