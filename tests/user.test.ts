/** People on a real node: registering, sessions, employment, the admin. */
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { DomainError } from "../domain/error.ts";
import { cityOf, slotOf, type MerchantId, type UserId } from "../domain/ids.ts";
import { employ } from "../domain/user/employment.ts";
import { decideRotations, type FamilyId, type HeldToken } from "../domain/user/rotation.ts";
import { slotByHash } from "../db/spread.ts";
import { makeTokens } from "../mixins/tokens.ts";
import { Passwords } from "../services/user/passwords.ts";
import { employUser, findUser, logIn, logOut, me, refreshTokens, registerUser } from "../services/user/user.contract.ts";
import { makeNode } from "../moleculer.config.ts";
import { callAs, caller, testNode, type TestNode } from "./support/node.ts";

const SECRET = "a secret of at least thirty-two bytes";
const PASSWORD = "correct-horse-1";

const refused = (code: string) => (error: unknown) => error instanceof DomainError && error.type === code;
const outcome = (result: PromiseSettledResult<unknown>): string =>
  result.status === "fulfilled" ? "ok" : result.reason instanceof DomainError ? result.reason.type : String(result.reason);
const outcomes = async (calls: readonly Promise<unknown>[]): Promise<string[]> => (await Promise.allSettled(calls)).map(outcome).sort();

describe("people", () => {
  let at: TestNode;
  before(async () => {
    at = await testNode(["user"], { user: { jwtSecret: SECRET, adminPassword: "first-admin-password" } });
  });
  after(() => at.stop());

  const register = (username: string, password = PASSWORD) => callAs(at.node, registerUser, { username, password }, undefined);
  const login = (username: string, password = PASSWORD) => callAs(at.node, logIn, { username, password }, undefined);
  const refresh = (refreshToken: string) => callAs(at.node, refreshTokens, { refreshToken }, undefined);

  test("registers a consumer whose id carries the slot of the name", async () => {
    const user = await register("xiaolan");
    assert.deepEqual(user.roles, ["consumer"]);
    assert.equal(cityOf(user.id), 0);
    assert.equal(slotOf(user.id), slotByHash("xiaolan"));
    assert.deepEqual(await callAs(at.node, findUser, { username: "xiaolan" }, undefined), user);
    assert.deepEqual(await callAs(at.node, me, {}, caller(user.id)), user);
  });

  test("stores argon2id, never the password", async () => {
    const { id } = await register("hashed");
    const database = at.node.platform.databaseOf({ city: 0, slot: slotOf(id) });
    const [row] = await database.query<{ password_hash: string }>(
      { name: "test/hash", text: "select password_hash from users where slot = $1 and id = $2" },
      [slotOf(id), id],
    );
    assert.match(row?.password_hash ?? "", /^\$argon2id\$v=19\$m=19456,t=2,p=1\$/);
  });

  test("gives one name to one of twenty who want it at once", async () => {
    const results = await outcomes(Array.from({ length: 20 }, () => register("wanted")));
    assert.deepEqual(results, [...Array<string>(19).fill("USERNAME_TAKEN"), "ok"]);
  });

  test("gives the name admin to nobody", () => assert.rejects(register("admin"), refused("USERNAME_TAKEN")));

  test("logs in with the right password only, and says the same of unknown names, whatever they look like", async () => {
    const { id } = await register("ajie");
    const tokens = await login("ajie");
    assert.equal(tokens.tokenType, "Bearer");
    assert.equal(tokens.expiresIn, 900);
    assert.equal((await makeTokens(SECRET).verify(tokens.accessToken)).caller.userId, id);
    await assert.rejects(login("ajie", "wrong-password"), refused("BAD_CREDENTIALS"));
    for (const nobody of ["nobody", "Ajie", "aj\0ie", "小明", "' or 1=1 --"])
      await assert.rejects(login(nobody), refused("BAD_CREDENTIALS"));
  });

  test("rotates refresh tokens; a used one revokes its family and no other", async () => {
    await register("lingling");
    const [first, other] = [await login("lingling"), await login("lingling")];
    const second = await refresh(first.refreshToken);
    const third = await refresh(second.refreshToken);
    await assert.rejects(refresh(first.refreshToken), refused("REFRESH_TOKEN_INVALID"));
    await assert.rejects(refresh(third.refreshToken), refused("REFRESH_TOKEN_INVALID"));
    await refresh(other.refreshToken);
  });

  test("of twenty uses of one refresh token at once one wins, and the family is revoked", async () => {
    await register("racer");
    const { refreshToken } = await login("racer");
    const results = await Promise.allSettled(Array.from({ length: 20 }, () => refresh(refreshToken)));
    const won = results.flatMap((result) => (result.status === "fulfilled" ? [result.value] : []));
    assert.equal(won.length, 1);
    await assert.rejects(refresh(won[0]?.refreshToken ?? ""), refused("REFRESH_TOKEN_INVALID"));
  });

  test("two nodes that rotate one token at once let one win, and the family is revoked", async () => {
    const twin = await makeNode({
      nodeID: "twin",
      keyspaces: at.keyspaces.keyspaces,
      urlOf: at.keyspaces.urlOf,
      services: ["user"],
      trade: { orderTtlSeconds: 900, reversalMinutes: 60, settlementDelayMinutes: 60 },
      logLevel: "fatal",
      settings: { user: { jwtSecret: SECRET } },
    });
    try {
      await register("twins");
      for (let round = 0; round < 5; round++) {
        const { refreshToken } = await login("twins");
        const results = await Promise.allSettled([at.node, twin].map((node) => callAs(node, refreshTokens, { refreshToken }, undefined)));
        const won = results.flatMap((result) => (result.status === "fulfilled" ? [result.value.refreshToken] : []));
        assert.equal(won.length, 1);
        await assert.rejects(refresh(won[0] ?? ""), refused("REFRESH_TOKEN_INVALID"));
      }
    } finally {
      await twin.stop();
    }
  });

  test("logging out ends the session, twice if need be; made-up tokens are refused", async () => {
    await register("leaver");
    const { refreshToken } = await login("leaver");
    await callAs(at.node, logOut, { refreshToken }, undefined);
    await callAs(at.node, logOut, { refreshToken }, undefined);
    await callAs(at.node, logOut, { refreshToken: "z".repeat(44) }, undefined);
    await assert.rejects(refresh(refreshToken), refused("REFRESH_TOKEN_INVALID"));
    for (const made of ["z".repeat(44), "0".repeat(44), `f${"-".repeat(43)}`, "x".repeat(200)]) {
      await assert.rejects(refresh(made), refused("REFRESH_TOKEN_INVALID"));
    }
  });

  test("an expired refresh token is refused, and swept away at the next use of the account", async () => {
    const { id } = await register("sleeper");
    const { refreshToken } = await login("sleeper");
    const slot = slotOf(id);
    const database = at.node.platform.databaseOf({ city: 0, slot });
    await database.query({ name: "test/expire", text: "update refresh_tokens set expires_at = now() where slot = $1 and user_id = $2" }, [
      slot,
      id,
    ]);
    await assert.rejects(refresh(refreshToken), refused("REFRESH_TOKEN_INVALID"));
    await login("sleeper");
    const rows = await database.query({ name: "test/tokens", text: "select 1 from refresh_tokens where slot = $1 and user_id = $2" }, [
      slot,
      id,
    ]);
    assert.equal(rows.length, 1);
  });

  test("employs a user for one merchant, who stays a consumer and gets the role with the next refresh", async () => {
    await register("boss");
    const { refreshToken } = await login("boss");
    const employed = await callAs(at.node, employUser, { username: "boss", merchantId: "4112" as MerchantId }, undefined);
    assert.deepEqual(employed.roles, ["consumer", "merchant"]);
    assert.deepEqual(await callAs(at.node, employUser, { username: "boss", merchantId: "4112" as MerchantId }, undefined), employed);
    await assert.rejects(
      callAs(at.node, employUser, { username: "boss", merchantId: "8208" as MerchantId }, undefined),
      refused("ALREADY_A_MERCHANT"),
    );
    await assert.rejects(
      callAs(at.node, employUser, { username: "nobody", merchantId: "4112" as MerchantId }, undefined),
      refused("USER_NOT_FOUND"),
    );
    const { accessToken } = await refresh(refreshToken);
    const { caller: who } = await makeTokens(SECRET).verify(accessToken);
    assert.equal(who.merchantId, "4112");
    assert.deepEqual(who.roles, ["consumer", "merchant"]);
  });

  test("of two merchants who want one user at once, one gets them", async () => {
    await register("courted");
    const merchants = ["4112", "8208", "12304", "16400"] as MerchantId[];
    const results = await outcomes(
      merchants.map((merchantId) => callAs(at.node, employUser, { username: "courted", merchantId }, undefined)),
    );
    assert.deepEqual(results, ["ALREADY_A_MERCHANT", "ALREADY_A_MERCHANT", "ALREADY_A_MERCHANT", "ok"]);
  });

  test("the admin has the password of the last start, and a change ends the old sessions", async () => {
    const { refreshToken, accessToken } = await login("admin", "first-admin-password");
    assert.deepEqual((await makeTokens(SECRET).verify(accessToken)).caller.roles, ["admin"]);
    const start = (adminPassword: string) =>
      makeNode({
        nodeID: "again",
        keyspaces: at.keyspaces.keyspaces,
        urlOf: at.keyspaces.urlOf,
        services: ["user"],
        trade: { orderTtlSeconds: 900, reversalMinutes: 60, settlementDelayMinutes: 60 },
        logLevel: "fatal",
        settings: { user: { jwtSecret: SECRET, adminPassword } },
      });
    await (await start("first-admin-password")).stop();
    const same = await refresh(refreshToken);
    await (await start("second-admin-password")).stop();
    await assert.rejects(login("admin", "first-admin-password"), refused("BAD_CREDENTIALS"));
    await assert.rejects(refresh(same.refreshToken), refused("REFRESH_TOKEN_INVALID"));
    await login("admin", "second-admin-password");
  });

  test("the service tells the network none of its secrets", () => {
    const told = JSON.stringify(at.node.broker.getLocalNodeInfo());
    assert.ok(!told.includes(SECRET) && !told.includes("first-admin-password"));
  });

  test("me of a token whose user is gone, or is no user, is unauthenticated", async () => {
    for (const id of ["16", "4112"]) await assert.rejects(callAs(at.node, me, {}, caller(id)), refused("UNAUTHENTICATED"));
  });
});

test("a flood of passwords waits in a bounded line, and past it is refused at once", async () => {
  const passwords = new Passwords();
  const results = await outcomes(Array.from({ length: 270 }, () => passwords.verify(undefined, "x")));
  assert.deepEqual(results, [...Array<string>(12).fill("OVERLOADED"), ...Array<string>(258).fill("ok")]);
  assert.equal(await passwords.verify(await passwords.hash("right"), "right"), true);
});

const held = (tokenHash: string, family: string, rest: Partial<HeldToken> = {}): [string, HeldToken] => [
  tokenHash,
  { tokenHash, family: family as FamilyId, userId: "16" as UserId, state: "LIVE", expired: false, ...rest },
];

test("a rotation decides a batch as if its commands came one by one", () => {
  const tokens = new Map([
    held("a", "1"),
    held("b", "1", { state: "USED" }),
    held("c", "2"),
    held("d", "3", { expired: true }),
    held("e", "4", { state: "REVOKED" }),
  ]);
  const commands = ["a", "c", "b", "a", "d", "e", "?"].map((tokenHash) => ({ tokenHash, nextHash: `${tokenHash}'` }));
  const decided = decideRotations(tokens, commands);
  assert.deepEqual(decided.owners, ["16", "16", undefined, undefined, undefined, undefined, undefined]);
  assert.deepEqual(decided.used, ["a", "c"]);
  assert.deepEqual(decided.revokedFamilies, ["1"]);
  assert.deepEqual(
    decided.born.map((token) => [token.tokenHash, token.family]),
    [
      ["a'", "1"],
      ["c'", "2"],
    ],
  );
});

test("employment keeps the roles a user has", () => {
  const user = { username: "u", roles: ["consumer", "admin"] as const, merchantId: undefined };
  assert.deepEqual(employ(user, "1" as MerchantId), { ...user, merchantId: "1", roles: ["consumer", "admin", "merchant"] });
});
