/** Notify (通知): tells people what happened to what is theirs, in rows they can come back to and in a live stream. */
import type { Service, ServiceSchema } from "moleculer";
import { COMMON_ERRORS } from "../../domain/common-errors.ts";
import { raise } from "../../domain/error.ts";
import { isId, shardOf } from "../../domain/ids.ts";
import { invariant } from "../../domain/invariant.ts";
import { noticesOf, TELLING_TYPES, type TellingType } from "../../domain/notify/notices.ts";
import { journalOf, type StoredEvent } from "../../mixins/journal.ts";
import { platformOf } from "../../mixins/platform.ts";
import { serveRaw, type RawRequest } from "../../mixins/raw-routes.ts";
import { streamEvents } from "./notify.contract.ts";
import { addNotifications, completeNotifications, newestNotification, type NewNotification } from "./notify.store.ts";
import { Streams, type StreamSettings } from "./streams.ts";

interface Vars {
  streams: Streams;
}
type This = Service<StreamSettings> & Vars;

/** Heard by every node: the one that wrote the rows is seldom the one that holds the stream. Losing it costs a heartbeat. */
const TOLD = "notify.told";

const notify: ServiceSchema<StreamSettings, {}, Vars> = {
  name: "notify",
  settings: { heartbeatMs: 15_000, ageMs: 15 * 60_000, streamsPerUserMax: 5 },
  events: {
    [TOLD]: {
      handler(this: This, ctx) {
        this.streams.nudge(ctx.params as string[]);
      },
    },
  },
  created() {
    this.streams = new Streams(this.settings, (error) => this.logger.warn({ err: error }, "streams cannot be served; trying again"));
    journalOf(this.broker).subscribe({ name: "notify", types: TELLING_TYPES, handle: (batch) => tell(this, batch) });
    serveRaw(this.broker, streamEvents, (request) => stream(this, request));
    platformOf(this.broker).metrics.gauge("tuanbar_event_streams", "Open streams of server-sent events", (set) => set(this.streams.size));
  },
  stopped() {
    return this.streams.close();
  },
};
export default notify;

async function tell(service: This, batch: readonly StoredEvent<TellingType>[]): Promise<void> {
  const platform = platformOf(service.broker);
  const notifications = batch.flatMap(({ type, data, source, id, at }) =>
    noticesOf(type, data).map((notice): NewNotification => ({ ...notice, source, eventId: id, at })),
  );
  const byDatabase = Map.groupBy(notifications, (notification) => platform.databaseOf(shardOf(notification.userId)));
  for (const [database, some] of byDatabase) {
    const users = await database.addOrComplete(
      (tx) => addNotifications(tx, some),
      (tx) => completeNotifications(tx, some),
    );
    if (users.length > 0) await service.broker.broadcast(TOLD, users);
  }
}

async function stream(service: This, { caller, req, res }: RawRequest): Promise<void> {
  invariant(caller !== undefined, "the gateway lets nobody in here without a token");
  const { userId } = caller;
  const seen = req.headers["last-event-id"];
  if (seen !== undefined && seen !== "0" && (typeof seen !== "string" || !isId(seen))) {
    return raise(COMMON_ERRORS, "VALIDATION_ERROR", { errors: [{ field: "Last-Event-ID", message: "not an id of this stream" }] });
  }
  const database = platformOf(service.broker).databaseOf(shardOf(userId));
  const after = seen ?? (await newestNotification(database, userId));
  // Only now, with nothing to wait for any more: two that come at once are counted one after the other.
  if (service.streams.isClosed) return raise(COMMON_ERRORS, "UNAVAILABLE", { what: "the stream", retryAfterSeconds: 2 });
  if (!service.streams.hasRoom(userId)) {
    return raise(COMMON_ERRORS, "RATE_LIMITED", { retryAfterSeconds: Math.ceil(service.settings.heartbeatMs / 1_000) });
  }
  if (!res.destroyed) service.streams.open(userId, database, after, res);
}
