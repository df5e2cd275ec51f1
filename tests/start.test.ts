/** A start that is told to stop half-way, as by a Ctrl-C of somebody who sees a mistake in what they typed. */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { runningPostgres } from "../db/embedded.ts";
import { Server } from "./support/server.ts";

/** Started, and not waited for. */
class Hasty extends Server {
  override async ready(): Promise<void> {}
}

test("told to stop at any moment of its start, it stops in order: exit 0, nothing said, PostgreSQL stopped too", async (t) => {
  const dataDir = mkdtempSync(join(tmpdir(), "tuanbar-start-"));
  const server = new Hasty({ DATA_DIR: dataDir, LOG_LEVEL: "warn" });
  t.after(async () => {
    await server.stop();
    rmSync(dataDir, { recursive: true, force: true });
  });
  for (const [moment, hasCome] of [
    ["PostgreSQL is made", () => server.output.includes("creating the PostgreSQL")],
    ["the node starts", () => runningPostgres(dataDir) !== undefined],
  ] as const) {
    server.output = "";
    await server.start();
    while (!hasCome()) await sleep(20);
    // Where it is fast it may be ready by then, which is a moment like any other.
    await sleep(Math.random() * 1_000);
    assert.equal(await server.stop("SIGINT"), 0, `${moment}: ${server.output}`);
    assert.doesNotMatch(server.output, /"level":[456]0|Error/, moment);
    assert.equal(runningPostgres(dataDir), undefined, moment);
  }
});
