/** The console, typed into as an operator would: on a cluster over NATS, and on the terminal of a server that is alone. */
import assert from "node:assert/strict";
import { spawn, type ChildProcess } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import { parseKeyspaces, type Keyspaces } from "../../db/keyspaces.ts";
import { makeNode, ROLES, type Node } from "../../moleculer.config.ts";
import { placeOrder } from "../../services/order/order.contract.ts";
import { testKeyspaces, testServer, type TestKeyspaces, type TestServer } from "../support/databases.ts";
import { natsAt } from "../support/journal.ts";
import { merchantIn, onSale, registered } from "../support/market.ts";
import { TestNats } from "../support/nats.ts";
import { callAs } from "../support/node.ts";
import { until } from "../support/until.ts";

const SECRET = "a secret for tests of the console, long";
const PASSWORD = "console-test-admin";

/** A program with a console on its terminal, and what it has printed. */
class Terminal {
  readonly #child: ChildProcess;
  #output = "";
  readonly exited: Promise<number | null>;

  constructor(script: string, environment: Readonly<Record<string, string>>) {
    this.#child = spawn(process.execPath, [script], {
      cwd: new URL("../..", import.meta.url),
      env: { ...process.env, ...environment },
      stdio: ["pipe", "pipe", "pipe"],
    });
    for (const stream of [this.#child.stdout, this.#child.stderr])
      stream?.on("data", (chunk: Buffer) => void (this.#output += chunk.toString("utf8")));
    this.exited = new Promise((resolve) => this.#child.once("exit", resolve));
  }

  /** Waits for the prompt, types a line, and returns what is printed until it has printed `expected`. */
  async type(line: string, expected: RegExp): Promise<string> {
    await this.prints(/tuanbar \$ $/);
    this.#output = "";
    this.#child.stdin?.write(`${line}\n`);
    return this.prints(expected);
  }

  async prints(expected: RegExp): Promise<string> {
    await until(async () => expected.test(this.#output), 60_000).catch(() => assert.fail(`${expected} is printed, not:\n${this.#output}`));
    return this.#output;
  }

  end(): void {
    this.#child.kill("SIGKILL");
  }
}

describe("the console of a cluster", () => {
  const folder = mkdtempSync(join(tmpdir(), "tb-console-"));
  const file = join(folder, "keyspaces.yaml");
  const nodes: Node[] = [];
  let server: TestServer;
  let databases: TestKeyspaces;
  let table: Keyspaces;
  let nats: TestNats;
  let terminal: Terminal;

  before(async () => {
    server = await testServer();
    databases = await testKeyspaces(server);
    nats = await TestNats.start();
    let { yaml } = databases.keyspaces;
    for (const { name } of databases.keyspaces.databases()) yaml = yaml.replace(`${name}:`, `"${server.urlOf(name)}":`);
    writeFileSync(file, yaml);
    table = parseKeyspaces(yaml);
    for (const nodeID of ["node-1", "node-2"]) nodes.push(await node(nodeID));
    terminal = new Terminal("scripts/repl.ts", { NATS_URL: nats.url, KEYSPACES: file, JWT_SECRET: SECRET });
  });
  after(async () => {
    terminal.end();
    for (const one of nodes) await one.stop();
    await nats.stop();
    await databases.drop();
    await server.stop();
    rmSync(folder, { recursive: true, force: true });
  });

  const node = (nodeID: string): Promise<Node> =>
    makeNode({
      nodeID,
      keyspaces: table,
      urlOf: (database) => database,
      services: [...new Set([...ROLES.worker, ...ROLES.jobs])],
      nats: natsAt(nats.url),
      trade: { orderTtlSeconds: 900, reversalMinutes: 60, settlementDelayMinutes: 60 },
      logLevel: "fatal",
      settings: { user: { jwtSecret: SECRET, adminPassword: PASSWORD } },
    });

  it("shows shards with their owners, and what waits", async () => {
    const map = await terminal.type("shards", /^hz +15 [\s\S]*\$ $/m);
    assert.match(map, /^sh +0 +\S+\/sh_\w+ .* node-[12] +0$/m);
    assert.match(await terminal.type("mailboxes", /last batch[\s\S]*\$ $/), /^node +shard +waiting +last batch$/m);
  });

  it("proves the invariants", async () => {
    assert.match(await terminal.type("verify", /hold/), /^all \d+ checks hold$/m);
  });

  it("tells the life of what a number is of, and what is nobody's number", async () => {
    const [first] = nodes;
    assert.ok(first);
    const consumer = await registered(first);
    const deal = await onSale(first, await merchantIn(first, "sh"));
    const { id } = await callAs(first, placeOrder, { dealId: deal.id, quantity: 1 }, consumer);
    const told = await terminal.type(`trace ${id}`, /order\.created/);
    assert.match(told, new RegExp(`${id} is the number of: order`));
    await terminal.type("trace 1", /TRACE_NOT_FOUND/);
  });

  it("pauses any deal, and says what it does not know", async () => {
    const [first] = nodes;
    assert.ok(first);
    const deal = await onSale(first, await merchantIn(first, "sh"));
    await terminal.type(`deal pause ${deal.id}`, new RegExp(`${deal.id} .*: PAUSED`));
    await terminal.type(`deal pause ${BigInt(deal.id) + 4_096n}`, /DEAL_NOT_FOUND/);
    await terminal.type("deal", /missing required argument/);
  });

  it("drains a node, and not the last that has something", async () => {
    await terminal.type("drain nobody", /NODE_NOT_FOUND: .*node-1/);
    assert.match(await terminal.type("drain node-2", /can be ended|still has/), /node-2 serves nothing more/);
    await terminal.type("drain node-1", /NODE_NEEDED/);
    assert.doesNotMatch(await terminal.type("shards", /^hz +15 [\s\S]*\$ $/m), /node-2/);
  });

  it("leaves when its user does", async () => {
    await terminal.type("quit", /quit|^$/);
    assert.equal(await terminal.exited, 0);
  });
});

describe("the console of a server that is alone", () => {
  const folder = mkdtempSync(join(tmpdir(), "tb-console-alone-"));
  after(() => rmSync(folder, { recursive: true, force: true }));

  it("is on its terminal with REPL=on, and ends the server with PostgreSQL when its user leaves", async () => {
    const terminal = new Terminal("scripts/start.ts", { REPL: "on", DATA_DIR: folder, PORT: "0", LOG_LEVEL: "fatal" });
    try {
      await terminal.type("verify", /all \d+ checks hold/);
      await terminal.type("drain nobody", /NODE_NOT_FOUND/);
      await terminal.type("quit", /quit|^$/);
      assert.equal(await terminal.exited, 0);
    } finally {
      terminal.end();
    }
  });
});
