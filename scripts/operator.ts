/** An operator at a running server's door: the programs here that ask it do so by HTTP, as the user admin. */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { getCACertificates, setDefaultCACertificates } from "node:tls";
import type { Settings } from "./settings.ts";
import { StartError } from "./start-error.ts";

/** `/ops/verify` takes two minutes at most, and nothing takes longer. */
const ANSWER_MS = 150_000;

/** Nobody is there, or not who we think: a server that restarts is away for a moment. What it refuses is a plain StartError. */
export class Unreachable extends StartError {}

export class Operator {
  readonly #base: string;
  readonly #password: string;
  #token = "";

  /** `url`: where the server is, else where its settings say. */
  constructor(settings: Settings, url: string | undefined) {
    this.#base = url ?? doorOf(settings);
    this.#password = passwordOf(settings);
  }

  /** Signs in first, and again whenever the token has run out. */
  async ask<A>(method: "GET" | "POST", path: string, body?: object): Promise<A> {
    const answer = await this.#send(method, path, body);
    if (answer.status !== 401) return this.#read<A>(answer);
    this.#token = "";
    const signedIn = await this.#send("POST", "/auth/login", { username: "admin", password: this.#password });
    this.#token = (await this.#read<{ accessToken: string }>(signedIn)).accessToken;
    return this.#read<A>(await this.#send(method, path, body));
  }

  async #send(method: "GET" | "POST", path: string, body: object | undefined): Promise<Response> {
    const headers = {
      ...(this.#token === "" ? {} : { authorization: `Bearer ${this.#token}` }),
      ...(body === undefined ? {} : { "content-type": "application/json" }),
    };
    const sent = body === undefined ? {} : { body: JSON.stringify(body) };
    try {
      return await fetch(`${this.#base}/api/v1${path}`, { method, headers, ...sent, signal: AbortSignal.timeout(ANSWER_MS) });
    } catch (error) {
      throw this.#away(error);
    }
  }

  async #read<A>(answer: Response): Promise<A> {
    // What stands in front of a server that is away answers too, in HTML.
    const body = (await answer.json().catch((error: unknown) => {
      throw this.#away(error);
    })) as A & { readonly code?: string; readonly detail?: string };
    if (!answer.ok) throw new StartError(`the server answers ${answer.status} ${body.code ?? ""}: ${body.detail ?? answer.statusText}`);
    return body;
  }

  #away(error: unknown): Unreachable {
    const why = error instanceof Error ? error.message : String(error);
    return new Unreachable(`${this.#base} does not answer (${why}): PORT, HOST or --url says where the server is`, { cause: error });
  }
}

/** Where `npm run cluster` has been there is its authority, and nginx in front. */
function doorOf({ dataDir, host, port }: Settings): string {
  const caFile = join(dataDir, "tls", "ca.pem");
  const isCluster = existsSync(caFile);
  if (isCluster) setDefaultCACertificates([...getCACertificates("default"), readFileSync(caFile, "utf8")]);
  const name = host === "0.0.0.0" || host === "::" ? "127.0.0.1" : host.includes(":") ? `[${host}]` : host;
  return `${isCluster ? "https" : "http"}://${name}:${port}`;
}

function passwordOf({ adminPassword, dataDir }: Settings): string {
  if (adminPassword !== undefined) return adminPassword;
  const file = join(dataDir, "secrets", "admin-password");
  try {
    return readFileSync(file, "utf8").trim();
  } catch (error) {
    throw new StartError(`no password of the user admin: set ADMIN_PASSWORD, or DATA_DIR to the server's (${file} cannot be read)`, {
      cause: error,
    });
  }
}
