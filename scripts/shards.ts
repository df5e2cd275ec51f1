/**
 * `npm run shards`: the map of a running server (city and slot → database, rows, bytes, owner node, commands waiting), and
 * `npm run shards -- move hz 8-15 <database>`, which moves slots to another database and tells how far it is. Interrupted in any way, the same
 * command goes on with it; `-- move --abort hz 8-15 <database>` takes it back, until it is decided. Also of `npm run cluster`. See docs/sharding.md.
 */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { getCACertificates, setDefaultCACertificates } from "node:tls";
import { parseArgs } from "node:util";
import type { Of } from "../mixins/contract.ts";
import type { MoveView, ShardView } from "../services/ops/ops.contract.ts";
import { shardLines } from "./repl/commands.ts";
import { readSettings, type Settings } from "./settings.ts";
import { StartError } from "./start-error.ts";

type Move = Of<typeof MoveView>;
type Shard = Of<typeof ShardView>;

const USAGE = "usage: npm run shards [-- move [--abort] <city> <slots> <database>] [--url <address of the server>]";
const ASK_MS = 70_000;
const LOOK_MS = 500;
/** A server that restarts is waited for: the move is in the databases, not in it. */
const AWAY_MS = 20_000;

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { url: { type: "string" }, abort: { type: "boolean", default: false } },
  });
  const settings = readSettings();
  const api = await Api.open(values.url ?? door(settings), adminPassword(settings));
  const [verb, city, slots, to] = positionals;
  if (verb === undefined && !values.abort) {
    const { items } = await api.ask<{ items: Shard[] }>("GET", "/ops/shards?sizes=true");
    process.stdout.write(`${shardLines(items).join("\n")}\n`);
    return;
  }
  if (verb !== "move" || city === undefined || slots === undefined || to === undefined || positionals.length > 4)
    throw new StartError(USAGE);
  const path = values.abort ? "/ops/shards/move/abort" : "/ops/shards/move";
  await follow(api, await api.ask<Move>("POST", path, { city, slots, to }));
}

/** Where `npm run cluster` has been there is its authority, and nginx in front. */
function door(settings: Settings): string {
  const caFile = join(settings.dataDir, "tls", "ca.pem");
  const isCluster = existsSync(caFile);
  if (isCluster) setDefaultCACertificates([...getCACertificates("default"), readFileSync(caFile, "utf8")]);
  return `${isCluster ? "https" : "http"}://${hostOf(settings)}:${settings.port}`;
}

const hostOf = ({ host }: Settings): string =>
  host === "0.0.0.0" || host === "::" ? "127.0.0.1" : host.includes(":") ? `[${host}]` : host;

function adminPassword({ adminPassword: given, dataDir }: Settings): string {
  if (given !== undefined) return given;
  const file = join(dataDir, "secrets", "admin-password");
  try {
    return readFileSync(file, "utf8").trim();
  } catch (error) {
    throw new StartError(`no admin password: set ADMIN_PASSWORD, or DATA_DIR to the server's (${file} cannot be read)`, { cause: error });
  }
}

class Api {
  readonly #base: string;
  readonly #token: string;

  private constructor(base: string, token: string) {
    this.#base = base;
    this.#token = token;
  }

  static async open(base: string, password: string): Promise<Api> {
    const { accessToken } = await ask<{ accessToken: string }>(base, "", "POST", "/auth/login", { username: "admin", password });
    return new Api(base, accessToken);
  }

  ask<A>(method: "GET" | "POST", path: string, body?: object): Promise<A> {
    return ask<A>(this.#base, this.#token, method, path, body);
  }
}

async function ask<A>(base: string, token: string, method: "GET" | "POST", path: string, body?: object): Promise<A> {
  const headers = {
    ...(token === "" ? {} : { authorization: `Bearer ${token}` }),
    ...(body === undefined ? {} : { "content-type": "application/json" }),
  };
  const sent = body === undefined ? {} : { body: JSON.stringify(body) };
  const reply = await fetch(`${base}/api/v1${path}`, { method, headers, ...sent, signal: AbortSignal.timeout(ASK_MS) });
  const answer = (await reply.json()) as A & { readonly code?: string; readonly detail?: string };
  if (!reply.ok) throw new StartError(`${answer.code ?? reply.status}: ${answer.detail ?? reply.statusText}`);
  return answer;
}

/** Prints each step until the end; the exit code says which end it was. */
async function follow(api: Api, begun: Move): Promise<void> {
  let printed = "";
  let awayMs = performance.now();
  for (let move = begun; ;) {
    const told = `${move.step}${move.detail === "" ? "" : `: ${move.detail}`}`;
    if (told !== printed) process.stdout.write(`${move.action} ${move.city} ${move.slots} ${move.from} → ${move.to}  ${told}\n`);
    printed = told;
    if (move.state !== "running") {
      const held = move.heldMs === undefined ? "" : `; its commands waited ${move.heldMs} ms`;
      process.stdout.write(`${move.state}${held}\n`);
      process.exitCode = move.state === "done" ? 0 : 1;
      return;
    }
    await sleep(LOOK_MS);
    try {
      const { items } = await api.ask<{ items: Move[] }>("GET", "/ops/shards/moves");
      const same = items.find(({ startedAt, to }) => startedAt === begun.startedAt && to === begun.to);
      if (!same) throw new StartError("the server that moved them was restarted: repeat the command, it goes on where it was");
      move = same;
      awayMs = performance.now();
    } catch (error) {
      if (error instanceof StartError || performance.now() - awayMs > AWAY_MS) throw error;
    }
  }
}

main().catch((error: unknown) => {
  const message = error instanceof Error ? error.message : String(error);
  const away = error instanceof TypeError && message === "fetch failed";
  process.stderr.write(`${away ? "the server cannot be reached: PORT, HOST or --url says where it is" : message}\n`);
  process.exitCode = 1;
});
