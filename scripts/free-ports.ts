/**
 * Ports for servers that have to be told one. Not from those the kernel lends to whoever connects, as listening on port 0 gives: by the time a server
 * listens on it, or while it restarts, such a port may be some client's end of a connection, and the server does not start.
 */
import { createServer } from "node:net";

/** Linux lends from 32768 on, others from 49152. */
const FIRST = 20_000;
const COUNT = 12_000;
const TRIES_MAX = 100;

/** Different ones. Let go again: nobody else is likely to take them within the second until they are used. */
export async function freePorts(count: number): Promise<number[]> {
  const found = new Set<number>();
  for (let tries = 0; found.size < count; tries++) {
    const port = FIRST + Math.floor(Math.random() * COUNT);
    if (await isFree(port)) found.add(port);
    else if (tries > TRIES_MAX + count) throw new Error(`no port is free between ${FIRST} and ${FIRST + COUNT}`);
  }
  return [...found];
}

export async function freePort(): Promise<number> {
  const [port = 0] = await freePorts(1);
  return port;
}

const isFree = (port: number): Promise<boolean> =>
  new Promise((resolve) => {
    const probe = createServer();
    probe.once("error", () => resolve(false));
    probe.listen(port, "127.0.0.1", () => probe.close(() => resolve(true)));
  });
