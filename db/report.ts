/**
 * Connections for reports: whole tables are joined there. The pool's would not do: its sessions price out the hash joins and scans that a report
 * lives by, and a report must never hold a connection that a drain waits for.
 */
import pg from "pg";
import type { Database } from "./database.ts";

/**
 * Reports join whole tables, and tables grow faster than their statistics are gathered: a nested loop chosen on yesterday's numbers would take
 * hours, a hash join at worst spills to disk. 32 MB a hash (64 with the multiplier of 2), and only a few run at once. An abandoned statement
 * is noticed and stopped within a second.
 */
const SESSION =
  `-c plan_cache_mode=auto -c enable_seqscan=on -c enable_hashjoin=on -c enable_mergejoin=on -c enable_material=on -c enable_nestloop=off ` +
  `-c max_parallel_workers_per_gather=0 -c jit=off -c work_mem=32MB ` +
  `-c timezone=UTC -c lock_timeout=5000 -c idle_in_transaction_session_timeout=120000 ` +
  `-c client_connection_check_interval=1000`;

/** Not connected yet. `name` is what the server's list of sessions shows. */
export function reportClient(database: Pick<Database, "url">, name: string, statementMs: number): pg.Client {
  const client = new pg.Client({
    connectionString: database.url,
    application_name: name,
    options: `${SESSION} -c statement_timeout=${statementMs}`,
    connectionTimeoutMillis: 3_000,
  });
  // A connection that breaks fails the statement under way, which tells; without a listener Node would end the process as well.
  client.on("error", () => undefined);
  return client;
}
