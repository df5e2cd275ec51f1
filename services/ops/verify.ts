/** `/ops/verify`: opens one snapshot a database, runs every check there is against them, and says what it found. */
import { COMMON_ERRORS } from "../../domain/common-errors.ts";
import { raise } from "../../domain/error.ts";
import type { Database } from "../../db/database.ts";
import type { Of } from "../../mixins/contract.ts";
import type { Platform } from "../../mixins/platform.ts";
import { type Check, EXAMPLES_MAX, type Finding } from "./checks/check.ts";
import { CHECKS } from "./checks/index.ts";
import { cross, type Crossing, CROSSING_CHECKS } from "./crossings.ts";
import type { Verification } from "./ops.contract.ts";
import { Snapshot } from "./snapshot.ts";

/** One check in one place, ready to run. */
type Look = () => Promise<Finding>;

/** Checks at once: two cores, and a report leaves something of them to the drains. */
const CHECKS_AT_ONCE = 2;

/** Runs verifications one at a time: whoever asks while one runs gets its result, which says in `checkedAt` what instant it is of. */
export class Verifier {
  readonly #platform: Platform;
  readonly #open = new Set<Snapshot>();
  #stopped = false;
  #running: Promise<Of<typeof Verification>> | undefined;

  constructor(platform: Platform) {
    this.#platform = platform;
  }

  run(): Promise<Of<typeof Verification>> {
    this.#running ??= this.#verify().finally(() => (this.#running = undefined));
    return this.#running;
  }

  /** Ends the connections of a run under way, and with them the run. */
  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#close();
    // What became of it is its callers' to hear.
    await this.#running?.catch(() => undefined);
  }

  async #verify(): Promise<Of<typeof Verification>> {
    try {
      const snapshots = await this.#openAll();
      const findings = await inTurns([...this.#withinDatabases(snapshots), ...this.#acrossDatabases(snapshots)]);
      const checks = together(findings).map(show);
      for (const { name, violations } of checks) this.#platform.metrics.verifyViolations.set({ check: name }, violations);
      const checkedAt = snapshots.reduce((first, { at }) => (at < first ? at : first), snapshots[0]?.at ?? new Date(0));
      return { ok: checks.every(({ ok }) => ok), checkedAt: checkedAt.toISOString(), checks };
    } finally {
      await this.#close();
    }
  }

  /** The users' after the cities': see `crossings.ts`. Again, if slots went to another database meanwhile: they might be seen twice, or not at all. */
  async #openAll(): Promise<Snapshot[]> {
    for (;;) {
      const { version } = this.#platform.keyspaces;
      const snapshots = await this.#openOnce();
      if (version === this.#platform.keyspaces.version) return snapshots;
      await this.#close();
    }
  }

  async #openOnce(): Promise<Snapshot[]> {
    const databases = [...this.#platform.databases.values()];
    const ofCities = databases.filter(({ city }) => this.#platform.servesCity(city));
    const ofUsers = databases.filter(({ city }) => !this.#platform.servesCity(city));
    return [...(await this.#openEach(ofCities)), ...(await this.#openEach(ofUsers))];
  }

  async #openEach(databases: readonly Database[]): Promise<Snapshot[]> {
    const opened = await Promise.allSettled(databases.map((database) => Snapshot.open(database)));
    for (const one of opened) if (one.status === "fulfilled") this.#open.add(one.value);
    if (this.#stopped) raise(COMMON_ERRORS, "UNAVAILABLE", { what: "a node that is stopping", retryAfterSeconds: 5 });
    return opened.map((one) => {
      if (one.status === "rejected") throw one.reason;
      return one.value;
    });
  }

  async #close(): Promise<void> {
    const open = [...this.#open];
    this.#open.clear();
    await Promise.all(open.map((snapshot) => snapshot.close()));
  }

  #withinDatabases(snapshots: readonly Snapshot[]): Look[] {
    return snapshots.flatMap((snapshot) => {
      const kind = this.#platform.servesCity(snapshot.database.city) ? "city" : "user";
      return CHECKS.filter(({ scope }) => scope === "every" || scope === kind).map((check) => () => look(snapshot, check));
    });
  }

  #acrossDatabases(snapshots: readonly Snapshot[]): Look[] {
    const of = (id: number): Snapshot[] => snapshots.filter(({ database }) => database.city === id);
    const atUsers = snapshots.filter(({ database }) => !this.#platform.servesCity(database.city));
    const crossings = this.#platform.keyspaces.cities.map((city): Crossing => ({ city, inCity: of(city.id), atUsers }));
    return crossings.flatMap((crossing) => CROSSING_CHECKS.map((check) => () => cross(check, crossing)));
  }
}

async function inTurns(looks: readonly Look[]): Promise<Finding[]> {
  const waiting = [...looks];
  const findings: Finding[] = [];
  const work = async (): Promise<void> => {
    for (let next = waiting.shift(); next; next = waiting.shift()) findings.push(await next());
  };
  await Promise.all(Array.from({ length: CHECKS_AT_ONCE }, work));
  return findings;
}

/** Runs one check in one database. Rows are shown as PostgreSQL writes them: ids have more digits than a JavaScript number. */
async function look(snapshot: Snapshot, { name, proves, statement, values = [] }: Check): Promise<Finding> {
  const rows = await snapshot.query<{ row: string; violations: string }>(
    `select row_to_json(v)::text as row, count(*) over () as violations from (${statement}) v limit ${EXAMPLES_MAX}`,
    typeof values === "function" ? values(snapshot) : values,
  );
  return {
    name,
    proves,
    violations: Number(rows[0]?.violations ?? 0),
    examples: rows.map(({ row }) => `${snapshot.database.name}: ${row}`),
  };
}

/** One finding a check, in the order of the list, whatever databases it was run in. */
function together(findings: readonly Finding[]): Finding[] {
  const byName = Map.groupBy(findings, ({ name }) => name);
  return [...CHECKS, ...CROSSING_CHECKS].map(({ name, proves }) => {
    const parts = byName.get(name) ?? [];
    return {
      name,
      proves,
      violations: parts.reduce((sum, { violations }) => sum + violations, 0),
      examples: parts.flatMap(({ examples }) => examples).slice(0, EXAMPLES_MAX),
    };
  });
}

const show = ({ name, proves, violations, examples }: Finding): Of<typeof Verification>["checks"][number] => ({
  name,
  ok: violations === 0,
  violations,
  detail: violations === 0 ? proves : [`does not hold: ${proves}`, ...examples].join("\n"),
});
