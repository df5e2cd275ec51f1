/**
 * Checks across databases. Each database is seen at an instant of its own, the cities' before the users', so what was on its way between the
 * two instants looks like a difference. A difference of the closed loop is therefore looked at again, city first: what the city then says is
 * not under way is final on both sides, and if it still differs, it is broken; what is under way proves nothing.
 */
import { composeId } from "../../domain/ids.ts";
import { EXAMPLES_MAX, type Finding, RELAY_SECONDS } from "./checks/check.ts";
import { countFacts, differences, type Facts, minus } from "./compare.ts";
import { Snapshot } from "./snapshot.ts";

/** A city as it was seen: all of its databases, and all of the user keyspace. */
export interface Crossing {
  readonly city: { readonly id: number; readonly code: string };
  readonly inCity: readonly Snapshot[];
  readonly atUsers: readonly Snapshot[];
}

interface CrossingCheck {
  readonly name: string;
  readonly proves: string;
  readonly run: (crossing: Crossing) => AsyncGenerator<string>;
}

/** After so many there is no doubt left, and reading on would only take time. */
const VIOLATIONS_MAX = 1_000;

export const CROSSING_CHECKS: readonly CrossingCheck[] = [
  {
    name: "loop.closed",
    proves: "every amount posted into and out of transit at the users has its mirror in the city, and every one there has its mirror here",
    run: openEnds,
  },
  {
    name: "events.order-index",
    proves: `every order older than ${RELAY_SECONDS} s is in its consumer's index, and the index names no order that is not there`,
    run: unindexed,
  },
];

export async function cross({ name, proves, run }: CrossingCheck, crossing: Crossing): Promise<Finding> {
  const examples: string[] = [];
  let violations = 0;
  for await (const violation of run(crossing)) {
    if (examples.length < EXAMPLES_MAX) examples.push(`${crossing.city.code}: ${violation}`);
    if (++violations >= VIOLATIONS_MAX) break;
  }
  return { name, proves, violations, examples };
}

/**
 * Every posted transfer into or out of a transit account, as a fact: what it is for, whither, how much. `$1` is the account. Money on its way
 * to the city leaves a wallet for transit (a credit) at the users, and transit for an escrow (a debit) in the city.
 */
const transitFacts = (toCity: "credit_account" | "debit_account", toUser: "credit_account" | "debit_account"): string => `
  select hashtextextended(code, hashtextextended(business_key, case $1 when ${toCity} then amount else -amount end)) as hash,
         concat_ws(' ', business_key, code, case $1 when ${toCity} then 'to the city' else 'to the user' end, amount) as fact,
         slot, code, business_key
    from transfers where state = 'POSTED' and (${toCity} = $1 or ${toUser} = $1)`;
const AT_USERS = transitFacts("credit_account", "debit_account");
const IN_CITY = transitFacts("debit_account", "credit_account");
/** The facts of some transfers only; slot and code are named so that the index on business keys is of use. */
const some = (facts: string): string =>
  `select fact from (${facts}) facts where slot = any($2) and code = any($3) and business_key = any($4)`;
const UNDER_WAY = `
  select id::text as fact from payments where state in ('TRYING', 'CONFIRMING', 'CANCELLING')
  union all
  select id::text from refunds where state in ('REQUESTED', 'PROCESSING')`;

async function* openEnds({ city, inCity, atUsers }: Crossing): AsyncGenerator<string> {
  const citySide = "transit:user";
  const userSide = `transit:${city.id}`;
  const portions = differences(
    inCity.map((snapshot) => ({ snapshot, statement: IN_CITY, values: [citySide] })),
    atUsers.map((snapshot) => ({ snapshot, statement: AT_USERS, values: [userSide] })),
  );
  for await (const { onlyLeft, onlyRight } of portions) {
    const words = [...onlyLeft, ...onlyRight].map((fact) => fact.split(" "));
    const keys = distinct(words.map(([key]) => key));
    const codes = distinct(words.map(([, code]) => code));
    const [cityNow, underWay] = await lookAgain(inCity, (slots) => [
      [some(IN_CITY), [citySide, slots, codes, keys]],
      [UNDER_WAY, []],
    ]);
    const [usersNow] = await lookAgain(atUsers, (slots) => [[some(AT_USERS), [userSide, slots, codes, keys]]]);
    const final = (fact: string): boolean => !underWay?.has(fact.split(" ")[0] ?? "");
    for (const fact of minus(cityNow, usersNow).filter(final)) yield `${fact}, in the city only`;
    for (const fact of minus(usersNow, cityNow).filter(final)) yield `${fact}, at the users only`;
  }
}

/** Orders by their id and consumer. Ids tell the time, so both sides agree on what is old enough to have arrived: `$1` is the first id that is not. */
const ORDERS = `select hashint8extended(id, consumer_id) as hash, concat_ws(' ', 'order', id, 'of user', consumer_id) as fact from orders where id < $1`;
const INDEXED = `
  select hashint8extended(order_id, user_id) as hash, concat_ws(' ', 'order', order_id, 'of user', user_id) as fact
    from order_index where order_id < $1 and (order_id >> 4) & 255 = $2 and (order_id & 15) = any($3)`;

async function* unindexed({ city, inCity, atUsers }: Crossing): AsyncGenerator<string> {
  for (const snapshot of inCity) {
    const before = composeId({ ms: snapshot.at.getTime() - RELAY_SECONDS * 1_000, sequence: 0, city: 0, slot: 0 });
    const portions = differences(
      [{ snapshot, statement: ORDERS, values: [before] }],
      atUsers.map((users) => ({ snapshot: users, statement: INDEXED, values: [before, city.id, snapshot.slots] })),
    );
    for await (const { onlyLeft, onlyRight } of portions) {
      for (const fact of onlyLeft) yield `${fact} is not in the index`;
      for (const fact of onlyRight) yield `${fact} is in the index only`;
    }
  }
}

/** Asks all databases of one side again, each in one new snapshot: per statement, the facts they state together. */
async function lookAgain(side: readonly Snapshot[], statements: (slots: readonly number[]) => [string, unknown[]][]): Promise<Facts[]> {
  const together: string[][] = [];
  for (const { database } of side) {
    const snapshot = await Snapshot.open(database);
    try {
      for (const [index, [text, values]] of statements(snapshot.slots).entries()) {
        (together[index] ??= []).push(...(await snapshot.query<{ fact: string }>(text, values)).map((row) => row.fact));
      }
    } finally {
      await snapshot.close();
    }
  }
  return together.map(countFacts);
}

const distinct = (words: readonly (string | undefined)[]): string[] => [...new Set(words.filter((word) => word !== undefined))];
