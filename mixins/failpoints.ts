/**
 * Failpoints: the steps at which a process may be told to die, so that a test can kill it at each of them (`tests/support/failpoints.ts`).
 * No path names its own. They are named here, at the seams every path goes through, by what a node is put together from, so a new drain, channel,
 * statement, event consumer or route has its steps without anybody writing one down:
 *
 *   before|after drain payment.decide       its statements are sent, nothing is committed | committed, nobody is answered
 *   before|after call simpay.refund         nothing has left for the channel | it has answered, nobody has written it down
 *   before|after write refund/claim         a statement that is a transaction of its own: not sent | committed
 *   before|after commit recon.match         a transaction on a connection outside the pools
 *   before|after events notify              an event consumer has done nothing yet | its effect is committed, not acknowledged
 *   after answer POST /api/v1/orders        the caller has been told that it is done; before it is `after` the last of the others
 *
 * and between the nodes of a cluster:
 *
 *   after ask order.place                   another node has done it, and nobody here knows; before it nothing has happened
 *   before|after events jetstream           the relay hands on: nothing is published | published and noted, the log is not confirmed
 *   before|after publish events             nothing has left for JetStream | it has them on file, nobody has noted that
 *   before|after acknowledge notify         effect and position are committed | JetStream knows
 *
 * A node without them has the plain functions: they are chosen once, at start, and cost nothing. `tests/failpoints.test.ts` holds that there is no
 * way around the seams.
 */
import type { ServerResponse } from "node:http";
import type { ActionSchema, Middleware } from "moleculer";
import type { Consumer, JsMsg, PubAck } from "nats";
import type pg from "pg";
import type { EventType } from "../domain/events.ts";
import { Database, type Statement } from "../db/database.ts";
import type { Channel, Channels } from "./channels/index.ts";
import type { DrainFunction } from "./drain.ts";
import { EventStreams } from "./jetstream.ts";
import { isBeat } from "./jetstream-publisher.ts";
import type { EventConsumer } from "./journal-delivery.ts";

/** What of a channel goes out to it; its statements are handed to us. */
const CALLS = ["charge", "query", "close", "refund", "queryRefund", "payout", "queryPayout"] as const;
/** A statement that changes rows: not one that only locks them (`for update`, `for no key update`). */
export const WRITES = /^\s*copy\b|\b(?:insert into|delete from)\b|(?<!\b(?:for|key) )\bupdate (?!skip\b)\w/;

export class Failpoints {
  readonly #pass: (step: string) => void;
  readonly #known = new Set<string>();

  /** `pass` is told of every step that is passed, before whatever comes next; it may never return. */
  constructor(pass: (step: string) => void) {
    this.#pass = pass;
  }

  /** Every step of what was put together so far, and of each statement, commit and call of another node that has been passed. */
  get steps(): ReadonlySet<string> {
    return this.#known;
  }

  drain<I, O>(kind: string, drain: DrainFunction<I, O>): DrainFunction<I, O> {
    const [before, after] = this.#around(`drain ${kind}`);
    return async (work, inputs) => {
      // Ahead of what the drain itself does after the commit: nobody has been told yet.
      work.afterCommit(after);
      const outcomes = await drain(work, inputs);
      before();
      return outcomes;
    };
  }

  channels(channels: Channels): Channels {
    return new Map([...channels].map(([name, channel]) => [name, this.#channel(channel)]));
  }

  #channel(channel: Channel): Channel {
    const calls = CALLS.map((call) => {
      const steps = this.#around(`call ${channel.name}.${call}`);
      const made = channel[call].bind(channel) as (order: unknown) => Promise<unknown>;
      return [call, (order: unknown) => passing(steps, () => made(order))] as const;
    });
    return { ...channel, ...Object.fromEntries(calls) };
  }

  consumer<T extends EventType>(consumer: EventConsumer<T>): EventConsumer<T> {
    const steps = this.#around(`events ${consumer.name}`);
    const beat = consumer.beat?.bind(consumer);
    return { ...consumer, ...(beat && { beat }), handle: (batch) => passing(steps, () => consumer.handle(batch)) };
  }

  database(options: ConstructorParameters<typeof Database>[0]): Database {
    return new PassedDatabase(options, (write, work) => passing(this.#around(`write ${write}`), work));
  }

  streams(...of: ConstructorParameters<typeof EventStreams>): EventStreams {
    return new PassedStreams((what) => this.#around(what), of);
  }

  /** COMMIT on a connection of its own. */
  async commit(name: string, client: pg.Client): Promise<void> {
    await passing(this.#around(`commit ${name}`), () => client.query("commit"));
  }

  /** `serve`, which ends the response of what it is given. A refusal acknowledges nothing. */
  answer<X extends { readonly res: Pick<ServerResponse, "once" | "statusCode"> }, R>(
    route: string,
    serve: (exchange: X) => R,
  ): (exchange: X) => R {
    const after = this.#step(`after answer ${route}`);
    return (exchange) => {
      const { res } = exchange;
      res.once("finish", () => void (res.statusCode < 300 && after()));
      return serve(exchange);
    };
  }

  /** Calls of other nodes. */
  asks(): Middleware {
    const remoteAction =
      <X>(next: (ctx: X) => Promise<unknown>, { name = "" }: ActionSchema) =>
      async (ctx: X): Promise<unknown> => {
        const answer = await next(ctx);
        this.#step(`after ask ${name}`)();
        return answer;
      };
    return { name: "Failpoints", remoteAction };
  }

  #around(what: string): Steps {
    return [this.#step(`before ${what}`), this.#step(`after ${what}`)];
  }

  #step(step: string): () => void {
    this.#known.add(step);
    return () => this.#pass(step);
  }
}

type Steps = readonly [before: () => void, after: () => void];

async function passing<R>([before, after]: Steps, work: () => Promise<R>): Promise<R> {
  before();
  const result = await work();
  after();
  return result;
}

/** A statement outside any transaction of ours is one by itself. */
class PassedDatabase extends Database {
  readonly #around: <R>(write: string, work: () => Promise<R>) => Promise<R>;

  constructor(options: ConstructorParameters<typeof Database>[0], around: <R>(write: string, work: () => Promise<R>) => Promise<R>) {
    super(options);
    this.#around = around;
  }

  protected override send<Row extends object>(pool: pg.Pool, statement: Statement, values?: readonly unknown[]): Promise<Row[]> {
    const send = (): Promise<Row[]> => super.send<Row>(pool, statement, values);
    return WRITES.test(statement.text) ? this.#around(statement.name, send) : send();
  }
}

/** A beat has no events: nothing is lost with it. */
class PassedStreams extends EventStreams {
  readonly #around: (what: string) => Steps;
  readonly #published: Steps;

  constructor(around: (what: string) => Steps, of: ConstructorParameters<typeof EventStreams>) {
    super(...of);
    this.#around = around;
    this.#published = around("publish events");
  }

  override publish(...of: Parameters<EventStreams["publish"]>): Promise<PubAck> {
    const send = (): Promise<PubAck> => super.publish(...of);
    return isBeat(of[1].payload) ? send() : passing(this.#published, send);
  }

  override consumer(database: Database, name: string): Promise<Consumer> {
    // Known from here on.
    this.#around(`acknowledge ${name}`);
    return super.consumer(database, name);
  }

  override acknowledge(name: string, message: JsMsg): Promise<void> {
    return passing(this.#around(`acknowledge ${name}`), () => super.acknowledge(name, message));
  }
}

/** COMMIT of what is written on a connection outside the pools; `name` is its failpoint's. */
export async function commit(failpoints: Failpoints | undefined, name: string, client: pg.Client): Promise<void> {
  await (failpoints === undefined ? client.query("commit") : failpoints.commit(name, client));
}
