/**
 * A town for killing in: databases and a simpay that stay, and the server between them, which is either a node of this process (a rehearsal, in
 * which every step that is passed is told) or the program as its user starts it, told at which step to kill itself.
 */
import assert from "node:assert/strict";
import type { ChildProcess } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import pg from "pg";
import { parseKeyspaces, type Keyspaces } from "../../db/keyspaces.ts";
import { composeId, shardOf, type Id } from "../../domain/ids.ts";
import { makeChannels } from "../../mixins/channels/index.ts";
import { Failpoints } from "../../mixins/failpoints.ts";
import { makeTokens } from "../../mixins/tokens.ts";
import { makeNode, SERVICES, type Node } from "../../moleculer.config.ts";
import { sign } from "../../simpay/signature.ts";
import { openBar } from "./cluster.ts";
import { testKeyspaces, type TestKeyspaces, type TestServer } from "./databases.ts";
import { userId } from "./deals.ts";
import { caller } from "./node.ts";
import { Server, type Reply } from "./server.ts";
import { eventually } from "./shop.ts";
import { SECRET as SIMPAY_SECRET, testSimpay, type TestSimpay } from "./simpay.ts";
import { differences, OURS, witnessed, type Ours } from "./witness.ts";

const JWT_SECRET = "a secret for failpoint tests, long enough";
const ADMIN_PASSWORD = "failpoint-admin";
const tokens = makeTokens(JWT_SECRET);
const tokenOf = (...parameters: Parameters<typeof caller>): Promise<string> => tokens.sign(caller(...parameters), 7_200);

/** One request may be struck ten times on its way, and a loaded machine takes half a minute for a start. */
const PATIENCE_MS = 300_000;

/** Rows that are on their way, of whatever kind. */
const UNDER_WAY = `
  select 'payment' as what, id::text, state from payments where state in ('TRYING', 'CONFIRMING', 'CANCELLING', 'CREATED', 'UNKNOWN')
  union all select 'refund', id::text, state from refunds where state in ('REQUESTED', 'PROCESSING')
  union all select 'payout', id::text, state from payouts where state in ('REQUESTED', 'PROCESSING', 'UNKNOWN')
  union all select 'settlement', id::text, state from settlements where state = 'PROCESSING'
  union all select 'merchant', id::text, state from merchants where state = 'OPENING'
  union all select 'callback', id::text, state from channel_callbacks where state = 'KEPT'`;
/** Whoever held a lease is dead: as if it had run out. */
const DEAD = [
  "update payments set next_attempt_at = now() where unfinished and next_attempt_at > now()",
  "update settlements set lease_until = now() where state = 'PROCESSING'",
];
/** As if the time of whatever waits for its next attempt had come. What is being tried is in somebody's hands. */
const DUE = [
  "update payments set next_attempt_at = now() where unfinished and state <> 'TRYING' and next_attempt_at > now()",
  ...["refunds", "payouts", "channel_callbacks"].map(
    (table) => `update ${table} set next_attempt_at = now() where unfinished and next_attempt_at > now()`,
  ),
];

/** The program itself, which ends where its failpoint is. */
class Mortal extends Server {
  protected override parameters = ["--local"];
  protected override readonly patienceMs = PATIENCE_MS;
  #child: ChildProcess | undefined;
  /** The signal it died by, once it has. */
  died: Promise<NodeJS.Signals | null> = Promise.resolve(null);

  /** Returns when it is ready, or dead already. */
  async live(failpoint?: string): Promise<void> {
    this.more = failpoint === undefined ? {} : { FAILPOINT: failpoint };
    this.#child = this.spawn();
    const exit = once(this.#child, "exit") as Promise<[number | null, NodeJS.Signals | null]>;
    this.died = exit.then(([, signal]) => signal);
    await Promise.race([this.ready(), this.died]);
  }

  /** Killed by us, unless it is dead already. */
  end(): Promise<unknown> {
    this.#child?.kill("SIGKILL");
    return this.died;
  }
}

export class Town {
  readonly simpay: TestSimpay;
  readonly #server: Mortal;
  readonly #keyspaces: TestKeyspaces;
  readonly #routed: Keyspaces;
  readonly admin: string;
  /** The bar everybody goes to. */
  bar: { readonly boss: string; readonly merchantId: Id; readonly deal: Id } = { boss: "", merchantId: "" as Id, deal: "" as Id };
  #people = 0;

  private constructor(of: { simpay: TestSimpay; server: Mortal; keyspaces: TestKeyspaces; routed: Keyspaces; admin: string }) {
    this.simpay = of.simpay;
    this.#server = of.server;
    this.#keyspaces = of.keyspaces;
    this.#routed = of.routed;
    this.admin = of.admin;
  }

  static async open(server: TestServer): Promise<Town> {
    const keyspaces = await testKeyspaces(server);
    const yaml = keyspaces.keyspaces
      .databases()
      .reduce((text, { name }) => text.replace(name, JSON.stringify(keyspaces.urlOf(name))), keyspaces.keyspaces.yaml);
    const simpay = await testSimpay();
    const dataDir = mkdtempSync(join(tmpdir(), "tuanbar-failpoints-"));
    writeFileSync(join(dataDir, "routing.yaml"), yaml);
    const mortal = new Mortal({
      DATA_DIR: dataDir,
      KEYSPACES: join(dataDir, "routing.yaml"),
      JWT_SECRET,
      ADMIN_PASSWORD,
      RATE_LIMITS: "off",
      LOG_LEVEL: "error",
      SIMPAY_URL: simpay.url,
      SIMPAY_SECRET,
    });
    await mortal.port();
    const admin = await tokenOf(userId(1), ["admin"]);
    return new Town({ simpay, server: mortal, keyspaces, routed: parseKeyspaces(yaml), admin });
  }

  async close(): Promise<void> {
    await this.#server.stop();
    await this.simpay.stop();
    await this.#keyspaces.drop();
    rmSync(this.#server.dataDir, { recursive: true, force: true });
  }

  /** A node of this process at the server's door, which tells of each step. */
  async rehearse(pass: (step: string) => void): Promise<{ readonly node: Node; readonly failpoints: Failpoints }> {
    const failpoints = new Failpoints(pass);
    const node = await makeNode({
      nodeID: "rehearsal",
      keyspaces: this.#routed,
      urlOf: (database) => database,
      services: SERVICES,
      trade: { orderTtlSeconds: 900, reversalMinutes: 60, settlementDelayMinutes: 60 },
      logLevel: "fatal",
      channels: await makeChannels({ simpay: { url: this.simpay.url, secret: SIMPAY_SECRET } }, this.#server.base),
      settings: {
        user: { jwtSecret: JWT_SECRET, adminPassword: ADMIN_PASSWORD },
        wallet: { testChannel: true },
        settlement: { testChannel: true },
        gateway: { jwtSecret: JWT_SECRET, port: await this.#server.port(), rateLimits: "off" },
      },
      failpoints,
    });
    return { node, failpoints };
  }

  /** Once, while there is a server. */
  async furnish(): Promise<void> {
    const { boss, merchantId, deals } = await openBar(this.#server, this.admin, 1);
    this.bar = { boss, merchantId, deal: deals[0] ?? ("" as Id) };
  }

  /** Starts the server, told where to die; what its predecessor held is free. */
  async live(failpoint?: string): Promise<void> {
    for (const text of DEAD) await this.everywhere(text);
    await this.inUsers("update recon_statements set lease_until = now() where unfinished");
    await this.#server.live(failpoint);
  }
  get died(): Promise<NodeJS.Signals | null> {
    return this.#server.died;
  }
  /** What the server said, for messages of failed tests. */
  get said(): string {
    return this.#server.output;
  }
  kill(): Promise<unknown> {
    return this.#server.end();
  }

  /** What a careful client hears in the end, whoever dies meanwhile. */
  insist(method: "GET" | "POST", path: string, token?: string, body?: object): Promise<Reply> {
    return this.#server.insist(method, path, { ...(token === undefined ? {} : { token }), ...(body === undefined ? {} : { body }) });
  }
  /** The body of an answer that is none of a refusal. */
  async ask<B>(method: "GET" | "POST", path: string, token?: string, body?: object): Promise<B> {
    const reply = await this.insist(method, path, token, body);
    assert.ok(reply.status < 300, `${method} ${path}: ${reply.status} ${JSON.stringify(reply.body)}`);
    return reply.body as B;
  }
  /** A statement, as the channel wrote it. */
  async upload(csv: string, day: string): Promise<{ id: Id }> {
    let answer: { id: Id } | undefined;
    await eventually(async () => {
      const reply = await fetch(`${this.#server.base}/api/v1/recon/statements?channel=simpay&date=${day}`, {
        method: "POST",
        headers: { authorization: `Bearer ${this.admin}`, "content-type": "text/csv" },
        body: csv,
      });
      assert.equal(reply.status, 202);
      answer = (await reply.json()) as { id: Id };
    }, PATIENCE_MS);
    assert.ok(answer);
    return answer;
  }

  /** As simpay would send it; how it was answered. */
  async callback(body: object): Promise<number> {
    const text = JSON.stringify(body);
    const headers = { ...sign(SIMPAY_SECRET, "callback", text, Date.now()) };
    return (await fetch(`${this.#server.base}/api/v1/callbacks/simpay`, { method: "POST", headers, body: text })).status;
  }

  /** Somebody new, with so much in the wallet. */
  async person(fen = 0): Promise<string> {
    const n = ++this.#people;
    const token = await tokenOf(composeId({ ms: 1_765_000_000_000 + n, sequence: 0, city: 0, slot: n % 16 }));
    if (fen > 0) await this.ask("POST", "/wallet/topups", token, { amount: fen, channel: "test" });
    return token;
  }

  /** Behind the server's back: for time that passes, and for what only misfortune makes. `$1` is the id's slot, `$2` the id. */
  async rows<Row extends pg.QueryResultRow>(id: Id, text: string): Promise<Row[]> {
    const { slot } = shardOf(id);
    return this.#query<Row>(this.#routed.databaseOf(shardOf(id)) ?? "", text, [slot, id]);
  }
  /** In every city. */
  async everywhere<Row extends pg.QueryResultRow>(text: string): Promise<Row[]> {
    const cities = this.#routed.databases().filter(({ keyspace }) => keyspace.kind === "city");
    return (await Promise.all(cities.map(({ name }) => this.#query<Row>(name, text, [])))).flat();
  }
  /** Of replication. Fails while the server of a killed connection still holds one. */
  async loseSlots(): Promise<void> {
    const drop = "select pg_drop_replication_slot(slot_name) from pg_replication_slots where database = current_database()";
    await this.everywhere(drop);
    await this.inUsers(drop);
  }
  async inUsers<Row extends pg.QueryResultRow>(text: string): Promise<Row[]> {
    const users = this.#routed.databases().find(({ keyspace }) => keyspace.kind === "user");
    return this.#query<Row>(users?.name ?? "", text, []);
  }
  async #query<Row extends pg.QueryResultRow>(url: string, text: string, values: readonly unknown[]): Promise<Row[]> {
    const client = new pg.Client({ connectionString: url });
    await client.connect();
    try {
      return (await client.query<Row>(text, [...values])).rows;
    } finally {
      await client.end();
    }
  }

  /** Waits until it holds, in a town where nobody waits for the time of the next attempt. */
  becomes(check: () => Promise<void>): Promise<void> {
    let looks = 0;
    return eventually(async () => {
      if (++looks % 10 === 0) for (const text of DUE) await this.everywhere(text);
      await check();
    }, PATIENCE_MS);
  }

  /** Nothing is under way, and simpay's own log tells of the same money as we do. */
  async settles(): Promise<void> {
    await this.becomes(async () => {
      assert.deepEqual(await this.everywhere(UNDER_WAY), []);
      assert.deepEqual(await this.inUsers("select id::text, state from recon_statements where unfinished"), []);
      assert.deepEqual(differences(witnessed(await this.simpay.log()), await this.everywhere<Ours & pg.QueryResultRow>(OURS)), []);
    });
  }
  /** Besides, every invariant holds. */
  async holds(): Promise<void> {
    await this.settles();
    await this.becomes(async () => {
      const { checks } = await this.ask<{ checks: { ok: boolean }[] }>("GET", "/ops/verify", this.admin);
      assert.deepEqual(
        checks.filter(({ ok }) => !ok),
        [],
      );
    });
  }
}
