/** A node that is drained: every service of it stops in order, as at a stop of the node, and the process stays to tell of itself until it is ended. */
import type { Logger, ServiceBroker } from "moleculer";
import { journalOf } from "../../mixins/journal.ts";
import { STAYING } from "./probe.contract.ts";

/** Never rejects: what does not stop in order is in the log. */
export async function serveNothing(broker: ServiceBroker, logger: Logger): Promise<void> {
  const steps: [string, () => Promise<unknown>][] = broker.services
    .filter(({ name }) => !STAYING.has(name))
    .toReversed()
    .map((service) => [service.name, () => broker.destroyService(service)]);
  // The door first; then the event consumers, which need their services.
  const door = steps.findIndex(([name]) => name === "gateway");
  const first = door === -1 ? [] : steps.splice(door, 1);
  for (const [name, stop] of [...first, ["event consumers", () => journalOf(broker).stop()] as const, ...steps]) {
    try {
      await stop();
    } catch (error) {
      logger.error({ err: error }, `draining: ${name} did not stop in order`);
    }
  }
  logger.warn("this node is drained; it serves nothing and can be ended");
}
