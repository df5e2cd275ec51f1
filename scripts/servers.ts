/** Servers of other people's that a cluster needs: found on this machine, or installed from Debian. */
import { execFile } from "node:child_process";
import { access, constants } from "node:fs/promises";
import { delimiter, join } from "node:path";
import { promisify } from "node:util";
import { StartError } from "./start-error.ts";

export type ServerName = "nats-server" | "redis-server" | "nginx";

/** Debian puts servers where an ordinary user's PATH does not look. */
const ELSEWHERE = ["/usr/sbin", "/usr/local/sbin"];
const INSTALL_MS_MAX = 300_000;

/** The path of a server's program; installs its Debian package where that is allowed. */
export async function findServer(name: ServerName): Promise<string> {
  const found = await onPath(name);
  if (found !== undefined) return found;
  if (process.getuid?.() === 0 && (await onPath("apt-get")) !== undefined) {
    process.stderr.write(`${name} is not there: installing the Debian package\n`);
    try {
      const run = promisify(execFile);
      await run("apt-get", ["update"], { timeout: INSTALL_MS_MAX });
      await run("apt-get", ["install", "--yes", "--no-install-recommends", name], {
        timeout: INSTALL_MS_MAX,
        env: { ...process.env, DEBIAN_FRONTEND: "noninteractive" },
      });
    } catch (error) {
      throw new StartError(`${name} could not be installed: ${error instanceof Error ? error.message : String(error)}`, { cause: error });
    }
    const installed = await onPath(name);
    if (installed !== undefined) return installed;
  }
  throw new StartError(`${name} is not on the PATH: install it (Debian: apt-get install ${name})`);
}

async function onPath(name: string): Promise<string | undefined> {
  for (const folder of [...(process.env["PATH"] ?? "").split(delimiter), ...ELSEWHERE]) {
    const path = join(folder, name);
    const usable = await access(path, constants.X_OK).then(
      () => true,
      () => false,
    );
    if (folder !== "" && usable) return path;
  }
  return undefined;
}
