/** Journal (流水): carries what happened from every database to whoever must act on it. Who that is, `mixins/journal.ts` knows. */
import type { Service, ServiceSchema } from "moleculer";
import { type Journal, journalOf } from "../../mixins/journal.ts";
import { platformOf } from "../../mixins/platform.ts";

interface Vars {
  journal: Journal;
}
type This = Service<{}> & Vars;

const journal: ServiceSchema<{}, {}, Vars> = {
  name: "journal",
  created() {
    this.journal = journalOf(this.broker);
    measure(this);
  },
  started() {
    const platform = platformOf(this.broker);
    this.journal.start(() => platform.databases.values(), platform.metrics, this.logger);
  },
  stopped() {
    return this.journal.stop();
  },
};
export default journal;

function measure(service: This): void {
  const { metrics } = platformOf(service.broker);
  const each = (name: string, help: string, read: (relay: Journal["relays"][number]) => number): void =>
    metrics.gauge(
      name,
      help,
      (set) => {
        for (const relay of service.journal.relays) set(read(relay), { database: relay.database.name });
      },
      ["database"],
    );
  each("tuanbar_relay_reading", "1 where this node reads the database's events, 0 where it stands by", (relay) =>
    relay.state === "reading" ? 1 : 0,
  );
  each("tuanbar_relay_waiting_events", "Events read that not every event consumer has handled", (relay) => relay.waiting);
  each("tuanbar_relay_lag_bytes", "Write-ahead log PostgreSQL keeps for the relay", (relay) => relay.health.lagBytes);
  each("tuanbar_parked_events", "Events put aside with their error, for a person", (relay) => relay.health.parked);
}
