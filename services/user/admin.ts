/** The account `admin`: made and kept by the settings of a start, never registered. */
import { invariant } from "../../domain/invariant.ts";
import type { UserId } from "../../domain/ids.ts";
import { shardOfName } from "../../db/spread.ts";
import type { Work } from "../../mixins/drain.ts";
import type { Platform } from "../../mixins/platform.ts";
import type { Passwords } from "./passwords.ts";
import { revokeTokensOf } from "./session.store.ts";
import { findUserByName, insertUsers, setAdmin } from "./user.store.ts";

export const ADMIN_USERNAME = "admin";

/** Every start with a password leaves the admin with exactly that one. */
export async function ensureAdmin(platform: Platform, passwords: Passwords, adminPassword: string): Promise<void> {
  const shard = shardOfName(ADMIN_USERNAME);
  const known = await findUserByName(platform.databaseOf(shard), shard, ADMIN_USERNAME);
  if (known?.roles.includes("admin") && (await passwords.verify(known.passwordHash, adminPassword))) return;
  await platform.post(shard, "user.setAdmin", { passwordHash: await passwords.hash(adminPassword) });
}

/** The account with this password: made, or given it. A changed password ends the sessions the old one opened. */
export async function drainSetAdmin(
  work: Work,
  commands: readonly { readonly passwordHash: string }[],
): Promise<{ readonly id: UserId }[]> {
  const last = commands.at(-1);
  invariant(last !== undefined, "a batch has commands");
  const [id] = (await work.mint(1)) as UserId[];
  invariant(id !== undefined, "one id was asked for");
  const written = await insertUsers(work, work.shard, [{ id, username: ADMIN_USERNAME, passwordHash: last.passwordHash }], "admin");
  if (written.has(id)) return commands.map(() => ({ id }));
  const admin = await findUserByName(work, work.shard, ADMIN_USERNAME);
  invariant(admin !== undefined, "a name that cannot be inserted is there");
  await setAdmin(work, work.shard, admin.id, last.passwordHash);
  await revokeTokensOf(work, work.shard, admin.id);
  return commands.map(() => ({ id: admin.id }));
}
