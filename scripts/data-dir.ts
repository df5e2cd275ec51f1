import { randomBytes } from "node:crypto";
import { closeSync, fsyncSync, linkSync, mkdirSync, openSync, readFileSync, rmSync, statfsSync, writeSync } from "node:fs";
import { join, resolve } from "node:path";
import { tryProcessLock } from "./process-lock.mjs";
import { StartError } from "./start-error.ts";

export interface DataDir {
  readonly path: string;
  /** Lets the next process in. Idempotent; a killed process needs no release, its lock dies with it. */
  release(): void;
  /** A random secret of 32 bytes in base64url, made once and the same ever after. Nobody but the owner can read it. */
  secret(name: string): string;
}

/** A fresh cluster of five databases is 75 MB and its log 512 MB; the log is there already at a later start, and an evening needs as much for what it sells. */
export const FREE_MB_MIN = 768;

/**
 * Opens the directory everything of this program lives in, for one process at a time: two servers on one PostgreSQL
 * would each drain every mailbox, and each would stop the other's database.
 */
export function openDataDir(path: string, { freeMbMin = FREE_MB_MIN }: { freeMbMin?: number } = {}): DataDir {
  const directory = resolve(path);
  const lock = orStartError(directory, () => {
    // As root, PostgreSQL runs as another user, who must be able to walk through; what is private below is 0700 itself.
    mkdirSync(directory, { recursive: true, mode: process.getuid?.() === 0 ? 0o711 : 0o700 });
    mkdirSync(join(directory, "secrets"), { recursive: true, mode: 0o700 });
    const { bavail, bsize } = statfsSync(directory);
    const freeMb = Math.floor((bavail * bsize) / 2 ** 20);
    if (freeMb < freeMbMin) {
      throw new StartError(`no disk space: data directory ${directory} has ${freeMb} MB free, ${freeMbMin} MB are needed`);
    }
    return tryProcessLock(join(directory, "lock"));
  });
  if ("holderPid" in lock) throw new StartError(`data directory ${directory} is in use by process ${lock.holderPid}`);
  return {
    path: directory,
    release: lock.release,
    secret: (name) => orStartError(directory, () => readOrMakeSecret(join(directory, "secrets"), name)),
  };
}

/** Written aside and linked into place: a reader sees the whole secret or none, and of two writers the first wins for both. */
function readOrMakeSecret(directory: string, name: string): string {
  if (!/^[a-z0-9-]+$/.test(name)) throw new TypeError(`not a name for a secret: ${name}`);
  const path = join(directory, name);
  const existing = readSecret(path);
  if (existing !== undefined) return existing;
  const draft = `${path}.${process.pid}.draft`;
  const file = openSync(draft, "w", 0o600);
  try {
    writeSync(file, `${randomBytes(32).toString("base64url")}\n`);
    fsyncSync(file);
  } finally {
    closeSync(file);
  }
  try {
    linkSync(draft, path);
  } catch (error) {
    if (codeOf(error) !== "EEXIST") throw error;
  } finally {
    rmSync(draft, { force: true });
  }
  const made = readSecret(path);
  if (made === undefined) throw new StartError(`secret ${path} vanished while it was made`);
  return made;
}

function readSecret(path: string): string | undefined {
  let text: string;
  try {
    text = readFileSync(path, "utf8").trim();
  } catch (error) {
    if (codeOf(error) === "ENOENT") return undefined;
    throw error;
  }
  if (text.length < 32) throw new StartError(`secret ${path} is damaged: delete it and a new one is made`);
  return text;
}

/** What the file system refuses becomes one sentence that names the directory; everything else passes unchanged. */
function orStartError<T>(directory: string, work: () => T): T {
  try {
    return work();
  } catch (error) {
    const reason = REFUSALS.get(codeOf(error) ?? "");
    if (reason === undefined) throw error;
    throw new StartError(`data directory ${directory} ${reason}`, { cause: error });
  }
}

const REFUSALS = new Map([
  ["EACCES", "is not writable by this user"],
  ["EPERM", "is not writable by this user"],
  ["EROFS", "is on a read-only file system"],
  ["ENOSPC", "has no disk space left"],
  ["EDQUOT", "has no disk space left"],
  ["ENOTDIR", "is not a directory"],
  ["EEXIST", "is not a directory"],
  ["ENAMETOOLONG", "has too long a name"],
]);

function codeOf(error: unknown): string | undefined {
  return error instanceof Error && "code" in error && typeof error.code === "string" ? error.code : undefined;
}
