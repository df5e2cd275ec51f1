/** What `/metrics` reads when it is asked. The event loop's lag, memory and CPU are among prom-client's own, which the gateway collects. */
import type { Platform } from "../../mixins/platform.ts";

export function registerGauges(platform: Platform): void {
  platform.metrics.gauge(
    "tuanbar_mailbox_depth_commands",
    "Commands that wait in a city's mailboxes on this node",
    (set) => {
      const depths = new Map(platform.keyspaces.all.map(({ id }) => [id, 0]));
      for (const { shard, depth } of platform.mailboxes()) depths.set(shard.city, (depths.get(shard.city) ?? 0) + depth);
      for (const [id, depth] of depths) set(depth, { city: platform.keyspaces.byId(id)?.code ?? String(id) });
    },
    ["city"],
  );
  platform.metrics.gauge(
    "tuanbar_pool_connections",
    "Connections of this node to a database: in use, idle, and callers that wait for one",
    (set) => {
      for (const { name, connections } of platform.databases.values()) {
        set(connections.total - connections.idle, { database: name, state: "busy" });
        set(connections.idle, { database: name, state: "idle" });
        set(connections.waiting, { database: name, state: "waiting" });
      }
    },
    ["database", "state"],
  );
}
