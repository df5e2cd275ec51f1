import { define } from "../error.ts";
import type { GroupState } from "./state.ts";

export const GROUP_ERRORS = {
  GROUP_NOT_FOUND: define<{ groupId: string }>(404, "never", (d) => `no group ${d.groupId}`),
  GROUP_FULL: define<{ groupId: string; size: number }>(409, "never", (d) => `group ${d.groupId} already has its ${d.size} members`),
  GROUP_CLOSED: define<{ groupId: string; state: GroupState }>(409, "never", (d) => `group ${d.groupId} is ${d.state}`),
  ALREADY_IN_GROUP: define<{ groupId: string }>(409, "never", (d) => `you already have a seat in group ${d.groupId}`),
} as const;
