/**
 * The log: one file of JSON lines, only ever appended to, and the only thing simpay keeps. What waits while one batch is written and synced
 * goes out as the next (group commit): one fsync pays for hundreds of lines.
 *
 * Records are read back from it by their place, so memory holds an index and what is not written yet, never a million charges.
 */
import { closeSync, createReadStream, fsync, fsyncSync, ftruncateSync, openSync, readSync, write } from "node:fs";
import { dirname } from "node:path";
import type { Readable } from "node:stream";
import { promisify } from "node:util";

const writeBytes = promisify(write);
const syncFile = promisify(fsync);

/** Where a line stands: its offset and its length in one number, because a million objects are not free. 2^53 leaves 4 TB of log. */
export type Place = number;
const LENGTH_MAX = 8_192;
const placeOf = (offset: number, length: number): Place => offset * LENGTH_MAX + length;
const offsetOf = (place: Place): number => Math.floor(place / LENGTH_MAX);

/** What a caller gives: sequence and time are the log's. */
type WithoutSeq<T> = T extends unknown ? Omit<T, "seq" | "at"> : never;

interface Numbered {
  readonly seq: number;
  readonly at: number;
}

export class Log<L extends Numbered> {
  readonly #path: string;
  readonly #file: number;
  #size = 0;
  #synced = 0;
  #seq = 0;
  #lastAt = 0;
  /** Lines that are not on the disk yet, by place. */
  readonly #unwritten = new Map<Place, string>();
  #waiting: { readonly upTo: number; readonly done: () => void; readonly failed: (error: Error) => void }[] = [];
  #writing: Promise<void> | undefined;
  #broken: Error | undefined;

  private constructor(path: string) {
    this.#path = path;
    this.#file = openSync(path, "a+", 0o600);
  }

  /**
   * Opens the log and shows every line of it, oldest first. A last line without its end was never answered for and is cut off; anything
   * else that cannot be read stops the start, because silently going on without it would be a false witness.
   */
  static async open<L extends Numbered>(path: string, eachLine: (line: L, place: Place) => void): Promise<Log<L>> {
    const log = new Log<L>(path);
    let rest: Buffer = Buffer.alloc(0);
    for await (const chunk of createReadStream(path) as AsyncIterable<Buffer>) {
      const bytes = rest.length === 0 ? chunk : Buffer.concat([rest, chunk]);
      let from = 0;
      for (let end = bytes.indexOf(10); end >= 0; end = bytes.indexOf(10, from)) {
        log.#recover(bytes.toString("utf8", from, end), end + 1 - from, eachLine);
        from = end + 1;
      }
      rest = bytes.subarray(from);
    }
    if (rest.length > 0) ftruncateSync(log.#file, log.#size);
    fsyncSync(log.#file);
    const directory = openSync(dirname(path), "r");
    fsyncSync(directory);
    closeSync(directory);
    log.#synced = log.#size;
    return log;
  }

  #recover(text: string, length: number, eachLine: (line: L, place: Place) => void): void {
    let line: L;
    try {
      line = JSON.parse(text) as L;
    } catch (error) {
      throw new Error(`${this.#path} is damaged at byte ${this.#size}, line ${this.#seq + 1}`, { cause: error });
    }
    if (line.seq !== this.#seq + 1) throw new Error(`${this.#path}: line ${this.#seq + 1} says it is ${line.seq}`);
    this.#seq = line.seq;
    this.#lastAt = line.at;
    eachLine(line, placeOf(this.#size, length));
    this.#size += length;
  }

  /** The number the next line will have. */
  get nextSeq(): number {
    return this.#seq + 1;
  }

  /** Never behind the last line: a clock that was set back must not put a payment before its charge. */
  now(): number {
    return Math.max(Date.now(), this.#lastAt);
  }

  /** Takes a line over at once; it is on the disk when `durable` says so. */
  append(entry: WithoutSeq<L>): { readonly line: L; readonly place: Place } {
    if (this.#broken) throw this.#broken;
    this.#lastAt = this.now();
    const line = { seq: ++this.#seq, at: this.#lastAt, ...entry } as unknown as L;
    const text = `${JSON.stringify(line)}\n`;
    const length = Buffer.byteLength(text);
    if (length >= LENGTH_MAX) throw new RangeError(`a line of ${length} bytes is too long`);
    const place = placeOf(this.#size, length);
    this.#size += length;
    this.#unwritten.set(place, text);
    this.#writing ??= this.#writeAll();
    return { line, place };
  }

  /** Resolves when everything appended so far would survive a power cut. Every answer waits for it, also one that only read. */
  durable(): Promise<void> {
    if (this.#broken) return Promise.reject(this.#broken);
    if (this.#synced === this.#size) return Promise.resolve();
    const upTo = this.#size;
    return new Promise((done, failed) => this.#waiting.push({ upTo, done, failed }));
  }

  /** Synchronous on purpose: what a decision reads cannot change before it has appended what it decided. A line is a page-cache hit. */
  read(place: Place): L {
    const unwritten = this.#unwritten.get(place);
    if (unwritten !== undefined) return JSON.parse(unwritten) as L;
    const bytes = Buffer.allocUnsafe(place % LENGTH_MAX);
    readSync(this.#file, bytes, 0, bytes.length, offsetOf(place));
    return JSON.parse(bytes.toString("utf8")) as L;
  }

  /** The durable part of the file as it is. */
  async stream(): Promise<Readable> {
    await this.durable();
    return createReadStream(this.#path, this.#synced === 0 ? { start: 0, end: 0 } : { start: 0, end: this.#synced - 1 });
  }

  async close(): Promise<void> {
    await this.#writing;
    closeSync(this.#file);
  }

  async #writeAll(): Promise<void> {
    // What else is appended in this turn of the event loop goes with the first batch.
    await new Promise((resolve) => setImmediate(resolve));
    try {
      while (this.#unwritten.size > 0) {
        const batch = [...this.#unwritten];
        const bytes = Buffer.from(batch.map(([, text]) => text).join(""));
        for (let from = 0; from < bytes.length;) {
          const { bytesWritten } = await writeBytes(this.#file, bytes, from, bytes.length - from, null);
          from += bytesWritten;
        }
        await syncFile(this.#file);
        for (const [place] of batch) this.#unwritten.delete(place);
        this.#synced += bytes.length;
        const ready = this.#waiting.filter(({ upTo }) => upTo <= this.#synced);
        this.#waiting = this.#waiting.filter(({ upTo }) => upTo > this.#synced);
        for (const { done } of ready) done();
      }
    } catch (error) {
      // After a failed write or sync nobody knows what the disk holds: no promise is made any more until a restart has read it.
      this.#broken = new Error("the log cannot be written", { cause: error });
      for (const { failed } of this.#waiting.splice(0)) failed(this.#broken);
    } finally {
      this.#writing = undefined;
    }
  }
}
