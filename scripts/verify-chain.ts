/**
 * `npm run verify-chain`: reads every transfer of every shard, in the order of its chain, and makes each hash anew. It asks the databases and no
 * server, and reckons in JavaScript what the check `ledger.chain` reckons in SQL: an auditor need trust neither. Names the first broken
 * link of each chain that has one; exit 1 then.
 */
import pg from "pg";
import { CHAIN_START, hashOf, type ChainHead, type TransferRow } from "../domain/ledger.ts";
import { databasePlaces, type DatabasePlace } from "./databases.ts";
import { readSettings } from "./settings.ts";

/** Some megabytes at a time, however long a chain is. */
const ROWS_A_READ = 10_000;

const READ = `
  select id, seq, debit_account as debit, credit_account as credit, amount, code, state, business_key as "businessKey", pending_id as "pendingId",
         order_id as "orderId", at, encode(prev_hash, 'hex') as "prevHash", encode(hash, 'hex') as hash
    from transfers where slot = $1 and seq > $2 order by seq limit ${ROWS_A_READ}`;
const HEAD = `select seq, encode(hash, 'hex') as hash from chain_heads where slot = $1`;

type Read = Omit<TransferRow, "seq" | "amount"> & { readonly seq: string; readonly amount: string };

interface Walk {
  readonly links: number;
  readonly head: ChainHead;
  /** The first link that does not hold. */
  readonly broken?: { readonly seq: bigint; readonly why: string };
}

/** One chain from its start to the head, as of one instant. */
async function walk(client: pg.Client, slot: number): Promise<Walk> {
  let last = CHAIN_START;
  let links = 0;
  for (;;) {
    const { rows } = await client.query<Read>(READ, [slot, String(last.seq)]);
    for (const { seq, amount, hash, ...rest } of rows) {
      const row = { ...rest, seq: BigInt(seq), amount: BigInt(amount), hash };
      const why = fault(slot, last, row);
      if (why !== undefined) return { links, head: last, broken: { seq: row.seq, why } };
      last = { seq: row.seq, hash };
      links += 1;
    }
    if (rows.length < ROWS_A_READ) break;
  }
  const { rows } = await client.query<{ seq: string; hash: string }>(HEAD, [slot]);
  const head = rows[0];
  if (head && BigInt(head.seq) === last.seq && head.hash === last.hash) return { links, head: last };
  return { links, head: last, broken: { seq: last.seq, why: `the head says ${head?.seq ?? "nothing"}: transfers are missing at the end` } };
}

function fault(slot: number, before: ChainHead, row: TransferRow): string | undefined {
  if (row.seq !== before.seq + 1n) return `a gap after ${before.seq}`;
  if (row.prevHash !== before.hash) return "not linked to the transfer before";
  return hashOf(slot, row) === row.hash ? undefined : `transfer ${row.id} is not what it was when it was hashed`;
}

async function walkAll({ name, keyspace, slots, url }: DatabasePlace): Promise<boolean> {
  const client = new pg.Client({ connectionString: url, application_name: "tuanbar-verify-chain", options: "-c timezone=UTC" });
  await client.connect();
  let links = 0;
  let sound = true;
  try {
    // Chain and head of one instant, while people buy.
    await client.query("begin isolation level repeatable read, read only");
    for (const slot of slots) {
      const walked = await walk(client, slot);
      links += walked.links;
      if (walked.broken === undefined) continue;
      sound = false;
      process.stdout.write(`BROKEN  keyspace ${keyspace.code}, slot ${slot}, seq ${walked.broken.seq}: ${walked.broken.why}\n`);
    }
  } finally {
    await client.end();
  }
  process.stdout.write(
    `${sound ? "ok    " : "BROKEN"}  ${name.padEnd(24)} ${slots.length} chains, ${links.toLocaleString("en-US")} links hold\n`,
  );
  return sound;
}

async function main(): Promise<void> {
  let sound = true;
  for (const place of await databasePlaces(readSettings())) sound = (await walkAll(place)) && sound;
  process.exitCode = sound ? 0 : 1;
}

main().catch((error: unknown) => {
  process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`);
  process.exitCode = 1;
});
