import { existsSync, mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";

/**
 * A lock held by a living process, without a daemon and without `flock` (Node has none). Plain JavaScript, because the
 * bootstrap uses it on Node 20; `process-lock.d.mts` gives the types.
 *
 * The lock is a directory; who wants it first writes an entry of its own, then looks for others. A living other: step
 * back. A dead one: delete it. Two who come at the same instant may both step back, never both go on; and since every
 * process has an entry of its own, taking over a stale lock cannot remove a fresh one (the flaw of one pid file).
 *
 * @param {string} directory
 * @returns {{ release: () => void } | { holderPid: number }}
 */
export function tryProcessLock(directory) {
  mkdirSync(directory, { recursive: true });
  const own = `${process.pid}-${birthOf(process.pid)}`;
  const path = join(directory, own);
  if (existsSync(path)) return { holderPid: process.pid };
  writeFileSync(path, "", { mode: 0o600 });
  for (const entry of readdirSync(directory)) {
    if (entry === own) continue;
    const [pid = "", birth = ""] = entry.split("-");
    if (/^\d+$/.test(pid) && birthOf(Number(pid)) === birth) {
      rmSync(path, { force: true });
      return { holderPid: Number(pid) };
    }
    rmSync(join(directory, entry), { force: true });
  }
  return { release: () => rmSync(path, { force: true }) };
}

/**
 * When a process was born, so that another one with the same number is not taken for it: ticks since boot, field 22 of
 * /proc/<pid>/stat, with the boot's own id. "" for the dead, zombies among them (a container without an init keeps
 * them for ever). Without /proc the number alone must do.
 *
 * @param {number} pid
 * @returns {string}
 */
export function birthOf(pid) {
  if (!existsSync("/proc/self/stat")) return isThere(pid) ? "unknown" : "";
  let stat;
  try {
    stat = readFileSync(`/proc/${pid}/stat`, "utf8");
  } catch (error) {
    if (error.code === "ENOENT" || error.code === "ESRCH") return "";
    throw error;
  }
  // The second field is the program's name in brackets and may hold anything, spaces and brackets too.
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  if (fields[0] === "Z" || fields[0] === "X") return "";
  const boot = readFileSync("/proc/sys/kernel/random/boot_id", "utf8").slice(0, 8);
  return `${boot}.${fields[19]}`;
}

/** @param {number} pid */
function isThere(pid) {
  try {
    return process.kill(pid, 0);
  } catch (error) {
    return error.code === "EPERM";
  }
}
