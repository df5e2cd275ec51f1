/**
 * Open streams of notifications. A stream is a place in its user's rows, nothing more: a nudge says that there may be new ones, and one look-up
 * serves all streams that were nudged meanwhile. So a stream never sends out of order, and a lost nudge costs at most a heartbeat; what waits
 * for a slow reader waits in the table, not in memory.
 */
import type { ServerResponse } from "node:http";
import type { Database } from "../../db/database.ts";
import { notificationsAfter, type NotificationRow } from "./notify.store.ts";

export interface StreamSettings {
  /** Between signs of life; proxies cut what is silent for 30 to 60 s. Also how often a stream looks for rows without being nudged. */
  readonly heartbeatMs: number;
  /** A stream outlives the token it was opened with by nothing: then its client comes back with a fresh one and Last-Event-ID. */
  readonly ageMs: number;
  readonly streamsPerUserMax: number;
}

/** Rows a stream is given at once: with at most this many unread it holds some 10 kB. */
const PAGE_ROWS = 50;
/** Streams served by one look-up. */
const PAGE_STREAMS = 100;
const RETRY_MS = 1_000;

interface Stream {
  readonly userId: string;
  readonly database: Database;
  readonly res: ServerResponse;
  readonly openedMs: number;
  after: string;
  /** Since when the reader has not taken what it was sent. */
  fullSinceMs: number | undefined;
}

export class Streams {
  readonly #settings: StreamSettings;
  readonly #onError: (error: unknown) => void;
  readonly #byUser = new Map<string, Set<Stream>>();
  readonly #nudged = new Set<Stream>();
  #serving: Promise<void> | undefined;
  #heartbeat: NodeJS.Timeout | undefined;
  #retry: NodeJS.Timeout | undefined;
  #closed = false;

  constructor(settings: StreamSettings, onError: (error: unknown) => void) {
    this.#settings = settings;
    this.#onError = onError;
  }

  get size(): number {
    return [...this.#byUser.values()].reduce((sum, streams) => sum + streams.size, 0);
  }

  get isClosed(): boolean {
    return this.#closed;
  }

  hasRoom(userId: string): boolean {
    return (this.#byUser.get(userId)?.size ?? 0) < this.#settings.streamsPerUserMax;
  }

  /** From here the response belongs to the stream, until either side ends it. */
  open(userId: string, database: Database, after: string, res: ServerResponse): void {
    const stream: Stream = { userId, database, res, after, openedMs: performance.now(), fullSinceMs: undefined };
    const streams = this.#byUser.get(userId) ?? new Set();
    this.#byUser.set(userId, streams.add(stream));
    res.once("close", () => this.#forget(stream));
    // A socket that breaks while it is written to; "close" follows.
    res.on("error", () => res.destroy());
    res.on("drain", () => {
      stream.fullSinceMs = undefined;
      this.#nudge(stream);
    });
    res.writeHead(200, { "content-type": "text/event-stream; charset=utf-8", "cache-control": "no-store", "x-accel-buffering": "no" });
    res.socket?.setNoDelay(true);
    this.#send(stream, `retry: 2000\n\n`);
    this.#heartbeat ??= setInterval(() => this.#beat(), this.#settings.heartbeatMs);
    this.#nudge(stream);
  }

  /** There is something new for these users; most of them are not here. */
  nudge(userIds: readonly string[]): void {
    if (this.#byUser.size === 0) return;
    for (const userId of userIds) for (const stream of this.#byUser.get(userId) ?? []) this.#nudge(stream);
  }

  async close(): Promise<void> {
    this.#closed = true;
    for (const { res, fullSinceMs } of [...this.#byUser.values()].flatMap((streams) => [...streams])) {
      if (fullSinceMs === undefined) res.end();
      else res.destroy();
    }
    this.#byUser.clear();
    this.#nudged.clear();
    this.#stopTimers();
    await this.#serving;
  }

  #nudge(stream: Stream): void {
    if (this.#closed || stream.fullSinceMs !== undefined) return;
    this.#nudged.add(stream);
    if (this.#retry === undefined) this.#serving ??= this.#serve().finally(() => (this.#serving = undefined));
  }

  async #serve(): Promise<void> {
    // What is nudged in this turn of the event loop shares the first look-up.
    await new Promise((resolve) => setImmediate(resolve));
    while (this.#nudged.size > 0) {
      const streams = [...this.#nudged].slice(0, PAGE_STREAMS);
      for (const stream of streams) this.#nudged.delete(stream);
      try {
        await Promise.all([...Map.groupBy(streams, (stream) => stream.database)].map(([database, some]) => this.#look(database, some)));
      } catch (error) {
        this.#onError(error);
        for (const stream of streams) if (this.#isOpen(stream)) this.#nudged.add(stream);
        this.#retryLater();
        return;
      }
    }
  }

  #retryLater(): void {
    if (this.#closed) return;
    this.#retry = setTimeout(() => {
      this.#retry = undefined;
      for (const stream of this.#nudged) this.#nudge(stream);
    }, RETRY_MS);
  }

  async #look(database: Database, streams: readonly Stream[]): Promise<void> {
    const rows = await notificationsAfter(database, streams, PAGE_ROWS);
    for (const [reader, some] of Map.groupBy(rows, (row) => row.reader)) {
      const stream = streams[reader - 1];
      const last = some.at(-1);
      if (!stream || !last || !this.#isOpen(stream)) continue;
      stream.after = last.id;
      this.#send(stream, some.map(frame).join(""));
      if (some.length === PAGE_ROWS) this.#nudge(stream);
    }
  }

  #send(stream: Stream, text: string): void {
    if (!stream.res.write(text)) stream.fullSinceMs ??= performance.now();
  }

  #beat(): void {
    const nowMs = performance.now();
    for (const streams of [...this.#byUser.values()]) {
      for (const stream of [...streams]) {
        if (stream.fullSinceMs !== undefined) {
          // Not `end`: what it has not read would keep it open.
          if (nowMs - stream.fullSinceMs > this.#settings.heartbeatMs) stream.res.destroy();
        } else if (nowMs - stream.openedMs > this.#settings.ageMs) {
          stream.res.end();
        } else {
          this.#send(stream, `:\n\n`);
          this.#nudge(stream);
        }
      }
    }
  }

  #isOpen(stream: Stream): boolean {
    return this.#byUser.get(stream.userId)?.has(stream) ?? false;
  }

  #forget(stream: Stream): void {
    this.#nudged.delete(stream);
    const streams = this.#byUser.get(stream.userId);
    streams?.delete(stream);
    if (streams?.size === 0) this.#byUser.delete(stream.userId);
    if (this.#byUser.size === 0) this.#stopTimers();
  }

  #stopTimers(): void {
    clearInterval(this.#heartbeat);
    clearTimeout(this.#retry);
    this.#heartbeat = undefined;
    this.#retry = undefined;
  }
}

/** JSON holds no line breaks, so one `data:` line is enough. */
const frame = ({ id, kind, at, data }: NotificationRow): string =>
  `id: ${id}\nevent: ${kind}\ndata: ${JSON.stringify({ id, kind, at: at.toISOString(), data })}\n\n`;
