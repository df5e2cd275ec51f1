/** Registering and employing: what changes the users of one shard. */
import { refusal, type DomainError } from "../../domain/error.ts";
import type { MerchantId, UserId } from "../../domain/ids.ts";
import { invariant } from "../../domain/invariant.ts";
import { USER_ERRORS } from "../../domain/user/errors.ts";
import { employ } from "../../domain/user/employment.ts";
import type { Work } from "../../mixins/drain.ts";
import { isRefusal } from "../../mixins/mailbox.ts";
import { employUsers, insertUsers, lockUsersByName, type UserRow } from "./user.store.ts";

export interface RegisterCommand {
  readonly username: string;
  readonly passwordHash: string;
}

/** Of two that want one name the first gets it; the unique key says so also between nodes. */
export async function drainRegister(work: Work, commands: readonly RegisterCommand[]): Promise<(UserRow | DomainError)[]> {
  const ids = (await work.mint(commands.length)) as UserId[];
  const users = commands.map((command, index): UserRow => {
    const id = ids[index];
    invariant(id !== undefined, "as many ids as commands");
    return { id, username: command.username, passwordHash: command.passwordHash, roles: ["consumer"], merchantId: undefined };
  });
  const written = await insertUsers(work, work.shard, users, "consumer");
  return users.map((user) => (written.has(user.id) ? user : refusal(USER_ERRORS, "USERNAME_TAKEN", { username: user.username })));
}

export interface EmployCommand {
  readonly username: string;
  readonly merchantId: MerchantId;
}

export async function drainEmploy(work: Work, commands: readonly EmployCommand[]): Promise<(UserRow | DomainError)[]> {
  const users = await lockUsersByName(work, work.shard, [...new Set(commands.map((command) => command.username))]);
  const employed = new Map<string, UserRow>();
  const outcomes = commands.map(({ username, merchantId }) => {
    const user = employed.get(username) ?? users.get(username);
    if (!user) return refusal(USER_ERRORS, "USER_NOT_FOUND", { username });
    const outcome = employ(user, merchantId);
    if (!isRefusal(outcome) && outcome !== user) employed.set(username, outcome);
    return outcome;
  });
  if (employed.size > 0) {
    const count = await employUsers(work, work.shard, [...employed.values()]);
    invariant(count === employed.size, "a locked user who works for nobody can be employed");
  }
  return outcomes;
}
