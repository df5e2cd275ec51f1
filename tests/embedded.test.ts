import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import pg from "pg";
import { startEmbeddedPostgres, type EmbeddedPostgres } from "../db/embedded.ts";
import type { Exit } from "../db/postgres-process.ts";
import { migrate } from "../db/migrate.ts";
import { makeDatabases } from "../db/new-databases.ts";
import { openDataDir } from "../scripts/data-dir.ts";
import { birthOf } from "../scripts/process-lock.mjs";
import { StartError } from "../scripts/start-error.ts";

// One cluster (initdb takes a second) lives through all the tests below, in their order.
const home = mkdtempSync(join(tmpdir(), "tuanbar-embedded-"));
// As root, PostgreSQL runs as another user, who must be let through; one test below closes the door again.
chmodSync(home, 0o711);
const dataDir = join(home, "data");
const lines: string[] = [];
const log = (line: string): void => void lines.push(line);
const deaths: Exit[] = [];
let postgres: EmbeddedPostgres;

before(async () => {
  mkdirSync(dataDir);
  postgres = await startEmbeddedPostgres({ dataDir, log, onExit: (exit) => deaths.push(exit) });
});

after(async () => {
  await postgres.stop();
  rmSync(home, { recursive: true });
});

test("a first start creates the data directory, private to PostgreSQL, and says so", () => {
  assert.equal(statSync(join(dataDir, "postgres")).mode & 0o777, 0o700);
  assert.match(lines.join("\n"), /creating the PostgreSQL data directory/);
});

test("PostgreSQL listens on no port, and its settings are the durable ones", async () => {
  const names = ["listen_addresses", "fsync", "synchronous_commit", "full_page_writes", "wal_level", "server_encoding", "TimeZone"];
  const { rows } = await ask("postgres", `select ${names.map((name) => `current_setting('${name}') as "${name}"`).join(", ")}`);
  assert.deepEqual(rows, [
    {
      listen_addresses: "",
      fsync: "on",
      synchronous_commit: "on",
      full_page_writes: "on",
      wal_level: "logical",
      server_encoding: "UTF8",
      TimeZone: "UTC",
    },
  ]);
});

test("512 MB of log are made with the cluster, and are there again after a restart", async () => {
  const files = (): number => readdirSync(join(dataDir, "postgres", "pg_wal")).filter((name) => /^[0-9A-F]{24}$/.test(name)).length;
  assert.ok(files() >= 32, `${files()} files`);
  await postgres.stop();
  postgres = await startEmbeddedPostgres({ dataDir, log, onExit: (exit) => deaths.push(exit) });
  assert.ok(files() >= 32, `${files()} files after a restart`);
});

test("missing databases are created once, and a name that needs quoting is refused", async () => {
  await postgres.ensureDatabases(["tuanbar_sh"]);
  await ask("tuanbar_sh", "create table kept (id int)");
  await postgres.ensureDatabases(["tuanbar_sh", "tuanbar_bj", "tuanbar_bj"]);
  await ask("tuanbar_sh", "insert into kept values (1)");
  await ask("tuanbar_bj", "select 1");
  await assert.rejects(postgres.ensureDatabases(['x"; drop database tuanbar_sh; --']), TypeError);
});

test("PostgreSQL killed alone comes back by itself at the same address, with everything committed", async () => {
  const killed = postgres.pid;
  process.kill(killed, "SIGKILL");
  await until(
    "a new postmaster",
    () => postgres.pid !== killed && lines.some((line) => line.includes(`runs again (process ${postgres.pid})`)),
  );
  assert.deepEqual((await ask("tuanbar_sh", "select id from kept")).rows, [{ id: 1 }]);
  assert.deepEqual(deaths, [{ code: null, signal: "SIGKILL" }]);
});

test("stop ends every process, and a second start takes less than 3 s and finds everything", async () => {
  const children = processesOf(postgres.pid);
  assert.ok(children.length >= 4, `${children.length} processes`);
  await Promise.all([postgres.stop(), postgres.stop()]);
  assert.deepEqual(children.filter(isAlive), []);
  assert.equal(existsSync(join(dataDir, "postgres", "postmaster.pid")), false);
  const started = performance.now();
  postgres = await startEmbeddedPostgres({ dataDir, log });
  const startMs = performance.now() - started;
  assert.ok(startMs < 3_000, `${startMs} ms`);
  assert.deepEqual((await ask("tuanbar_sh", "select id from kept")).rows, [{ id: 1 }]);
});

test("a PostgreSQL that an earlier run left behind is ended and replaced", async () => {
  const [program = "", ...args] = readFileSync(`/proc/${postgres.pid}/cmdline`, "utf8").split("\0").slice(0, -1);
  await postgres.stop();
  const { uid, gid } = statSync(join(dataDir, "postgres"));
  const leftBehind = spawn(program, args, { stdio: "ignore", detached: true, ...(process.getuid?.() === 0 ? { uid, gid } : {}) });
  await until("the pid file", () => existsSync(join(dataDir, "postgres", "postmaster.pid")));
  lines.length = 0;
  postgres = await startEmbeddedPostgres({ dataDir, log });
  assert.match(lines[0] ?? "", new RegExp(`^ending the PostgreSQL .*\\b${leftBehind.pid}\\b`));
  assert.notEqual(leftBehind.exitCode ?? leftBehind.signalCode, null);
});

test("a process killed together with all of its PostgreSQL leaves nothing that the next start stumbles over", async () => {
  await postgres.stop();
  const owner = await startOwner();
  const all = [owner.postmaster, ...processesOf(owner.postmaster)];
  process.kill(owner.pid, "SIGKILL");
  for (const pid of all) if (isAlive(pid)) process.kill(pid, "SIGKILL");
  postgres = await startEmbeddedPostgres({ dataDir, log });
  assert.deepEqual((await ask("tuanbar_sh", "select id from kept")).rows, [{ id: 1 }]);
});

test("PostgreSQL shuts down by itself when its owner is killed", { skip: !canDieWithOwner() && "needs setpriv (util-linux)" }, async () => {
  await postgres.stop();
  const owner = await startOwner();
  process.kill(owner.pid, "SIGKILL");
  await until("the end of the postmaster", () => !isAlive(owner.postmaster));
  assert.match(readFileSync(join(dataDir, "postgres.log"), "utf8"), /database system is shut down\n$/);
  postgres = await startEmbeddedPostgres({ dataDir, log });
});

test("what keeps PostgreSQL from starting is told in one line, with PostgreSQL's own reason", async () => {
  await postgres.stop();
  const control = join(dataDir, "postgres", "PG_VERSION");
  const version = readFileSync(control);
  writeFileSync(control, "9\n");
  await assert.rejects(startEmbeddedPostgres({ dataDir, log }), (error) => {
    assert.ok(error instanceof StartError);
    assert.match(error.message, /^PostgreSQL does not start \(exit code 1\): database files are incompatible with server/);
    return true;
  });
  writeFileSync(control, version);
  postgres = await startEmbeddedPostgres({ dataDir, log });
});

test("new databases of a kind are copies of the first, and each its own keyspace's", async () => {
  const databases = [
    { name: "first_city", keyspace: { kind: "city" as const, id: 1, code: "first" } },
    { name: "second_city", keyspace: { kind: "city" as const, id: 2, code: "second" } },
  ];
  await makeDatabases(postgres, databases);
  const migrated = [];
  for (const { name, keyspace } of databases) migrated.push(await migrate(postgres.url(name), keyspace, name));
  assert.deepEqual(migrated, [[], []], "both have every migration");
  for (const { name, keyspace } of databases)
    assert.deepEqual((await ask(name, "select city from keyspace")).rows, [{ city: keyspace.id }]);
});

test("a socket path over 107 bytes moves the socket into a private temporary directory, removed by stop", async () => {
  await postgres.stop();
  const long = join(home, "x".repeat(100));
  mkdirSync(long, { mode: 0o755 });
  const elsewhere = await startEmbeddedPostgres({ dataDir: long, log });
  const directory = new URL(elsewhere.url("postgres")).searchParams.get("host") ?? "";
  assert.equal(dirname(directory), tmpdir());
  assert.equal(statSync(directory).mode & 0o777, 0o700);
  await elsewhere.ensureDatabases(["tuanbar_sh"]);
  await elsewhere.stop();
  assert.equal(existsSync(directory), false);
});

test(
  "a directory that only root may enter works for root too",
  { skip: !hasUserNamespaces() && "needs root and user namespaces" },
  async () => {
    chmodSync(home, 0o700);
    postgres = await startEmbeddedPostgres({ dataDir, log });
    assert.deepEqual((await ask("tuanbar_sh", "select id from kept")).rows, [{ id: 1 }]);
    await postgres.stop();
    chmodSync(home, 0o711);
    postgres = await startEmbeddedPostgres({ dataDir, log });
    assert.deepEqual((await ask("tuanbar_sh", "select id from kept")).rows, [{ id: 1 }]);
  },
);

test("a data directory is locked for one process, and a dead owner's lock is taken over", () => {
  const path = join(home, "locked");
  mkdirSync(join(path, "lock"), { recursive: true });
  // Both dead: the number of nobody, and our parent's number with another birth.
  writeFileSync(join(path, "lock", "999999999-00000000.1"), "");
  writeFileSync(join(path, "lock", `${process.ppid}-00000000.1`), "");
  const first = openDataDir(path);
  assert.deepEqual(readdirSync(join(path, "lock")), [`${process.pid}-${birthOf(process.pid)}`]);
  assert.throws(() => openDataDir(path), { name: "StartError", message: `data directory ${path} is in use by process ${process.pid}` });
  first.release();
  writeFileSync(join(path, "lock", `${process.ppid}-${birthOf(process.ppid)}`), "");
  assert.throws(() => openDataDir(path), { message: `data directory ${path} is in use by process ${process.ppid}` });
});

test("a secret is made once, and for its owner's eyes", () => {
  const path = join(home, "secrets");
  const opened = openDataDir(path);
  const secret = opened.secret("jwt");
  assert.match(secret, /^[\w-]{43}$/);
  assert.notEqual(opened.secret("admin-password"), secret);
  opened.release();
  const again = openDataDir(path);
  assert.equal(again.secret("jwt"), secret);
  assert.equal(statSync(join(path, "secrets", "jwt")).mode & 0o777, 0o600);
  assert.deepEqual(readdirSync(join(path, "secrets")).toSorted(), ["admin-password", "jwt"]);
  assert.throws(() => again.secret("../jwt"), TypeError);
  writeFileSync(join(path, "secrets", "jwt"), "");
  assert.throws(() => again.secret("jwt"), /is damaged: delete it/);
  again.release();
});

test("a data directory that cannot serve is refused with the reason", () => {
  const file = join(home, "file");
  writeFileSync(file, "");
  assert.throws(() => openDataDir(file), { name: "StartError", message: `data directory ${file} is not a directory` });
  assert.throws(
    () => openDataDir(join(home, "full"), { freeMbMin: 2 ** 40 }),
    /^StartError: no disk space: data directory .* MB are needed$/,
  );
});

async function ask(database: string, sql: string): Promise<pg.QueryResult> {
  const client = new pg.Client({ connectionString: postgres.url(database) });
  await client.connect();
  try {
    return await client.query(sql);
  } finally {
    await client.end();
  }
}

/** Another Node process that owns the PostgreSQL of `dataDir`, to be killed. */
async function startOwner(): Promise<{ pid: number; postmaster: number }> {
  const embedded = JSON.stringify(import.meta.resolve("../db/embedded.ts"));
  const program = `
    const { startEmbeddedPostgres } = await import(${embedded});
    const postgres = await startEmbeddedPostgres({ dataDir: ${JSON.stringify(dataDir)}, log: () => {} });
    process.stdout.write(String(postgres.pid) + "\\n");`;
  const child = spawn(process.execPath, ["--input-type=module", "-e", program], { stdio: ["ignore", "pipe", "inherit"] });
  const [line] = (await once(child.stdout.setEncoding("utf8"), "data")) as [string];
  assert.ok(child.pid !== undefined);
  return { pid: child.pid, postmaster: Number(line) };
}

/** The children of a process, by /proc. */
function processesOf(parent: number): number[] {
  return readFileSync(`/proc/${parent}/task/${parent}/children`, "utf8").split(" ").filter(Boolean).map(Number);
}

function isAlive(pid: number): boolean {
  return birthOf(pid) !== "";
}

function canDieWithOwner(): boolean {
  return (process.env["PATH"] ?? "").split(":").some((directory) => existsSync(join(directory, "setpriv")));
}

function hasUserNamespaces(): boolean {
  return process.getuid?.() === 0 && spawnSync("unshare", ["--user", "true"]).status === 0;
}

async function until(what: string, isSo: () => boolean): Promise<void> {
  for (const deadline = performance.now() + 10_000; !isSo(); await sleep(20)) {
    assert.ok(performance.now() < deadline, `${what} within 10 s`);
  }
}
