import type { ServiceBroker } from "moleculer";
import type { Shard } from "../../domain/ids.ts";
import { rawRoute } from "../../mixins/raw-routes.ts";

export const receiveCallback = rawRoute("callback.receive", {
  summary: "News of a payment channel, signed over the raw body; kept once a callback id and answered at once, worked off afterwards",
  mediaType: "application/json",
  errors: ["BAD_SIGNATURE", "STALE_CALLBACK", "ROUTE_NOT_FOUND", "BODY_TOO_LARGE", "OVERLOADED", "UNAVAILABLE"],
  rest: { method: "POST", path: "/callbacks/{channel}", who: "anyone", status: 200, tag: "Money" },
  unlimited: true,
});

/** Heard by the payment service of one node: a shard has callbacks to work off. May be lost; the sweep looks every second. */
export const CALLBACKS_KEPT = "callbacks.kept";
export const callbacksKept = (broker: ServiceBroker, shard: Shard): void =>
  // The address in the headers takes it to the shard's own node, as it does calls.
  void broker.emit(CALLBACKS_KEPT, shard, { headers: { ...shard } });
