/**
 * One keep-alive connection that asks one thing at a time. Raw sockets, because what the generator burns is missing to the server beside it:
 * for the same requests undici's dispatch burns 3 times the CPU of this, autocannon 3.4 times, fetch 17 times, and wrk with a Lua script 0.9
 * times (docs/benchmarks.md). It reads only what a measurement needs: the status, the length, and the body as it came. An answer without
 * Content-Length is a fault.
 */
import { connect, type OnReadOpts, type Socket } from "node:net";
import { connect as connectTls } from "node:tls";

const BUFFER_BYTES = 64 * 1024;
const END_OF_HEADERS = "\r\n\r\n";
const LENGTH = "\r\ncontent-length: ";

export interface SocketEvents {
  /** The body as latin1: bytes, not characters, are counted in a Content-Length. */
  readonly answered: (status: number, body: string) => void;
  /** The connection broke while an answer was due, or what came was no HTTP. */
  readonly lost: (reason: string) => void;
}

export class LoadSocket {
  readonly #socket: Socket;
  readonly #events: SocketEvents;
  #rest = "";
  #due = false;

  constructor(port: number, ca: string | undefined, events: SocketEvents) {
    this.#events = events;
    // One buffer for ever instead of one a read.
    const buffer = Buffer.allocUnsafeSlow(BUFFER_BYTES);
    const onread: OnReadOpts = {
      buffer,
      callback: (bytes) => {
        this.#read(buffer.toString("latin1", 0, bytes));
        return true;
      },
    };
    const to = { port, host: "127.0.0.1", noDelay: true, onread };
    this.#socket = ca === undefined ? connect(to) : connectTls({ ...to, ca, minVersion: "TLSv1.3" });
    this.#socket.on("error", (error) => this.#lose(error.message));
    this.#socket.on("close", () => this.#lose("the server closed the connection"));
  }

  /** `request` in latin1: written in one system call, without a buffer of its own. */
  send(request: string): void {
    this.#due = true;
    this.#socket.write(request, "latin1");
  }

  close(): void {
    this.#due = false;
    this.#socket.destroy();
  }

  #lose(reason: string): void {
    if (!this.#due) return;
    this.#due = false;
    this.#socket.destroy();
    this.#events.lost(reason);
  }

  #read(text: string): void {
    const all = this.#rest === "" ? text : this.#rest + text;
    const end = all.indexOf(END_OF_HEADERS);
    if (end < 0) {
      this.#rest = all;
      return;
    }
    const bodyAt = end + END_OF_HEADERS.length;
    const length = contentLength(all, end);
    if (length === undefined) return this.#lose("an answer without Content-Length");
    if (all.length < bodyAt + length) {
      this.#rest = all;
      return;
    }
    this.#rest = "";
    this.#due = false;
    this.#events.answered(Number(all.slice(9, 12)), all.slice(bodyAt, bodyAt + length));
  }
}

function contentLength(answer: string, end: number): number | undefined {
  let at = answer.indexOf("\r\nContent-Length: ");
  if (at < 0 || at > end) at = answer.slice(0, end).toLowerCase().indexOf(LENGTH);
  if (at < 0 || at > end) return undefined;
  const from = at + LENGTH.length;
  return Number(answer.slice(from, answer.indexOf("\r\n", from)));
}
