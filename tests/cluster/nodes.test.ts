/** Nodes on a real bus, without databases: who is found to be there, whose calls are sent again, and who may not join. */
import assert from "node:assert/strict";
import { spawn, type ChildProcess } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { Errors, type ServiceSchema } from "moleculer";
import { connect as connectBus, type NatsConnection } from "nats";
import { parseKeyspaces } from "../../db/keyspaces.ts";
import { action, call } from "../../mixins/contract.ts";
import { makeNode, type Node, type NodeOptions } from "../../moleculer.config.ts";
import { natsOptions } from "../../mixins/bus.ts";
import { surfaceOf } from "../../mixins/surface.ts";
import { natsFile } from "../../scripts/cluster/files.ts";
import { freePort } from "../../scripts/free-ports.ts";
import { findServer } from "../../scripts/servers.ts";
import { TestNats } from "../support/nats.ts";
import { SilentProxy } from "../support/silent-proxy.ts";
import { until } from "../support/until.ts";

const PASSWORD = "a password of this test";
/** A few more than one node works on at once. */
const CROWD = 4_100;
const shard = { city: 1, slot: 7 };
const place = <const N extends string>(name: N, retrySafe: boolean) =>
  action(name, { summary: "", params: {}, answer: "string" as const, retrySafe, address: () => shard });
const safe = place("stock.safe", true);
const once = place("stock.once", false);

describe("nodes of a cluster", () => {
  const dataDir = mkdtempSync(join(tmpdir(), "tb-nodes-"));
  const nodes = new Set<Node>();
  let nats: ChildProcess;
  let port = 0;

  before(async () => {
    port = await freePort();
    nats = spawn(await findServer("nats-server"), ["-c", natsFile(dataDir, port, PASSWORD)], { stdio: "ignore" });
    await until(() => answers(port));
  });
  after(async () => {
    await Promise.all([...nodes].map((node) => node.stop()));
    const ended = new Promise((resolve) => nats.once("exit", resolve));
    nats.kill("SIGTERM");
    await ended;
    rmSync(dataDir, { recursive: true, force: true });
  });

  async function node(nodeID: string, options: Partial<NodeOptions> = {}): Promise<Node> {
    const made = await makeNode({
      nodeID,
      keyspaces: parseKeyspaces(`
        keyspaces:
          user: { id: 0, name: users, databases: { users: 0-15 } }
          sh: { id: 1, name: Shanghai, databases: { sh: 0-15 } }`),
      urlOf: () => "postgresql://127.0.0.1:1/none",
      services: ["stock"],
      replace: { stock: where(nodeID) },
      nats: { servers: [`127.0.0.1:${port}`], user: "tuanbar", pass: PASSWORD },
      trade: { orderTtlSeconds: 900, reversalMinutes: 60, settlementDelayMinutes: 60 },
      logLevel: "fatal",
      ...options,
    });
    nodes.add(made);
    return made;
  }
  const stop = async (...some: readonly Node[]): Promise<void> => {
    for (const one of some) {
      nodes.delete(one);
      await one.stop();
    }
  };
  /** One that calls, and those it knows of by then. */
  async function asking(...others: readonly string[]): Promise<readonly [Node, ...Node[]]> {
    const asks = await node("asks", { services: ["probe"], replace: {} });
    const made = await Promise.all(others.map((name) => node(name)));
    await until(async () => asks.broker.registry.getActionEndpoints(safe.name)?.count() === others.length);
    return [asks, ...made];
  }

  it("send a shard's calls to one of them, and to another when it falls silent: at once what may be repeated, and within 5 s", async () => {
    const [asks, a, b] = (await asking("a", "b")) as [Node, Node, Node];
    const first = await call(asks.broker, safe, {});
    assert.equal(await call(asks.broker, once, {}), first, "one shard, one node");
    const [silent, other] = first === "a" ? [a, b] : [b, a];
    const stuck = await stuckCalls(() => ({
      outcomes: Promise.allSettled([call(asks.broker, safe, {}), call(asks.broker, once, {})]),
    }));
    await cutOff(silent);
    const startedMs = performance.now();
    const [repeated, unknown] = await stuck.outcomes;
    const tookMs = performance.now() - startedMs;
    assert.ok(tookMs < 5_000, `it is left after ${tookMs} ms`);
    assert.deepEqual(repeated, { status: "fulfilled", value: other.broker.nodeID });
    assert.ok(unknown?.status === "rejected" && unknown.reason instanceof Errors.RequestRejectedError, "nobody knows what it did");
    await stop(asks, silent, other);
  });

  it("leave without a call failing, also of those that may not be repeated", async () => {
    const [asks, a, b] = (await asking("a", "b")) as [Node, Node, Node];
    let over = false;
    const answered = new Map<string, number>();
    const asker = async (): Promise<void> => {
      while (!over) {
        const by = await call(asks.broker, once, {});
        answered.set(by, (answered.get(by) ?? 0) + 1);
        await sleep(1);
      }
    };
    const asked = Promise.all(Array.from({ length: 8 }, asker));
    await sleep(300);
    const [owner] = answered.keys();
    const [leaving, staying] = owner === "a" ? [a, b] : [b, a];
    await stop(leaving);
    await sleep(300);
    over = true;
    await asked;
    assert.ok((answered.get(staying.broker.nodeID) ?? 0) > 0, "the other one took over");
    await stop(asks, staying);
  });

  it("notice one that comes back under its name before anybody missed it: its old calls do not wait for their timeout", async () => {
    const [asks, first] = (await asking("a")) as [Node, Node];
    const stuck = await stuckCalls(() => ({ answer: call(asks.broker, safe, {}) }));
    await cutOff(first);
    const again = await node("a");
    assert.equal(await stuck.answer, "a");
    await stop(asks, again, first);
  });

  it("are left alone for a while when they are there and do not answer: calls fail at once, then one tries again", async () => {
    const [asks, silent] = (await asking("a")) as [Node, Node];
    const hasty = (): Promise<unknown> => call(asks.broker, once, {}, { timeout: 100 });
    getsStuck = true;
    const late = await Promise.allSettled(Array.from({ length: 20 }, hasty));
    getsStuck = false;
    assert.ok(late.every((one) => one.status === "rejected" && one.reason instanceof Errors.RequestTimeoutError));
    await assert.rejects(hasty(), Errors.ServiceNotAvailableError);
    // Of the other actions of that node nothing is known.
    assert.equal(await call(asks.broker, safe, {}), "a");
    await until(() =>
      hasty().then(
        (by) => by === "a",
        () => false,
      ),
    );
    await stop(asks, silent);
  });

  it("take so many calls of one action at once and refuse the next at once; other actions are answered", async () => {
    const [asks, busy] = (await asking("a")) as [Node, Node];
    getsStuck = true;
    const crowd = Array.from({ length: CROWD }, () => call(asks.broker, once, {}));
    const settled = Promise.allSettled(crowd);
    // The first to have an answer is one that is refused, however long they all need to get there.
    await Promise.race(crowd).catch(() => undefined);
    getsStuck = false;
    assert.equal(await call(asks.broker, safe, {}), "a");
    const outcomes = await settled;
    const refused = outcomes.flatMap((one) => (one.status === "rejected" ? [one.reason as unknown] : []));
    assert.ok(refused.length > 0 && refused.length < 10, `${refused.length} of ${CROWD}`);
    assert.ok(refused.every((error) => error instanceof Errors.QueueIsFullError));
    await stop(asks, busy);
  });

  it("know at once when the bus is killed: calls under way and new ones fail, and all goes on by itself when it is back", async () => {
    const bus = await TestNats.start();
    const on = { nats: { servers: [new URL(bus.url).host] } };
    const asks = await node("asks", { services: ["probe"], replace: {}, ...on });
    const works = await node("works", on);
    try {
      await until(async () => asks.broker.registry.getActionEndpoints(safe.name)?.count() === 1);
      const stuck = await stuckCalls(() => ({ outcomes: Promise.allSettled([call(asks.broker, once, {}), call(asks.broker, safe, {})]) }));
      const startedMs = performance.now();
      await bus.kill();
      const [unknown, repeated] = await stuck.outcomes;
      assert.ok(unknown?.status === "rejected" && unknown.reason instanceof Errors.RequestRejectedError, "nobody knows what it did");
      assert.ok(repeated?.status === "rejected" && repeated.reason instanceof Errors.ServiceNotAvailableError, "it was not sent again");
      await assert.rejects(call(asks.broker, once, {}), Errors.ServiceNotAvailableError);
      const tookMs = performance.now() - startedMs;
      assert.ok(tookMs < 2_500, `they fail after ${tookMs} ms`);
      await bus.start();
      await until(() =>
        call(asks.broker, once, {})
          .then((by) => by === "works")
          .catch(() => false),
      );
    } finally {
      await stop(asks, works);
      await bus.stop();
    }
  });

  it("can be stopped while the bus is away, and are not on it when it is back", async () => {
    const bus = await TestNats.start();
    const leaves = await node("leaves", { nats: { servers: [new URL(bus.url).host] } });
    const client = clientOf(leaves);
    await bus.kill();
    await assert.rejects(client.flush(), "it is away");
    await stop(leaves);
    assert.ok(client.isClosed());
    await bus.stop();
  });

  it("tell the others that their connection was broken: what may be repeated is, and does not wait for an answer that was lost with it", async () => {
    const asks = await node("asks", { services: ["probe"], replace: {} });
    const proxy = await SilentProxy.start(port);
    const works = await node("works", { nats: { servers: [`127.0.0.1:${proxy.port}`], user: "tuanbar", pass: PASSWORD } });
    try {
      await until(async () => asks.broker.registry.getActionEndpoints(safe.name)?.count() === 1);
      const stuck = await stuckCalls(() => ({ outcomes: Promise.allSettled([call(asks.broker, once, {}), call(asks.broker, safe, {})]) }));
      const startedMs = performance.now();
      proxy.break();
      const [unknown, repeated] = await stuck.outcomes;
      const tookMs = performance.now() - startedMs;
      assert.ok(unknown?.status === "rejected" && unknown.reason instanceof Errors.RequestRejectedError, "nobody knows what it did");
      assert.deepEqual(repeated, { status: "fulfilled", value: "works" });
      assert.ok(tookMs < 2_500, `they are over after ${tookMs} ms`);
    } finally {
      await stop(asks, works);
      await proxy.stop();
    }
  });

  it("refuse to join others that would misread them, in one line that says what about", async () => {
    const other = await node("other");
    const stranger = surfaceOf([action("order.place", { summary: "", params: { dealId: "number" }, answer: undefined })]);
    // As another version would tell it.
    other.broker.metadata["surface"] = stranger;
    other.broker.registry.regenerateLocalRawInfo(true);
    await assert.rejects(node("late"), {
      name: "StartError",
      message:
        /^this version cannot join the cluster: its contracts do not fit those of node other \(order\.place disagrees about dealId\)$/,
    });
    await stop(other);
  });

  it("are refused by the bus without its password", async () => {
    const settings = { servers: [`127.0.0.1:${port}`], user: "tuanbar", pass: "wrong" };
    await assert.rejects(connectBus(natsOptions(settings, "nobody")), { code: "AUTHORIZATION_VIOLATION" });
  });
});

/** Answers with the node it runs on, 5 s late while calls get stuck. */
function where(nodeID: string): ServiceSchema {
  const handler = async (): Promise<string> => {
    if (getsStuck) await sleep(5_000);
    return nodeID;
  };
  return { name: "stock", actions: { safe: handler, once: handler } };
}
let getsStuck = false;

/** Calls that are under way and stay so. */
async function stuckCalls<A>(start: () => A): Promise<A> {
  getsStuck = true;
  const calls = start();
  await sleep(100);
  getsStuck = false;
  return calls;
}

/** As its death would look to the others: no word, no beat. */
const cutOff = (node: Node): Promise<void> => clientOf(node).close();
const clientOf = ({ broker }: Node): NatsConnection => (broker.transit as unknown as { tx: { client: NatsConnection } }).tx.client;

const answers = (port: number): Promise<boolean> =>
  new Promise((resolve) => {
    const socket = connect(port, "127.0.0.1", () => {
      socket.destroy();
      resolve(true);
    });
    socket.once("error", () => resolve(false));
  });
