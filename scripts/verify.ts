/**
 * `npm run verify [-- --every seconds] [--url http://…]`: asks a running server for `/ops/verify` and shows it as a table; exit 1 when something
 * does not hold, or cannot be asked. With `--every` it goes on, also under load, one line a run, until something does not hold or it is stopped.
 */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import { readSettings, type Settings } from "./settings.ts";
import { StartError } from "./start-error.ts";

interface Verification {
  readonly ok: boolean;
  readonly checkedAt: string;
  readonly checks: readonly { readonly name: string; readonly ok: boolean; readonly violations: number; readonly detail: string }[];
}

/** The server takes two minutes at most. */
const ANSWER_MS = 150_000;

class Operator {
  readonly #base: string;
  readonly #password: string;
  #token = "";

  constructor(base: string, password: string) {
    this.#base = base;
    this.#password = password;
  }

  /** Signs in first, and again whenever the token has run out. */
  async verify(): Promise<Verification> {
    const answer = await this.#ask();
    if (answer.status !== 401) return read<Verification>(answer);
    const body = JSON.stringify({ username: "admin", password: this.#password });
    const headers = { "content-type": "application/json" };
    const signedIn = await this.#fetch("/auth/login", { method: "POST", headers, body });
    this.#token = (await read<{ accessToken: string }>(signedIn)).accessToken;
    return read<Verification>(await this.#ask());
  }

  #ask(): Promise<Response> {
    return this.#fetch("/ops/verify", { headers: { authorization: `Bearer ${this.#token}` } });
  }

  async #fetch(path: string, init: RequestInit): Promise<Response> {
    try {
      return await fetch(`${this.#base}/api/v1${path}`, { ...init, signal: AbortSignal.timeout(ANSWER_MS) });
    } catch (error) {
      throw new StartError(`${this.#base} does not answer: ${error instanceof Error ? error.message : String(error)}`, { cause: error });
    }
  }
}

async function read<T>(answer: Response): Promise<T> {
  const body = (await answer.json()) as T & { code?: string; detail?: string };
  if (!answer.ok) throw new StartError(`the server answers ${answer.status} ${body.code ?? ""}: ${body.detail ?? ""}`);
  return body;
}

function passwordOf({ adminPassword, dataDir }: Settings): string {
  const file = join(dataDir, "secrets", "admin-password");
  if (adminPassword !== undefined) return adminPassword;
  if (existsSync(file)) return readFileSync(file, "utf8").trim();
  throw new StartError(`no password of the user admin: set ADMIN_PASSWORD, or DATA_DIR to the server's`);
}

function table({ checks, checkedAt }: Verification): string {
  const width = Math.max(...checks.map(({ name }) => name.length));
  const lines = checks.map(({ name, ok, violations, detail }) =>
    ok
      ? `  ok  ${name.padEnd(width)}  ${detail}`
      : `FAIL  ${name.padEnd(width)}  ${violations} rows; ${detail.replaceAll("\n", `\n${" ".repeat(8)}`)}`,
  );
  return [...lines, "", `${checks.length} checks of ${checkedAt}, ${checks.filter(({ ok }) => !ok).length} do not hold`].join("\n");
}

function options(settings: Settings): { url: string; everyMs: number | undefined } {
  const { values } = parseArgs({ options: { every: { type: "string" }, url: { type: "string" } } });
  const every = values.every === undefined ? undefined : Number(values.every);
  if (every !== undefined && !(every > 0 && every <= 86_400)) throw new StartError("--every is a number of seconds, at most a day");
  return { url: values.url ?? `http://127.0.0.1:${settings.port}`, everyMs: every === undefined ? undefined : every * 1_000 };
}

async function main(): Promise<void> {
  const settings = readSettings();
  const { url, everyMs } = options(settings);
  const operator = new Operator(url, passwordOf(settings));
  for (;;) {
    const startedMs = performance.now();
    const verification = await operator.verify();
    const tookMs = performance.now() - startedMs;
    if (!verification.ok) process.exitCode = 1;
    if (everyMs === undefined || !verification.ok) return void process.stdout.write(`${table(verification)}\n`);
    process.stdout.write(`${verification.checkedAt}  ${verification.checks.length} checks hold  ${(tookMs / 1_000).toFixed(1)} s\n`);
    // From start to start; a run that takes longer is followed by the next at once.
    await sleep(Math.max(0, everyMs - tookMs));
  }
}

main().catch((error: unknown) => {
  process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`);
  process.exitCode = 1;
});
