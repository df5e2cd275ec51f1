/**
 * A town for killing in: databases and a simpay that stay, and the platform between them, which is either nodes of this process (a rehearsal, in
 * which every step that is passed is told) or programs as their user starts them, told at which steps to kill themselves: one that is everything,
 * or the nodes of a cluster with NATS and Redis between them.
 */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import pg from "pg";
import { parseKeyspaces, type Keyspaces } from "../../db/keyspaces.ts";
import { composeId, shardOf, type Id } from "../../domain/ids.ts";
import { makeChannels } from "../../mixins/channels/index.ts";
import { Failpoints } from "../../mixins/failpoints.ts";
import { PUBLISHER } from "../../mixins/jetstream-publisher.ts";
import { makeTokens } from "../../mixins/tokens.ts";
import { makeNode, ROLES, SERVICES, type Node, type ServiceName } from "../../moleculer.config.ts";
import { sign } from "../../simpay/signature.ts";
import { openBar } from "./cluster.ts";
import { testKeyspaces, type TestKeyspaces, type TestServer } from "./databases.ts";
import { userId } from "./deals.ts";
import { natsAt } from "./journal.ts";
import { Mortal, PATIENCE_MS } from "./mortal.ts";
import { TestNats } from "./nats.ts";
import { caller } from "./node.ts";
import { RedisServer } from "./redis.ts";
import type { Reply } from "./server.ts";
import { eventually } from "./shop.ts";
import { SECRET as SIMPAY_SECRET, testSimpay, type TestSimpay } from "./simpay.ts";
import { differences, OURS, witnessed, type Ours } from "./witness.ts";

const JWT_SECRET = "a secret for failpoint tests, long enough";
const ADMIN_PASSWORD = "failpoint-admin";
const tokens = makeTokens(JWT_SECRET);
const TOKEN_SECONDS = 7_200;
const tokenOf = (...parameters: Parameters<typeof caller>): Promise<string> => tokens.sign(caller(...parameters), TOKEN_SECONDS);

/** Programs by name, and what each of them is. */
export type Programs = Readonly<Record<string, readonly ServiceName[]>>;
/** `npm start`. */
export const ALONE: Programs = { server: SERVICES };
/** The smallest cluster: each role once. */
export const CLUSTER: Programs = ROLES;

/** Rows that are on their way, of whatever kind. */
const UNDER_WAY = `
  select 'payment' as what, id::text, state from payments where state in ('TRYING', 'CONFIRMING', 'CANCELLING', 'CREATED', 'UNKNOWN')
  union all select 'refund', id::text, state from refunds where state in ('REQUESTED', 'PROCESSING')
  union all select 'payout', id::text, state from payouts where state in ('REQUESTED', 'PROCESSING', 'UNKNOWN')
  union all select 'settlement', id::text, state from settlements where state = 'PROCESSING'
  union all select 'merchant', id::text, state from merchants where state = 'OPENING'
  union all select 'callback', id::text, state from channel_callbacks where state = 'KEPT'`;
/** Whoever held a lease is dead: as if it had run out. Of payments, settlements and statements. */
const DEAD = [
  "update payments set next_attempt_at = now() where unfinished and next_attempt_at > now()",
  "update settlements set lease_until = now() where state = 'PROCESSING'",
];
const DEAD_STATEMENTS = "update recon_statements set lease_until = now() where unfinished";
/** As if the time of whatever waits for its next attempt had come. What is being tried is in somebody's hands. */
const DUE = [
  "update payments set next_attempt_at = now() where unfinished and state <> 'TRYING' and next_attempt_at > now()",
  ...["refunds", "payouts", "channel_callbacks"].map(
    (table) => `update ${table} set next_attempt_at = now() where unfinished and next_attempt_at > now()`,
  ),
];

/** Of marks: those who are told, not the relay that publishes. */
const LISTENS = `consumer <> '${PUBLISHER}'`;

/** What the nodes of a cluster share besides databases. */
interface Between {
  readonly nats: TestNats;
  readonly redis: RedisServer;
}

interface Rehearsal {
  readonly failpoints: ReadonlyMap<Mortal, Failpoints>;
  readonly stop: () => Promise<void>;
}

export class Town {
  readonly simpay: TestSimpay;
  readonly programs: readonly Mortal[];
  /** The one that is called. */
  readonly #door: Mortal;
  readonly #between: Between | undefined;
  readonly #keyspaces: TestKeyspaces;
  readonly #routed: Keyspaces;
  readonly admin: string;
  /** One connection a database. Whoever waits looks twenty times a second: with a session made for each look a kill cost 6.6 s of CPU for 5.3. */
  readonly #pools = new Map<string, pg.Pool>();
  /** The bar everybody goes to. */
  bar: { readonly boss: string; readonly merchantId: Id; readonly deal: Id } = { boss: "", merchantId: "" as Id, deal: "" as Id };
  #people = 0;

  private constructor(of: {
    simpay: TestSimpay;
    programs: readonly Mortal[];
    between: Between | undefined;
    keyspaces: TestKeyspaces;
    routed: Keyspaces;
    admin: string;
  }) {
    this.simpay = of.simpay;
    this.programs = of.programs;
    this.#door = of.programs.find(({ services }) => services.includes("gateway")) ?? assert.fail("there is a gateway");
    this.#between = of.between;
    this.#keyspaces = of.keyspaces;
    this.#routed = of.routed;
    this.admin = of.admin;
  }

  static async open(server: TestServer, programs = ALONE): Promise<Town> {
    const keyspaces = await testKeyspaces(server);
    const yaml = keyspaces.keyspaces
      .databases()
      .reduce((text, { name }) => text.replace(name, JSON.stringify(keyspaces.urlOf(name))), keyspaces.keyspaces.yaml);
    const simpay = await testSimpay();
    const dataDir = mkdtempSync(join(tmpdir(), "tuanbar-failpoints-"));
    writeFileSync(join(dataDir, "routing.yaml"), yaml);
    const between = programs === ALONE ? undefined : { nats: await TestNats.start(), redis: await RedisServer.start() };
    const shared = {
      DATA_DIR: dataDir,
      KEYSPACES: join(dataDir, "routing.yaml"),
      JWT_SECRET,
      ADMIN_PASSWORD,
      RATE_LIMITS: "off",
      LOG_LEVEL: "error",
      SIMPAY_URL: simpay.url,
      SIMPAY_SECRET,
    };
    const mortals = Object.entries(programs).map(([name, services]) => {
      const node = between && { NODE_ID: name, SERVICES: services.join(), NATS_URL: between.nats.url, REDIS_URL: between.redis.url };
      return new Mortal(name, services, { ...shared, ...node });
    });
    for (const mortal of mortals) await mortal.port();
    const admin = await tokenOf(userId(1), ["admin"]);
    return new Town({ simpay, programs: mortals, between, keyspaces, routed: parseKeyspaces(yaml), admin });
  }

  async close(): Promise<void> {
    for (const program of this.programs) await program.stop();
    await this.simpay.stop();
    await this.#between?.nats.stop();
    await this.#between?.redis.stop();
    for (const pool of this.#pools.values()) await pool.end();
    await this.#keyspaces.drop();
    rmSync(this.#door.dataDir, { recursive: true, force: true });
  }

  /** Nodes of this process instead of the programs, which tell of each step. */
  async rehearse(pass: (program: Mortal, step: string) => void): Promise<Rehearsal> {
    const nodes: Node[] = [];
    const failpoints = new Map<Mortal, Failpoints>();
    for (const program of this.programs) {
      const passed = new Failpoints((step) => pass(program, step));
      failpoints.set(program, passed);
      nodes.push(await this.#node(program, passed));
    }
    return { failpoints, stop: async () => void (await Promise.all(nodes.map((node) => node.stop()))) };
  }
  async #node(program: Mortal, failpoints: Failpoints): Promise<Node> {
    const at = { port: await program.port(), host: "127.0.0.1" };
    return makeNode({
      nodeID: program.name,
      keyspaces: this.#routed,
      urlOf: (database) => database,
      services: program.services,
      trade: { orderTtlSeconds: 900, reversalMinutes: 60, settlementDelayMinutes: 60 },
      logLevel: "fatal",
      channels: await makeChannels({ simpay: { url: this.simpay.url, secret: SIMPAY_SECRET } }, this.#door.base),
      ...(this.#between && { nats: natsAt(this.#between.nats.url), redisUrl: this.#between.redis.url }),
      settings: {
        probe: program === this.#door ? {} : at,
        user: { jwtSecret: JWT_SECRET, adminPassword: ADMIN_PASSWORD },
        wallet: { testChannel: true },
        settlement: { testChannel: true },
        gateway: { jwtSecret: JWT_SECRET, ...at, rateLimits: "off" },
      },
      failpoints,
    });
  }

  /** Once, while there is a server. */
  async furnish(): Promise<void> {
    const { boss, merchantId, deals } = await openBar(this.#door, this.admin, 1);
    // That of a login is good for fifteen minutes, and a slow machine kills for longer.
    const { caller: owner } = await tokens.verify(boss);
    this.bar = { boss: await tokens.sign(owner, TOKEN_SECONDS), merchantId, deal: deals[0] ?? ("" as Id) };
  }

  /** Starts the programs, told where to die. Returns when the town is served, or one is dead already. */
  async live(armed: (program: Mortal) => Iterable<string> = () => []): Promise<void> {
    for (const program of this.programs) await this.revive(program, armed(program));
    await Promise.race([this.#door.ready(), this.died]);
  }
  /** What its predecessor held is free. */
  async revive(program: Mortal, failpoints: Iterable<string>): Promise<void> {
    if (program.services.includes("payment")) for (const text of DEAD) await this.everywhere(text);
    if (program.services.includes("recon")) await this.inUsers(DEAD_STATEMENTS);
    program.live(failpoints, this.#door.base);
  }
  /** The signal that the first of them died by. */
  get died(): Promise<NodeJS.Signals | null> {
    return Promise.race(this.programs.map(({ died }) => died));
  }
  /** What they said, for messages of failed tests. */
  get said(): string {
    return this.programs.map(({ name, output }) => `${name} said:\n${output}`).join("\n");
  }
  async kill(): Promise<void> {
    await Promise.all(this.programs.map((program) => program.end()));
  }

  /** What a careful client hears in the end, whoever dies meanwhile. */
  insist(method: "GET" | "POST", path: string, token?: string, body?: object): Promise<Reply> {
    return this.#door.insist(method, path, { ...(token === undefined ? {} : { token }), ...(body === undefined ? {} : { body }) });
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
      const reply = await fetch(`${this.#door.base}/api/v1/recon/statements?channel=simpay&date=${day}`, {
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
    return (await fetch(`${this.#door.base}/api/v1/callbacks/simpay`, { method: "POST", headers, body: text })).status;
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
  everywhere<Row extends pg.QueryResultRow>(text: string): Promise<Row[]> {
    return this.#inAll<Row>(text, ({ keyspace }) => keyspace.kind === "city");
  }
  async #inAll<Row extends pg.QueryResultRow>(
    text: string,
    of: (database: ReturnType<Keyspaces["databases"]>[number]) => boolean = () => true,
  ): Promise<Row[]> {
    const some = this.#routed.databases().filter(of);
    return (await Promise.all(some.map(({ name }) => this.#query<Row>(name, text, [])))).flat();
  }
  /** The ways that events travel: slots of replication and JetStream's streams. Fails while the server of a killed connection still holds one. */
  async loseWays(): Promise<void> {
    const drop = "select pg_drop_replication_slot(slot_name) from pg_replication_slots where database = current_database()";
    await this.#inAll(drop);
    await this.#deleteStreams();
  }
  /**
   * NATS has lost the events, and a restored database knows only of an older day's marks: nothing that was told counts as told. Twice, because a batch
   * that was on its way when the streams went moves its marks. Alone there is no NATS.
   */
  async loseStreams(): Promise<void> {
    if (this.#between === undefined) return;
    const forget = (): Promise<unknown> => this.#inAll(`update relay_marks set event_id = 0 where ${LISTENS}`);
    await forget();
    await this.#deleteStreams();
    await forget();
  }
  /** Everybody has read again what `loseStreams` made them forget. */
  async readAgain(): Promise<void> {
    if (this.#between !== undefined)
      await this.becomes(async () =>
        assert.deepEqual(await this.#inAll(`select consumer, slot from relay_marks where event_id = 0 and ${LISTENS}`), []),
      );
  }
  async #deleteStreams(): Promise<void> {
    await this.#between?.nats.ask(async (connection) => {
      const { streams } = await connection.jetstreamManager();
      for await (const { config } of streams.list()) await streams.delete(config.name);
    });
  }
  async inUsers<Row extends pg.QueryResultRow>(text: string): Promise<Row[]> {
    const users = this.#routed.databases().find(({ keyspace }) => keyspace.kind === "user");
    return this.#query<Row>(users?.name ?? "", text, []);
  }
  async #query<Row extends pg.QueryResultRow>(url: string, text: string, values: readonly unknown[]): Promise<Row[]> {
    let pool = this.#pools.get(url);
    if (pool === undefined) this.#pools.set(url, (pool = this.#pool(url)));
    return (await pool.query<Row>(text, [...values])).rows;
  }
  #pool(url: string): pg.Pool {
    const pool = new pg.Pool({ connectionString: url, max: 1 });
    // Its end does not wait for the server's sessions: one may be told to go by the drop of its database before it has read that nobody is there.
    pool.on("error", (error) => assert.ok(pool.ending, error));
    return pool;
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
