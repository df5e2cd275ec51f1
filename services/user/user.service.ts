/** People: who they are, how they prove it, and for whom they work. They live in the user keyspace, slot by murmur3 of the name. */
import { randomBytes } from "node:crypto";
import type { Service, ServiceSchema } from "moleculer";
import { COMMON_ERRORS } from "../../domain/common-errors.ts";
import { raise } from "../../domain/error.ts";
import { shardOf, USER_CITY, type MerchantId, type UserId } from "../../domain/ids.ts";
import { invariant } from "../../domain/invariant.ts";
import { USER_ERRORS } from "../../domain/user/errors.ts";
import { composeRefreshToken, hashRefreshToken, REFRESH_TOKEN_BYTES, shardOfRefreshToken } from "../../domain/user/refresh-token.ts";
import { shardOfName } from "../../db/spread.ts";
import { handle, type Answer, type Caller, type Ctx } from "../../mixins/contract.ts";
import { platformOf } from "../../mixins/platform.ts";
import { makeTokens, type Tokens } from "../../mixins/tokens.ts";
import { ADMIN_USERNAME, drainSetAdmin, ensureAdmin } from "./admin.ts";
import { Passwords } from "./passwords.ts";
import { drainEmploy, drainRegister, type EmployCommand, type RegisterCommand } from "./people.drain.ts";
import { drainLogOut, drainOpenSession, drainRefresh, type OpenSessionCommand, type RefreshCommand } from "./session.drain.ts";
import { employUser, findUser, logIn, logOut, me, refreshTokens, registerUser, USERNAME } from "./user.contract.ts";
import { findUserById, findUserByName, type UserRow } from "./user.store.ts";

interface UserSettings {
  /** Moleculer tells every node every service's settings, but for these. */
  readonly $secureSettings: string[];
  /** What access tokens are signed with; the gateway checks them with the same. */
  readonly jwtSecret?: string;
  /** The password of `admin`; without one, the account stays as it is. */
  readonly adminPassword?: string;
}
interface Parts {
  settings: UserSettings;
  passwords: Passwords;
  tokens: Tokens;
}
type This = Service<{}> & Parts;

const ACCESS_TTL_SECONDS = 15 * 60;

const user: ServiceSchema<{}, {}, Parts> = {
  name: "user",
  settings: { $secureSettings: ["jwtSecret", "adminPassword"] },
  actions: {
    register: handle(registerUser, register),
    login: handle(logIn, authenticate),
    refresh: handle(refreshTokens, refresh),
    logout: handle(logOut, endSession),
    me: handle(me, whoAmI),
    employ: handle(employUser, employOne),
    find: handle(findUser, find),
  },
  created() {
    const platform = platformOf(this.broker);
    platform.offer("user.register", drainRegister);
    platform.offer("user.employ", drainEmploy);
    platform.offer("user.setAdmin", drainSetAdmin);
    platform.offer("user.openSession", drainOpenSession);
    platform.offer("user.refresh", drainRefresh);
    platform.offer("user.logout", drainLogOut);
    const { jwtSecret } = this.settings;
    invariant(jwtSecret !== undefined, "the user service is given settings.jwtSecret");
    this.tokens = makeTokens(jwtSecret);
    this.passwords = new Passwords();
  },
  async started() {
    const { adminPassword } = this.settings;
    if (adminPassword !== undefined) await ensureAdmin(platformOf(this.broker), this.passwords, adminPassword);
  },
};
export default user;

async function register(this: This, ctx: Ctx<typeof registerUser>): Promise<Answer<typeof registerUser>> {
  const { username, password } = ctx.params;
  const platform = platformOf(this.broker);
  const shard = shardOfName(username);
  // Looked up first so that a taken name does not cost a hash; the unique key decides. The admin's name is nobody's, also before there is one.
  const taken = username === ADMIN_USERNAME || (await findUserByName(platform.databaseOf(shard), shard, username));
  if (taken) return raise(USER_ERRORS, "USERNAME_TAKEN", { username });
  const passwordHash = await this.passwords.hash(password);
  return view(await platform.post<RegisterCommand, UserRow>(shard, "user.register", { username, passwordHash }));
}

async function authenticate(this: This, ctx: Ctx<typeof logIn>): Promise<Answer<typeof logIn>> {
  const { username, password } = ctx.params;
  const shard = shardOfName(username);
  const known = USERNAME.pattern.test(username)
    ? await findUserByName(platformOf(this.broker).databaseOf(shard), shard, username)
    : undefined;
  const proven = await this.passwords.verify(known?.passwordHash, password);
  if (!known || !proven) return raise(USER_ERRORS, "BAD_CREDENTIALS", {});
  const refreshToken = composeRefreshToken(shard.slot, randomBytes(REFRESH_TOKEN_BYTES));
  const command: OpenSessionCommand = { userId: known.id, tokenHash: hashRefreshToken(refreshToken) };
  await platformOf(this.broker).post(shard, "user.openSession", command);
  return tokensFor(this, known, refreshToken);
}

/** The user is read again, so a role given meanwhile is in the new access token. */
async function refresh(this: This, ctx: Ctx<typeof refreshTokens>): Promise<Answer<typeof refreshTokens>> {
  const { refreshToken } = ctx.params;
  const shard = shardOfRefreshToken(refreshToken) ?? raise(USER_ERRORS, "REFRESH_TOKEN_INVALID", {});
  const platform = platformOf(this.broker);
  const next = composeRefreshToken(shard.slot, randomBytes(REFRESH_TOKEN_BYTES));
  const command: RefreshCommand = { tokenHash: hashRefreshToken(refreshToken), nextHash: hashRefreshToken(next) };
  const { userId } = await platform.post<RefreshCommand, { userId: UserId }>(shard, "user.refresh", command);
  const owner = await findUserById(platform.databaseOf(shard), shard, userId);
  invariant(owner !== undefined, "the owner of a token is there: users are not deleted");
  return tokensFor(this, owner, next);
}

/** Ends the session; access tokens of it run out by themselves, within 15 minutes. */
async function endSession(this: This, ctx: Ctx<typeof logOut>): Promise<never> {
  const shard = shardOfRefreshToken(ctx.params.refreshToken);
  if (shard) await platformOf(this.broker).post(shard, "user.logout", { tokenHash: hashRefreshToken(ctx.params.refreshToken) });
  return undefined as never;
}

async function whoAmI(this: This, ctx: Ctx<typeof me>): Promise<Answer<typeof me>> {
  const id = ctx.meta.caller?.userId ?? raise(COMMON_ERRORS, "UNAUTHENTICATED", { reason: "this needs an access token" });
  const shard = shardOf(id);
  const found = shard.city === USER_CITY ? await findUserById(platformOf(this.broker).databaseOf(shard), shard, id) : undefined;
  return view(found ?? raise(COMMON_ERRORS, "UNAUTHENTICATED", { reason: "the token's user is not known here" }));
}

async function employOne(this: This, ctx: Ctx<typeof employUser>): Promise<Answer<typeof employUser>> {
  const command: EmployCommand = { username: ctx.params.username, merchantId: ctx.params.merchantId as MerchantId };
  return view(await platformOf(this.broker).post<EmployCommand, UserRow>(shardOfName(command.username), "user.employ", command));
}

async function find(this: This, ctx: Ctx<typeof findUser>): Promise<Answer<typeof findUser>> {
  const { username } = ctx.params;
  const shard = shardOfName(username);
  const found = await findUserByName(platformOf(this.broker).databaseOf(shard), shard, username);
  return view(found ?? raise(USER_ERRORS, "USER_NOT_FOUND", { username }));
}

async function tokensFor(service: This, owner: UserRow, refreshToken: string): Promise<Answer<typeof logIn>> {
  const caller: Caller = {
    userId: owner.id,
    username: owner.username,
    roles: owner.roles,
    ...(owner.merchantId === undefined ? {} : { merchantId: owner.merchantId }),
  };
  return {
    accessToken: await service.tokens.sign(caller, ACCESS_TTL_SECONDS),
    refreshToken,
    expiresIn: ACCESS_TTL_SECONDS,
    tokenType: "Bearer",
  };
}

const view = (row: UserRow): Answer<typeof registerUser> => ({
  id: row.id,
  username: row.username,
  roles: [...row.roles],
  ...(row.merchantId === undefined ? {} : { merchantId: row.merchantId }),
});
