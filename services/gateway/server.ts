/** The HTTP server under the gateway: how long it waits, what it says to those who do not speak HTTP, and how it ends. */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { Socket } from "node:net";
import { COMMON_ERRORS } from "../../domain/common-errors.ts";
import { refusal, type DomainError } from "../../domain/error.ts";
import { LIMITS } from "../../domain/limits.ts";
import { nextUid } from "../../mixins/uids.ts";
import { PROBLEM_TYPE, problemOf } from "./problem.ts";

/** Longer than the 60 s a proxy in front keeps its side, so that it is never the one to send into a closed connection. */
const KEEP_ALIVE_MS = 65_000;
/** A phone in a basement bar sends its few hundred bytes of headers in this time. */
const HEADERS_MS = 10_000;
/** The whole of a request of at most 100 kB. */
const REQUEST_MS = 20_000;
/** How often the two above are looked at. */
const CHECK_MS = 1_000;
const HEADER_BYTES_MAX = 16_384;
/** After the last answer was due, whoever still holds a connection is cut off. */
const STOP_MS = LIMITS.requestMs + 2_000;
const IDLE_CHECK_MS = 50;

export function makeServer(onRequest: (req: IncomingMessage, res: ServerResponse) => void): Server {
  const server = createServer(
    {
      keepAliveTimeout: KEEP_ALIVE_MS,
      headersTimeout: HEADERS_MS,
      requestTimeout: REQUEST_MS,
      connectionsCheckingInterval: CHECK_MS,
      maxHeaderSize: HEADER_BYTES_MAX,
      noDelay: true,
    },
    onRequest,
  );
  server.on("clientError", refuseMalformed);
  server.on("checkExpectation", (_req, res: ServerResponse) => {
    const problem = problemOf(refusal(COMMON_ERRORS, "BAD_REQUEST", { reason: "this Expect header cannot be met" }), nextUid());
    const body = JSON.stringify(problem);
    res
      .writeHead(problem.status, { "Content-Type": PROBLEM_TYPE, "Content-Length": Buffer.byteLength(body), Connection: "close" })
      .end(body);
  });
  return server;
}

/** Uploads may take as long as bytes keep coming: a million lines over a slow line are minutes. */
const slow = new WeakSet<Socket>();
const SLOW_IDLE_MS = 30_000;
export function letSlow(req: IncomingMessage): void {
  const { socket } = req;
  const cut = (): void => void socket.destroy();
  slow.add(socket);
  socket.setTimeout(SLOW_IDLE_MS, cut);
  // What is left is ours to take time for.
  req.once("close", () => {
    slow.delete(socket);
    socket.setTimeout(0, cut);
  });
}

/** What could not be read as HTTP has no response object: the problem document is written onto the socket. */
function refuseMalformed(error: NodeJS.ErrnoException, socket: Socket): void {
  // An answer under way is not written into; the connection just ends.
  if (error.code === "ERR_HTTP_REQUEST_TIMEOUT" && slow.has(socket)) return;
  const answering = (socket as Socket & { _httpMessage?: ServerResponse })._httpMessage;
  if (error.code === "ECONNRESET" || !socket.writable || answering?.headersSent === true) {
    socket.destroy();
    return;
  }
  const problem = problemOf(malformed(error), nextUid());
  const body = JSON.stringify(problem);
  socket.end(
    `HTTP/1.1 ${problem.status} ${problem.title}\r\nContent-Type: ${PROBLEM_TYPE}\r\nContent-Length: ${Buffer.byteLength(body)}\r\n` +
      `X-Content-Type-Options: nosniff\r\nCache-Control: no-store\r\nX-Request-Id: ${problem.traceId}\r\nConnection: close\r\n\r\n${body}`,
  );
}

function malformed(error: NodeJS.ErrnoException): DomainError {
  if (error.code === "HPE_HEADER_OVERFLOW") return refusal(COMMON_ERRORS, "HEADERS_TOO_LARGE", {});
  if (error.code === "ERR_HTTP_REQUEST_TIMEOUT") return refusal(COMMON_ERRORS, "REQUEST_TIMEOUT", {});
  return refusal(COMMON_ERRORS, "BAD_REQUEST", { reason: "this is not HTTP" });
}

/** Rejects with the system's error: `code` is EADDRINUSE where the port is taken. */
export function listen(server: Server, port: number, host: string): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once("error", reject);
    server.listen(port, host, () => {
      server.off("error", reject);
      resolve();
    });
  });
}

/** Takes no more connections, lets the requests under way finish, and ends. */
export async function close(server: Server): Promise<void> {
  if (!server.listening) return;
  const closed = new Promise<void>((resolve) => server.close(() => resolve()));
  // A connection whose last answer began before the stop was promised to be kept; it is idle only when that answer has ended.
  const idle = setInterval(() => server.closeIdleConnections(), IDLE_CHECK_MS);
  const late = setTimeout(() => server.closeAllConnections(), STOP_MS);
  await closed;
  clearInterval(idle);
  clearTimeout(late);
}
