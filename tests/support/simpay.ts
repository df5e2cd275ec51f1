/** simpay for tests: in this process or as one of its own, a merchant that signs its calls, and an ear for its callbacks. */
import assert from "node:assert/strict";
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer, type IncomingHttpHeaders, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { FaultName } from "../../simpay/faults.ts";
import type { Line } from "../../simpay/records.ts";
import { startSimpay, type Simpay } from "../../simpay/server.ts";
import { isGenuine, sign } from "../../simpay/signature.ts";
import { until } from "./until.ts";

export const SECRET = "the merchant's key, of 32 letters";
export const ADMIN_SECRET = "the admin's key, also 32 letters long";
const root = fileURLToPath(new URL("../..", import.meta.url));

export interface Answer {
  readonly status: number;
  readonly body: Readonly<Record<string, unknown>>;
}

/** A thousand times faster: the first repeat of a callback after 15 ms, the whole schedule in 98 seconds. */
export async function testSimpay(options: { timeFactor?: number; dataDir?: string } = {}): Promise<TestSimpay> {
  const dataDir = options.dataDir ?? mkdtempSync(join(tmpdir(), "tuanbar-simpay-"));
  const timeFactor = options.timeFactor ?? 1_000;
  const simpay = await startSimpay({ dataDir, host: "127.0.0.1", port: 0, secret: SECRET, adminSecret: ADMIN_SECRET, timeFactor });
  return new TestSimpay(simpay.url, dataDir, simpay);
}

export class TestSimpay {
  readonly url: string;
  readonly dataDir: string;
  readonly #simpay: Simpay | undefined;

  constructor(url: string, dataDir: string, simpay?: Simpay) {
    this.url = url;
    this.dataDir = dataDir;
    this.#simpay = simpay;
  }

  async stop({ keep = false }: { keep?: boolean } = {}): Promise<void> {
    await this.#simpay?.stop();
    if (!keep) rmSync(this.dataDir, { recursive: true });
  }

  /** A signed call. Network errors are thrown. */
  async call(method: "GET" | "POST", path: string, body?: object, faults: readonly FaultName[] = []): Promise<Answer> {
    const answer = await this.raw(method, path, body, faults);
    return { status: answer.status, body: (await answer.json()) as Answer["body"] };
  }

  raw(method: "GET" | "POST", path: string, body?: object, faults: readonly FaultName[] = [], headers: object = {}): Promise<Response> {
    const text = body === undefined ? "" : JSON.stringify(body);
    return fetch(`${this.url}${path}`, {
      method,
      headers: { ...sign(SECRET, `${method} ${path}`, text, Date.now()), "simpay-fault": faults.join(","), ...headers },
      ...(method === "POST" ? { body: text } : {}),
      signal: AbortSignal.timeout(10_000),
    });
  }

  async admin(method: "GET" | "PUT", path: string, body?: object): Promise<Response> {
    const headers = { authorization: `Bearer ${ADMIN_SECRET}` };
    const send = (): Promise<Response> => fetch(`${this.url}${path}`, { method, headers, ...(body ? { body: JSON.stringify(body) } : {}) });
    // Once more: after a restart a kept connection to the one before breaks.
    return send().catch(send);
  }

  async plan(plan: object): Promise<void> {
    const answer = await this.admin("PUT", "/faults", plan);
    assert.equal(answer.status, 200, await answer.text());
  }

  /** The witness's log, every line. */
  async log(): Promise<Line[]> {
    const text = await (await this.admin("GET", "/log")).text();
    return text.split("\n").flatMap((line) => (line === "" ? [] : (JSON.parse(line) as Line)));
  }

  async charge(number: string, notifyUrl: string, { amount = 1990, faults = [] as readonly FaultName[], more = {} } = {}): Promise<Answer> {
    const body = { number, amount, currency: "CNY", subject: "精酿两杯 Two craft beers", notifyUrl, ...more };
    return this.call("POST", "/v1/charges", body, faults);
  }

  /** What the pay page's form does. */
  async pay(payUrl: unknown): Promise<void> {
    const answer = await fetch(String(payUrl), { method: "POST", redirect: "manual" });
    assert.equal(answer.status, 303, await answer.text());
  }
}

/** simpay as its user starts it: a process that can be killed. */
export class SimpayProcess {
  readonly dataDir: string;
  #child: ChildProcess | undefined;
  output = "";

  readonly #more: Readonly<Record<string, string>>;

  constructor(dataDir = mkdtempSync(join(tmpdir(), "tuanbar-simpay-")), more: Readonly<Record<string, string>> = {}) {
    this.dataDir = dataDir;
    this.#more = more;
  }

  async start(): Promise<TestSimpay> {
    const child = spawn(process.execPath, ["simpay/main.ts"], {
      cwd: root,
      env: {
        ...process.env,
        SIMPAY_PORT: "0",
        SIMPAY_DATA_DIR: this.dataDir,
        SIMPAY_SECRET: SECRET,
        SIMPAY_ADMIN_SECRET: ADMIN_SECRET,
        SIMPAY_TIME_FACTOR: "1000",
        ...this.#more,
      },
      stdio: ["ignore", "pipe", "pipe"],
    });
    this.#child = child;
    this.output = "";
    for (const stream of [child.stdout, child.stderr]) stream?.on("data", (text: Buffer) => (this.output += text.toString("utf8")));
    await until(() => Promise.resolve(this.output.includes("ready at") || child.exitCode !== null));
    const url = /ready at (\S+);/.exec(this.output)?.[1];
    assert.ok(url, this.output);
    return new TestSimpay(url, this.dataDir);
  }

  async end(signal: "SIGKILL" | "SIGTERM"): Promise<number | null> {
    const child = this.#child;
    assert.ok(child, "it was started");
    const exited = once(child, "exit") as Promise<[number | null]>;
    child.kill(signal);
    return (await exited)[0];
  }

  /** Also after a test that failed half-way. */
  remove(): void {
    this.#child?.kill("SIGKILL");
    rmSync(this.dataDir, { recursive: true, force: true });
  }

  get logFile(): string {
    return join(this.dataDir, "log.jsonl");
  }
}

export interface Heard {
  readonly raw: Buffer;
  readonly headers: IncomingHttpHeaders;
  readonly atMs: number;
  readonly genuine: boolean;
  readonly body: Readonly<Record<string, unknown>> & { readonly id: string; readonly event: string };
}

/** A merchant's callback address: keeps what it hears, answers what the test wants. */
export class Ear {
  readonly heard: Heard[] = [];
  answer: (heard: Heard) => number = ({ genuine }) => (genuine ? 200 : 401);
  readonly #server: Server;

  private constructor() {
    this.#server = createServer((request, response) => {
      const parts: Buffer[] = [];
      request.on("data", (part: Buffer) => parts.push(part));
      request.on("end", () => {
        const raw = Buffer.concat(parts);
        const genuine = isGenuine(SECRET, "callback", raw, request.headers, Date.now());
        const body = JSON.parse(raw.toString("utf8")) as Heard["body"];
        const heard: Heard = { raw, headers: request.headers, atMs: performance.now(), genuine, body };
        this.heard.push(heard);
        response.writeHead(this.answer(heard)).end();
      });
    });
  }

  static async open(): Promise<Ear> {
    const ear = new Ear();
    ear.#server.listen(0, "127.0.0.1");
    await once(ear.#server, "listening");
    return ear;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}/callbacks`;
  }

  about(event: string): Heard[] {
    return this.heard.filter(({ body }) => body.event === event);
  }

  async close(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((done) => this.#server.close(done));
  }
}
