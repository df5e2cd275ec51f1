/** The demo's way to the server: plain HTTP, as any client; it knows nothing but the public API. Counts and times everything it is answered. */
import { createHistogram } from "node:perf_hooks";
import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";

/** A refusal: the problem document's stable code. */
export class Refused extends Error {
  override readonly name = "Refused";
  readonly status: number;
  readonly code: string;

  constructor(status: number, code: string, detail: string) {
    super(`${status} ${code}: ${detail}`);
    this.status = status;
    this.code = code;
  }
}

/** The server cannot be reached: nothing that follows makes sense. */
export class Unreachable extends Error {
  override readonly name = "Unreachable";
}

interface Asked {
  readonly token?: string | undefined;
  readonly body?: object | undefined;
  /** POST only; a new one unless given. */
  readonly key?: string | undefined;
}

/** Limits are by the minute; two of them at most are waited for. */
const WAIT_SECONDS_MAX = 61;
const TRIES_MAX = 3;
const ANSWER_MS_MAX = 60_000;

export class Http {
  readonly base: string;
  /** Answers that were refusals, by code. */
  readonly refusals = new Map<string, number>();
  readonly latency = createHistogram({ lowest: 1_000, highest: 120_000_000_000, figures: 3 });
  answers = 0;
  /** Answers that no client should ever get: 5xx other than "try again". */
  readonly broken: string[] = [];
  #onWait: (seconds: number, code: string) => void = () => undefined;

  constructor(base: string) {
    this.base = base;
  }

  /** Told when the server asks for patience. */
  onWait(tell: (seconds: number, code: string) => void): void {
    this.#onWait = tell;
  }

  get<A>(path: string, token?: string): Promise<A> {
    return this.#ask<A>("GET", path, { token }).then(({ answer }) => answer);
  }

  post<A>(path: string, body: object, token?: string, key?: string): Promise<A> {
    return this.#ask<A>("POST", path, { token, body, key }).then(({ answer }) => answer);
  }

  /** As `post`, and whether the answer was given before. */
  postReplayable<A>(path: string, body: object, token: string, key: string): Promise<{ answer: A; replayed: boolean }> {
    return this.#ask<A>("POST", path, { token, body, key });
  }

  async #ask<A>(method: string, path: string, asked: Asked): Promise<{ answer: A; replayed: boolean }> {
    const key = asked.key ?? randomUUID();
    for (let tries = 1; ; tries++) {
      const startedMs = performance.now();
      const response = await fetch(`${this.base}/api/v1${path}`, {
        method,
        headers: {
          ...(asked.token === undefined ? {} : { authorization: `Bearer ${asked.token}` }),
          ...(asked.body === undefined ? {} : { "content-type": "application/json", "idempotency-key": key }),
        },
        ...(asked.body === undefined ? {} : { body: JSON.stringify(asked.body) }),
        signal: AbortSignal.timeout(ANSWER_MS_MAX),
      }).catch((error: unknown) => {
        throw new Unreachable(`${method} ${path}: no answer`, { cause: error });
      });
      const text = await response.text();
      this.latency.record(Math.max(1, Math.round((performance.now() - startedMs) * 1e6)));
      this.answers++;
      if (response.ok) {
        return {
          answer: (text === "" ? undefined : JSON.parse(text)) as A,
          replayed: response.headers.get("idempotency-replayed") === "true",
        };
      }
      const { code = `HTTP_${response.status}`, detail = "" } = JSON.parse(text || "{}") as { code?: string; detail?: string };
      this.refusals.set(code, (this.refusals.get(code) ?? 0) + 1);
      const waitSeconds = Number(response.headers.get("retry-after"));
      const again =
        (response.status === 429 || response.status === 503) && waitSeconds > 0 && waitSeconds <= WAIT_SECONDS_MAX && tries < TRIES_MAX;
      if (!again) {
        if (response.status >= 500) this.broken.push(`${method} ${path}: ${response.status} ${code}`);
        throw new Refused(response.status, code, detail);
      }
      this.#onWait(waitSeconds, code);
      // The same key: if the first one did something, this one finds it.
      await sleep(waitSeconds * 1_000);
    }
  }
}
