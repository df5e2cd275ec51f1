import { define } from "../error.ts";

export const USER_ERRORS = {
  USERNAME_TAKEN: define<{ username: string }>(409, "never", (d) => `the name ${d.username} is taken`),
  BAD_CREDENTIALS: define<{}>(401, "never", () => "name or password is wrong"),
  REFRESH_TOKEN_INVALID: define<{}>(401, "never", () => "the refresh token is unknown, used or expired"),
  USER_NOT_FOUND: define<{ username: string }>(404, "never", (d) => `no user ${d.username}`),
  INSUFFICIENT_FUNDS: define<{ available: number }>(409, "never", (d) => `only ${d.available} fen are available`),
  CHANNEL_UNKNOWN: define<{ channel: string }>(422, "never", (d) => `no channel ${d.channel} here`),
} as const;
