/**
 * `npm test`: one embedded PostgreSQL for every test file (each takes its own databases), two files at a time, one for each core.
 * Arguments are test files; none means all of them but those of the cluster, which bring servers of their own (`npm run test:cluster`).
 */
import { spawn } from "node:child_process";
import { globSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { startEmbeddedPostgres } from "../db/embedded.ts";

const root = fileURLToPath(new URL("..", import.meta.url));
const asked = process.argv.slice(2);
const files = asked.length > 0 ? asked : globSync("tests/*.test.ts", { cwd: root }).toSorted();

const dataDir = mkdtempSync(join(tmpdir(), "tuanbar-tests-"));
const postgres = await startEmbeddedPostgres({ dataDir, throwaway: true, log: (line) => process.stderr.write(`${line}\n`) });
const tests = spawn(process.execPath, ["--test", "--test-concurrency=2", "--test-timeout=240000", ...files], {
  cwd: root,
  stdio: "inherit",
  env: { ...process.env, TEST_POSTGRES: postgres.url("{database}") },
});
// The terminal sends Ctrl-C to the tests too; this process waits for them and cleans up.
for (const signal of ["SIGINT", "SIGTERM"] as const) process.on(signal, () => tests.kill(signal));
const code = await new Promise<number>((resolve) => tests.once("exit", (exit) => resolve(exit ?? 1)));
await postgres.stop();
rmSync(dataDir, { recursive: true, force: true });
process.exit(code);
