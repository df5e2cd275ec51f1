/** Are the two copies of a slot the same? Asked while nobody writes to either, and before anybody relies on the second. */
import type pg from "pg";
import type { Ends } from "./move-copy.ts";
import { partitionsOf } from "./move-fence.ts";

interface Sum {
  readonly rows: string;
  readonly hash: string;
}

/** Rows, and the sum of their hashes: the same whatever the order they lie in. */
async function sumOf(client: pg.Client, partition: string): Promise<Sum> {
  const { rows } = await client.query<Sum>(
    `select count(*)::text as rows, coalesce(sum(hashtextextended(t::text, 0)), 0)::text as hash from public.${partition} t`,
  );
  return rows[0] ?? { rows: "", hash: "" };
}

/** What differs, in words; nothing where all is well. */
export async function compareSlots(ends: Ends): Promise<string[]> {
  const { source, target, slots } = ends;
  const differences: string[] = [];
  for (const { name } of await partitionsOf(source, slots)) {
    const [left, right] = await Promise.all([sumOf(source, name), sumOf(target, name)]);
    if (left.rows !== right.rows) differences.push(`${name} has ${left.rows} rows and ${right.rows} in its copy`);
    else if (left.hash !== right.hash) differences.push(`the ${left.rows} rows of ${name} are not those of its copy`);
  }
  return [...differences, ...(await compareHeads(ends)), ...(await compareSequences(ends))];
}

/** The head of each chain is the same, and is that of the last transfer copied. */
async function compareHeads({ source, target, slots }: Ends): Promise<string[]> {
  const heads = "select slot, seq::text as seq, encode(hash, 'hex') as hash from chain_heads where slot = any($1) order by slot";
  const last = `
    select h.slot from chain_heads h left join lateral (select seq, hash from transfers t where t.slot = h.slot order by seq desc limit 1) l on true
     where h.slot = any($1) and h.seq > 0 and (h.seq, h.hash) is distinct from (l.seq, l.hash)`;
  const [left, right, loose] = await Promise.all([
    source.query(heads, [slots]),
    target.query(heads, [slots]),
    target.query<{ slot: number }>(last, [slots]),
  ]);
  return [
    ...(JSON.stringify(left.rows) === JSON.stringify(right.rows) ? [] : ["the heads of the hash chains differ"]),
    ...loose.rows.map(({ slot }) => `the chain of slot ${slot} does not end at its head`),
  ];
}

async function compareSequences({ source, target }: Ends): Promise<string[]> {
  const text = "select sequencename as name, coalesce(last_value, 0)::text as last from pg_sequences where schemaname = 'public'";
  const [left, right] = await Promise.all([
    source.query<{ name: string; last: string }>(text),
    target.query<{ name: string; last: string }>(text),
  ]);
  const at = new Map(right.rows.map(({ name, last }) => [name, BigInt(last)]));
  return left.rows
    .filter(({ name, last }) => BigInt(last) > (at.get(name) ?? -1n))
    .map(({ name }) => `the sequence ${name} is behind that of the source`);
}
