/**
 * Micro-batching on the bus: what one tick of the event loop sends to one node travels as one NATS message, the calls as well as their answers.
 * A stampede at one deal is hundreds of calls a tick to the one node that owns its shard, and a drain answers all of its batch in one tick.
 *
 * Below everything a call has: it is put together from packets that Moleculer has made, and taken apart into the same packets before Moleculer
 * sees them. So each command keeps its id, deadline, caller, headers (address, traceparent), retries, breaker, bulkhead, and an error of its own;
 * an answer goes as soon as there is one and waits for none of its neighbours; and any action goes this way, without being asked for. Calls
 * within a node never come here.
 */
import type { Middleware } from "moleculer";

/** Of a message; NATS refuses more than a megabyte. What is larger by itself goes by itself. */
const BUNDLE_BYTES_MAX = 512 * 1024;
/** The first byte of a bundle, and of no packet: those are CBOR maps, which begin with 0xa0 to 0xbf. */
const MARK = 0;
const LENGTH_BYTES = 4;

type Send = (
  topic: string,
  data: Buffer,
  meta: { readonly packet: { readonly type: string; readonly target?: string | null } },
) => Promise<void>;
type Receive = (command: string, data: Buffer) => Promise<unknown>;

/** Calls and their answers: whatever else nodes tell each other is rare, and some of it must not wait. */
const BUNDLED = new Set(["REQ", "RES"]);

class Bundle {
  readonly parts: Buffer[] = [];
  bytes = 1;
  readonly sent = Promise.withResolvers<void>();

  add(part: Buffer): Promise<void> {
    this.parts.push(part);
    this.bytes += LENGTH_BYTES + part.length;
    return this.sent.promise;
  }
}

/** One that is alone looks as it would without this file. */
export function join(parts: readonly Buffer[]): Buffer {
  const [only] = parts;
  if (only !== undefined && parts.length === 1) return only;
  const whole = Buffer.allocUnsafe(parts.reduce((bytes, part) => bytes + LENGTH_BYTES + part.length, 1));
  whole[0] = MARK;
  let at = 1;
  for (const part of parts) {
    at = whole.writeUInt32BE(part.length, at);
    at += part.copy(whole, at);
  }
  return whole;
}

/** What was joined. Of a bundle that ends too early the whole parts. */
export function* split(data: Buffer): Generator<Buffer> {
  if (data[0] !== MARK) return yield data;
  for (let at = 1; at + LENGTH_BYTES <= data.length;) {
    const from = at + LENGTH_BYTES;
    at = from + data.readUInt32BE(at);
    if (at <= data.length) yield data.subarray(from, at);
  }
}

/** `sends` off: each call is a message of its own. Bundles of others are understood all the same, so that nodes may be told differently. */
export function bundles({ sends }: { readonly sends: boolean }): Middleware {
  const middleware: Wraps = {
    name: "Bundles",
    ...(sends ? { transporterSend: gather } : {}),
    transporterReceive: (next) => (command, data) => {
      if (data[0] !== MARK) return next(command, data);
      // Each settles for itself: Moleculer answers or logs, and rejects never.
      return Promise.all(Array.from(split(data), (part) => next(command, part)));
    },
  };
  return middleware as unknown as Middleware;
}

/** What Moleculer wraps; its own types take the results for the functions. */
interface Wraps {
  readonly name: string;
  readonly transporterSend?: (next: Send) => Send;
  readonly transporterReceive: (next: Receive) => Receive;
}

function gather(next: Send): Send {
  const open = new Map<string, Bundle>();
  const close = (topic: string, bundle: Bundle, meta: Parameters<Send>[2]): void => {
    if (open.get(topic) === bundle) open.delete(topic);
    else return;
    // A throw of the bus (the connection is being closed) is a rejection for everybody in it, as it would have been for each alone.
    new Promise<void>((resolve) => resolve(next(topic, join(bundle.parts), meta))).then(bundle.sent.resolve, bundle.sent.reject);
  };
  return (topic, data, meta) => {
    if (!BUNDLED.has(meta.packet.type) || !meta.packet.target) return next(topic, data, meta);
    const waiting = open.get(topic);
    if (waiting !== undefined && waiting.bytes + data.length <= BUNDLE_BYTES_MAX) return waiting.add(data);
    if (waiting !== undefined) close(topic, waiting, meta);
    const bundle = new Bundle();
    open.set(topic, bundle);
    // After the input of this turn has been read, as the mailbox does: what came in together goes on together, and nothing waits for a timer.
    setImmediate(close, topic, bundle, meta);
    return bundle.add(data);
  };
}
