/** Is the process alive, and can it serve: what a load balancer asks every second. */
import type { Database } from "../../db/database.ts";

const PING = { name: "gateway/ping", text: "select 1 as one" };
/** A database that takes longer serves nobody in time. */
const PING_MS = 1_000;
/** However many ask, the databases are asked twice a second. */
const KEPT_MS = 500;

export interface Readiness {
  readonly ready: boolean;
  /** What does not answer; empty when ready. */
  readonly missing: readonly string[];
}

export class Health {
  readonly #databases: () => Iterable<Database>;
  readonly #missingServices: () => readonly string[];
  #last: { readonly atMs: number; readonly readiness: Promise<Readiness> } | undefined;
  /** Set when the node begins to stop: readiness fails first, so that balancers look elsewhere while it still answers. */
  draining = false;

  /** `missingServices` names those that are not there yet: the door opens before the last of them has started. */
  constructor(databases: () => Iterable<Database>, missingServices: () => readonly string[]) {
    this.#databases = databases;
    this.#missingServices = missingServices;
  }

  readiness(): Promise<Readiness> {
    if (this.draining) return Promise.resolve({ ready: false, missing: ["the node is stopping"] });
    const nowMs = performance.now();
    if (this.#last === undefined || nowMs - this.#last.atMs > KEPT_MS) this.#last = { atMs: nowMs, readiness: this.#ask() };
    return this.#last.readiness;
  }

  async #ask(): Promise<Readiness> {
    const answers = await Promise.all(
      [...this.#databases()].map(async (database) => ((await answers1(database)) ? undefined : `database ${database.name}`)),
    );
    const missing = [...this.#missingServices(), ...answers.filter((name) => name !== undefined)];
    return { ready: missing.length === 0, missing };
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
