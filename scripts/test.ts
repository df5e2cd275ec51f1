/**
 * `npm test`: one embedded PostgreSQL for every test file (each takes its own databases), three files at a time: on two cores they wait more than
 * they work, and two at a time took 363 s for 287.
 * `npm run test:cluster`: the files of tests/cluster likewise, two at a time, since kills are all work; then those that start a whole cluster, one at
 * a time, because they measure how soon it sells again. Arguments are test files, instead of all.
 */
import { spawn } from "node:child_process";
import { existsSync, globSync, mkdtempSync, readdirSync, readFileSync, rmSync, statfsSync } from "node:fs";
import { freemem, tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { startEmbeddedPostgres } from "../db/embedded.ts";

/** Linux's own file system in memory; in a container it may be of 64 MB. */
const MEMORY = "/dev/shm";
/** The tables of a million rows of tests/plans.test.ts, with their indexes. */
const LARGEST_BYTES = 5 * 2 ** 30;
/** A whole run takes eight minutes, and where everything is slow it has taken 25. */
const RUN_MS = 40 * 60_000;

const root = fileURLToPath(new URL("..", import.meta.url));
const ofCluster = process.argv[2] === "--cluster";
const asked = process.argv.slice(ofCluster ? 3 : 2);
const files = asked.length > 0 ? asked : globSync(ofCluster ? "tests/cluster/*.test.ts" : "tests/*.test.ts", { cwd: root }).toSorted();
const needsTheMachine = (file: string): boolean => /\bnew ClusterServer\(/.test(readFileSync(join(root, file), "utf8"));

let running: ReturnType<typeof spawn> | undefined;
let interrupted = false;
// The terminal sends Ctrl-C to the tests too; this process waits for them and cleans up.
for (const signal of ["SIGINT", "SIGTERM"] as const)
  process.on(signal, () => {
    interrupted = true;
    running?.kill(signal);
  });

const dataDir = makeDataDir();
const postgres = await startEmbeddedPostgres({ dataDir, throwaway: true, log: (line) => process.stderr.write(`${line}\n`) });
const environment = { ...process.env, TEST_POSTGRES: postgres.url("{database}") };
const timeoutMs = ofCluster ? 400_000 : 240_000;
const beside = await run(ofCluster ? 2 : 3, ofCluster ? files.filter((file) => !needsTheMachine(file)) : files);
await postgres.stop();
rmSync(dataDir, { recursive: true, force: true });
const alone = ofCluster ? await run(1, files.filter(needsTheMachine)) : 0;
process.exit(beside || alone);

/** The exit code; that of nothing is 0. */
async function run(atOnce: number, some: readonly string[]): Promise<number> {
  if (some.length === 0 || interrupted) return interrupted ? 1 : 0;
  const args = ["--test", `--test-concurrency=${atOnce}`, `--test-timeout=${timeoutMs}`, ...some];
  // A file that never ends has no timeout of its own; node:test says which one was running when it is ended.
  const tests = spawn(process.execPath, args, { cwd: root, stdio: "inherit", env: environment, timeout: RUN_MS });
  running = tests;
  return new Promise((resolve) => tests.once("exit", (exit) => resolve(exit ?? 1)));
}

/**
 * In memory where there is room: each file copies and drops four databases of up to 2,300 files, and the copying alone took a seventh of the CPU
 * of all tests on a disk. What a run that was killed has left there goes with the next run.
 */
function makeDataDir(): string {
  const base = hasRoom(MEMORY) ? MEMORY : tmpdir();
  for (const name of readdirSync(base)) {
    const [, pid] = /^tuanbar-tests-(\d+)-/.exec(name) ?? [];
    if (pid !== undefined && !existsSync(`/proc/${pid}`)) rmSync(join(base, name), { recursive: true, force: true });
  }
  return mkdtempSync(join(base, `tuanbar-tests-${process.pid}-`));
}

function hasRoom(folder: string): boolean {
  if (!existsSync(folder)) return false;
  const { bavail, bsize } = statfsSync(folder);
  return Math.min(bavail * bsize, freemem()) > 2 * LARGEST_BYTES;
}
