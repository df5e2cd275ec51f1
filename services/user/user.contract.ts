import { action, shape } from "../../mixins/contract.ts";
import { shardOfRefreshToken } from "../../domain/user/refresh-token.ts";
import { ROLES } from "../../domain/user/role.ts";
import { shardOfName } from "../../db/spread.ts";

/** Also the login: ASCII, so that two names that look the same are the same. */
export const USERNAME = { type: "string", min: 3, max: 32, pattern: /^[a-z0-9][a-z0-9_-]*$/ } as const;
const PASSWORD = { type: "string", min: 8, max: 128 } as const;

export const User = shape("User", {
  id: "id",
  username: "string",
  roles: { type: "array", items: { type: "enum", values: ROLES } },
  merchantId: { type: "id", optional: true },
});
export const Tokens = shape("Tokens", {
  accessToken: "string",
  refreshToken: "string",
  expiresIn: "number",
  tokenType: { type: "enum", values: ["Bearer"] },
});

/** A new consumer. Safe to repeat in vain only: the second one finds the name taken. */
export const registerUser = action("user.register", {
  summary: "Register a consumer",
  params: { username: USERNAME, password: PASSWORD },
  answer: User,
  errors: ["USERNAME_TAKEN"],
  rest: {
    method: "POST",
    path: "/auth/register",
    who: "anyone",
    status: 201,
    tag: "People",
    example: { username: "xiaolan", password: "correct-horse-1" },
  },
  address: (params) => shardOfName(params.username),
});
export const logIn = action("user.login", {
  summary: "Log in",
  params: { username: { type: "string", min: 1, max: 64 }, password: { type: "string", min: 1, max: 128 } },
  answer: Tokens,
  errors: ["BAD_CREDENTIALS"],
  rest: {
    method: "POST",
    path: "/auth/login",
    who: "anyone",
    status: 200,
    tag: "People",
    example: { username: "xiaolan", password: "correct-horse-1" },
  },
  address: (params) => shardOfName(params.username),
});
const REFRESH_TOKEN = { type: "string", min: 20, max: 200 } as const;
export const refreshTokens = action("user.refresh", {
  summary: "Exchange a refresh token for new tokens; a used one revokes its family",
  params: { refreshToken: REFRESH_TOKEN },
  answer: Tokens,
  errors: ["REFRESH_TOKEN_INVALID"],
  rest: { method: "POST", path: "/auth/refresh", who: "anyone", status: 200, tag: "People" },
  address: (params) => shardOfRefreshToken(params.refreshToken),
});
export const logOut = action("user.logout", {
  summary: "Revoke a refresh token's family",
  params: { refreshToken: REFRESH_TOKEN },
  answer: undefined,
  rest: { method: "POST", path: "/auth/logout", who: "anyone", status: 204, tag: "People" },
  address: (params) => shardOfRefreshToken(params.refreshToken),
});
export const me = action("user.me", {
  summary: "Who I am",
  params: {},
  answer: User,
  rest: { method: "GET", path: "/me", who: "user", status: 200, tag: "People" },
});

/** Internal: makes a user a merchant's. Repeating it for the same merchant changes nothing. */
export const employUser = action("user.employ", {
  summary: "Give a user the merchant role",
  params: { username: USERNAME, merchantId: "id" },
  answer: User,
  errors: ["USER_NOT_FOUND", "ALREADY_A_MERCHANT"],
  retrySafe: true,
  address: (params) => shardOfName(params.username),
});
/** Internal. */
export const findUser = action("user.find", {
  summary: "Look a user up by name",
  params: { username: USERNAME },
  answer: User,
  errors: ["USER_NOT_FOUND"],
  retrySafe: true,
});
