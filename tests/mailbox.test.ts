/** The mailbox alone, with a drain of the test's own; then the real drain on a real PostgreSQL, with bad luck of every kind. */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { createConnection, createServer, type Server, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, afterEach, before, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import fc from "fast-check";
import { DomainError, refusal } from "../domain/error.ts";
import { COMMON_ERRORS } from "../domain/common-errors.ts";
import { InvariantViolation } from "../domain/invariant.ts";
import { Database, DatabaseUnavailable, sqlState, type Statement } from "../db/database.ts";
import { Drainer, type DrainFunction, type Work } from "../mixins/drain.ts";
import { Mailbox, type Command, type MailboxLimits } from "../mixins/mailbox.ts";
import { testKeyspaces, testServer, type TestKeyspaces, type TestServer } from "./support/databases.ts";

const SHARD = { city: 1, slot: 5 };
const LIMITS: MailboxLimits = { drainCommandsMax: 4, mailboxCommandsMax: 8, mailboxMerchantCommandsMax: 3 };
const codeOf = (error: unknown): string =>
  error instanceof DomainError ? error.type : error instanceof Error ? error.name : String(error);
const outcomeOf = (posted: Promise<unknown>): Promise<string> => posted.then(String, codeOf);

/** A mailbox whose batches wait until the test lets them go. */
function gated(limits: MailboxLimits = LIMITS) {
  const batches: { inputs: unknown[]; release: (error?: Error) => void }[] = [];
  const refusals: string[] = [];
  const drained: number[] = [];
  const mailbox = new Mailbox(
    SHARD,
    (commands) =>
      new Promise<void>((resolve, reject) => {
        batches.push({
          inputs: commands.map(({ input }) => input),
          release(error) {
            if (error) return reject(error);
            for (const command of commands) command.settle(`done ${String(command.input)}`);
            resolve();
          },
        });
      }),
    limits,
    { drained: (_, { size }) => void drained.push(size), refused: (_, reason) => void refusals.push(reason) },
  );
  const post = (input: unknown, options: { merchantId?: string; timeoutMs?: number } = {}) =>
    mailbox.post<unknown, string>("k", input, { timeoutMs: 10_000, ...options });
  /** The next batch, once it is taken. */
  const batch = async (index: number) => {
    while (batches.length <= index) await new Promise((resolve) => setImmediate(resolve));
    return batches[index]!;
  };
  return { mailbox, post, batch, batches, refusals, drained };
}

describe("a mailbox", () => {
  test("takes what arrived during one drain as the next batch, without a timer", async () => {
    const { post, batch, batches, drained } = gated();
    const first = [post("a"), post("b")];
    assert.deepEqual((await batch(0)).inputs, ["a", "b"]);
    const second = [post("c"), post("d"), post("e")];
    await sleep(5);
    assert.equal(batches.length, 1, "one batch at a time");
    (await batch(0)).release();
    assert.deepEqual(await Promise.all(first), ["done a", "done b"]);
    assert.deepEqual((await batch(1)).inputs, ["c", "d", "e"]);
    (await batch(1)).release();
    await Promise.all(second);
    assert.deepEqual(drained, [2, 3]);
  });
  test("tells a whole batch before anything else goes on", async () => {
    const { post, batch } = gated();
    let told = 0;
    let toldAtEnd: number | undefined;
    const posts = ["a", "b", "c"].map((input) =>
      post(input).then(() => {
        if (told++ === 0) process.nextTick(() => (toldAtEnd = told));
      }),
    );
    (await batch(0)).release();
    await Promise.all(posts);
    await new Promise((resolve) => setImmediate(resolve));
    assert.equal(toldAtEnd, 3);
  });
  test("waiting for its turn, it takes along whatever comes until then; without anywhere to drain to, everybody is told", async () => {
    const turn = Promise.withResolvers<void>();
    const batches: unknown[][] = [];
    const drain = async (commands: readonly Command[]): Promise<void> => {
      batches.push(commands.map(({ input }) => input));
      for (const command of commands) command.settle("done");
    };
    const watch = { drained: () => undefined, refused: () => undefined };
    const waiting = new Mailbox(SHARD, drain, LIMITS, watch, async (run) => {
      await turn.promise;
      await run(() => undefined);
    });
    const early = waiting.post("k", "a", { timeoutMs: 10_000 });
    await sleep(5);
    const late = waiting.post("k", "b", { timeoutMs: 10_000 });
    turn.resolve();
    await Promise.all([early, late]);
    assert.deepEqual(batches, [["a", "b"]]);
    const nowhere = new Mailbox(SHARD, drain, LIMITS, watch, () => Promise.reject(new Error("no database")));
    assert.equal(await outcomeOf(nowhere.post("k", "c", { timeoutMs: 10_000 })), "Error");
    assert.equal(nowhere.depth, 0);
    await Promise.all([waiting.close(), nowhere.close()]);
  });
  test("a drain that passes its turn on lets the next batch begin; closing waits for both, and so does holding", async () => {
    const begun: unknown[] = [];
    const ends: (() => void)[] = [];
    const overlapping = (): Mailbox =>
      new Mailbox(
        SHARD,
        async (commands, passOn) => {
          begun.push(commands.map(({ input }) => input));
          passOn();
          await new Promise<void>((resolve) => void ends.push(resolve));
          for (const command of commands) command.settle("done");
        },
        LIMITS,
        { drained: () => undefined, refused: () => undefined },
        (run) => run(() => undefined),
      );
    for (const wait of [(box: Mailbox) => box.close(), (box: Mailbox) => box.hold(10_000)]) {
      begun.length = ends.length = 0;
      const mailbox = overlapping();
      const first = mailbox.post("k", "a", { timeoutMs: 10_000 });
      await sleep(5);
      const second = mailbox.post("k", "b", { timeoutMs: 10_000 });
      await sleep(5);
      assert.deepEqual(begun, [["a"], ["b"]], "the second begins before the first is done");
      let over = false;
      const waiting = wait(mailbox).then(() => (over = true));
      ends[0]?.();
      assert.equal(await first, "done");
      await sleep(5);
      assert.equal(over, false, "one is still under way");
      ends[1]?.();
      assert.equal(await second, "done");
      await waiting;
      mailbox.release();
    }
  });
  test("held while its shard moves, it finishes its batch, lets commands wait, and goes on with them", async () => {
    const { mailbox, post, batch, batches, refusals } = gated();
    const [first] = [post("a"), await batch(0)];
    let held = false;
    const holding = mailbox.hold(1_000).then(() => (held = true));
    const second = post("b");
    await sleep(5);
    assert.equal(held, false, "not before the batch under way is committed");
    (await batch(0)).release();
    await holding;
    assert.equal(await first, "done a");
    await sleep(5);
    assert.equal(batches.length, 1, "nothing is drained");
    mailbox.release();
    (await batch(1)).release();
    assert.equal(await second, "done b");
    assert.deepEqual(refusals, []);
  });
  test("held for long, it refuses what waits and what comes with SHARD_MOVING", async () => {
    const { mailbox, post, batch, refusals } = gated();
    await mailbox.hold(20);
    assert.deepEqual(await Promise.all([post("a", { merchantId: "m" }), post("b")].map(outcomeOf)), ["SHARD_MOVING", "SHARD_MOVING"]);
    assert.equal(await outcomeOf(post("c")), "SHARD_MOVING");
    assert.deepEqual(refusals, ["moving", "moving", "moving"]);
    mailbox.release();
    const later = ["d", "e", "f"].map((input) => post(input, { merchantId: "m" }));
    (await batch(0)).release();
    assert.deepEqual(await Promise.all(later), ["done d", "done e", "done f"], "nobody's share is used up");
  });
  test("cuts a long queue into batches, in the order of arrival", async () => {
    const { post, batch, mailbox } = gated();
    const posted = Array.from({ length: 8 }, (_, n) => post(n));
    assert.equal(mailbox.depth, 8);
    assert.deepEqual((await batch(0)).inputs, [0, 1, 2, 3]);
    assert.equal(mailbox.depth, 4);
    assert.equal(mailbox.lastBatchSize, 4);
    (await batch(0)).release();
    assert.deepEqual((await batch(1)).inputs, [4, 5, 6, 7]);
    (await batch(1)).release();
    await Promise.all(posted);
  });
  test("refuses at once what no longer fits, and takes again what does", async () => {
    const { post, batch, refusals } = gated();
    const posted = Array.from({ length: 8 }, (_, n) => post(n));
    const start = performance.now();
    await assert.rejects(post("late"), { type: "OVERLOADED", code: 503, retryable: true, data: { retryAfterSeconds: 1 } });
    assert.ok(performance.now() - start < 50, "at the door, not after a wait");
    await batch(0);
    posted.push(post("fits"));
    for (const index of [0, 1, 2]) (await batch(index)).release();
    await Promise.all(posted);
    assert.deepEqual(refusals, ["full"]);
  });
  test("gives one merchant its share, and leaves the rest to others", async () => {
    const { post, batch, refusals } = gated();
    const posted = [post(1, { merchantId: "hot" }), post(2, { merchantId: "hot" }), post(3, { merchantId: "hot" })];
    await assert.rejects(post(4, { merchantId: "hot" }), { type: "OVERLOADED" });
    posted.push(post(5, { merchantId: "cold" }), post(6));
    assert.deepEqual((await batch(0)).inputs, [1, 2, 3, 5]);
    // What has been taken out is waited for by nobody.
    posted.push(post(7, { merchantId: "hot" }));
    for (const index of [0, 1]) (await batch(index)).release();
    await Promise.all(posted);
    assert.deepEqual(refusals, ["merchant"]);
  });
  test("drops a command whose caller has stopped waiting, before it costs anything", async () => {
    const { post, batch, refusals, batches } = gated();
    const busy = post("busy");
    await batch(0);
    const late = outcomeOf(post("late", { timeoutMs: 5 }));
    const patient = post("patient");
    await sleep(10);
    (await batch(0)).release();
    assert.equal(await late, "TIMEOUT");
    assert.deepEqual((await batch(1)).inputs, ["patient"]);
    (await batch(1)).release();
    await Promise.all([busy, patient]);
    assert.deepEqual(refusals, ["late"]);
    const alone = outcomeOf(post("alone", { timeoutMs: 0 }));
    assert.equal(await alone, "TIMEOUT");
    assert.equal(batches.length, 2, "nobody to drain for, no drain");
  });
  test("drains what waits when it closes, and takes nothing new", async () => {
    const { mailbox, post, batch, refusals } = gated();
    const posted = [post("a"), post("b"), post("c"), post("d"), post("e")];
    await batch(0);
    let closed = false;
    const closing = mailbox.close().then(() => (closed = true));
    await assert.rejects(post("too late"), { type: "OVERLOADED" });
    (await batch(0)).release();
    await batch(1);
    assert.equal(closed, false, "not before the last batch is committed");
    (await batch(1)).release();
    await closing;
    assert.deepEqual(await Promise.all(posted), ["done a", "done b", "done c", "done d", "done e"]);
    assert.deepEqual(refusals, ["closing"]);
    await gated().mailbox.close();
  });
  test("fails a batch whose drain throws, and goes on with the next", async () => {
    const { post, batch } = gated();
    const failing = Promise.all([outcomeOf(post("a")), outcomeOf(post("b"))]);
    (await batch(0)).release(new RangeError("broken"));
    assert.deepEqual(await failing, ["RangeError", "RangeError"]);
    const next = post("c");
    (await batch(1)).release();
    assert.equal(await next, "done c");
  });
  test("in every interleaving: each command is answered once, in order, one batch at a time, none past its bounds", async () => {
    const merchants = fc.constantFrom("hot", "hot", "cold", undefined);
    await fc.assert(
      fc.asyncProperty(
        fc.scheduler(),
        fc.array(fc.array(merchants, { maxLength: 9 }), { minLength: 1, maxLength: 8 }),
        async (s, bursts) => {
          const seen: number[] = [];
          let draining = 0;
          const mailbox = new Mailbox(
            SHARD,
            async (commands: readonly Command[]) => {
              assert.equal(++draining, 1);
              assert.ok(commands.length > 0 && commands.length <= LIMITS.drainCommandsMax);
              await s.schedule(Promise.resolve(), "drain");
              seen.push(...commands.map(({ input }) => input as number));
              draining--;
              for (const command of commands) command.settle(command.input);
            },
            LIMITS,
            { drained: () => undefined, refused: () => undefined },
          );
          let n = 0;
          const answers: Promise<readonly [number, unknown]>[] = [];
          const posts = bursts.map((burst) =>
            s.schedule(Promise.resolve(), "post").then(() => {
              for (const merchantId of burst) {
                const input = n++;
                const posted = mailbox.post<number, unknown>("k", input, { merchantId, timeoutMs: 60_000 });
                assert.ok(mailbox.depth <= LIMITS.mailboxCommandsMax);
                answers.push(
                  posted.then(
                    (answer) => [input, answer] as const,
                    (error: unknown) => [input, codeOf(error)] as const,
                  ),
                );
              }
            }),
          );
          // Draining begins in a later turn of the event loop, so the scheduler may run dry in between.
          const all = Promise.all(posts).then(() => mailbox.close());
          let done = false;
          void all.then(() => (done = true));
          while (!done) {
            if (s.count() > 0) await s.waitOne();
            else await new Promise((resolve) => setImmediate(resolve));
          }
          const answered = await Promise.all(answers);
          const taken = answered.filter(([input, answer]) => answer === input).map(([input]) => input);
          assert.deepEqual(seen, taken, "what is drained is what is answered, in the order of arrival");
          assert.ok(answered.every(([input, answer]) => answer === input || answer === "OVERLOADED"));
          assert.equal(answered.length, n);
          assert.equal(mailbox.depth, 0);
        },
      ),
      { numRuns: 300 },
    );
  });
});

/**
 * A wire to PostgreSQL that can be cut. Armed, it waits for the next COMMIT, and cuts the connection before the server sees it (`lost`), or
 * when the server has answered it (`done`), which is when the answer is lost instead.
 */
class Wire {
  readonly url: string;
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  #plan: "lost" | "done" | undefined;
  /** Refuse new connections for so long after a cut. */
  #darkMs = 0;
  #darkUntil = 0;
  commits = 0;

  private constructor(server: Server, url: string, target: string) {
    this.url = url;
    this.#server = server;
    server.on("connection", (client) => this.#join(client, target));
  }

  static async to(databaseUrl: string, directory: string): Promise<Wire> {
    const url = new URL(databaseUrl);
    const target = join(url.searchParams.get("host") ?? "", ".s.PGSQL.5432");
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(join(directory, ".s.PGSQL.5432"), resolve));
    url.searchParams.set("host", directory);
    return new Wire(server, url.href, target);
  }

  cutAtCommit(plan: "lost" | "done", darkMs = 0): void {
    this.#plan = plan;
    this.#darkMs = darkMs;
  }
  darken(ms: number): void {
    this.#darkUntil = performance.now() + ms;
    for (const socket of this.#sockets) socket.destroy();
  }
  async close(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  #join(client: Socket, target: string): void {
    if (performance.now() < this.#darkUntil) return void client.destroy();
    const server = createConnection(target);
    let committing = false;
    const cut = () => {
      this.#plan = undefined;
      this.darken(this.#darkMs);
    };
    client.on("data", (data) => {
      if (data.includes("commit\0")) {
        this.commits++;
        if (this.#plan === "lost") return cut();
        committing = this.#plan === "done";
      }
      server.write(data);
    });
    server.on("data", (data) => (committing ? cut() : client.write(data)));
    for (const [one, other] of [
      [client, server],
      [server, client],
    ] as const) {
      this.#sockets.add(one);
      one.on("error", () => other.destroy());
      one.on("close", () => {
        this.#sockets.delete(one);
        other.destroy();
      });
    }
  }
}

const WRITE: Statement = {
  name: "test/write",
  text: "insert into inbox (consumer, source, event_id) select 'test', 'test', n from unnest($1::bigint[]) n",
};
const XID = {
  name: "test/xid",
  text: `select pg_current_xact_id()::text as xid, (extract(epoch from now()) * 1000)::float8 as "atMs"`,
};
const WRITTEN: Statement = { name: "test/written", text: "select event_id::integer as n from inbox where consumer = 'test' order by n" };
const CLEAR: Statement = { name: "test/clear", text: "delete from inbox where consumer = 'test'" };

describe("a drain", () => {
  let server: TestServer;
  let keyspaces: TestKeyspaces;
  let database: Database;
  let wired: Database;
  let wire: Wire;
  const faults: unknown[] = [];
  const directory = mkdtempSync(join(tmpdir(), "wire-"));

  before(async () => {
    server = await testServer();
    keyspaces = await testKeyspaces(server);
    const sh = keyspaces.keyspaces.databases().find(({ keyspace }) => keyspace.code === "sh")!;
    const of = { name: sh.name, city: 1, slots: sh.slots, onError: () => undefined };
    database = new Database({ ...of, url: keyspaces.urlOf(sh.name) });
    wire = await Wire.to(keyspaces.urlOf(sh.name), directory);
    wired = new Database({ ...of, url: wire.url });
  });
  after(async () => {
    await Promise.all([database.close(), wired.close()]);
    await wire.close();
    await keyspaces.drop();
    await server.stop();
    rmSync(directory, { recursive: true });
  });
  afterEach(async () => {
    await database.query(CLEAR);
    faults.length = 0;
  });

  /** Drains inputs as one batch. */
  const run = async <I>(drain: DrainFunction<I, unknown>, inputs: readonly I[], on: Database = database): Promise<string[]> => {
    const outcomes: unknown[] = [];
    const drainer = new Drainer(on, new Map([["k", drain as DrainFunction<unknown, unknown>]]), (error) => void faults.push(error));
    const settled = new Array<number>(inputs.length).fill(0);
    await drainer.drain(
      SHARD,
      inputs.map((input, index) => ({
        kind: "k",
        input,
        merchantId: undefined,
        deadlineMs: Infinity,
        enqueuedMs: 0,
        settle(outcome: unknown) {
          outcomes[index] = outcome;
          settled[index]!++;
        },
      })),
    );
    assert.ok(
      settled.every((times) => times === 1),
      "every command is settled once",
    );
    return outcomes.map((outcome) => (outcome instanceof Error ? codeOf(outcome) : String(outcome)));
  };
  const write = async (work: Work, inputs: readonly number[]): Promise<string[]> => {
    await work.query(WRITE, [inputs]);
    return inputs.map((n) => `wrote ${n}`);
  };
  /** A mailbox as the platform makes it: its drains take turns at the database's lane. */
  const mailboxOf = (on: Database, drain: DrainFunction<number, unknown>) => {
    const order: string[] = [];
    let batches = 0;
    const noting: DrainFunction<number, unknown> = (work, inputs) => {
      batches++;
      order.push(`${inputs.join()} begins`);
      return drain(work, inputs);
    };
    const drainer = new Drainer(on, new Map([["k", noting as DrainFunction<unknown, unknown>]]), (error) => void faults.push(error));
    const mailbox = new Mailbox(
      SHARD,
      (commands, passOn) => drainer.drain(SHARD, commands, passOn),
      LIMITS,
      { drained: () => undefined, refused: () => undefined },
      (run_) => on.inTurn(SHARD.slot, run_),
    );
    return {
      mailbox,
      order,
      post: (n: number) => mailbox.post<number, unknown>("k", n, { timeoutMs: 10_000 }).finally(() => void order.push(`${n} is answered`)),
      begun: async (count: number) => {
        while (batches < count) await new Promise((resolve) => setImmediate(resolve));
      },
    };
  };
  const written = async () => (await database.query<{ n: number }>(WRITTEN)).map(({ n }) => n);

  test("answers every command of its batch, by kind in lock order, and commits once", async () => {
    const order: string[] = [];
    const kinds = new Map<string, DrainFunction<unknown, unknown>>(
      ["a", "b"].map((kind) => [
        kind,
        async (work, inputs) => (order.push(`${kind} ${inputs.join("+")}`), write(work, inputs as number[])),
      ]),
    );
    const answers: unknown[] = [];
    const command = (kind: string, n: number, index: number): Command => ({
      kind,
      input: n,
      merchantId: undefined,
      deadlineMs: Infinity,
      enqueuedMs: 0,
      settle: (answer) => (answers[index] = answer),
    });
    await new Drainer(database, kinds, assert.fail).drain(SHARD, [command("b", 1, 0), command("a", 2, 1), command("b", 3, 2)]);
    assert.deepEqual(answers, ["wrote 1", "wrote 2", "wrote 3"]);
    assert.deepEqual(order, ["a 2", "b 1+3"]);
    assert.deepEqual(await written(), [1, 2, 3]);
  });
  test("takes its time from the database and its ids from its shard", async () => {
    const seen: { now: Date; ids: string[] }[] = [];
    await run(
      async (work, inputs: readonly number[]) => {
        // Side by side, as drains do: nobody gets another's.
        const [a, b, c] = await Promise.all([work.mint(1), work.mint(600), work.mint(3)]);
        seen.push({ now: await work.now(), ids: [...a, ...b, ...c] });
        return inputs;
      },
      [1],
    );
    const [{ now, ids }] = seen as [{ now: Date; ids: string[] }];
    assert.ok(Math.abs(now.getTime() - Date.now()) < 60_000);
    assert.equal(new Set(ids).size, 604);
    assert.ok(ids.every((id) => BigInt(id) % 16n === 5n && ((BigInt(id) >> 4n) & 255n) === 1n));
  });
  test("a refusal is an answer: it takes nobody with it", async () => {
    const answers = await run(
      async (work, inputs: readonly number[]) => {
        await write(
          work,
          inputs.filter((n) => n !== 2),
        );
        return inputs.map((n) => (n === 2 ? refusal(COMMON_ERRORS, "FORBIDDEN", { need: "others" }) : n));
      },
      [1, 2, 3],
    );
    assert.deepEqual(answers, ["1", "FORBIDDEN", "3"]);
    assert.deepEqual(await written(), [1, 3]);
  });
  test("halves a poisoned batch until the poison stands alone, and only it fails", async () => {
    const batches: number[] = [];
    const answers = await run(
      async (work, inputs: readonly number[]) => {
        batches.push(inputs.length);
        const answered = await write(work, inputs);
        if (inputs.includes(11)) await work.query({ name: "test/poison", text: "select 1 / $1::integer" }, [0]);
        return answered;
      },
      Array.from({ length: 16 }, (_, n) => n),
    );
    assert.deepEqual(
      answers,
      Array.from({ length: 16 }, (_, n) => (n === 11 ? "error" : `wrote ${n}`)),
    );
    assert.deepEqual(await written(), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 13, 14, 15]);
    assert.deepEqual(batches, [16, 8, 8, 4, 2, 2, 1, 1, 4], "one half after the other, five times down to one");
    assert.deepEqual(faults.map(sqlState), ["22012"], "and it is told once");
  });
  test("finds several poisons, thrown by code, an invariant or a constraint", async () => {
    const answers = await run(
      async (work, inputs: readonly number[]) => {
        if (inputs.includes(2)) throw new InvariantViolation("two is fine");
        if (inputs.includes(5)) throw new TypeError("five");
        return write(
          work,
          inputs.map((n) => (n === 7 ? 0 : n)),
        );
      },
      [0, 1, 2, 3, 4, 5, 6, 7],
    );
    assert.deepEqual(answers, ["wrote 0", "wrote 1", "InvariantViolation", "wrote 3", "wrote 4", "TypeError", "wrote 6", "error"]);
    assert.deepEqual(await written(), [0, 1, 3, 4, 6]);
    assert.equal(faults.length, 3);
  });
  test("reads again when a constraint says that somebody else was first, also after contention", async () => {
    for (const contended of [false, true]) {
      let tries = 0;
      const answers = await run(
        async (work, inputs: readonly number[]) => {
          const there = new Set((await work.query<{ n: number }>(WRITTEN)).map(({ n }) => n));
          if (contended && ++tries === 1)
            await work.query({ name: "test/deadlock", text: "do $$ begin raise exception using errcode = '40P01'; end $$" });
          // Another node writes between our read and our write.
          await database.query({
            name: "test/other",
            text: "insert into inbox (consumer, source, event_id) values ('test', 'test', 7) on conflict do nothing",
          });
          await write(
            work,
            inputs.filter((n) => !there.has(n)),
          );
          return inputs.map((n) => (there.has(n) ? `found ${n}` : `wrote ${n}`));
        },
        [7],
      );
      assert.deepEqual(answers, ["found 7"]);
      await database.query(CLEAR);
    }
    assert.deepEqual(faults, []);
  });
  test("tries again what only stood in somebody's way, and says OVERLOADED when it stays so", async () => {
    let tries = 0;
    const contended = (code: string, times: number): DrainFunction<number, unknown> => {
      tries = 0;
      return async (work, inputs) => {
        const answers = await write(work, inputs);
        if (++tries <= times)
          await work.query({ name: `test/raise-${code}`, text: `do $$ begin raise exception using errcode = '${code}'; end $$` });
        return answers;
      };
    };
    for (const code of ["40001", "40P01", "55P03"]) {
      assert.deepEqual(await run(contended(code, 2), [1, 2]), ["wrote 1", "wrote 2"], code);
      await database.query(CLEAR);
    }
    assert.deepEqual(await run(contended("40P01", 99), [1, 2]), ["OVERLOADED", "OVERLOADED"]);
    assert.equal(tries, 3);
    // A statement past its time is not its values' fault: halving the batch would only take as long again, and again.
    assert.deepEqual(await run(contended("57014", 99), [1, 2]), ["OVERLOADED", "OVERLOADED"]);
    assert.equal(tries, 1);
    assert.deepEqual(await written(), []);
  });
  test("two drains that lock the same rows in two orders both get through", async () => {
    await database.query(WRITE, [[1, 2]]);
    const lock = { name: "test/lock", text: "select 1 from inbox where consumer = 'test' and event_id = $1 for update" };
    const locker: DrainFunction<readonly number[], unknown> = async (work, [rows = []]) => {
      for (const row of rows) {
        await work.query(lock, [row]);
        await sleep(50);
      }
      return ["locked"];
    };
    assert.deepEqual(await Promise.all([run(locker, [[1, 2]]), run(locker, [[2, 1]])]), [["locked"], ["locked"]]);
  });
  test("what is to be told after the commit is told after it, once, and cannot undo it", async () => {
    const told: number[][] = [];
    let runs = 0;
    const answers = await run(
      async (work, inputs: readonly number[]) => {
        runs++;
        work.afterCommit(() => {
          throw new Error("the teller stumbles");
        });
        work.afterCommit(() => void told.push([...inputs]));
        return write(work, inputs);
      },
      [1, 2],
    );
    assert.deepEqual(answers, ["wrote 1", "wrote 2"]);
    assert.deepEqual([runs, told, await written()], [1, [[1, 2]], [1, 2]]);
    assert.equal(faults.length, 1);
    const failed: number[] = [];
    await run(
      async (work) => {
        work.afterCommit(() => void failed.push(1));
        throw new Error("never committed");
      },
      [1],
    );
    assert.deepEqual(failed, []);
  });
  test("sends nothing behind its ROLLBACK, though another of its functions is still under way", async () => {
    let straggler: Promise<unknown> = Promise.resolve();
    const answers = await run(
      async (work, inputs: readonly number[]) => {
        const slow = async () => {
          await work.query(WRITTEN);
          await sleep(20);
          await write(work, [98]);
        };
        straggler = slow();
        await Promise.all([straggler, work.query({ name: "test/fails", text: "select 1 / $1::integer" }, [0])]);
        return inputs;
      },
      [1],
    );
    assert.deepEqual(answers, ["error"]);
    await assert.rejects(straggler, /test\/write came after the end of its transaction/);
    assert.deepEqual(await written(), []);
  });
  test("an error that a drain swallows cannot pass for a commit", async () => {
    const answers = await run(
      async (work, inputs: readonly number[]) => {
        await write(work, inputs);
        await work.query({ name: "test/swallowed", text: "select 1 / $1::integer" }, [0]).catch(() => undefined);
        return inputs;
      },
      [1],
    );
    assert.deepEqual(answers, ["InvariantViolation"]);
    assert.deepEqual(await written(), []);
    assert.deepEqual(database.connections.total, database.connections.idle, "and its connection is back in the pool");
  });

  test("a COMMIT whose answer is lost is looked up: it was done, so it is answered, and not done again", async () => {
    let runs = 0;
    wire.cutAtCommit("done");
    const answers = await run((work, inputs: readonly number[]) => (runs++, write(work, inputs)), [1, 2], wired);
    assert.deepEqual(answers, ["wrote 1", "wrote 2"]);
    assert.deepEqual([runs, await written()], [1, [1, 2]]);
  });
  test("a COMMIT that never arrived is looked up: it was not done, and everybody is told so", async () => {
    let runs = 0;
    wire.cutAtCommit("lost");
    const answers = await run((work, inputs: readonly number[]) => (runs++, write(work, inputs)), [1, 2], wired);
    assert.deepEqual(answers, ["UNAVAILABLE", "UNAVAILABLE"]);
    assert.deepEqual([runs, await written()], [1, []]);
  });
  test("the outcome of a COMMIT is asked for until somebody answers, and is unknown when nobody does in time", async () => {
    wire.cutAtCommit("done", 700);
    assert.deepEqual(await run(write, [3], wired), ["wrote 3"]);
    wire.cutAtCommit("done", 1_500);
    const asked = wired.transaction(
      async (tx) => {
        const [row] = await tx.query<{ xid: string; atMs: number }>(XID);
        tx.begun = row;
        await tx.query(WRITE, [[4]]);
      },
      { deadlineMs: 300 },
    );
    await assert.rejects(
      asked,
      (error) => error instanceof DatabaseUnavailable && /outcome of transaction \d+ is not known/.test(error.message),
    );
    await sleep(1_300);
  });
  test("the next batch is sent behind a COMMIT: where that fails, it is done all the same", async () => {
    const inboxes = mailboxOf(database, async (work, inputs: readonly number[]) => {
      if (inputs.includes(13)) {
        await work.query({
          name: "test/twice",
          text: "create temporary table twice (n integer unique deferrable initially deferred) on commit drop",
        });
        await work.query({ name: "test/deferred", text: "insert into twice values (1), (1)" });
      }
      return write(work, inputs);
    });
    const bad = outcomeOf(inboxes.post(13));
    await inboxes.begun(1);
    const good = outcomeOf(inboxes.post(14));
    assert.deepEqual(await Promise.all([bad, good]), ["error", "wrote 14"], "the constraint is looked at by the COMMIT");
    assert.deepEqual(await written(), [14]);
    assert.equal(faults.length, 1);
    await inboxes.mailbox.close();
  });
  test("the next batch is sent behind a COMMIT: where the connection breaks there, one is looked up and the other is not done", async () => {
    for (const [cut, first, left] of [
      ["done", "wrote 1", [1]],
      ["lost", "UNAVAILABLE", []],
    ] as const) {
      const inboxes = mailboxOf(wired, write);
      wire.cutAtCommit(cut);
      const one = outcomeOf(inboxes.post(1));
      await inboxes.begun(1);
      const other = outcomeOf(inboxes.post(2));
      assert.deepEqual(await Promise.all([one, other]), [first, "UNAVAILABLE"]);
      assert.deepEqual(inboxes.order.slice(0, 2), ["1 begins", "2 begins"], "before either is answered");
      assert.deepEqual(await written(), left);
      await inboxes.mailbox.close();
      await database.query(CLEAR);
    }
  });
  test("a connection that dies under a drain leaves nothing, and the next drain has another", async () => {
    const dying: DrainFunction<number, unknown> = async (work, inputs) => {
      const answers = await write(work, inputs);
      const [row] = await work.query<{ pid: number }>({ name: "test/pid", text: "select pg_backend_pid() as pid" });
      await database.query({ name: "test/terminate", text: "select pg_terminate_backend($1, 2000)" }, [row?.pid]);
      await work.query(WRITTEN);
      return answers;
    };
    assert.deepEqual(await run(dying, [1, 2], wired), ["UNAVAILABLE", "UNAVAILABLE"]);
    assert.deepEqual(await written(), []);
    assert.deepEqual(await run(write, [5], wired), ["wrote 5"]);
  });
  test("without PostgreSQL everybody is told UNAVAILABLE, soon, and with it everybody is served again", async () => {
    wire.darken(500);
    const start = performance.now();
    await assert.rejects(wired.query(WRITTEN), DatabaseUnavailable);
    const mailbox = new Mailbox(
      SHARD,
      (commands) => new Drainer(wired, new Map([["k", write as DrainFunction<unknown, unknown>]]), assert.fail).drain(SHARD, commands),
      LIMITS,
      {
        drained: () => undefined,
        refused: () => undefined,
      },
    );
    await assert.rejects(mailbox.post("k", 1, { timeoutMs: 5_000 }), { type: "UNAVAILABLE", code: 503, retryable: true });
    assert.ok(performance.now() - start < 3_000);
    while (performance.now() - start < 600) await sleep(20);
    assert.equal(await mailbox.post("k", 6, { timeoutMs: 5_000 }), "wrote 6");
    await mailbox.close();
    assert.deepEqual(await written(), [6]);
  });
});
