/** How long money has been on its way: the age of the oldest payment and the oldest refund that have no end yet, read when `/metrics` is. */
import type { Database, Statement } from "../../db/database.ts";
import type { Platform } from "../../mixins/platform.ts";

/** By the partial indexes `payments_unfinished` and `refunds_unfinished`, which are small whenever all is well. */
const OLDEST: Statement = {
  name: "ops/oldest-unfinished",
  text: `
    select (select extract(epoch from now() - min(created_at)) from payments where state in ('TRYING', 'CONFIRMING', 'CANCELLING'))::float8 as payment,
           (select extract(epoch from now() - min(created_at)) from refunds where state in ('REQUESTED', 'PROCESSING'))::float8 as refund`,
};
interface Oldest {
  readonly payment: number | null;
  readonly refund: number | null;
}

export function watchUnfinished(platform: Platform): void {
  platform.metrics.gauge(
    "tuanbar_unfinished_oldest_seconds",
    "Age of the oldest payment and refund without an end; NaN where the database does not answer",
    async (set) => {
      const cities = [...platform.databases.values()].filter(({ city }) => platform.servesCity(city));
      const ages = await Promise.all(cities.map(oldest));
      for (const [index, { name }] of cities.entries())
        for (const kind of ["payment", "refund"] as const) set(ages[index]?.[kind] ?? 0, { database: name, kind });
    },
    ["database", "kind"],
  );
}

/** A database that is down must not take every other figure with it, and readiness tells that it is down. */
const oldest = (database: Database): Promise<Oldest | undefined> =>
  database.query<Oldest>(OLDEST).then(
    ([row]) => row,
    () => ({ payment: Number.NaN, refund: Number.NaN }),
  );
