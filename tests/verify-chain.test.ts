/** The auditor's programs, as an auditor runs them: beside a server, on its databases and its HTTP. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import { fileURLToPath } from "node:url";
import { admin } from "./support/databases.ts";
import { testNode, type TestNode } from "./support/node.ts";
import { everythingIn, World } from "./support/world.ts";
import type { Server } from "node:http";
import type { AddressInfo } from "node:net";

const root = fileURLToPath(new URL("..", import.meta.url));
const PASSWORD = "the auditor's password";

describe("npm run verify-chain and verify", () => {
  let test: TestNode;
  let directory: string;
  let port: number;
  before(async () => {
    directory = mkdtempSync(join(tmpdir(), "tuanbar-audit-"));
    const settings = { user: { jwtSecret: "a secret of at least thirty-two bytes", adminPassword: PASSWORD } };
    test = await testNode(["probe", "user", "ops", "gateway"], {
      ...settings,
      gateway: { jwtSecret: settings.user.jwtSecret, port: 0, rateLimits: "off" },
    });
    const { server } = test.node.broker.getLocalService("gateway") as unknown as { server: Server };
    ({ port } = server.address() as AddressInfo);
    const world = new World(test.keyspaces);
    for (const city of [1, 3]) everythingIn(world, { city, slot: 9 });
    await world.write();
    const keyspaces = test.keyspaces.keyspaces.all.map(({ code, id, name, databases }) => {
      const slots = (database: string): number[] => databases.flatMap((one, slot) => (one === database ? [slot] : []));
      const served = [...new Set(databases)].map(
        (one) => `${JSON.stringify(test.keyspaces.urlOf(one))}: ${Math.min(...slots(one))}-${Math.max(...slots(one))}`,
      );
      return `  ${code}: { id: ${id}, name: ${name}, databases: { ${served.join(", ")} } }`;
    });
    writeFileSync(join(directory, "keyspaces.yaml"), `keyspaces:\n${keyspaces.join("\n")}\n`);
  });
  after(async () => {
    await test.stop();
    rmSync(directory, { recursive: true, force: true });
  });

  const run = async (script: string, ...args: string[]) => {
    const environment = { KEYSPACES: join(directory, "keyspaces.yaml"), DATA_DIR: directory, ADMIN_PASSWORD: PASSWORD, PORT: String(port) };
    const child = spawn(process.execPath, [`scripts/${script}.ts`, ...args], { cwd: root, env: { ...process.env, ...environment } });
    const said = { out: "", error: "" };
    child.stdout.on("data", (text: Buffer) => (said.out += text.toString("utf8")));
    child.stderr.on("data", (text: Buffer) => (said.error += text.toString("utf8")));
    const [code] = (await once(child, "close")) as [number | null];
    return { code, ...said };
  };
  const corrupt = (database: string, statement: string) =>
    admin(
      test.server,
      async (client) => {
        await client.query("set session_replication_role = replica");
        await client.query(statement);
      },
      test.keyspaces.keyspaces.byCode(database)?.databases[9],
    );

  it("find sound books sound", async () => {
    const chain = await run("verify-chain");
    assert.equal(chain.code, 0, chain.out + chain.error);
    assert.equal(chain.out.match(/^ok /gm)?.length, 4, "four databases");
    assert.match(chain.out, /8 chains, [1-9]\d* links hold/);
  });

  it("name keyspace, slot and number of the first link that does not hold", async () => {
    await corrupt("sh", "update transfers set amount = amount + 1 where slot = 9 and seq = 7");
    await corrupt("hz", "delete from transfers where slot = 9 and seq in (5, 6)");
    await corrupt("user", "update chain_heads set seq = seq + 1 where slot = 9");
    const { code, out } = await run("verify-chain");
    assert.equal(code, 1);
    assert.match(out, /^BROKEN {2}keyspace sh, slot 9, seq 7: transfer \d+ is not what it was when it was hashed$/m);
    assert.match(out, /^BROKEN {2}keyspace hz, slot 9, seq 7: a gap after 4$/m);
    assert.match(out, /^BROKEN {2}keyspace user, slot 9, seq \d+: the head says \d+: transfers are missing at the end$/m);
    assert.equal(out.match(/^BROKEN {2}keyspace/gm)?.length, 3);
  });

  it("show every check as a table, and leave with 1 when one does not hold", async () => {
    for (const args of [[], ["--every", "1"]]) {
      const { code, out, error } = await run("verify", ...args);
      assert.equal(code, 1, error);
      assert.match(out, /^FAIL {2}ledger\.chain +\d+ rows; does not hold/m);
      assert.match(out, /^ {2}ok {2}stock\.not-oversold +no bucket/m);
    }
  });

  it("say in one line why they cannot ask", async () => {
    const { code, error } = await run("verify", "--url", "http://127.0.0.1:1");
    assert.deepEqual([code, error.split("\n").length], [1, 2], error);
    assert.match(error, /127\.0\.0\.1:1 does not answer/);
  });
});
