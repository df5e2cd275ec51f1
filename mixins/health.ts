/** Is the process alive, and can it serve: what a load balancer asks every second. */
import type { Database } from "../db/database.ts";

const PING = { name: "gateway/ping", text: "select 1 as one" };
/** A database that takes longer serves nobody in time. */
const PING_MS = 1_000;
/** However many ask, the databases are asked twice a second. */
const KEPT_MS = 500;

export interface Readiness {
  readonly ready: boolean;
  /** What does not answer. */
  readonly missing: readonly string[];
}

/** The services a node needs to be of use: how many there are, and the names of those that nobody offers right now. */
export interface ServicesNeeded {
  readonly expected: number;
  readonly missing: () => readonly string[];
}

/**
 * Ready at first when everything is there, because a cluster that is coming up has nothing to offer yet. From then on while anything is there:
 * a city whose database is down, or a search that restarts, is answered 503 by itself, and taking every door away for it would close the rest too.
 */
export class Health {
  readonly #databases: () => Iterable<Database>;
  readonly #services: ServicesNeeded;
  #wasComplete = false;
  #last: { readonly atMs: number; readonly readiness: Promise<Readiness> } | undefined;
  /** Set when the node begins to stop: readiness fails first, so that balancers look elsewhere while it still answers. */
  draining = false;

  /** `databases` is asked at each look: slots move. */
  constructor(databases: () => Iterable<Database>, services: ServicesNeeded) {
    this.#databases = databases;
    this.#services = services;
  }

  readiness(): Promise<Readiness> {
    if (this.draining) return Promise.resolve({ ready: false, missing: ["the node is stopping"] });
    const nowMs = performance.now();
    if (this.#last === undefined || nowMs - this.#last.atMs > KEPT_MS) this.#last = { atMs: nowMs, readiness: this.#ask() };
    return this.#last.readiness;
  }

  async #ask(): Promise<Readiness> {
    const all = [...this.#databases()];
    const answers = await Promise.all(all.map(async (database) => ((await answers1(database)) ? undefined : `database ${database.name}`)));
    const databases = answers.filter((name) => name !== undefined);
    const services = this.#services.missing().map((name) => `service ${name}`);
    const missing = [...services, ...databases];
    this.#wasComplete ||= missing.length === 0;
    const none = (gone: readonly string[], all: number): boolean => all > 0 && gone.length === all;
    const isOfUse = !none(services, this.#services.expected) && !none(databases, all.length);
    return { ready: this.#wasComplete && isOfUse, missing };
  }
}

async function answers1(database: Database): Promise<boolean> {
  const { promise: late, resolve } = Promise.withResolvers<boolean>();
  const timer = setTimeout(() => resolve(false), PING_MS);
  // Whatever the error says: this database does not answer, and its name is what the asker can use.
  const answered = database.query(PING).then(
    () => true,
    () => false,
  );
  try {
    return await Promise.race([answered, late]);
  } finally {
    clearTimeout(timer);
  }
}
