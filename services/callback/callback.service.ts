/**
 * Callbacks: what payment channels tell us. Runs where the gateway does: the signature is checked over the raw bytes before anything is parsed, the
 * news is kept by a batch of the shard our number names, and answered. Nothing follows from it here: `payment` works it off.
 */
import { hash } from "node:crypto";
import type { Service, ServiceSchema } from "moleculer";
import { COMMON_ERRORS } from "../../domain/common-errors.ts";
import { raise } from "../../domain/error.ts";
import type { ChannelNews } from "../../domain/channel/records.ts";
import { cityOf, isId, shardOf, type Id, type Shard } from "../../domain/ids.ts";
import { invariant } from "../../domain/invariant.ts";
import { PAYMENT_ERRORS } from "../../domain/payment/errors.ts";
import type { Work } from "../../mixins/drain.ts";
import { platformOf, type Platform } from "../../mixins/platform.ts";
import { serveRaw, type RawRequest } from "../../mixins/raw-routes.ts";
import { callbacksKept, receiveCallback } from "./callback.contract.ts";
import { keepCallbacks, type Callback } from "./callback.store.ts";

interface Parts {
  platform: Platform;
}
type This = Service<{}> & Parts;

const callback: ServiceSchema<{}, {}, Parts> = {
  name: "callback",
  created() {
    this.platform = platformOf(this.broker);
    this.platform.offer(
      "callback.keep",
      makeKeepDrain((shard, ids) => callbacksKept(this.broker, shard, ids)),
    );
    serveRaw(this.broker, receiveCallback, (request) => receive(this, request));
  },
};
export default callback;

const makeKeepDrain =
  (onKept: (shard: Shard, ids: readonly Id[]) => void) =>
  async (work: Work, callbacks: readonly Callback[]): Promise<{ readonly isNew: boolean }[]> => {
    const ids = await work.mint(callbacks.length);
    // In one order everywhere: two nodes that keep the same ones wait for each other and do not deadlock.
    const rows = callbacks
      .map((one, index) => ({ ...one, id: ids[index] as Id }))
      .toSorted((a, b) => (a.callbackId < b.callbackId ? -1 : 1));
    const fresh = await keepCallbacks(work, work.shard, rows);
    work.afterCommit(() => {
      if (fresh.size > 0) onKept(work.shard, [...fresh]);
    });
    return ids.map((id) => ({ isNew: fresh.has(id) }));
  };

const ACCEPTED = JSON.stringify({ accepted: true });

async function receive({ platform, logger }: This, { pathValues, body, req, send }: RawRequest): Promise<void> {
  const name = pathValues[0] ?? "";
  const channel = platform.channels.get(name);
  if (!channel) return raise(COMMON_ERRORS, "ROUTE_NOT_FOUND", { method: "POST", path: req.url?.slice(0, 200) ?? "" });
  const raw = await body();
  const verdict = channel.verifyCallback(raw, req.headers, Date.now());
  const count = (what: string): void => platform.metrics.callbacks.inc({ channel: name, verdict: what });
  if (verdict.kind === "forged" || verdict.kind === "stale") {
    count(verdict.kind);
    return verdict.kind === "forged"
      ? raise(PAYMENT_ERRORS, "BAD_SIGNATURE", { channel: name })
      : raise(PAYMENT_ERRORS, "STALE_CALLBACK", { channel: name });
  }
  const number = verdict.kind === "genuine" ? numberOf(verdict.news) : "";
  const isOurs = isId(number) && platform.servesCity(cityOf(number));
  const news = verdict.kind === "genuine" && isOurs ? verdict.news : undefined;
  const kept = news
    ? readable(name, raw, news)
    : unreadable(name, raw, verdict.kind === "unreadable" ? verdict.detail : `not a number of ours: ${number}`);
  const { isNew } = await platform.post<Callback, { isNew: boolean }>(news ? shardOf(number) : attic(platform), "callback.keep", kept);
  count(isNew ? (news ? "kept" : "unreadable") : "repeated");
  if (isNew && !news) logger.error(`alarm: a callback of ${name} tells nothing we understand: ${kept.error}`);
  send(200, "application/json; charset=utf-8", ACCEPTED);
}

const numberOf = (news: ChannelNews): string =>
  news.about === "charge" ? news.charge.number : news.about === "refund" ? news.refund.number : news.payout.number;

/** PostgreSQL's text holds no NUL. */
const textOf = (raw: Buffer): string => raw.toString("utf8").replaceAll("\0", "\ufffd");

const readable = (channel: string, raw: Buffer, news: ChannelNews): Callback => ({
  channel,
  callbackId: news.id.replaceAll("\0", "\ufffd"),
  about: news.about,
  subject: numberOf(news),
  body: textOf(raw),
  news,
  state: "KEPT",
  error: undefined,
});

/** Genuine, and kept for a person; told again it would be as unreadable. */
const unreadable = (channel: string, raw: Buffer, error: string): Callback => ({
  channel,
  callbackId: hash("sha256", raw),
  about: "unreadable",
  subject: undefined,
  body: textOf(raw),
  news: undefined,
  state: "FAILED",
  error,
});

/** Where callbacks lie that belong nowhere. */
function attic(platform: Platform): Shard {
  const city = platform.keyspaces.databases().find(({ keyspace }) => keyspace.kind === "city");
  invariant(city !== undefined && city.slots[0] !== undefined, "some city is served");
  return { city: city.keyspace.id, slot: city.slots[0] };
}
