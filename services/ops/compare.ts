/**
 * Do two sides, in different databases, state the same facts? Sets of millions are compared by fingerprint: every fact has a 64-bit hash, the
 * facts fall into 4,096 buckets by it, and only count and sum of the hashes of each bucket are carried here. Facts themselves are read only
 * of buckets that differ, a few buckets at a time, so memory stays bounded however large or however wrong the sides are.
 */
import type { Snapshot } from "./snapshot.ts";

/** One database's part of a side: SQL that gives a row `(hash bigint, fact text)` a fact. */
export interface Part {
  readonly snapshot: Snapshot;
  readonly statement: string;
  readonly values: readonly unknown[];
}

/** Facts that only one side states; one that a side states twice, and the other once, is a difference too. */
export interface Difference {
  readonly onlyLeft: readonly string[];
  readonly onlyRight: readonly string[];
}

/** Facts, and how often each is stated. */
export type Facts = ReadonlyMap<string, number>;

const BUCKETS = 4_096;
/** Of a million facts, 128 buckets hold 31,000. */
const BUCKETS_A_READ = 128;

/** Gives the differences in portions; none at all where the sides agree. */
export async function* differences(left: readonly Part[], right: readonly Part[]): AsyncGenerator<Difference> {
  const [ours, theirs] = await Promise.all([fingerprint(left), fingerprint(right)]);
  const differing = ours.flatMap((mark, bucket) => (mark === theirs[bucket] ? [] : [bucket]));
  for (let from = 0; from < differing.length; from += BUCKETS_A_READ) {
    const buckets = differing.slice(from, from + BUCKETS_A_READ);
    const [leftFacts, rightFacts] = await Promise.all([factsIn(left, buckets), factsIn(right, buckets)]);
    yield { onlyLeft: minus(leftFacts, rightFacts), onlyRight: minus(rightFacts, leftFacts) };
  }
}

/** Per bucket: how many facts, and the sum of their hashes. */
async function fingerprint(side: readonly Part[]): Promise<string[]> {
  const marks = Array.from({ length: BUCKETS }, () => ({ facts: 0n, hashes: 0n }));
  for (const { snapshot, statement, values } of side) {
    const rows = await snapshot.query<{ bucket: number; facts: string; hashes: string }>(
      `select (hash & ${BUCKETS - 1})::integer as bucket, count(*) as facts, sum(hash) as hashes from (${statement}) side group by 1`,
      values,
    );
    for (const { bucket, facts, hashes } of rows) {
      const mark = marks[bucket];
      if (!mark) continue;
      mark.facts += BigInt(facts);
      mark.hashes += BigInt(hashes);
    }
  }
  return marks.map(({ facts, hashes }) => `${facts} ${hashes}`);
}

/** The facts of some buckets. */
async function factsIn(side: readonly Part[], buckets: readonly number[]): Promise<Facts> {
  const facts: string[] = [];
  for (const { snapshot, statement, values } of side) {
    const rows = await snapshot.query<{ fact: string }>(
      `select fact from (${statement}) side where (hash & ${BUCKETS - 1})::integer = any($${values.length + 1}::integer[])`,
      [...values, buckets],
    );
    for (const { fact } of rows) facts.push(fact);
  }
  return countFacts(facts);
}

export function countFacts(stated: Iterable<string>): Facts {
  const facts = new Map<string, number>();
  for (const fact of stated) facts.set(fact, (facts.get(fact) ?? 0) + 1);
  return facts;
}

export const minus = (facts: Facts = new Map(), others: Facts = new Map()): string[] =>
  [...facts].flatMap(([fact, times]) => new Array<string>(Math.max(0, times - (others.get(fact) ?? 0))).fill(fact));
