/**
 * The routing table: which database serves which shard. Read from `keyspaces.yaml`; the VSchema of this system.
 * A keyspace is `user` or a city; its databases split its sixteen slots among them.
 */
import { readFileSync, renameSync, writeFileSync } from "node:fs";
import { parse, parseDocument } from "yaml";
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
  /** Counts the changes a move has made; of two routing tables the higher one is in force. A table written by hand may leave it out: 0. */
  readonly version: number;
  /** What it was read from. */
  readonly yaml: string;
  readonly all: readonly Keyspace[];
  readonly cities: readonly Keyspace[];
  readonly #byId: ReadonlyMap<number, Keyspace>;
  readonly #byCode: ReadonlyMap<string, Keyspace>;

  constructor(all: readonly Keyspace[], version: number, yaml: string) {
    this.version = version;
    this.yaml = yaml;
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

/** A routing table may name databases by URL: those have a password in them, and names are shown. */
export const displayName = (database: string): string =>
  URL.canParse(database) ? `${new URL(database).host}${new URL(database).pathname}` : database;

export const loadKeyspaces = (path: string): Keyspaces => parseKeyspaces(readFileSync(path, "utf8"));

/** For people, and to start another installation from; nodes go by what the databases keep (`routing.ts`). Renamed into place: several may write it. */
export function saveKeyspaces(path: string, { yaml }: Keyspaces): void {
  const draft = `${path}.${process.pid}`;
  // Databases may be named by URL, with a password in it.
  writeFileSync(draft, yaml, { mode: 0o600 });
  renameSync(draft, path);
}

export function parseKeyspaces(yaml: string): Keyspaces {
  const { table, version } = readTable(yaml);
  const all = Object.entries(table).map(([code, entry]): Keyspace => {
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
      for (const slot of slotRange(String(slots)) ?? wrong(`slots \`${String(slots)}\` are not numbers or ranges from 0 to 15`)) {
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
  return new Keyspaces(all, version, yaml);
}

/** The same table, one version on, with these slots of a keyspace in another database. Comments stay where they are. */
export function withSlotsMoved(keyspaces: Keyspaces, code: string, slots: readonly number[], to: string): Keyspaces {
  const keyspace = keyspaces.byCode(code);
  if (!keyspace) throw new KeyspacesError(`there is no keyspace ${code}`);
  const bySlot = keyspace.databases.map((name, slot) => (slots.includes(slot) ? to : name));
  const databases = Object.fromEntries(
    [...new Set(bySlot)].map((name) => [name, writeSlots(bySlot.flatMap((other, slot) => (other === name ? [slot] : [])))]),
  );
  const document = parseDocument(keyspaces.yaml);
  document.set("version", keyspaces.version + 1);
  document.setIn(["keyspaces", code, "databases"], document.createNode(databases, { flow: true }));
  return parseKeyspaces(document.toString({ lineWidth: 0 }));
}

const isTable = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === "object" && value !== null && !Array.isArray(value);

function readTable(yaml: string): { readonly table: Readonly<Record<string, unknown>>; readonly version: number } {
  let document: unknown;
  try {
    document = parse(yaml, { logLevel: "error" });
  } catch (error) {
    throw new KeyspacesError(`not YAML: ${error instanceof Error ? error.message : String(error)}`, { cause: error });
  }
  const table = isTable(document) ? document["keyspaces"] : undefined;
  if (!isTable(table)) throw new KeyspacesError("`keyspaces` is a table of keyspaces by their code");
  const version = (isTable(document) ? document["version"] : undefined) ?? 0;
  if (typeof version !== "number" || !Number.isSafeInteger(version) || version < 0) throw new KeyspacesError("`version` is a whole number");
  return { table, version };
}

/** `8-15`, `3`, `0-3, 7`: slots as people write them; undefined where it is not that. */
export function slotRange(text: string): number[] | undefined {
  const slots = text.split(",").map((part) => {
    const match = /^\s*(\d{1,2})(?:-(\d{1,2}))?\s*$/.exec(part);
    const from = Number(match?.[1]);
    const to = Number(match?.[2] ?? match?.[1]);
    return from <= to && to < SLOT_COUNT ? Array.from({ length: to - from + 1 }, (_, index) => from + index) : undefined;
  });
  return slots.every((part) => part !== undefined) ? slots.flat() : undefined;
}

/** Slots, ascending, as `slotRange` reads them. */
export function writeSlots(slots: readonly number[]): string {
  const ranges: [number, number][] = [];
  for (const slot of slots) {
    const last = ranges.at(-1);
    if (last?.[1] === slot - 1) last[1] = slot;
    else ranges.push([slot, slot]);
  }
  return ranges.map(([from, to]) => (from === to ? `${from}` : `${from}-${to}`)).join(",");
}
