import { NOTICE_KINDS } from "../../domain/notify/notices.ts";
import { shape, type Of } from "../../mixins/contract.ts";
import { rawRoute } from "../../mixins/raw-routes.ts";

/** The `data` of one server-sent event; its `id` is the event's id, its `kind` the event's name. */
export const Notification = shape("Notification", {
  id: "id",
  kind: { type: "enum", values: NOTICE_KINDS },
  at: "time",
  /** Ids (decimal strings) and figures of what it is about. */
  data: "any",
});
export type Notification = Of<typeof Notification>;

export const streamEvents = rawRoute("notify.stream", {
  summary:
    "Server-sent events: own orders, groups, vouchers, as they happen. `Last-Event-ID` continues after the last one seen; one stream ends after 15 minutes",
  mediaType: "text/event-stream",
  errors: ["VALIDATION_ERROR", "RATE_LIMITED", "UNAVAILABLE"],
  rest: { method: "GET", path: "/events/stream", who: "user", status: 200, tag: "Buying" },
});
