/**
 * The long witness: a cluster whose workers, gateways and simpay are killed with SIGKILL while people pay, simpay misbehaves, refunds and payouts go
 * on. After healing, simpay's log ⟗ our payments, refunds and payouts is empty of differences, every invariant holds, and the reconciliation of its
 * statement says the same, of a falsified one exactly what was falsified. `SEED=…` plays it again.
 */
import assert from "node:assert/strict";
import { randomInt } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import pg from "pg";
import { loadKeyspaces } from "../../db/keyspaces.ts";
import type { Id } from "../../domain/ids.ts";
import { makeTokens } from "../../mixins/tokens.ts";
import { ClusterServer, openBar } from "../support/cluster.ts";
import { userId } from "../support/deals.ts";
import { Evening, prng } from "../support/evening.ts";
import { caller } from "../support/node.ts";
import { freePort } from "../../scripts/free-ports.ts";
import { type Reply } from "../support/server.ts";
import { eventually } from "../support/shop.ts";
import { SECRET as SIMPAY_SECRET, SimpayProcess, type TestSimpay } from "../support/simpay.ts";
import { counted, found, Statements } from "../support/statements.ts";
import { differences, OURS, witnessed, type Ours } from "../support/witness.ts";

const SECRET = "a secret for cluster tests, long enough";
const seed = Number(process.env["SEED"] ?? randomInt(2 ** 31));
const MOODS = 8;
const MOOD_MS = 3_000;
const LIES = { statementMissing: 0.03, statementExtra: 0.03, statementDoubled: 0.03, statementAltered: 0.03 };
const tokens = makeTokens(SECRET);

describe("a cluster, and the witness outside", () => {
  const dataDir = mkdtempSync(join(tmpdir(), "tb-witness-"));
  let cluster: ClusterServer;
  let outside: SimpayProcess;
  let simpay: TestSimpay;
  let admin: string;

  before(async () => {
    const port = await freePort();
    cluster = new ClusterServer({
      DATA_DIR: dataDir,
      JWT_SECRET: SECRET,
      RATE_LIMITS: "off",
      ADMIN_PASSWORD: "cluster-test-admin",
      LOG_LEVEL: "error",
      REVERSAL_MINUTES: "0",
      SETTLEMENT_DELAY_MINUTES: "0",
      SIMPAY_URL: `http://127.0.0.1:${port}`,
      SIMPAY_SECRET,
    });
    await cluster.start();
    // It believes the authority that the cluster's door was certified by, which is made at the cluster's first start.
    outside = new SimpayProcess(undefined, { SIMPAY_PORT: String(port), NODE_EXTRA_CA_CERTS: cluster.caFile });
    simpay = await outside.start();
    admin = await tokens.sign(caller(userId(1), ["admin"]), 3_600);
  });
  after(async () => {
    await cluster.stop();
    outside?.remove();
    rmSync(dataDir, { recursive: true, force: true });
  });

  /** Rows of every city's database, behind the cluster's back. */
  async function inCities<Row extends object>(statement: string): Promise<Row[]> {
    const rows: Row[] = [];
    for (const { name, keyspace } of loadKeyspaces(join(dataDir, "keyspaces.yaml")).databases()) {
      if (keyspace.kind !== "city") continue;
      const client = new pg.Client({ connectionString: name });
      await client.connect();
      rows.push(...(await client.query<Row>(statement)).rows);
      await client.end();
    }
    return rows;
  }
  /** As if the time of whatever waits for its next attempt had come. */
  const hurry = async (): Promise<void> => {
    for (const table of ["payments", "refunds", "payouts", "channel_callbacks"])
      await inCities(`update ${table} set next_attempt_at = now() where next_attempt_at > now()`);
    // Nor does a merchant take its day to say something about a used unit.
    await inCities("update refunds set approve_by = now() where used and approve_by > now()");
  };

  it(`tell the same story after an evening of kills (SEED=${seed})`, { timeout: 390_000 }, async (t) => {
    const bars = await Promise.all(Array.from({ length: 3 }, () => openBar(cluster, admin, 1)));
    const [{ boss, merchantId } = { boss: "", merchantId: "" as Id }] = bars;
    const people = await Promise.all(Array.from({ length: 16 }, (_, n) => tokens.sign(caller(userId(n + 100)), 3_600)));
    for (const token of people.slice(0, 8))
      await cluster.insist("POST", "/wallet/topups", { token, body: { amount: 100_000, channel: "test" } });
    const evening = new Evening(
      {
        ask: (method, path, token, body): Promise<Reply> => cluster.ask(method, path, { token, ...(body ? { body } : {}) }),
        simpay: () => simpay,
        consumers: people,
        staff: boss,
        merchantId,
        deals: bars.flatMap(({ deals }) => deals),
      },
      seed,
    );
    const running = evening.run();
    const random = prng(seed ^ 0x5eed);
    const victims = ["worker-1", "worker-2", "worker-3", "gateway-1", "gateway-2", "simpay"] as const;
    try {
      for (let mood = 0; mood < MOODS; mood++) {
        await evening.mood(`${seed} ${mood}`);
        await sleep(MOOD_MS * (0.5 + random()));
        const victim = victims[Math.floor(random() * victims.length)] ?? "simpay";
        if (victim === "simpay") {
          await outside.end("SIGKILL");
          simpay = await outside.start();
        } else await cluster.command("kill", victim);
      }
    } finally {
      evening.end();
    }
    await simpay.plan({});
    await running;
    t.diagnostic(JSON.stringify(Object.fromEntries([...evening.done])));
    await cluster.ready();

    await eventually(async () => {
      await hurry();
      await sleep(1_000);
      const ours = await inCities<Ours>(OURS);
      assert.ok(ours.length > 0, "somebody paid");
      assert.deepEqual(
        ours.filter(({ type, open }) => type !== "charge" && open),
        [],
      );
      assert.deepEqual(differences(witnessed(await simpay.log()), ours), []);
    }, 120_000);
    await eventually(async () => {
      const { body } = await cluster.insist("GET", "/ops/verify", { token: admin });
      assert.deepEqual(
        (body as { checks: { name: string; ok: boolean; detail: string }[] }).checks.filter(({ ok }) => !ok),
        [],
      );
    }, 60_000);

    const statements = new Statements({ base: cluster.base, simpay, token: () => Promise.resolve(admin) });
    assert.deepEqual(Object.keys(counted(await statements.reconciled(await statements.fetched()))), ["MATCHED"]);
    const { body, lies } = await statements.liedTo(LIES);
    assert.deepEqual(found(await statements.reconciled(body)), lies);
  });
});
