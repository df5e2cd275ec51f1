/** Keeps the index of a consumer's orders, in the user keyspace, by what the cities tell. */
import type { ServiceBroker } from "moleculer";
import { shardOf } from "../../domain/ids.ts";
import { journalOf } from "../../mixins/journal.ts";
import { platformOf } from "../../mixins/platform.ts";
import { addToIndex } from "./order-index.store.ts";

/** Called when the order service is created. */
export function followOrders(broker: ServiceBroker): void {
  const platform = platformOf(broker);
  journalOf(broker).subscribe({
    name: "order-index",
    types: ["order.created"],
    async handle(batch) {
      const byDatabase = Map.groupBy(batch, (event) => platform.databaseOf(shardOf(event.data.consumerId)));
      await Promise.all(
        [...byDatabase].map(([database, events]) =>
          addToIndex(
            database,
            events.map((event) => event.data),
          ),
        ),
      );
    },
  });
}
