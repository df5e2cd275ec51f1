import type { ServiceBroker } from "moleculer";
import type { Id, Shard } from "../../domain/ids.ts";
import { rawRoute } from "../../mixins/raw-routes.ts";

export const receiveCallback = rawRoute("callback.receive", {
  summary: "News of a payment channel, signed over the raw body; kept once a callback id and answered at once, worked off afterwards",
  mediaType: "application/json",
  errors: ["BAD_SIGNATURE", "STALE_CALLBACK", "ROUTE_NOT_FOUND", "BODY_TOO_LARGE", "OVERLOADED", "UNAVAILABLE"],
  rest: { method: "POST", path: "/callbacks/{channel}", who: "anyone", status: 200, tag: "Money" },
  unlimited: true,
});

/** Heard by the payment service of one node: these callbacks of a shard are to be worked off. May be lost; then they are due for the sweep. */
export const CALLBACKS_KEPT = "callbacks.kept";
export interface CallbacksKept extends Shard {
  readonly ids: readonly Id[];
}
export const callbacksKept = (broker: ServiceBroker, shard: Shard, ids: readonly Id[]): void =>
  // The address in the headers takes it to the shard's own node, as it does calls.
  void broker.emit(CALLBACKS_KEPT, { ...shard, ids } satisfies CallbacksKept, { headers: { ...shard } });
