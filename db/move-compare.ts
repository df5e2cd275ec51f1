/** Are the two copies of a slot the same? Asked while nobody writes to either, and before anybody relies on the second. */
import type pg from "pg";
import type { Ends, SequenceValue } from "./move-copy.ts";
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

/** What differs, in words; nothing where all is well. `reached`: the source's sequences, read behind the fence. */
export async function compareSlots(ends: Ends, reached: readonly SequenceValue[]): Promise<string[]> {
  const { source, target, slots } = ends;
  const differences: string[] = [];
  for (const { name } of await partitionsOf(source, slots)) {
    const [left, right] = await Promise.all([sumOf(source, name), sumOf(target, name)]);
    if (left.rows !== right.rows) differences.push(`${name} has ${left.rows} rows and ${right.rows} in its copy`);
    else if (left.hash !== right.hash) differences.push(`the ${left.rows} rows of ${name} are not those of its copy`);
  }
  return [...differences, ...(await compareHeads(ends)), ...(await compareSequences(ends, reached))];
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

async function compareSequences({ target }: Ends, reached: readonly SequenceValue[]): Promise<string[]> {
  const { rows } = await target.query<SequenceValue>(
    "select sequencename as name, coalesce(last_value, 0)::text as last from pg_sequences where schemaname = 'public'",
  );
  const at = new Map(rows.map(({ name, last }) => [name, BigInt(last)]));
  return reached
    .filter(({ name, last }) => BigInt(last) > (at.get(name) ?? -1n))
    .map(({ name }) => `the sequence ${name} is behind that of the source`);
}
