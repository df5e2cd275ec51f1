/** simpay's door: the merchant's calls, the customer's pay page, and the switches for faults. */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { join } from "node:path";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { createGzip } from "node:zlib";
import { bodyOf, chargeAsk, payoutAsk, refundAsk } from "./asks.ts";
import { Book, emptyIndex, indexLine, Refused } from "./book.ts";
import { Callbacks, OwedIndex } from "./callbacks.ts";
import { Faults, faultsOf, planOf, type FaultName } from "./faults.ts";
import { Log } from "./log.ts";
import { noSuchPage, PAGE_HEADERS, payPage } from "./page.ts";
import type { Falsified, Line, Stored } from "./records.ts";
import { isGenuine, sameText, sign } from "./signature.ts";
import { statement } from "./statement.ts";
import { view } from "./views.ts";

export interface SimpayOptions {
  readonly dataDir: string;
  readonly host: string;
  readonly port: number;
  /** Signs calls, answers and callbacks. */
  readonly secret: string;
  /** Opens /faults and /log, as a bearer token. */
  readonly adminSecret: string;
  /** All delays of callbacks and settling are divided by it. */
  readonly timeFactor: number;
  /** How customers and merchants reach it, when not by host and port. */
  readonly publicUrl?: string | undefined;
}

export interface Simpay {
  readonly url: string;
  readonly port: number;
  stop(): Promise<void>;
}

const BODY_BYTES_MAX = 65_536;
/** Refunds and payouts of real channels take seconds to days. */
const SETTLE_MS = 2_000;
/** False lines told in one line of the log, which has 8 KB. */
const FALSIFIED_MAX = 100;

export async function startSimpay(options: SimpayOptions): Promise<Simpay> {
  const known = emptyIndex();
  const owed = new OwedIndex();
  const log = await Log.open<Line>(join(options.dataDir, "log.jsonl"), (line, place) => {
    indexLine(known, line, place);
    owed.index(line, place);
  });
  const door = new Door(options, log);
  try {
    await door.listen();
  } catch (error) {
    await log.close();
    throw error;
  }
  door.begin(known, owed);
  return { url: door.url, port: door.port, stop: () => door.stop() };
}

class Door {
  readonly #o: SimpayOptions;
  readonly #log: Log<Line>;
  readonly #faults = new Faults();
  readonly #callbacks: Callbacks;
  readonly #http: Server;
  readonly #leaving = new AbortController();
  #book: Book | undefined;
  port = 0;

  constructor(options: SimpayOptions, log: Log<Line>) {
    this.#o = options;
    this.#log = log;
    const { secret, timeFactor } = options;
    this.#callbacks = new Callbacks({ log, secret, timeFactor, baseUrl: () => this.url, tokenOf: (number) => this.#open().token(number) });
    this.#http = createServer((request, response) => {
      this.#answer(request, response).catch((error: unknown) => this.#failed(error, response));
    });
  }

  get url(): string {
    return this.#o.publicUrl ?? `http://${this.#o.host}:${this.port}`;
  }

  listen(): Promise<void> {
    return new Promise((done, failed) => {
      this.#http.once("error", failed);
      this.#http.listen(this.#o.port, this.#o.host, () => {
        const address = this.#http.address();
        if (typeof address === "object" && address) this.port = address.port;
        done();
      });
    });
  }

  begin(known: ReturnType<typeof emptyIndex>, owed: OwedIndex): void {
    this.#book = new Book(
      {
        log: this.#log,
        faults: this.#faults,
        secret: this.#o.secret,
        settleMs: SETTLE_MS / this.#o.timeFactor,
        onCallback: (id, place, faults) => this.#callbacks.owe(id, place, faults),
      },
      known,
    );
    this.#callbacks.resume(owed);
  }

  async stop(): Promise<void> {
    this.#leaving.abort();
    this.#book?.stop();
    const closed = new Promise((done) => this.#http.close(done));
    this.#http.closeAllConnections();
    await closed;
    await this.#callbacks.stop();
    await this.#log.close();
  }

  #open(): Book {
    if (!this.#book) throw new Refused(503, "STARTING", "the log is being read");
    return this.#book;
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const target = request.url ?? "/";
    const path = target.split("?")[0]?.split("/").slice(1) ?? [];
    if (path[0] === "healthz") return send(response, 200, { status: "ok" });
    if (path[0] === "pay") return this.#page(request, response, path);
    if (path[0] === "faults" || path[0] === "log") return this.#admin(request, response, path[0]);
    if (path[0] !== "v1") return send(response, 404, { code: "NOT_FOUND", message: "no such address" });
    await this.#call(request, response, target, path.slice(1));
  }

  /** One call of the merchant: known by its signature, struck by faults, then done, and answered once it is on the disk. */
  async #call(request: IncomingMessage, response: ServerResponse, target: string, path: readonly string[]): Promise<void> {
    const raw = await bodyBytes(request);
    const { secret } = this.#o;
    if (!isGenuine(secret, `${request.method} ${target}`, raw, request.headers, Date.now()))
      return send(response, 401, { code: "BAD_SIGNATURE", message: "signature or time are wrong" });
    const certain = faultsOf(request.headers["simpay-fault"]?.toString());
    if (!certain) return send(response, 400, { code: "BAD_REQUEST", message: "simpay-fault names no fault" });
    const [kind = "", name = "", verb = ""] = path;
    const body = request.method === "POST" && raw.length > 0 ? bodyOf(raw) : {};
    const route = `${request.method} ${kind}${name === "" ? "" : "/*"}${verb === "" ? "" : `/${verb}`}`;
    const call = this.#faults.call(route, name === "" ? String(body["number"]) : name);
    const strikes = (fault: FaultName): boolean => this.#faults.strikes(fault, call, certain);
    if (strikes("hang")) return;
    if (strikes("slow")) await sleep(this.#faults.plan.slowMs, undefined, { signal: this.#leaving.signal });
    const answer = (status: number, content: unknown): void => {
      const key = strikes("forgedAnswer") ? `not ${secret}` : secret;
      send(response, status, content, (text) => sign(key, `answer ${String(request.headers["simpay-nonce"])}`, text, Date.now()));
    };
    try {
      if (strikes("refuse")) throw new Refused(403, "CHANNEL_REFUSED", "the channel does not want to");
      if (route === "GET statements/*") return await this.#statement(request, response, name);
      const { status, record } = this.#do(route, body, name, certain);
      await this.#log.durable();
      if (strikes("errorAfterDoing")) answer(500, { code: "INTERNAL", message: "something broke" });
      else
        answer(
          status,
          view(record, this.url, (number) => this.#open().token(number)),
        );
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      await this.#log.durable();
      answer(error.status, { code: error.code, message: error.message });
    }
  }

  /** Synchronous: nothing comes between what it reads and what it appends. */
  #do(
    route: string,
    body: Readonly<Record<string, unknown>>,
    name: string,
    faults: readonly FaultName[],
  ): { status: number; record: Stored } {
    const book = this.#open();
    const found = (record: Stored | undefined): { status: number; record: Stored } => {
      if (!record) throw new Refused(404, "NOT_FOUND", "nothing has this number");
      return { status: 200, record };
    };
    switch (route) {
      case "POST charges":
        return { status: 201, record: book.charge(chargeAsk(body, faults)) };
      case "GET charges/*":
        return found(book.find("charge", name));
      case "POST charges/*/close":
        return { status: 200, record: book.close(name) };
      case "POST refunds":
        return { status: 201, record: book.refund(refundAsk(body, faults)) };
      case "GET refunds/*":
        return found(book.find("refund", name));
      case "POST payouts":
        return { status: 201, record: book.payout(payoutAsk(body, faults)) };
      case "GET payouts/*":
        return found(book.find("payout", name));
      default:
        throw new Refused(404, "NO_SUCH_CALL", `there is no ${route}`);
    }
  }

  /** Streamed, so that a day of a million lines costs no memory; packed when the merchant's HTTP client says it can unpack. */
  async #statement(request: IncomingMessage, response: ServerResponse, day: string): Promise<void> {
    if (!/^\d{4}-\d\d-\d\d$/.test(day)) throw new Refused(400, "BAD_REQUEST", "a day is YYYY-MM-DD");
    await this.#log.durable();
    const lines = Readable.from(packed(this.#lines(day)));
    const gzip = /\bgzip\b/.test(String(request.headers["accept-encoding"] ?? ""));
    response.writeHead(200, {
      "content-type": "text/csv; charset=utf-8",
      vary: "accept-encoding",
      ...(gzip ? { "content-encoding": "gzip" } : {}),
    });
    try {
      await (gzip ? pipeline(lines, createGzip(), response) : pipeline(lines, response));
    } catch (error) {
      // The merchant left in the middle; it has no total and will ask again.
      if ((error as NodeJS.ErrnoException).code !== "ERR_STREAM_PREMATURE_CLOSE") throw error;
    }
  }

  /** What was falsified is in the log before the statement has ended: who reads both finds them in agreement. */
  *#lines(day: string): Generator<string> {
    const falsified: Falsified[] = [];
    yield* statement(this.#open(), day, this.#faults, (line) => falsified.push(line));
    for (let from = 0; from < falsified.length; from += FALSIFIED_MAX)
      this.#log.append({ event: "statement.falsified", day, lines: falsified.slice(from, from + FALSIFIED_MAX) });
  }

  async #page(request: IncomingMessage, response: ServerResponse, [, number = "", token = ""]: readonly string[]): Promise<void> {
    const book = this.#open();
    const charge = sameText(token, book.token(number)) ? book.find("charge", number) : undefined;
    const html = (status: number, text: string): void => void response.writeHead(status, PAGE_HEADERS).end(text);
    if (!charge) return html(404, noSuchPage());
    if (request.method === "POST") {
      await bodyBytes(request);
      if (charge.status === "PENDING") book.pay(number);
      await this.#log.durable();
      // Another GET: reloading the page afterwards must not ask whether to pay again.
      return void response.writeHead(303, { location: `/pay/${number}/${token}` }).end();
    }
    await this.#log.durable();
    html(200, payPage(charge));
  }

  async #admin(request: IncomingMessage, response: ServerResponse, what: "faults" | "log"): Promise<void> {
    const raw = await bodyBytes(request);
    if (!sameText(request.headers.authorization ?? "", `Bearer ${this.#o.adminSecret}`))
      return send(response, 401, { code: "UNAUTHENTICATED", message: "Authorization: Bearer and the admin secret are needed" });
    if (what === "log") {
      response.writeHead(200, { "content-type": "application/x-ndjson" });
      return pipeline(await this.#log.stream(), response);
    }
    if (request.method === "PUT") {
      const plan = planOf(bodyOf(raw));
      if (typeof plan === "string") return send(response, 400, { code: "BAD_REQUEST", message: plan });
      this.#faults.plan = plan;
    }
    send(response, 200, this.#faults.plan);
  }

  #failed(error: unknown, response: ServerResponse): void {
    if (error instanceof Refused && !response.headersSent)
      return send(response, error.status, { code: error.code, message: error.message });
    if (this.#leaving.signal.aborted || response.destroyed) return;
    process.stderr.write(`${error instanceof Error ? error.stack : String(error)}\n`);
    if (response.headersSent) response.destroy();
    else send(response, 500, { code: "INTERNAL", message: "something broke" });
  }
}

function send(response: ServerResponse, status: number, content: unknown, signed: (text: string) => object = () => ({})): void {
  const text = JSON.stringify(content);
  response.writeHead(status, { "content-type": "application/json", "content-length": Buffer.byteLength(text), ...signed(text) }).end(text);
}

async function bodyBytes(request: IncomingMessage): Promise<Buffer> {
  const parts: Buffer[] = [];
  let length = 0;
  for await (const part of request as AsyncIterable<Buffer>) {
    length += part.length;
    if (length > BODY_BYTES_MAX) throw new Refused(413, "TOO_LARGE", `a body has at most ${BODY_BYTES_MAX} bytes`);
    parts.push(part);
  }
  return Buffer.concat(parts);
}

/** Lines in packets of 64 KB: a stream that yields every line by itself spends its time on bookkeeping. */
function* packed(lines: Iterable<string>): Generator<string> {
  let packet = "";
  for (const line of lines) {
    packet += line;
    if (packet.length < 65_536) continue;
    yield packet;
    packet = "";
  }
  yield packet;
}
