/** The databases of this installation for programs that read them beside the server: those of KEYSPACES, or the embedded PostgreSQL that `npm start` runs. */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { ClientConfig } from "pg";
import { loadKeyspaces, type Keyspace } from "../db/keyspaces.ts";
import { displayName } from "../moleculer.config.ts";
import type { Settings } from "./settings.ts";
import { StartError } from "./start-error.ts";

export interface DatabasePlace {
  readonly name: string;
  readonly keyspace: Keyspace;
  readonly slots: readonly number[];
  readonly connect: ClientConfig;
}

export function databasePlaces({ keyspacesFile, dataDir }: Settings): DatabasePlace[] {
  const keyspaces = loadKeyspaces(keyspacesFile ?? fileURLToPath(new URL("../keyspaces.yaml", import.meta.url)));
  const embedded = keyspacesFile === undefined ? runningPostgres(dataDir) : undefined;
  return keyspaces.databases().map(({ name, keyspace, slots }) => ({
    name: displayName(name),
    keyspace,
    slots,
    connect: embedded === undefined ? { connectionString: name } : { ...embedded, database: name },
  }));
}

/** Where the PostgreSQL of a data directory listens stands in its pid file: the port in line 4, the socket's directory in line 5. */
function runningPostgres(dataDir: string): ClientConfig {
  const file = join(dataDir, "postgres", "postmaster.pid");
  if (!existsSync(file))
    throw new StartError(`no PostgreSQL runs on ${dataDir}: start the server (npm start), or name databases with KEYSPACES`);
  const [, , , port, host] = readFileSync(file, "utf8").split("\n");
  return { host: host ?? "", port: Number(port), user: "tuanbar" };
}
