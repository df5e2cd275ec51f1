/** Keeps the index of a consumer's orders, in the user keyspace, by what the cities tell. A service of its own, so that it runs beside the journal. */
import type { ServiceSchema } from "moleculer";
import { shardOf } from "../../domain/ids.ts";
import { journalOf } from "../../mixins/journal.ts";
import { platformOf } from "../../mixins/platform.ts";
import { addToIndex, completeIndex } from "../order/order-index.store.ts";

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
          [...byDatabase].map(([database, events]) => {
            const orders = events.map((event) => event.data);
            return database.addOrComplete(
              (tx) => addToIndex(tx, orders),
              (tx) => completeIndex(tx, orders),
            );
          }),
        );
      },
    });
  },
};
export default orderIndex;
