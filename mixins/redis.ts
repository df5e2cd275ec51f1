/**
 * Redis, as this system uses it: it spares work and is never waited for. A link answers within 50 ms or not at all; after a few failures in a
 * row nobody asks it for a second, then one question tries again. Whoever asks has a way without it.
 */
import { Cluster, Redis, type RedisOptions } from "ioredis";
import type { Logger } from "moleculer";

export type RedisClient = Redis | Cluster;

/** A REDIS_URL that names no Redis; the message says what is wrong, never the password. */
export class RedisUrlError extends Error {
  override readonly name = "RedisUrlError";
}

interface Address {
  readonly host: string;
  readonly port: number;
}
export interface RedisPlace {
  readonly kind: "single" | "sentinel" | "cluster";
  readonly nodes: readonly Address[];
  /** Of the sentinels' master. */
  readonly master?: string;
  readonly username?: string;
  readonly password?: string;
  readonly db: number;
  readonly tls: boolean;
}

const FORM = /^redis(s?)(?:\+(sentinel|cluster))?:\/\/(?:([^@/]*)@)?([^@/]+)((?:\/[^/]*)*)$/;

/**
 * `redis://[user:password@]host[:6379][/db]`, `redis+sentinel://[…@]host[:26379],host,…/master[/db]`, `redis+cluster://[…@]host[:6379],host,…`;
 * `rediss…` for TLS. The password of a sentinel URL is that of the servers. The URL class takes one host only, so this is read by its form.
 */
export function parseRedisUrl(url: string): RedisPlace {
  const [, secure, kind = "single", login = "", hosts = "", path = ""] = FORM.exec(url) ?? wrong("redis://host:port/db");
  const parts = path.split("/").slice(1);
  const [master, dbText = ""] = kind === "sentinel" ? parts : [undefined, ...parts];
  if (kind === "sentinel" && !master) return wrong("redis+sentinel://host,host/master");
  if (kind === "cluster" && dbText !== "") return wrong("redis+cluster://host,host, which has no databases to choose from");
  if (!/^\d{0,4}$/.test(dbText) || parts.length > (kind === "sentinel" ? 2 : 1)) return wrong("a database number after the last /");
  const nodes = hosts.split(",").map((text) => addressOf(text, kind === "sentinel" ? 26_379 : 6_379));
  if (kind === "single" && nodes.length !== 1) return wrong("one host, or redis+cluster:// or redis+sentinel://");
  const colon = login.indexOf(":");
  const [username, password] = colon < 0 ? ["", login] : [login.slice(0, colon), login.slice(colon + 1)];
  return {
    kind: kind as RedisPlace["kind"],
    nodes,
    ...(master ? { master } : {}),
    ...(username === "" ? {} : { username: decodeURIComponent(username) }),
    ...(password === "" ? {} : { password: decodeURIComponent(password) }),
    db: Number(dbText),
    tls: secure === "s",
  };
}

function wrong(expected: string): never {
  throw new RedisUrlError(`not the URL of a Redis; expected ${expected}`);
}

function addressOf(text: string, otherwise: number): Address {
  const [, host = "", port] = /^(\[[0-9a-fA-F:]+\]|[\w.-]+)(?::(\d{1,5}))?$/.exec(text) ?? wrong("hosts as name or name:port");
  return { host: host.replaceAll(/[[\]]/g, ""), port: port === undefined ? otherwise : Number(port) };
}

/** What an answer may take. A healthy Redis needs a tenth of a millisecond; this is what a request of ours may lose to a dead one. */
const ANSWER_MS = 50;
/** So many failures in a row with no answer between them, and the link is given up for a while. */
const FAILURES_MAX = 3;
const REST_MS = 1_000;
/** A connection that says nothing for so long while we wait is cut: one that was frozen would keep our commands for ever. */
const SILENCE_MS = 5_000;
const RECONNECT_MS_MAX = 1_000;

function connect(place: RedisPlace): RedisClient {
  const common: RedisOptions = {
    ...(place.username === undefined ? {} : { username: place.username }),
    ...(place.password === undefined ? {} : { password: place.password }),
    ...(place.tls ? { tls: {} } : {}),
    // A command is answered or failed, never kept for later: its request has gone on without it.
    maxRetriesPerRequest: 0,
    autoResendUnfulfilledCommands: false,
    enableOfflineQueue: false,
    socketTimeout: SILENCE_MS,
    connectTimeout: REST_MS * 2,
    // A master that became a replica: look again who is master now.
    reconnectOnError: (error) => error.message.startsWith("READONLY"),
    disableClientInfo: true,
  };
  const retryStrategy = (times: number): number => Math.min(times * 50, RECONNECT_MS_MAX);
  if (place.kind === "cluster") {
    const retry = { clusterRetryStrategy: retryStrategy, retryDelayOnFailover: 0, retryDelayOnClusterDown: 0, retryDelayOnTryAgain: 0 };
    return new Cluster([...place.nodes], { redisOptions: common, enableOfflineQueue: false, maxRedirections: 3, ...retry });
  }
  if (place.kind === "sentinel")
    return new Redis({ ...common, sentinels: [...place.nodes], name: place.master ?? "", db: place.db, retryStrategy });
  return new Redis({ ...common, ...place.nodes[0], db: place.db, retryStrategy });
}

export interface RedisWatch {
  /** `kind`: `timeout`, `connection`, or the first word of Redis' own answer, such as `OOM`. */
  failed(kind: string): void;
}

/** Nobody asked, or nobody answered in time. */
export class RedisUnavailable extends Error {
  override readonly name = "RedisUnavailable";
}

export class RedisLink {
  readonly client: RedisClient;
  readonly #watch: RedisWatch;
  readonly #logger: Logger;
  #failures = 0;
  #restUntilMs = 0;
  #told = true;

  constructor(url: string, watch: RedisWatch, logger: Logger) {
    this.client = connect(parseRedisUrl(url));
    this.#watch = watch;
    this.#logger = logger;
    // Without a listener ioredis prints every failed connection; ours are counted, and told once.
    this.client.on("error", (error: Error) => this.#failed(error));
  }

  /** False while nobody asks it. */
  get usable(): boolean {
    return performance.now() >= this.#restUntilMs && this.client.status === "ready";
  }

  /** What `work` answers, or RedisUnavailable. A late answer is nobody's: whoever needs to know whether it counted sends an id along. */
  async run<T>(work: (client: RedisClient) => Promise<T>): Promise<T> {
    if (!this.usable) throw new RedisUnavailable("Redis is not asked at the moment");
    // One question tries; the others wait for what becomes of it.
    if (this.#failures >= FAILURES_MAX) this.#restUntilMs = performance.now() + REST_MS;
    try {
      const answer = await inTime(work(this.client));
      this.#failures = 0;
      this.#restUntilMs = 0;
      if (!this.#told) this.#logger.warn("Redis answers again");
      this.#told = true;
      return answer;
    } catch (error) {
      this.#failed(error as Error);
      throw new RedisUnavailable((error as Error).message, { cause: error });
    }
  }

  /** Answers with whatever it has; a connection that is not there ends at once. */
  close(): Promise<void> {
    this.client.disconnect();
    return Promise.resolve();
  }

  #failed(error: Error): void {
    this.#watch.failed(kindOf(error));
    if (++this.#failures >= FAILURES_MAX) this.#restUntilMs = performance.now() + REST_MS;
    if (!this.#told || this.#failures < FAILURES_MAX) return;
    this.#told = false;
    this.#logger.warn(`alarm: Redis fails (${error.message}); the stock gate is open and limits are counted by each node`);
  }
}

const kindOf = (error: Error): string => {
  if (error instanceof RedisUnavailable) return "timeout";
  const [word = ""] = /^[A-Z]{3,}\b/.exec(error.message) ?? [];
  return word === "" || word === "ECONNREFUSED" || word === "ECONNRESET" ? "connection" : word;
};

/** Our own event loop may have been busy for longer than Redis: what lies in the socket is read before it is called late. */
function inTime<T>(answer: Promise<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => setImmediate(() => reject(new RedisUnavailable(`no answer within ${ANSWER_MS} ms`))), ANSWER_MS);
    answer.then(
      (value) => {
        clearTimeout(timer);
        resolve(value);
      },
      (error: unknown) => {
        clearTimeout(timer);
        reject(error instanceof Error ? error : new Error(String(error)));
      },
    );
  });
}
