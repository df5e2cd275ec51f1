/** Keeps the index of a consumer's orders, in the user keyspace, by what the cities tell. A service of its own, so that it runs beside the journal. */
import type { ServiceSchema } from "moleculer";
import { type Database, isConstraint } from "../../db/database.ts";
import { shardOf } from "../../domain/ids.ts";
import { journalOf } from "../../mixins/journal.ts";
import { platformOf } from "../../mixins/platform.ts";
import { addToIndex, completeIndex, type IndexedOrder } from "../order/order-index.store.ts";

const orderIndex: ServiceSchema = {
  name: "order-index",
  created() {
    const { broker } = this;
    const platform = platformOf(broker);
    journalOf(broker).subscribe({
      name: "order-index",
      types: ["order.created"],
      async handle(batch) {
        const byDatabase = Map.groupBy(batch, (event) => platform.databaseOf(shardOf(event.data.consumerId)));
        await Promise.all(
          [...byDatabase].map(([database, events]) =>
            index(
              database,
              events.map((event) => event.data),
            ),
          ),
        );
      },
    });
  },
};
export default orderIndex;

async function index(database: Database, orders: readonly IndexedOrder[]): Promise<void> {
  await database
    .transaction((tx) => addToIndex(tx, orders))
    .catch((error: unknown) => {
      if (!isConstraint(error)) throw error;
      return database.transaction((tx) => completeIndex(tx, orders));
    });
}
