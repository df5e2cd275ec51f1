/** The databases of this installation for programs that read them beside the server: those of KEYSPACES, or the embedded PostgreSQL that `npm start` runs. */
import { fileURLToPath } from "node:url";
import { runningPostgres } from "../db/embedded.ts";
import { displayName, loadKeyspaces, type Keyspace } from "../db/keyspaces.ts";
import { newestKeyspaces } from "../db/routing.ts";
import type { Settings } from "./settings.ts";
import { StartError } from "./start-error.ts";

export interface DatabasePlace {
  readonly name: string;
  readonly keyspace: Keyspace;
  readonly slots: readonly number[];
  readonly url: string;
}

export async function databasePlaces({ keyspacesFile, dataDir }: Settings): Promise<DatabasePlace[]> {
  const configured = loadKeyspaces(keyspacesFile ?? fileURLToPath(new URL("../keyspaces.yaml", import.meta.url)));
  const embedded = keyspacesFile === undefined ? runningPostgres(dataDir) : undefined;
  if (keyspacesFile === undefined && embedded === undefined)
    throw new StartError(`no PostgreSQL runs on ${dataDir}: start the server (npm start), or name databases with KEYSPACES`);
  const urlOf = (database: string): string => (URL.canParse(database) ? database : (embedded?.url(database) ?? database));
  const keyspaces = await newestKeyspaces(configured, urlOf);
  return keyspaces.databases().map(({ name, keyspace, slots }) => ({ name: displayName(name), keyspace, slots, url: urlOf(name) }));
}
