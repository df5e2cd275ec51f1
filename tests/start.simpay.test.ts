/** simpay beside the server: started with it, gone with it, and where it was when both come back. */
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { Server } from "./support/server.ts";
import { until } from "./support/until.ts";

const dataDir = mkdtempSync(join(tmpdir(), "tuanbar-start-"));
const server = new Server({ DATA_DIR: dataDir, LOG_LEVEL: "warn" });
after(async () => {
  await server.stop();
  rmSync(dataDir, { recursive: true, force: true });
});

const address = async (): Promise<string> => {
  const urls = (): string[] => [...server.output.matchAll(/ simpay +(http:\S+)/g)].flatMap(([, url]) => url ?? []);
  await until(async () => urls().length > 0, 60_000);
  return urls().at(-1) ?? "";
};
const isThere = async (url: string): Promise<boolean> =>
  fetch(`${url}/healthz`).then(
    (answer) => answer.ok,
    () => false,
  );

test("npm start brings a simpay, which survives no kill and comes back at the same address", async () => {
  await server.start();
  const url = await address();
  assert.ok(await isThere(url), "it listens");
  assert.equal((await fetch(`${url}/log`)).status, 401);
  const secret = join(dataDir, "secrets", "simpay");
  assert.equal(statSync(secret).mode & 0o777, 0o600);
  assert.ok(!server.output.includes(readFileSync(secret, "utf8").trim()), "its secret is printed nowhere");
  server.output = "";
  await server.killAndRestart();
  assert.equal(await address(), url);
  await server.ready();
  assert.ok(await isThere(url));
  assert.equal(await server.stop(), 0);
  assert.equal(await isThere(url), false, "it ended with the server");
});
