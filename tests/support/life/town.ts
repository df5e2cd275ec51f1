/**
 * Where lives are lived: real databases, a real simpay outside, and for each lane a node of its own with a city of its own, so that lanes run beside
 * each other and one of them can crash. A node that crashes is refused by PostgreSQL from one moment to the next, as if its process were gone.
 */
import { readSync, openSync, closeSync } from "node:fs";
import { createServer, ServerResponse, type IncomingMessage, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { once } from "node:events";
import { parseKeyspaces, type Keyspaces } from "../../../db/keyspaces.ts";
import { unknown, refused, type Outcome } from "../../../domain/channel/records.ts";
import { shardOf, type Id } from "../../../domain/ids.ts";
import { simpayChannel } from "../../../mixins/channels/simpay.ts";
import type { Channel } from "../../../mixins/channels/index.ts";
import { rawHandlerOf } from "../../../mixins/raw-routes.ts";
import { makeNode, type Node } from "../../../moleculer.config.ts";
import { receiveCallback } from "../../../services/callback/callback.contract.ts";
import type { Line, Stored } from "../../../simpay/records.ts";
import { admin, testKeyspaces, testServer, type TestKeyspaces, type TestServer } from "../databases.ts";
import { SECRET, SimpayProcess, type TestSimpay } from "../simpay.ts";
import type { Mood } from "./model.ts";

/** A callback that simpay has sent and nobody of ours has heard: the test says when, and how often. */
export interface Held {
  readonly id: string;
  readonly number: Id;
  readonly raw: Buffer;
  readonly request: IncomingMessage;
}

export class Town {
  readonly server: TestServer;
  readonly keyspaces: TestKeyspaces;
  readonly simpay: TestSimpay;
  readonly lanes: Lane[] = [];
  /** By city. */
  readonly held = new Map<number, Held[]>();
  readonly #outside: SimpayProcess;
  readonly #ear: Server;
  /** Follows the events of every city, so that each order reaches its consumer's index. */
  #office: Node | undefined;
  #leaving: Promise<unknown>[] = [];
  #read = 0;
  readonly #witness = new Map<number, Map<string, Stored>>();

  private constructor(parts: { server: TestServer; keyspaces: TestKeyspaces; outside: SimpayProcess; simpay: TestSimpay }) {
    this.server = parts.server;
    this.keyspaces = parts.keyspaces;
    this.#outside = parts.outside;
    this.simpay = parts.simpay;
    this.#ear = createServer((request, response) => void this.#hear(request, response));
  }

  static async open(lanes: number): Promise<Town> {
    const cities = Array.from({ length: lanes }, (_, lane) => lane + 1);
    const server = await testServer();
    const outside = new SimpayProcess();
    const keyspaces = await testKeyspaces(
      server,
      (mark) => `
    keyspaces:
      user: { id: 0, name: users, databases: { user_${mark}: 0-15 } }
${cities.map((city) => `      c${city}: { id: ${city}, name: city ${city}, databases: { c${city}_${mark}: 0-15 } }`).join("\n")}`,
    );
    const town = new Town({ server, keyspaces, outside, simpay: await outside.start() });
    town.#ear.listen(0, "127.0.0.1");
    await once(town.#ear, "listening");
    town.#office = await makeNode({
      ...common,
      nodeID: "office",
      keyspaces: keyspaces.keyspaces,
      urlOf: keyspaces.urlOf,
      services: ["order-index", "journal"],
    });
    for (const city of cities) town.lanes.push(await Lane.open(town, city));
    return town;
  }

  async close(): Promise<void> {
    for (const lane of this.lanes) this.leave(lane.node.stop());
    if (this.#office) this.leave(this.#office.stop());
    await Promise.all(this.#leaving);
    this.#ear.close();
    this.#outside.remove();
    for (const lane of this.lanes) await lane.dropRoles();
    await this.keyspaces.drop();
    await this.server.stop();
  }

  leave(stopping: Promise<unknown>): void {
    this.#leaving.push(stopping.catch(() => undefined));
  }

  get notifyUrl(): string {
    return `http://127.0.0.1:${(this.#ear.address() as AddressInfo).port}/callbacks`;
  }

  /** Always 200: what becomes of it is the test's business, and simpay need not send it again. */
  async #hear(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const parts: Buffer[] = [];
    for await (const part of request as AsyncIterable<Buffer>) parts.push(part);
    const raw = Buffer.concat(parts);
    const { id, data } = JSON.parse(raw.toString("utf8")) as { id: string; data: { number: Id } };
    const { city } = shardOf(data.number);
    this.held.set(city, [...(this.held.get(city) ?? []), { id, number: data.number, raw, request }]);
    response.writeHead(200).end();
  }

  /** Everything simpay has done for a city, from its own log, of which only what is new is read. */
  witness(city: number): Map<string, Stored> {
    const file = openSync(this.#outside.logFile, "r");
    const buffer = Buffer.alloc(1 << 16);
    let text = Buffer.alloc(0);
    for (let got = 1; got > 0; text = Buffer.concat([text, buffer.subarray(0, got)]))
      got = readSync(file, buffer, 0, buffer.length, this.#read + text.length);
    closeSync(file);
    const whole = text.subarray(0, text.lastIndexOf(10) + 1);
    this.#read += whole.length;
    for (const line of whole.toString("utf8").split("\n")) {
      const said = line === "" ? undefined : (JSON.parse(line) as Line);
      if (!said || !("records" in said)) continue;
      for (const record of said.records) {
        const { city: of } = shardOf(record.number);
        const seen = this.#witness.get(of) ?? new Map<string, Stored>();
        this.#witness.set(of, seen.set(`${record.type} ${record.number}`, record));
      }
    }
    return this.#witness.get(city) ?? new Map<string, Stored>();
  }
}

const common = {
  logLevel: process.env["LOG_LEVEL"] ?? "fatal",
  trade: { orderTtlSeconds: 900, reversalMinutes: 60, settlementDelayMinutes: 60 },
};

export class Lane {
  readonly city: number;
  mood: Mood = "up";
  node!: Node;
  readonly #town: Town;
  readonly #adapter: Channel;
  readonly #roles: string[] = [];
  #alive = { yes: true };

  private constructor(town: Town, city: number) {
    this.#town = town;
    this.city = city;
    this.#adapter = simpayChannel({ url: town.simpay.url, secret: SECRET }, { notifyUrl: town.notifyUrl });
  }

  static async open(town: Town, city: number): Promise<Lane> {
    const lane = new Lane(town, city);
    await lane.#start();
    return lane;
  }

  /** From this moment the node does nothing any more, neither in a database nor at the channel; what it had not committed is rolled back. Then another one starts. */
  async crash(): Promise<void> {
    const role = this.#roles.at(-1) ?? "";
    this.#alive.yes = false;
    await admin(this.#town.server, async (client) => {
      await client.query(`alter role ${role} nologin`);
      await client.query("select pg_terminate_backend(pid) from pg_stat_activity where usename = $1", [role]);
    });
    this.#town.leave(this.node.stop());
    await this.#start();
  }

  /** simpay's callback at our door: the status it is answered with. */
  async deliver({ raw, request }: Held, body: Buffer = raw): Promise<number> {
    const handler = rawHandlerOf(this.node.broker, receiveCallback);
    const answered = Promise.withResolvers<number>();
    await handler?.({
      caller: undefined,
      requestId: "callback",
      query: {},
      pathValues: ["simpay"],
      body: () => Promise.resolve(body),
      req: request,
      send: (status) => answered.resolve(status),
      res: new ServerResponse(request),
    });
    return answered.promise;
  }

  /** What the channel itself says, whatever its mood. */
  query(number: string): ReturnType<Channel["query"]> {
    return this.#adapter.query(number);
  }

  async dropRoles(): Promise<void> {
    await admin(this.#town.server, async (client) => {
      for (const role of this.#roles) await client.query(`drop role ${role}`);
    });
  }

  async #start(): Promise<void> {
    const role = `lane_${this.city}_${this.#roles.length}_${process.pid}`;
    await admin(this.#town.server, (client) => client.query(`create role ${role} superuser login`));
    this.#roles.push(role);
    this.#alive = { yes: true };
    const { keyspaces, urlOf } = this.#town.keyspaces;
    this.node = await makeNode({
      ...common,
      nodeID: role,
      keyspaces: only(keyspaces, this.city),
      urlOf: (database) => {
        const url = new URL(urlOf(database));
        url.username = role;
        return url.href;
      },
      services: ["wallet", "group", "order", "payment", "voucher", "settlement", "callback", "ops"],
      settings: { wallet: { testChannel: true } },
      channels: new Map([["simpay", this.#channel(this.#alive)]]),
    });
  }

  /** simpay, as moody as the test wants it; nothing gets there from a node that is gone. */
  #channel(alive: { readonly yes: boolean }): Channel {
    const adapter = this.#adapter;
    const through = async <T>(call: () => Promise<Outcome<T>>): Promise<Outcome<T>> => {
      const { mood } = this;
      if (!alive.yes || mood === "down") return unknown("connection", "nobody there");
      if (mood === "busy" || mood === "no")
        return refused("CHANNEL_REFUSED", "the channel does not want to", mood === "no" ? "never" : "later");
      const outcome = await call();
      return mood === "deaf" ? unknown("server error", "HTTP 500") : outcome;
    };
    /** The first to make it; what we ask for then is the same again. */
    const struck = async (mood: Mood, path: string, body: object, fault: "wrongAmount" | "returnPayout"): Promise<void> => {
      if (this.mood === mood && alive.yes) await this.#town.simpay.call("POST", path, body, [fault]);
    };
    const { notifyUrl } = this.#town;
    return {
      ...adapter,
      charge: async (order) => {
        const { number, currency, subject, expiresAtMs = 0 } = order;
        const body = { number, amount: Number(order.amount), currency, subject, notifyUrl, expiresAt: new Date(expiresAtMs).toISOString() };
        await struck("wrong", "/v1/charges", body, "wrongAmount");
        return through(() => adapter.charge(order));
      },
      query: (number) => through(() => adapter.query(number)),
      close: (number) => through(() => adapter.close(number)),
      refund: (order) => through(() => adapter.refund(order)),
      queryRefund: (number) => through(() => adapter.queryRefund(number)),
      payout: async (order) => {
        const { number, currency, account } = order;
        await struck("returns", "/v1/payouts", { number, amount: Number(order.amount), currency, account, notifyUrl }, "returnPayout");
        return through(() => adapter.payout(order));
      },
      queryPayout: (number) => through(() => adapter.queryPayout(number)),
    };
  }
}

/** The users and one city. */
function only(all: Keyspaces, city: number): Keyspaces {
  const lines = all
    .databases()
    .flatMap(({ name, keyspace }) =>
      keyspace.id === 0 || keyspace.id === city
        ? [`  ${keyspace.kind === "user" ? "user" : `c${city}`}: { id: ${keyspace.id}, name: x, databases: { ${name}: 0-15 } }`]
        : [],
    );
  return parseKeyspaces(["keyspaces:", ...lines].join("\n"));
}
