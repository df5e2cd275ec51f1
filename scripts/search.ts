/** `npm run search -- rebuild`: makes the search index of ELASTICSEARCH_URL anew from the databases of KEYSPACES, while the cluster goes on. */
import { displayName, loadKeyspaces } from "../db/keyspaces.ts";
import { newestKeyspaces } from "../db/routing.ts";
import { Database } from "../db/database.ts";
import { DealIndex } from "../services/search/deal-index.store.ts";
import { rebuildFrom } from "../services/search-index/rebuild.ts";
import { readSettings } from "./settings.ts";
import { StartError } from "./start-error.ts";

async function main(command: string | undefined): Promise<void> {
  if (command !== "rebuild") throw new StartError("usage: npm run search -- rebuild");
  const { elasticsearchUrl, keyspacesFile } = readSettings();
  if (elasticsearchUrl === undefined)
    throw new StartError("environment: ELASTICSEARCH_URL is not set: PostgreSQL needs no index made for it");
  if (keyspacesFile === undefined)
    throw new StartError(
      "environment: KEYSPACES is not set: the embedded PostgreSQL belongs to npm start, which offers POST /api/v1/ops/search/rebuild",
    );
  const keyspaces = await newestKeyspaces(loadKeyspaces(keyspacesFile), (database) => database);
  const databases = keyspaces
    .databases()
    .filter(({ keyspace }) => keyspace.kind === "city")
    .map(
      ({ name, keyspace, slots }) =>
        new Database({
          name: displayName(name),
          city: keyspace.id,
          slots,
          url: name,
          onError: (error) => process.stderr.write(`an idle connection broke: ${error.message}\n`),
        }),
    );
  const index = new DealIndex({ node: elasticsearchUrl });
  try {
    process.stdout.write(`the search index is made of ${await rebuildFrom(index, databases)} deals\n`);
  } finally {
    await index.close();
    await Promise.all(databases.map((database) => database.close()));
  }
}

main(process.argv[2]).catch((error: unknown) => {
  process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`);
  process.exitCode = 1;
});
