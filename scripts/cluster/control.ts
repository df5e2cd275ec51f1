/** How a second terminal talks to a running cluster: one line of words over a unix socket, lines of text back, and an exit code behind a NUL. */
import { createHash } from "node:crypto";
import { chmodSync, rmSync } from "node:fs";
import { createConnection, createServer, type Server, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { StartError } from "../start-error.ts";

/** Answers one command; `say` writes a line to the other terminal. Throws a StartError for what the user got wrong. */
export type Command = (words: readonly string[], say: (line: string) => void) => Promise<void>;

const SOCKET_PATH_BYTES_MAX = 107;

/** In the data directory if its path is short enough for a socket. */
function socketPath(dataDir: string): string {
  const near = join(dataDir, "run", "control.sock");
  if (Buffer.byteLength(near) <= SOCKET_PATH_BYTES_MAX) return near;
  return join(tmpdir(), `tuanbar-${createHash("sha256").update(dataDir).digest("hex").slice(0, 12)}.sock`);
}

/** The data directory's lock is ours, so whatever stands at the socket's path is a dead run's. */
export async function listenForCommands(dataDir: string, command: Command): Promise<Server> {
  const path = socketPath(dataDir);
  rmSync(path, { force: true });
  const server = createServer((socket) => {
    socket.setEncoding("utf8").on("error", () => socket.destroy());
    let text = "";
    socket.on("data", (chunk: string) => {
      text += chunk;
      if (!text.includes("\n")) return;
      socket.pause();
      void obey(socket, text.trim().split(/\s+/), command);
    });
  });
  await new Promise<void>((resolve, reject) => server.once("error", reject).listen(path, resolve));
  chmodSync(path, 0o600);
  return server;
}

async function obey(socket: Socket, words: readonly string[], command: Command): Promise<void> {
  const say = (line: string): void => void (socket.writable && socket.write(`${line}\n`));
  try {
    await command(words, say);
    socket.end("\0" + "0");
  } catch (error) {
    say(error instanceof Error ? error.message : String(error));
    socket.end("\0" + "1");
  }
}

/** Sends a command to the cluster that runs on a data directory; the exit code. */
export function sendCommand(dataDir: string, words: readonly string[], say: (text: string) => void): Promise<number> {
  return new Promise((resolve, reject) => {
    const socket = createConnection(socketPath(dataDir), () => socket.write(`${words.join(" ")}\n`));
    let code = 1;
    socket.setEncoding("utf8").on("data", (chunk: string) => {
      const [text = "", end] = chunk.split("\0");
      if (text !== "") say(text);
      if (end !== undefined) code = Number(end);
    });
    socket.once("error", (error: NodeJS.ErrnoException) =>
      reject(
        ["ENOENT", "ECONNREFUSED"].includes(error.code ?? "")
          ? new StartError(`no cluster runs on ${dataDir}: start one with npm run cluster`)
          : error,
      ),
    );
    socket.once("close", () => resolve(code));
  });
}
