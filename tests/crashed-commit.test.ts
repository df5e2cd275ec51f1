/** A COMMIT whose answer a crash took away, while another transaction is given its id and commits: nobody may take one for the other. */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { test } from "node:test";
import { Database, DatabaseUnavailable } from "../db/database.ts";
import { startEmbeddedPostgres } from "../db/embedded.ts";
import { until } from "./support/until.ts";

const XID = {
  name: "test/xid",
  text: `select pg_current_xact_id()::text as xid, (extract(epoch from now()) * 1000)::float8 as "atMs"`,
};

test("an id that was given again after a crash is not taken for a commit", async () => {
  const dataDir = mkdtempSync(join(tmpdir(), "tuanbar-crashed-"));
  const postgres = await startEmbeddedPostgres({ dataDir, log: () => undefined });
  await postgres.ensureDatabases(["crashed"]);
  const database = new Database({ name: "crashed", city: 1, slots: [], url: postgres.url("crashed"), onError: () => undefined });
  try {
    await database.query({ name: "test/table", text: "create table t (n integer)" });
    let lost = "";
    const commit = database.transaction(async (tx) => {
      const [row] = await tx.query<{ xid: string; atMs: number }>(XID);
      tx.begun = row;
      lost = row?.xid ?? "";
      await tx.query({ name: "test/lost", text: "insert into t values (1)" });
      process.kill(postgres.pid, "SIGKILL");
      await sleep(100);
      // Others are served again, and commit; one of them under the id that was lost with the log.
      await until(async () => {
        const other = database.transaction(async (again) => (await again.query<{ xid: string }>(XID))[0]?.xid);
        return BigInt((await other.catch(() => undefined)) ?? 0) >= BigInt(lost);
      });
    });
    await assert.rejects(commit, DatabaseUnavailable);
    assert.deepEqual(await database.query({ name: "test/all", text: "select n from t" }), []);
  } finally {
    await database.close();
    await postgres.stop();
    rmSync(dataDir, { recursive: true, force: true });
  }
});
