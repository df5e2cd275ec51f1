/** The servers a cluster stands on that do not come from npm. */
import { execFile } from "node:child_process";
import { access, constants } from "node:fs/promises";
import { delimiter, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import { StartError } from "./start-error.ts";

export type ServerName = "nats-server" | "redis-server" | "nginx";

const run = promisify(execFile);
/** Debian keeps servers where an ordinary user's PATH does not look. */
const SYSTEM_FOLDERS = ["/usr/sbin", "/usr/local/sbin", "/usr/local/bin", "/usr/bin"];
const INSTALL_MS_MAX = 180_000;
/** What apt-get says when another one is at work: it waits for nobody's lists. */
const LOCKED = /unable to (acquire|lock)|could not get lock/i;
const LOCKED_AGAIN_MS = 500;

/** The path of a server's program: on the PATH, else installed as a Debian package by root, else a StartError that says how to get it. */
export async function findServer(name: ServerName): Promise<string> {
  const found = await look(name);
  if (found !== undefined) return found;
  const apt = await look("apt-get");
  const how = `install it (Debian: apt-get install ${name}) and run this again`;
  if (apt === undefined || process.getuid?.() !== 0) throw new StartError(`${name} is not there: ${how}`);
  process.stderr.write(`installing ${name} (apt-get install ${name})\n`);
  const error = await install(apt, name);
  if (error !== undefined) {
    const said = error.stderr?.trim().split("\n").at(-1) ?? error.message;
    throw new StartError(`${name} cannot be installed (${said}): ${how}`, { cause: error });
  }
  return (await look(name)) ?? fail(`${name} was installed and is not found: ${how}`);
}

/** As `execFile` rejects: what the program said is with it, where there was a program. */
type ExecError = Error & { readonly stderr?: string };

/** Resolves with what went wrong. A cluster wants three servers at once, and tests beside it others: each waits until the one before has installed its own. */
async function install(apt: string, name: ServerName): Promise<ExecError | undefined> {
  const options = { timeout: INSTALL_MS_MAX, env: { ...process.env, DEBIAN_FRONTEND: "noninteractive", RUNLEVEL: "1" } };
  const untilMs = performance.now() + INSTALL_MS_MAX;
  for (;;) {
    try {
      await run(apt, ["-q", "update"], options);
      await run(apt, ["-q", "install", "-y", "--no-install-recommends", name], options);
      return undefined;
    } catch (caught) {
      const error = caught as ExecError;
      if (!LOCKED.test(error.stderr ?? "") || performance.now() > untilMs) return error;
      await sleep(LOCKED_AGAIN_MS);
    }
  }
}

async function look(program: string): Promise<string | undefined> {
  for (const folder of [...(process.env["PATH"] ?? "").split(delimiter), ...SYSTEM_FOLDERS]) {
    if (folder === "") continue;
    const path = join(folder, program);
    const isThere = await access(path, constants.X_OK).then(
      () => true,
      () => false,
    );
    if (isThere) return path;
  }
  return undefined;
}

function fail(message: string): never {
  throw new StartError(message);
}
