/**
 * Journal (流水): carries what happened from every database to whoever must act on it; who that is, `mixins/journal.ts` knows. What has been told and
 * is old goes, here and not with its owners: they run on many nodes, and one is enough.
 */
import type { Service, ServiceSchema } from "moleculer";
import { pruneEvents } from "../../mixins/journal-prune.ts";
import { pruneRequests } from "../../mixins/idempotency.ts";
import { type Journal, journalOf } from "../../mixins/journal.ts";
import { platformOf } from "../../mixins/platform.ts";
import { Pruner } from "../../mixins/prune.ts";
import { pruneBarriers } from "../../mixins/tcc.ts";
import { pruneCallbacks } from "../callback/callback.store.ts";
import { pruneNotifications } from "../notify/notify.store.ts";
import { findOpenSince } from "../payment/payment.store.ts";

interface Vars {
  journal: Journal;
  pruner: Pruner;
}
type This = Service<{}> & Vars;

const PRUNES = [pruneEvents, pruneNotifications, pruneCallbacks, pruneRequests, pruneBarriers(findOpenSince)];

const journal: ServiceSchema<{}, {}, Vars> = {
  name: "journal",
  created() {
    const platform = platformOf(this.broker);
    this.journal = journalOf(this.broker);
    this.pruner = new Pruner(PRUNES, () => platform.databases.values(), this.logger);
    measure(this);
  },
  started() {
    const platform = platformOf(this.broker);
    this.journal.start(() => platform.databases.values(), platform.metrics, this.logger);
    this.pruner.start();
  },
  async stopped() {
    await Promise.all([this.journal.stop(), this.pruner.stop()]);
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
  each(
    "tuanbar_relay_reading",
    "1 where this node reads the database's events, or dozes until there are any; 0 where it stands by",
    (relay) => (relay.isInCharge ? 1 : 0),
  );
  each("tuanbar_relay_waiting_events", "Events read that not every event consumer has handled", (relay) => relay.waiting);
  each("tuanbar_relay_lag_bytes", "Write-ahead log PostgreSQL keeps for the relay", (relay) => relay.health.lagBytes);
  each("tuanbar_parked_events", "Events put aside with their error, for a person", (relay) => relay.health.parked);
}
