/**
 * The routing table: which database serves which shard. Read from `keyspaces.yaml`; the VSchema of this system.
 * A keyspace is `user` or a city; its databases split its sixteen slots among them.
 */
import { readFileSync } from "node:fs";
import { parse } from "yaml";
import { SLOT_COUNT, USER_CITY, type Shard } from "../domain/ids.ts";

export interface Keyspace {
  readonly code: string;
  readonly id: number;
  readonly name: string;
  readonly region: string | undefined;
  readonly kind: "user" | "city";
  /** Database name by slot: sixteen entries. */
  readonly databases: readonly string[];
}

/** A `keyspaces.yaml` that cannot be served from; the message names the keyspace and what is wrong with it. */
export class KeyspacesError extends Error {
  override readonly name = "KeyspacesError";
}

export class Keyspaces {
  readonly all: readonly Keyspace[];
  readonly cities: readonly Keyspace[];
  readonly #byId: ReadonlyMap<number, Keyspace>;
  readonly #byCode: ReadonlyMap<string, Keyspace>;

  constructor(all: readonly Keyspace[]) {
    this.all = all;
    this.cities = all.filter((keyspace) => keyspace.kind === "city");
    this.#byId = new Map(all.map((keyspace) => [keyspace.id, keyspace]));
    this.#byCode = new Map(all.map((keyspace) => [keyspace.code, keyspace]));
  }

  byId(id: number): Keyspace | undefined {
    return this.#byId.get(id);
  }

  byCode(code: string): Keyspace | undefined {
    return this.#byCode.get(code);
  }

  /** The database that serves a shard; undefined where no such city is served. */
  databaseOf(shard: Shard): string | undefined {
    return this.#byId.get(shard.city)?.databases[shard.slot];
  }

  /** Every database once, with its keyspace and the slots it serves. */
  databases(): { readonly name: string; readonly keyspace: Keyspace; readonly slots: readonly number[] }[] {
    return this.all.flatMap((keyspace) =>
      [...new Set(keyspace.databases)].map((name) => ({
        name,
        keyspace,
        slots: keyspace.databases.flatMap((database, slot) => (database === name ? [slot] : [])),
      })),
    );
  }
}

export const loadKeyspaces = (path: string): Keyspaces => parseKeyspaces(readFileSync(path, "utf8"));

export function parseKeyspaces(yaml: string): Keyspaces {
  const all = Object.entries(readTable(yaml)).map(([code, entry]): Keyspace => {
    const wrong = (what: string): never => {
      throw new KeyspacesError(`keyspace ${code}: ${what}`);
    };
    if (!isTable(entry)) return wrong("it has an id, a name and databases");
    const { id, name, region, databases } = entry;
    if (typeof id !== "number" || !Number.isInteger(id) || id < 0 || id > 255) return wrong("`id` is an integer from 0 to 255");
    if (typeof name !== "string") return wrong("`name` is missing");
    if (region !== undefined && typeof region !== "string") return wrong("`region` is a text");
    if ((code === "user") !== (id === USER_CITY)) return wrong("the keyspace `user`, and only it, has the id 0");
    if (!isTable(databases)) return wrong("`databases` maps each database to the slots it serves");
    const bySlot = new Array<string | undefined>(SLOT_COUNT).fill(undefined);
    for (const [database, slots] of Object.entries(databases)) {
      for (const slot of slotRange(String(slots)) ?? wrong(`slots \`${String(slots)}\` are not a number or a range from 0 to 15`)) {
        if (bySlot[slot] !== undefined) return wrong(`slot ${slot} is served twice`);
        bySlot[slot] = database;
      }
    }
    const missing = bySlot.indexOf(undefined);
    if (missing !== -1) return wrong(`slot ${missing} is served by no database`);
    return { code, id, name, region, kind: id === USER_CITY ? "user" : "city", databases: bySlot as string[] };
  });
  const owner = new Map<string, string>();
  for (const keyspace of all) {
    const twin = all.find((other) => other !== keyspace && other.id === keyspace.id);
    if (twin) throw new KeyspacesError(`keyspaces ${keyspace.code} and ${twin.code} have the same id ${keyspace.id}`);
    for (const database of new Set(keyspace.databases)) {
      const other = owner.get(database);
      if (other) throw new KeyspacesError(`keyspaces ${other} and ${keyspace.code} share the database ${database}`);
      owner.set(database, keyspace.code);
    }
  }
  if (!all.some((keyspace) => keyspace.kind === "user")) throw new KeyspacesError("the keyspace `user` is missing");
  if (!all.some((keyspace) => keyspace.kind === "city")) throw new KeyspacesError("no city is listed");
  return new Keyspaces(all);
}

const isTable = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === "object" && value !== null && !Array.isArray(value);

function readTable(yaml: string): Readonly<Record<string, unknown>> {
  let document: unknown;
  try {
    document = parse(yaml, { logLevel: "error" });
  } catch (error) {
    throw new KeyspacesError(`not YAML: ${error instanceof Error ? error.message : String(error)}`, { cause: error });
  }
  const table = isTable(document) ? document["keyspaces"] : undefined;
  if (!isTable(table)) throw new KeyspacesError("`keyspaces` is a table of keyspaces by their code");
  return table;
}

function slotRange(text: string): number[] | undefined {
  const match = /^(\d{1,2})(?:-(\d{1,2}))?$/.exec(text);
  if (!match) return undefined;
  const from = Number(match[1]);
  const to = Number(match[2] ?? match[1]);
  return from <= to && to < SLOT_COUNT ? Array.from({ length: to - from + 1 }, (_, index) => from + index) : undefined;
}
