/** Addresses: an id ends with the city and slot it lives in; a row elsewhere would be found by nobody. */
import type { Check } from "./check.ts";

const misplaced = (tables: readonly string[]): string =>
  tables
    .map(
      (table) => `
        select '${table}' as "table", slot, id from ${table}
         where id & 15 <> slot or (id >> 4) & 255 <> (select city from keyspace) or slot <> all($1::smallint[])`,
    )
    .join(" union all ");

/** `$1` is the slots the database serves: a row of a slot that was moved away is a second truth. */
export const ADDRESS_CHECKS: readonly Check[] = [
  {
    name: "addresses.city",
    scope: "city",
    proves:
      "every merchant, deal, group, order, payment, refund, voucher, settlement, payout, callback and case of suspense lives where its id says, in a database that serves its slot",
    statement: misplaced([
      "merchants",
      "deals",
      "groups",
      "orders",
      "payments",
      "refunds",
      "vouchers",
      "settlements",
      "payouts",
      "channel_callbacks",
      "suspense_cases",
    ]),
    values: ({ slots }) => [slots],
  },
  {
    name: "addresses.user",
    scope: "user",
    proves: "every user and top-up lives where its id says, in a database that serves its slot",
    statement: misplaced(["users", "topups"]),
    values: ({ slots }) => [slots],
  },
];
